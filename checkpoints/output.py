"""A finished model folder: shards, index and companion files, there whole or not at all.

    with OutputFolder(path, schema, shard_bytes=5 * 10**9, plan=plan, resume=True) as output:
        for spec in output.remaining:
            output.write(spec.name, blocks_of(spec.name))
    print(output.digest)

All is written in `PATH.partial`, which takes the name PATH when it is complete and synced:

    weft.json                             the plan (see `provenance.py`); stays
    model-00001-of-00003.safetensors      each appears whole
    .model-00001-of-00003.json            its record (see `shard_records.py`); goes at the end
    config.json, tokenizer.json, ...      companions; stay
    model.safetensors.index.json          with more than one shard; stays

An exception, Ctrl-C among them, removes the folder, unless `resume` was asked for (and no
input changed meanwhile) or the model was complete and only its name was taken. A process
that is killed leaves it. With `resume` a later process with the same plan hashes the shards
that are there and writes only the others; where PATH itself was made by the same plan,
there is nothing left to do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from torch import Tensor

from weft.checkpoints.disk import disk_errors, free_bytes, sync_folder, write_bytes
from weft.checkpoints.errors import BadPath, ChangedInput, DiskFull, OtherPlan
from weft.checkpoints.partial import PartialFolder, occupied
from weft.checkpoints.provenance import (
    PROVENANCE_NAME,
    Json,
    describe_output,
    difference,
    read_provenance,
    written,
)
from weft.checkpoints.reader import SUFFIX, read_schema
from weft.checkpoints.schema import Schema, TensorSpec, check
from weft.checkpoints.shard_set import ShardSet, require_nameable
from weft.checkpoints.shards import INDEX_NAME, index_bytes, plan_shards
from weft.checkpoints.sidecars import Sidecar
from weft.checkpoints.writer import TORCH_METADATA
from weft.errors import InvalidInput, WeftError

FILE_SYSTEM_BYTES: Final = 2**20
"""Room for records, folders and what a file system keeps for itself."""


class OutputFolder:
    """A `TensorSink` whose tensors become a model folder.

    Args:
        path: the folder; nothing may be there, or an empty folder.
        schema: the tensors of the model.
        shard_bytes: the most bytes of tensors in one file.
        plan: recipe, and identities of what goes in: all that decides the values.
            Whoever goes on must give an equal one.
        resume: go on with what an earlier process left, and leave what is done here.
        sidecars: files to be copied beside the tensors.
        metadata: noted in the header of each shard; `TORCH_METADATA` where none is given.
        apart: what sets the record that is there apart from ours, in words; empty: nothing.

    Attributes:
        path: the folder.
        digest: of the artifact that the tensors are, as `put_model` gives it; set once the
            context has ended well, at once where the model was done before.
        done_before: whether PATH was there, made by this plan; then nothing remains.

    Raises:
        InvalidInput: no tensors, or a size of shards or a companion's name that cannot be.
        TooLarge: more tensors, bytes or files than an artifact or a reader takes.
        BadPath: the path is taken, or cannot be written; or work was left there and
            `resume` was not asked for.
        OtherPlan: what is there was begun or made by another plan.
        InUse: another process is writing there.
        DiskFull: no room for all that is to come.
        BadTensor: when the context ends and a tensor was not written.
    """

    def __init__(
        self,
        path: Path | str,
        schema: Schema,
        *,
        shard_bytes: int,
        plan: Mapping[str, Json],
        resume: bool = False,
        sidecars: Sequence[Sidecar] = (),
        metadata: Mapping[str, str] | None = None,
        apart: Callable[[Json, Json], str] = difference,
    ) -> None:
        self.path = Path(path)
        self.digest = ""
        self.done_before = False
        if not len(schema):
            raise InvalidInput(f"{path}: a model without tensors is not written")
        require_nameable(schema)
        metadata = TORCH_METADATA if metadata is None else metadata
        self._schema = schema
        self._metadata = metadata
        self._shard_bytes = shard_bytes
        self._plan = plan
        self._resume = resume
        self._apart = apart
        self._sidecars = tuple(sorted(sidecars, key=lambda sidecar: sidecar.name))
        _require_plain_names([sidecar.name for sidecar in self._sidecars])
        self._partial = PartialFolder(self.path)
        shards = plan_shards(schema, shard_bytes, metadata)
        self._index = index_bytes(shards) if len(shards) > 1 else b""
        self._shards = ShardSet(self._partial.folder, shards, metadata)
        self._document: dict[str, Json] = {}
        self._sidecar_digests: dict[str, str] = {}
        self._small_bytes = 0

    @property
    def schema(self) -> Schema:
        """All tensors of the model, written or not."""
        return self._schema

    @property
    def remaining(self) -> tuple[TensorSpec, ...]:
        """The tensors that are still to be written, in their order."""
        return tuple(self._shards.waiting)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Shards that were left there, were not what was written, and are made again."""
        return tuple(self._shards.damaged)

    @property
    def bytes_written(self) -> int:
        """Bytes of the model's files (shards, index, companions) that were written here."""
        return self._shards.bytes_written + self._small_bytes

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        """Take the next of the remaining tensors; see `TensorSink.write`."""
        self._shards.write(self._schema[name], data)

    def __enter__(self) -> Self:
        try:
            with disk_errors(self.path):
                self._open()
        except BaseException:
            self._partial.leave(remove=self._partial.made)
            raise
        return self

    def _open(self) -> None:
        self._sidecar_digests = {item.name: item.digest() for item in self._sidecars}
        self._document = describe_output(
            plan=self._plan,
            schema=self._schema,
            shard_bytes=self._shard_bytes,
            metadata=self._metadata,
            sidecars=self._sidecar_digests,
        )
        if not occupied(self.path):
            self._partial.claim(resume=self._resume)
        if not occupied(self.path):
            self._begin()
            return
        # Taken from the start, or by another process just before we claimed.
        self._partial.leave(remove=self._partial.made)
        self._accept()

    def _accept(self) -> None:
        """Take the model that is there as ours, where this very plan has made it."""
        try:
            document, digest = read_provenance(self.path) or ({}, "")
        except WeftError:
            document, digest = {}, ""
        other = self._apart(document, self._document)
        if digest and other and self._resume:
            raise OtherPlan(
                f"{self.path}: exists and was made by another plan: {other}; "
                "choose another, or remove it"
            )
        if not digest or other or not self._resume:
            hint = "" if other or not digest else " (this plan made it: --resume takes it as done)"
            raise BadPath(f"{self.path}: exists; choose another, or remove it{hint}")
        try:
            check(read_schema(self.path), self._schema, str(self.path))
        except WeftError as error:
            raise BadPath(
                f"{self.path}: was made by this plan and has changed since ({error}); remove it"
            ) from error
        sync_folder(self.path.parent)
        self.digest, self.done_before = digest, True

    def _begin(self) -> None:
        folder = self._partial.folder
        names = self._partial.contents()
        found = read_provenance(folder)
        if found is not None and (other := self._apart(found[0], self._document)):
            raise OtherPlan(
                f"{folder}: was begun with another plan: {other}; "
                "give that plan again, or remove the folder"
            )
        self._require_no_others(names, begun=found is not None)
        self._shards.take_over("" if found is None else found[1])
        self._require_space()
        if found is None:
            write_bytes(folder / PROVENANCE_NAME, written(self._document, ""))
        sync_folder(folder.parent)

    def _require_no_others(self, names: Iterable[str], *, begun: bool) -> None:
        """What lies there would become part of the model: it must be ours."""
        own = {PROVENANCE_NAME, INDEX_NAME, *self._shards.names, *self._sidecar_digests}
        foreign = sorted(set(names) - own if begun else names)
        if foreign:
            raise BadPath(
                f"{self._partial.folder}: holds {foreign[0]}, which is no part of this output; "
                "move it away, or remove the folder"
            )

    def _require_space(self) -> None:
        small = len(self._index) + sum(item.size_bytes for item in self._sidecars)
        needed = self._shards.missing_bytes + small + FILE_SYSTEM_BYTES
        free = free_bytes(self._partial.folder)
        if free < needed:
            raise DiskFull(
                f"{self.path}: {needed} bytes are needed and {free} are free: "
                f"{needed - free} are missing; make room and try again"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and not self.done_before:
                with disk_errors(self.path):
                    self._finish()
        except BaseException as fault:
            error = fault
            raise
        finally:
            self._let_go(error)

    def _let_go(self, error: BaseException | None) -> None:
        try:
            if error is not None:
                self._shards.abandon(error)
        finally:
            # What was made of an input that changed is of no use to whoever goes on.
            useless = not self._resume or isinstance(error, ChangedInput)
            self._partial.leave(remove=error is not None and useless)

    def _finish(self) -> None:
        digest = self._shards.digest()
        folder = self._partial.folder
        for item in self._sidecars:
            self._small_bytes += item.copy_to(folder, self._sidecar_digests[item.name])
        if self._index:
            write_bytes(folder / INDEX_NAME, self._index)
            self._small_bytes += len(self._index)
        write_bytes(folder / PROVENANCE_NAME, written(self._document, digest))
        self._shards.remove_records()
        self._partial.publish()
        self.digest = digest


def _require_plain_names(names: Sequence[str]) -> None:
    """Companions lie beside the tensors, and must not take the place of anything."""
    for name in names:
        taken = name in (PROVENANCE_NAME, INDEX_NAME) or names.count(name) > 1
        if taken or "/" in name or name.startswith(".") or name.endswith(SUFFIX) or not name:
            raise InvalidInput(f"companion file {name!r}: not a name that may stand beside a model")
