"""Tensors into the store and out of it.

    base = put_model(store, open_checkpoint("base.safetensors"))
    digest = put_delta(store, finetuned, base_reader, base, "lossless", metadata={})
    with open_contribution(store, digest, base_reader) as reader:
        reader.read("fc.weight")                 # the fine-tuned tensor, decoded

Everything streams block by block; memory does not grow with the model. Putting
the same tensors twice gives the same digest and one object.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from torch import Tensor

from weft.checkpoints.codecs.registry import create
from weft.checkpoints.deposit import Deposit
from weft.checkpoints.disk import disk_errors
from weft.checkpoints.entries import PLAIN
from weft.checkpoints.errors import WrongBase, WrongKind
from weft.checkpoints.manifest import Kind
from weft.checkpoints.reader import MemoryReader, TensorReader, read_schema
from weft.checkpoints.schema import Schema, check
from weft.checkpoints.store import Store
from weft.checkpoints.stored import ContributionReader, StoredReader
from weft.checkpoints.writer import TORCH_METADATA, SafetensorsWriter, flat_bytes

__all__ = [
    "ArtifactSink",
    "ContributionReader",
    "StoredReader",
    "export_checkpoint",
    "open_contribution",
    "open_model",
    "put_delta",
    "put_model",
    "put_tensors",
    "read_schema",
]

MODEL_NAME: Final = "model.safetensors"


class ArtifactSink:
    """A `TensorSink` whose tensors become an artifact; `digest` is its name at the end.

    Args:
        store: where to.
        schema: the tensors, written in the schema's order.
        kind: what the artifact is for.
        metadata: part of the artifact, and of its digest.

    Raises:
        DiskFull: no room.
    """

    def __init__(
        self,
        store: Store,
        schema: Schema,
        *,
        kind: Kind = "model",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._deposit: Deposit = store.deposit(
            schema, kind=kind, metadata=metadata, expect_bytes=schema.size_bytes
        )

    @property
    def schema(self) -> Schema:
        """What is expected."""
        return self._deposit.schema

    @property
    def digest(self) -> str:
        """The artifact's digest, once the context has ended well."""
        return self._deposit.digest

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        """Take one tensor; see `TensorSink.write`."""
        self._deposit.write(name, flat_bytes(self.schema[name], data))

    def __enter__(self) -> Self:
        self._deposit.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deposit.__exit__(kind, error, trace)


def put_model(
    store: Store, reader: TensorReader, *, metadata: Mapping[str, str] | None = None
) -> str:
    """Put a whole model; returns its digest.

    Args:
        store: where to.
        reader: the model.
        metadata: part of the digest. The reader's own is not taken over: the
            same tensors saved by another program are the same artifact.

    Raises:
        DiskFull: no room.
        Corrupt: the model's bytes are not what they claim to be.
    """
    with ArtifactSink(store, reader.schema, metadata=metadata) as sink:
        for spec in reader.schema:
            sink.write(spec.name, reader.blocks(spec.name))
    return sink.digest


def put_tensors(
    store: Store,
    kind: Kind,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Put tensors in memory, as they are; returns the digest.

    Raises:
        DiskFull: no room.
        BadTensor, BadSchema: a dtype or a name that cannot be stored.
    """
    reader = MemoryReader(tensors)
    with ArtifactSink(store, reader.schema, kind=kind, metadata=metadata) as sink:
        for name in reader.schema.names:
            sink.write(name, tensors[name])
    return sink.digest


def put_delta(
    store: Store,
    finetuned: TensorReader,
    base: TensorReader | None,
    against: str | None,
    codec: str,
    *,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Put a fine-tuned model as its difference to a base; returns the digest.

    Args:
        store: where to.
        finetuned: the model.
        base: what it is taken against; None where there is no base, then it
            travels whole through the codec.
        against: the base's digest; None exactly where there is no base.
        codec: "raw" or "lossless".
        metadata: part of the digest.

    Raises:
        WrongBase: base and digest do not belong together.
        SchemaMismatch: the model does not have the base's tensors.
        UnknownCodec: no codec of that name.
        DiskFull: no room.
    """
    encoder = create(codec)
    _check_base(base, against, "the delta to put")
    if base is not None:
        check(finetuned.schema, base.schema, "the fine-tuned model")
    deposit = store.deposit(
        finetuned.schema,
        kind="delta",
        against=against,
        codec=codec,
        metadata=metadata,
        expect_bytes=sum(encoder.bound_bytes(spec) for spec in finetuned.schema),
    )
    with deposit:
        for spec in finetuned.schema:
            others = None if base is None else base.blocks(spec.name)
            deposit.write(spec.name, encoder.encode(spec, finetuned.blocks(spec.name), others))
    return deposit.digest


def open_model(store: Store, digest: str, *, verify: bool = True) -> StoredReader:
    """Open an artifact of plain tensors, whatever its kind.

    Args:
        store: where it lies.
        digest: its name.
        verify: hash what is read; without it rotten bytes go unnoticed.

    Raises:
        MissingArtifact: it is not here.
        WrongKind: it is a delta; `open_contribution` opens it.
        CorruptArtifact: its bytes have changed on the disk.
    """
    codec = store.manifest(digest).codec
    if codec != PLAIN:
        raise WrongKind(f"artifact {digest}: a delta ({codec}), not a whole model; it needs a base")
    return StoredReader(store.payload(digest, verify=verify))


def open_contribution(
    store: Store, digest: str, base: TensorReader | None, *, verify: bool = True
) -> StoredReader | ContributionReader:
    """Open an artifact as the fine-tuned model that it stands for.

    Args:
        store: where it lies.
        digest: its name.
        base: what it is against; stays open, and must, while blocks are read.
            Whole models need none.
        verify: hash what is read; without it rotten bytes go unnoticed.

    Raises:
        MissingArtifact: it is not here.
        WrongBase: it is against another base, or needs one and none was given.
        SchemaMismatch: the base has other tensors.
        CorruptArtifact: its bytes have changed on the disk.
    """
    manifest = store.manifest(digest)
    if manifest.codec == PLAIN:
        return open_model(store, digest, verify=verify)
    if manifest.against is None:
        base = None
    _check_base(base, manifest.against, f"artifact {digest}")
    if base is not None:
        check(manifest.schema, base.schema, f"artifact {digest}")
    return ContributionReader(store.payload(digest, verify=verify), base)


def export_checkpoint(store: Store, digest: str, folder: Path | str) -> Path:
    """Write an artifact as a plain checkpoint folder; returns the file that was written.

    A delta is decoded onto the base that it is against, which must lie in the
    same store. An earlier `model.safetensors` in the folder is replaced in one step.

    Raises:
        MissingArtifact: it, or what it is against, is not here.
        DiskFull, BadPath: it cannot be written.
    """
    path = Path(folder) / MODEL_NAME
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    against = store.manifest(digest).against
    base = None if against is None else open_model(store, against)
    try:
        with open_contribution(store, digest, base) as reader:
            metadata = {**reader.metadata, **TORCH_METADATA}
            with SafetensorsWriter(path, reader.schema, metadata) as writer:
                for spec in reader.schema:
                    writer.write(spec.name, reader.blocks(spec.name))
    finally:
        if base is not None:
            base.close()
    return path


def _check_base(base: TensorReader | None, against: str | None, what: str) -> None:
    """What can be known: both or neither, and equal digests where the base has one."""
    if (base is None) != (against is None):
        found = "no base is given" if base is None else "it is against no base"
        raise WrongBase(f"{what}: against {against}, and {found}")
    if isinstance(base, StoredReader) and base.digest != against:
        raise WrongBase(f"{what}: against {against}, the base at hand is {base.digest}")
