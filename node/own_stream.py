"""A node's own stream: what its neighbours publish stays in it, and its head ends a round.

In a run with `merge.mode = "continual"` this takes the place of the merge of a round's
contributions. Each node is a lineage of the stream and each round a step of it, so what a
node published last is in the head exactly once, and whoever is late stays with what came
before. Blocks; call it in a thread.

Equal content counts once for each node that published it, and again in each round.

All of it may be cut short anywhere and done again: whose contribution to which round came
is known, and a head is a function of what is in it and in which order.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from torch import Tensor

from weft.checkpoints.artifacts import ArtifactSink, open_contribution
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.store import Store
from weft.node.continual import files
from weft.node.continual.errors import Unfit
from weft.node.continual.records import Contribution
from weft.node.continual.spec import StreamSpec
from weft.node.continual.stream import Stream
from weft.node.entries import Chosen
from weft.node.errors import FolderInUse, JournalBusy, NoBaseForStream
from weft.node.ledger import Parent
from weft.protocol.run import Digest, NodeId, RunSpec

_ANY_NORM: Final = sys.float_info.max
"""The run's guards have judged what comes; the stream does not judge it a second time."""


class OwnStream:
    """The stream of one node in one run.

    Args:
        folder: of the stream; it is begun when it is first needed.
        store: the node's: holds the run's base, and what is absorbed.
        spec: a run in continual mode.
    """

    def __init__(self, folder: Path, store: Store, spec: RunSpec) -> None:
        self._folder, self._store, self._spec = folder, store, spec

    def absorb(self, me: NodeId, chosen: Chosen) -> tuple[Digest, tuple[Parent, ...]]:
        """Take a round's contributions in, in the order of their nodes' names.

        What the method refuses is set aside with its reason, as in any stream.

        Returns:
            The head as an artifact of the node's store, pinned by nobody, and all that is
            in it, in the order in which it came. Parameters are the head's; statistics
            and buffers those of this node's contribution to the round.

        Raises:
            NoBaseForStream: the run has no base.
            CorruptArtifact: a contribution has rotted in the node's store.
            StreamCorrupt, JournalCorrupt: the stream's own files are damaged.
            DiskFull: no room; doing it again may work.
            JournalBusy: another process holds the stream, or its journal; the same.
        """
        self._begin()
        with self._opened() as stream:
            for node in sorted(chosen.parents):
                self._take(stream, node, chosen)
            stream.drain()
            newest = stream.queue.generation
            each = [stream.queue.contribution(seq) for seq in newest.members]
            members = tuple(
                Parent(node=one.lineage, digest=one.digest, weight=one.weight) for one in each
            )
            return self._head(stream, chosen.parents[me]), members

    def _opened(self) -> Stream:
        try:
            return Stream(self._folder)
        except FolderInUse as error:  # whoever feeds it by hand will be done, or is to be told
            raise JournalBusy(f"this node's own stream is held up: {error}") from error

    def _begin(self) -> None:
        if (self._folder / files.STREAM).exists():
            return
        base = self._spec.base
        if base is None:
            raise NoBaseForStream(f"run {self._spec.name}: a stream needs a base, and it has none")
        asked = self._spec.merge
        spec = StreamSpec(
            method=asked.method, options=dict(asked.options), retain=1, norm_factor=_ANY_NORM
        )
        begun = files.begin(self._folder, self._store.payload_path(base), spec)
        if begun.base != base:
            (self._folder / files.STREAM).unlink()
            raise NoBaseForStream(
                f"run {self._spec.name}: its base {base[:12]} comes to {begun.base[:12]} in a"
                " stream: it has rotted here (weft store verify), or holds metadata"
            )

    def _take(self, stream: Stream, node: NodeId, chosen: Chosen) -> None:
        digest, source = chosen.parents[node], f"{node}@{chosen.round}"
        if stream.queue.of_source(source) is not None:
            return  # before a kill
        self._copy(digest, stream.parts.store)
        offered = Contribution(
            seq=stream.queue.next_seq,
            name=f"{node}, round {chosen.round}",
            digest=digest,
            weight=chosen.weights[node],
            lineage=node,
            step=chosen.round + 1,
            at=time.time(),
            source=source,
        )
        with suppress(Unfit):  # set aside by now, and said in the log
            stream.take(offered, distinct=True)

    def _copy(self, digest: str, into: Store) -> None:
        """The same artifact in the stream's store; what a kill left of it is gone on with."""
        with into.stage(self._store.manifest_bytes(digest)) as staging:
            with self._store.payload(digest) as payload:
                for start, stop in staging.missing():
                    for index in range(start, stop):
                        staging.write_chunk(index, payload.read_chunk(index))
            staging.commit()

    def _head(self, stream: Stream, own: str) -> Digest:
        """The newest head in the node's store; of parameters alone it has the head's digest."""
        parts = stream.parts
        with (
            parts.heads.open(stream.queue.generation.number) as head,
            open_contribution(self._store, own, parts.base) as mine,
            ArtifactSink(self._store, parts.base.schema) as sink,
        ):

            def blocks(tensor: TensorSpec) -> Iterator[Tensor]:
                reader = head if tensor.kind == "parameter" else mine
                return iter(reader.blocks(tensor.name))

            for tensor in parts.base.schema:
                sink.write(tensor.name, blocks(tensor))
        return Digest(sink.digest)
