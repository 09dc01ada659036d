"""The digest that a store would give to a model, without a store."""

from weft.checkpoints.digest import ChunkHasher
from weft.checkpoints.dtypes import bytes_of
from weft.checkpoints.entries import TensorEntry
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.reader import TensorReader
from weft.checkpoints.schema import TensorSpec


def hashed_entry(spec: TensorSpec, hasher: ChunkHasher) -> TensorEntry:
    """A tensor as a manifest of a model lists it, once all its bytes went by the hasher."""
    return TensorEntry(
        name=spec.name,
        dtype=spec.dtype,
        shape=spec.shape,
        size_bytes=hasher.size_bytes,
        chunks=hasher.digests(),
    )


def model_digest(reader: TensorReader) -> str:
    """The digest that `put_model` would give to a model; reads all of it, stores nothing.

    Equal tensors have equal digests, whatever their layout on disk.

    Raises:
        TooLarge: more tensors or chunks than a manifest may have.
        Corrupt: the model's bytes are not what they claim to be.
    """
    return Manifest(
        kind="model", tensors=tuple(_hashed(reader, spec) for spec in reader.schema)
    ).digest


def _hashed(reader: TensorReader, spec: TensorSpec) -> TensorEntry:
    hasher = ChunkHasher()
    for block in reader.blocks(spec.name):
        hasher.update(bytes_of(block))
    return hashed_entry(spec, hasher)
