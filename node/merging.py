"""The tensor work of a node: publish, measure, merge. Blocks; call it in a thread.

Every function takes files and digests and leaves an artifact in the store, so
that doing it again after a kill finds or makes the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from weft.checkpoints.artifacts import (
    ArtifactSink,
    open_contribution,
    open_model,
    put_delta,
    put_model,
)
from weft.checkpoints.codecs.registry import names as codecs
from weft.checkpoints.engine import Contribution, DeltaStatistics, measure, merge
from weft.checkpoints.errors import SchemaMismatch, WrongBase
from weft.checkpoints.manifest import Manifest
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.schema import Schema, check
from weft.checkpoints.store import Store
from weft.checkpoints.writer import SafetensorsWriter
from weft.merging.registry import create
from weft.node.errors import NotAContribution
from weft.protocol.run import Digest, NodeId, RunSpec, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """A contribution in the store, and its weight."""

    node: NodeId
    digest: Digest
    weight: float


class Merging:
    """Publishes and merges for one run.

    Args:
        store: the node's store; holds the base, if the run has one.
        spec: the run.
    """

    def __init__(self, store: Store, spec: RunSpec) -> None:
        self._store, self._spec = store, spec

    @contextmanager
    def base(self) -> Iterator[TensorReader | None]:
        """The run's base, or None where its nodes started apart."""
        if self._spec.base is None:
            yield None
            return
        reader = open_model(self._store, self._spec.base)
        try:
            yield reader
        finally:
            reader.close()

    def publish(self, model: Path, metadata: Mapping[str, str], *, owner: str) -> Digest:
        """Put the model's delta against the base into the store, pinned for `owner`."""
        with self.base() as base, open_checkpoint(model) as finetuned:
            digest = put_delta(
                self._store,
                finetuned,
                base,
                against=self._spec.base,
                codec=self._spec.merge.codec,
                metadata=metadata,
            )
        self._store.pin(digest, owner)
        return Digest(digest)

    def check(self, manifest: Manifest, node: NodeId, round: int) -> None:
        """Refuse what is not this node's delta of this round, against this run's base.

        Raises:
            NotAContribution: another kind of artifact, or somebody else's.
            WrongBase: against another base.
            SchemaMismatch: other tensors.
        """
        claimed = (manifest.kind, manifest.metadata.get("node"), manifest.metadata.get("round"))
        if claimed != ("delta", node, str(round)) or manifest.codec not in codecs():
            raise NotAContribution(
                f"contribution {manifest.digest[:12]} of {node} to round {round}: it is a "
                f"{manifest.kind} ({manifest.codec}) of {claimed[1]} for round {claimed[2]}"
            )
        if manifest.against != self._spec.base:
            raise WrongBase(
                f"contribution {manifest.digest[:12]} is against "
                f"{_short(manifest.against)}, the run's base is {_short(self._spec.base)}"
            )
        self.check_schema(manifest.schema, f"contribution {manifest.digest[:12]}")

    def check_schema(self, found: Schema, what: str) -> None:
        """Refuse a model of other tensors than the run's.

        Raises:
            SchemaMismatch: names the first differences where there is a base.
        """
        with self.base() as base:
            if base is not None:
                check(found, base.schema, what)
            elif found.digest != self._spec.schema_digest:
                raise SchemaMismatch(
                    f"{what}: schema {found.digest[:12]}, the run's is "
                    f"{_short(self._spec.schema_digest)}"
                )

    def measure(self, contributions: Sequence[Weighted]) -> DeltaStatistics:
        """Norms, inner products and non-finite tensors, in one pass over the data."""
        with self.base() as base, self._opened(contributions, base) as opened:
            return measure(opened, base)

    def merge(
        self,
        method: str,
        options: Mapping[str, Scalar],
        contributions: Sequence[Weighted],
        *,
        own: NodeId,
        metadata: Mapping[str, str],
    ) -> Digest:
        """Merge into the store; statistics and buffers are those of `own`. Not pinned."""
        with self.base() as base, self._opened(contributions, base) as opened:
            mine = next(item.reader for item in opened if item.name == own)
            with ArtifactSink(self._store, mine.schema, metadata=metadata) as sink:
                merge(create(method, **options), base, opened, own=mine, sink=sink)
        return Digest(sink.digest)

    def restore(self, digest: Digest, out: Path) -> None:
        """Write a contribution as the whole model that it stands for."""
        one = Weighted(node=NodeId("one"), digest=digest, weight=1.0)
        with self.base() as base, self._opened([one], base) as opened:
            reader = opened[0].reader
            with SafetensorsWriter(out, reader.schema, {}) as sink:
                for spec in reader.schema.tensors:
                    sink.write(spec.name, reader.blocks(spec.name))

    def keep(self, model: Path, metadata: Mapping[str, str], *, owner: str) -> Digest:
        """Put a whole model into the store, pinned for `owner`."""
        with open_checkpoint(model) as reader:
            digest = put_model(self._store, reader, metadata=metadata)
        self._store.pin(digest, owner)
        return Digest(digest)

    @contextmanager
    def _opened(
        self, contributions: Sequence[Weighted], base: TensorReader | None
    ) -> Iterator[list[Contribution]]:
        with ExitStack() as stack:
            opened = []
            for item in contributions:
                reader = open_contribution(self._store, item.digest, base)
                stack.callback(reader.close)
                opened.append(
                    Contribution(
                        name=item.node,
                        reader=reader,
                        weight=item.weight,
                        key=bytes.fromhex(item.digest),
                    )
                )
            yield opened


def _short(digest: str | None) -> str:
    return "no base" if digest is None else digest[:12]
