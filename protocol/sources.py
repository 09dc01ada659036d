"""What can be sent as an artifact from where it lies, without being put into a store first.

    with source_of(Path("checkpoint-500")) as source:
        source.manifest.digest

A model is read twice: once for the digests of its chunks, once as it is sent. Its digest
is that of the same tensors in a store, however they lie on the disk.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from weft.checkpoints.adapter_config import CONFIG_NAME, MAX_CONFIG_BYTES
from weft.checkpoints.adapters import TENSORS_NAME
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.delta_folders import read_manifest
from weft.checkpoints.digest import ChunkHasher
from weft.checkpoints.disk import read_whole
from weft.checkpoints.dtypes import bytes_of
from weft.checkpoints.inputs import Format, format_of, open_input
from weft.checkpoints.manifest import Kind, Manifest
from weft.checkpoints.model_digest import hashed_entry
from weft.checkpoints.objects import PAYLOAD_NAME
from weft.checkpoints.payload import Payload
from weft.checkpoints.reader import FileReader
from weft.checkpoints.schema import TensorSpec
from weft.protocol.serve_artifacts import Source

CONFIG_KEY: Final = "adapter_config"
"""Under which key of an adapter's metadata its configuration travels."""

OnRead = Callable[[int], None]


class ReaderSource:
    """Tensors behind a reader as an artifact of plain tensors; reads all of them at once.

    Args:
        reader: stays open while this is used.
        kind: what the artifact is for.
        metadata: part of the digest.
        on_read: told of the bytes that were read.
    """

    def __init__(
        self,
        reader: RangeReader,
        *,
        kind: Kind = "model",
        metadata: dict[str, str] | None = None,
        on_read: OnRead = lambda count: None,
    ) -> None:
        self._reader = reader
        entries = []
        for spec in reader.schema:
            hasher = ChunkHasher()
            for block in reader.blocks(spec.name):
                hasher.update(bytes_of(block))
            entries.append(hashed_entry(spec, hasher))
            on_read(spec.size_bytes)
        self._specs: dict[str, TensorSpec] = {spec.name: spec for spec in reader.schema}
        self.manifest = Manifest(kind=kind, metadata=metadata or {}, tensors=tuple(entries))

    def fill(self, name: str, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes, as they are now: who gets them compares."""
        self._reader.fill(self._specs[name], into, offset)


@contextmanager
def source_of(
    path: Path, on_read: OnRead = lambda count: None, prefix: str = ""
) -> Iterator[Source]:
    """What lies at a path, as an artifact: a model, an adapter's factors or a delta.

    Args:
        path: a file or a folder.
        on_read: told of the bytes that were read.
        prefix: of a torch.distributed checkpoint only tensors that begin with it, without it.

    Raises:
        MissingCheckpoint, UnsupportedFile: nothing that could be sent is there.
        Corrupt: it is not whole.
    """
    found = format_of(path)
    if found is Format.DELTA:
        payload = Payload(path / PAYLOAD_NAME, read_manifest(path))
        try:
            yield payload
        finally:
            payload.close()
    elif found is Format.ADAPTER:
        config = read_whole(path / CONFIG_NAME, MAX_CONFIG_BYTES).decode()
        with FileReader(path / TENSORS_NAME) as tensors:
            metadata = {CONFIG_KEY: config}
            yield ReaderSource(tensors, kind="adapter", metadata=metadata, on_read=on_read)
    else:
        with open_input(path, prefix=prefix) as reader:
            yield ReaderSource(reader, on_read=on_read)
