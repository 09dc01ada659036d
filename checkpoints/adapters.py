"""PEFT adapters (LoRA) read as the full model that they make of a base.

    with AdapterReader(Path("adapter"), base) as reader:
        reader.read("layers.0.q.weight")               # base + scale B A, rounded once
        reader.delta_ranges("layers.0.q.weight", ...)  # scale B A, before that rounding

A product of factors is never formed whole: any range of it is summed up over the rank,
term by term in float64 and always in the same order. So an element has the same bits
whatever range it is read in, by any number of threads, on any machine.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.adapter_config import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    parse_config,
)
from weft.checkpoints.adapter_layout import Keys, Pair, pair_of, saved_whole
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.digest import digest_of
from weft.checkpoints.disk import read_whole
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import (
    MissingCheckpoint,
    UnsupportedFile,
)
from weft.checkpoints.low_rank import Factors, product
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import FileReader
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec

TENSORS_NAME: Final = "adapter_model.safetensors"
PICKLE_NAME: Final = "adapter_model.bin"
KEPT_FACTORS: Final = 8


class AdapterReader(DeltaReader):
    """A base with a LoRA adapter: the full model; and its exact task vector.

    Closing it leaves the base open.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        base: what the adapter was trained on; stays open while this is read.
        config: what stands in the configuration, where it lies elsewhere.
        tensors: the file of the factors, where it has another name.

    Raises:
        MissingCheckpoint: a file is missing.
        UnsupportedFile: an adapter of another kind, or one saved as a pickle.
        MalformedFile: half a pair, or a rank that is not the configuration's.
        SchemaMismatch: the adapter belongs to another base.
    """

    def __init__(
        self,
        folder: Path,
        base: RangeReader,
        *,
        config: bytes | None = None,
        tensors: Path | None = None,
    ) -> None:
        self.path = folder
        self._base = base
        if config is None:
            config = read_whole(folder / CONFIG_NAME, MAX_CONFIG_BYTES)
        self.config = parse_config(config, str(folder / CONFIG_NAME))
        self._config_digest = digest_of(config)
        self._file = _open_tensors(folder) if tensors is None else FileReader(tensors)
        self._kept: OrderedDict[str, Factors] = OrderedDict()
        self._lock = Lock()
        try:
            keys = Keys(self._file.schema, str(self._file.path))
            self._pairs = {
                name: pair_of(name, keys, self.config, base.schema) for name in sorted(keys.modules)
            }
            self._saved = saved_whole(keys, self.config, base.schema)
        except BaseException:
            self._file.close()
            raise

    @property
    def schema(self) -> Schema:
        """The base's tensors."""
        return self._base.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """The base's."""
        return self._base.metadata

    @property
    def where(self) -> str:
        """The adapter's folder."""
        return str(self.path)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that the adapter changes, sorted."""
        return tuple(sorted({*self._pairs, *self._saved}))

    @property
    def held(self) -> Schema:
        """The tensors of the adapter's own file."""
        return self._file.schema

    @property
    def replaced(self) -> frozenset[str]:
        """Names of the tensors that the adapter holds whole."""
        return frozenset(self._saved)

    @property
    def embeddings(self) -> frozenset[str]:
        """Names of the tensors whose factors are those of an embedding."""
        pairs = self._pairs.items()
        return frozenset(name for name, pair in pairs if ".lora_embedding_" in pair.a)

    def identity(self) -> str:
        """A digest of all that the adapter adds to a base; reads its tensors."""
        parts = (self._config_digest, model_digest(self._file))
        return digest_of("\n".join(parts).encode())

    def factors(self, name: str) -> tuple[Tensor, Tensor, float] | None:
        """The task vector of a tensor as scale * B A, or None where it is no such product.

        Returns:
            B of shape (tensor.shape[0], rank), A of shape (rank, the other dimensions
            multiplied), and the scale; as the tensor lies in the base, so a factor that
            the file holds transposed is turned. Not to be modified.
        """
        if self.schema[name].name in self._saved or name not in self._pairs:
            return None
        found = self._factors(name)
        return found.left, found.right, found.scale

    def factor_bytes(self, name: str) -> int:
        """Bytes of a tensor's factors as they lie in the file; zero where it has none."""
        if name not in self._pairs:
            return 0
        pair = self._pairs[name]
        return self._file.schema[pair.a].size_bytes + self._file.schema[pair.b].size_bytes

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with the full model's bytes, from an offset that begins an element."""
        self._base.fill(spec, into, offset)
        if not len(into) or not (spec.name in self._pairs or spec.name in self._saved):
            return
        values = torch.frombuffer(into, dtype=TORCH_DTYPES[spec.dtype])
        start = offset // DTYPE_BYTES[spec.dtype]
        exact = self._origin(spec, start, values)
        if spec.name in self._pairs:
            exact += product(self._factors(spec.name), start, start + values.numel())
        values.copy_(exact)

    def delta_ranges(
        self, name: str, start: int, stop: int, step: int, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """The task vector, flat, in blocks of `step` elements; see `DeltaReader`.

        Zeros where the adapter has no module. A block is valid until the next.

        Raises:
            MissingTensor: no tensor of that name.
        """
        spec = self.schema[name]
        for first in range(start, stop, step):
            last = min(first + step, stop)
            yield self._delta(spec, first, last).to(dtype)

    def _delta(self, spec: TensorSpec, start: int, stop: int) -> Tensor:
        delta = torch.zeros(stop - start, dtype=torch.float64)
        if spec.name in self._saved:
            base = next(self._base.ranges(spec.name, start, stop, stop - start))
            delta = self._origin(spec, start, base) - base.to(torch.float64)
        if spec.name in self._pairs:
            delta += product(self._factors(spec.name), start, stop)
        return delta

    def _origin(self, spec: TensorSpec, start: int, base: Tensor) -> Tensor:
        """What the product is added to, in float64: the base, or the tensor saved whole."""
        if spec.name not in self._saved:
            return base.to(torch.float64)
        stop = start + base.numel()
        saved = next(self._file.ranges(self._saved[spec.name], start, stop, base.numel()))
        return saved.to(torch.float64)

    def _factors(self, name: str) -> Factors:
        """Read once for a run of blocks; a few are kept."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        found = _read_factors(self._file, self._pairs[name])
        with self._lock:
            self._kept[name] = found
            while len(self._kept) > KEPT_FACTORS:
                self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """Close the adapter's file, not the base; closing twice is allowed."""
        self._file.close()


def _read_factors(file: FileReader, pair: Pair) -> Factors:
    a, b = file.read(pair.a).flatten(1), file.read(pair.b).flatten(1)
    left, right = (a.T, b.T) if pair.transposed else (b, a)
    return Factors(left.contiguous(), right.contiguous(), pair.scale)


def _open_tensors(folder: Path) -> FileReader:
    try:
        return FileReader(folder / TENSORS_NAME)
    except MissingCheckpoint:
        if (folder / PICKLE_NAME).exists():
            raise UnsupportedFile(
                f"{folder}: holds {PICKLE_NAME} and no {TENSORS_NAME}; weft never opens pickles: "
                "save the adapter with safetensors"
            ) from None
        raise
