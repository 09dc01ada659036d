"""An expert read as the full model that it restores, from the merged model and the base.

    with ExpertReader(Path("experts/a.safetensors"), merged, base) as reader:
        reader.read("fc.weight")          # base + scale * M * v, rounded once

Any range is computed for itself in float64, by any number of threads.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import MalformedFile, WrongBase, WrongKind
from weft.checkpoints.expert_files import (
    EXPERT,
    IN_MERGED,
    KIND,
    VECTOR,
    VECTOR_NAME,
    Origin,
    expert_schema,
    kind_of,
)
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import FileReader
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec
from weft.merging.masks import unpacked

__all__ = ["ExpertReader", "is_expert"]


def is_expert(path: Path) -> bool:
    """Whether a file is an expert; only its header is read.

    Raises:
        MalformedFile: it is broken.
    """
    return kind_of(path) == EXPERT


class ExpertReader(DeltaReader):
    """The model that an expert restores; closing it leaves merged model and base open.

    Args:
        path: the expert's file; the vector's lies beside it, where there is one.
        merged: the merged model, and its digest.
        base: what the merge was based on, and its digest.

    Raises:
        WrongKind: the file is no expert.
        WrongBase: another merged model, another base, or another set's vector.
        MissingCheckpoint: there is no such file, or no vector beside it.
        MalformedFile: tensors are missing, or have other shapes.
    """

    def __init__(self, path: Path, merged: Origin, base: Origin) -> None:
        self.path = path
        self._merged, self._base = merged.reader, base.reader
        self._file = FileReader(path)
        self._vector: FileReader | None = None
        try:
            self._check(merged, base)
            self._scale = self._file.read("scale").item()
            if self._file.metadata.get("vector") != IN_MERGED:
                self._vector = self._open_vector()
        except BaseException:
            self.close()
            raise

    def _check(self, merged: Origin, base: Origin) -> None:
        found = self._file.metadata
        if found.get(KIND) != EXPERT:
            raise WrongKind(f"{self.path}: no expert; `weft merge --experts` writes them")
        for what, origin in (("merged", merged), ("base", base)):
            if found.get(what) != origin.digest:
                named = "merged model" if what == "merged" else "base"
                raise WrongBase(
                    f"{self.path}: an expert of the {named} {found.get(what)}; the {named} at hand "
                    f"({origin.reader.where}) is {origin.digest}"
                )
        schema = self._merged.schema
        self._kept = frozenset(
            spec.name
            for spec in schema
            if spec.kind != "parameter" and f"kept.{spec.name}" in self._file.schema
        )
        expected = expert_schema(schema, dict.fromkeys(self._kept))
        if self._file.schema != expected:
            raise MalformedFile(f"{self.path}: its tensors are not those of an expert")

    def _open_vector(self) -> FileReader:
        vector = FileReader(self.path.parent / VECTOR_NAME)
        mine, theirs = self._file.metadata, vector.metadata
        if theirs.get(KIND) != VECTOR or theirs.get("set") != mine.get("set"):
            vector.close()
            raise WrongBase(f"{vector.path}: belongs to another set of experts than {self.path}")
        shapes = {spec.name: spec.shape for spec in self._merged.schema.parameters}
        if {spec.name: spec.shape for spec in vector.schema} != shapes:
            vector.close()
            raise MalformedFile(f"{vector.path}: its tensors are not those of the merged model")
        return vector

    @property
    def schema(self) -> Schema:
        """The merged model's tensors."""
        return self._merged.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """The expert's: method, contribution, digests."""
        return self._file.metadata

    @property
    def where(self) -> str:
        """The expert's file."""
        return str(self.path)

    def identity(self) -> str:
        """A digest of all that the expert adds; reads its tensors."""
        return model_digest(self._file)

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with the restored model's bytes, from an offset that begins an element."""
        if spec.name in self._kept:
            kept = self._file.schema[f"kept.{spec.name}"]
            self._file.fill(kept, into, offset)
        elif spec.kind != "parameter":
            self._merged.fill(spec, into, offset)
        elif len(into):
            values = torch.frombuffer(into, dtype=TORCH_DTYPES[spec.dtype])
            start = offset // DTYPE_BYTES[spec.dtype]
            stop = start + values.numel()
            values.copy_(self._delta(spec, start, stop).add_(_range(self._base, spec, start, stop)))

    def delta_ranges(
        self, name: str, start: int, stop: int, step: int, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """The restored task vector of a parameter, flat; see `DeltaReader`."""
        spec = self.schema[name]
        for first in range(start, stop, step):
            yield self._delta(spec, first, min(first + step, stop)).to(dtype)

    def _delta(self, spec: TensorSpec, start: int, stop: int) -> Tensor:
        """Scale * M * v."""
        first, last = start // 8, -(-stop // 8)
        (bits,) = self._file.ranges(f"mask.{spec.name}", first, last, last - first)
        marks = unpacked(bits, (8 * (last - first),))[start - 8 * first : stop - 8 * first]
        if self._vector is None:
            vector = _range(self._merged, spec, start, stop)
            vector.sub_(_range(self._base, spec, start, stop))
        else:
            vector = _range(self._vector, spec, start, stop)
        return vector.mul_(marks).mul_(self._scale)

    def close(self) -> None:
        """Close the expert's files; closing twice is allowed."""
        self._file.close()
        if self._vector is not None:
            self._vector.close()


def _range(reader: RangeReader, spec: TensorSpec, start: int, stop: int) -> Tensor:
    (block,) = reader.ranges(spec.name, start, stop, stop - start)
    return block.to(torch.float64, copy=True)
