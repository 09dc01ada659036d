"""Contributions in the store of a stream: what came in, and how it is read again.

A full checkpoint is kept as its difference to the base, an adapter as its factors, and
what was trained from a head as its task vector against that head, in float32: the head
may be gone by the time that it is read again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from weft.checkpoints.adapter_config import CONFIG_NAME, MAX_CONFIG_BYTES
from weft.checkpoints.adapters import TENSORS_NAME, AdapterReader
from weft.checkpoints.artifacts import ArtifactSink, open_contribution, put_delta
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.delta_folders import read_manifest
from weft.checkpoints.deltas import DeltaReader
from weft.checkpoints.digest import CHUNK_BYTES
from weft.checkpoints.disk import read_whole
from weft.checkpoints.inputs import Format, format_of, open_input
from weft.checkpoints.job import require_same_model
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.payload import Payload
from weft.checkpoints.reader import FileReader, TensorReader
from weft.checkpoints.schema import Schema, TensorSpec
from weft.checkpoints.store import Store
from weft.node.continual.errors import Unfit
from weft.node.continual.records import Contribution, Form
from weft.node.continual.spec import Keep

CONFIG_KEY = "adapter_config"


class KeptContributions:
    """The contributions of a stream.

    Args:
        store: where they lie.
        base: what they are against; stays open.
        base_digest: of the base.
        keep: how full checkpoints are coded.
    """

    def __init__(self, store: Store, base: RangeReader, base_digest: str, keep: Keep) -> None:
        self._store, self._base = store, base
        self._base_digest = base_digest
        self._keep = keep

    def put(
        self, path: Path, head: RangeReader | None = None, prefix: str = ""
    ) -> tuple[str, Form]:
        """Take what lies at a path into the store, durably; returns its digest and form.

        Args:
            path: a checkpoint, an adapter or a delta folder.
            head: what it was trained from, where that is not the base.
            prefix: of a torch.distributed checkpoint only tensors that begin with it.

        Raises:
            SchemaMismatch, WrongBase, Corrupt: it is no fine-tune of the base, or not whole.
            DiskFull: no room.
        """
        if format_of(path) is Format.ADAPTER and head is None:
            with open_input(path, self._base):
                return self._put_adapter(path), Form.ADAPTER
        under, digest = self._under(path, head)
        with open_input(path, under, base_digest=digest, prefix=prefix) as reader:
            return self.put_model(reader, str(path), head)

    def _under(self, path: Path, head: RangeReader | None) -> tuple[RangeReader, str | None]:
        """What lies at a path makes a model of this: a delta says what it is against."""
        if head is None:
            return self._base, self._base_digest
        of_base = format_of(path) is Format.DELTA and (
            read_manifest(path).against == self._base_digest
        )
        return (self._base, self._base_digest) if of_base else (head, None)

    def put_model(
        self, reader: TensorReader, where: str, head: RangeReader | None = None
    ) -> tuple[str, Form]:
        """Take a full model into the store; see `put`."""
        require_same_model(reader.schema, self._base.schema, where, "the base", False)
        if head is not None:
            return put_delta(self._store, reader, head, model_digest(head), "raw"), Form.VECTOR
        codec = self._keep.codec
        return put_delta(self._store, reader, self._base, self._base_digest, codec), Form.DELTA

    def _put_adapter(self, path: Path) -> str:
        config = read_whole(path / CONFIG_NAME, MAX_CONFIG_BYTES).decode()
        with FileReader(path / TENSORS_NAME) as tensors:
            sink = ArtifactSink(
                self._store, tensors.schema, kind="adapter", metadata={CONFIG_KEY: config}
            )
            with sink:
                for spec in tensors.schema:
                    sink.write(spec.name, tensors.blocks(spec.name))
        return sink.digest

    def open(self, contribution: Contribution) -> TensorReader:
        """The fine-tuned model that a contribution stands for, its task vector exact.

        Raises:
            MissingArtifact: it is not kept.
            CorruptArtifact: its bytes have changed on the disk.
            SchemaMismatch: it does not fit the base.
        """
        digest = contribution.digest
        if contribution.form is Form.VECTOR:
            return VectorReader(self._store.payload(digest), self._base)
        if contribution.form is Form.DELTA:
            return open_contribution(self._store, digest, self._base)
        for verdict in self._store.verify([digest]):
            if verdict.fault:
                raise Unfit(f"{contribution.name}: {verdict.fault}")
        path = self._store.payload_path(digest)
        config = self._store.manifest(digest).metadata[CONFIG_KEY].encode()
        return AdapterReader(path.parent, self._base, config=config, tensors=path)


class VectorReader(DeltaReader):
    """A task vector by itself, float32, read as the model that it makes of the base."""

    decodes: ClassVar[bool] = True

    def __init__(self, payload: Payload, base: RangeReader) -> None:
        self._payload, self._base = payload, base

    @property
    def schema(self) -> Schema:
        """The base's tensors."""
        return self._base.schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """What was put beside the tensors."""
        return self._payload.manifest.metadata

    @property
    def where(self) -> str:
        """The artifact."""
        return f"artifact {self._payload.manifest.digest}"

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """The base's bytes: only the task vector of a contribution is merged."""
        self._base.fill(spec, into, offset)

    def delta_ranges(
        self, name: str, start: int, stop: int, step: int, dtype: torch.dtype
    ) -> Iterator[Tensor]:
        """See `DeltaReader.delta_ranges`; reads the whole chunks around each block."""
        spec = self.schema[name]
        for first in range(start, stop, step):
            yield self._values(spec, first, min(first + step, stop)).to(dtype)

    def _values(self, spec: TensorSpec, start: int, stop: int) -> Tensor:
        stored = torch.float64 if spec.dtype == "F64" else torch.float32
        first, last = start * stored.itemsize, stop * stored.itemsize
        begin = first // CHUNK_BYTES * CHUNK_BYTES
        size = self._payload.manifest.entry(spec.name).size_bytes
        end = min(-(-last // CHUNK_BYTES) * CHUNK_BYTES, size)
        data = torch.empty(end - begin, dtype=torch.uint8)
        if len(data):
            self._payload.fill(spec.name, data.numpy().data, begin)
        return data[first - begin : last - begin].view(stored)

    def close(self) -> None:
        """Close the artifact, not the base."""
        self._payload.close()
