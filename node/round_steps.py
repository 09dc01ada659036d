"""Does what a round needs: train, publish, collect, agree, merge, evaluate.

Each method performs one step of `weft.node.rounds` and returns the entry that
says so. All of them may be cut short anywhere and done again: what they leave
on disk is named by its content or overwritten whole.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from blake3 import blake3

from weft.checkpoints.reader import read_schema
from weft.node.collector import Arrived, Collector, Missed, Peers
from weft.node.due import Agree, Begin, Collect, Evaluate, Merge, Publish, Start, Train
from weft.node.entries import (
    Chosen,
    Evaluated,
    Judged,
    Merged,
    Published,
    Started,
    Trained,
    TrainingBegun,
)
from weft.node.guards import Reason, Rejected, judge_score
from weft.node.judging import Judging
from weft.node.ledger import Ledger, LedgerEntry, Parent, Statistics
from weft.node.merging import Merging, Weighted
from weft.node.metrics import NodeMetrics
from weft.node.own_stream import OwnStream
from weft.node.pooled_statistics import has_statistics
from weft.node.rounds import RoundMachine
from weft.node.training import TrainerBackend, TrainRequest
from weft.node.workspace import Workspace
from weft.protocol.run import Digest, NodeId, RunSpec, members_digest
from weft.topology.matrices import missing_to_self

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSteps:
    """Performs the steps of a round.

    Args:
        me: this node.
        spec: the run.
        rounds: the machine whose steps these are; only read.
        workspace: the node's files.
        training: the user's training code.
        collector: gets what neighbours publish.
        judging: says what of it may be merged, in this node's order of units.
        peers: the members of the run.
        ledger: where adopted models are written down.
        metrics: counters.
    """

    me: NodeId
    spec: RunSpec
    rounds: RoundMachine
    workspace: Workspace
    training: TrainerBackend
    collector: Collector
    judging: Judging
    peers: Peers
    ledger: Ledger
    metrics: NodeMetrics

    @property
    def merging(self) -> Merging:
        """The tensor work, for this run."""
        return Merging(self.workspace.store, self.spec)

    async def start(self, step: Start) -> Started:
        """The model of the first round.

        The base, or a new model where there is none. A node that joins late takes
        the newest that a member published, if there is any.
        """
        if step.round > 0 and (late := await self._from_a_member(step.round)):
            return Started(round=step.round, model=late)
        if self.spec.base is not None:
            return Started(round=step.round, model=f"object:{self.spec.base}")
        path = self.workspace.initial_model
        await self.training.initial_model(path, self._seed("initial"))
        self.merging.check_schema(read_schema(path), "this node's own model")
        return Started(round=step.round, model=self.workspace.reference(path))

    async def _from_a_member(self, round: int) -> str | None:
        plan = self.rounds.plan
        members = [] if plan is None else [m.node for m in plan.members if m.node != self.me]
        digest = await self.collector.newest_before(round, members)
        if digest is None:
            return None
        path = self.workspace.initial_model
        await asyncio.to_thread(self.merging.restore, digest, path)
        return self.workspace.reference(path)

    async def begin(self, step: Begin) -> TrainingBegun:
        """Nothing but the entry: it counts the start before anything starts."""
        self.metrics.training_started()
        return TrainingBegun(round=step.round)

    async def train(self, step: Train) -> Trained:
        """Train the round in the training process."""
        folder = self.workspace.round_folder(step.round)
        model, state = folder / "trained.safetensors", folder / "state.pt"
        result = await self.training.train(
            TrainRequest(
                round=step.round,
                seed=self._seed(str(step.round)),
                model_in=self.workspace.path(step.model),
                state_in=None if step.state is None else self.workspace.path(step.state),
                model_out=model,
                state_out=state,
                fresh_optimizer=step.fresh_optimizer,
            )
        )
        return Trained(
            round=step.round,
            model=self.workspace.reference(model),
            state=self.workspace.reference(state) if state.exists() else None,
            metrics=dict(result.metrics),
        )

    def _seed(self, what: str) -> int:
        text = f"{self.spec.digest}|{self.me}|{what}"
        return int.from_bytes(blake3(text.encode()).digest()[:8]) >> 1

    async def publish(self, step: Publish) -> Published:
        """Make the trained model an artifact against the base."""
        digest = await asyncio.to_thread(
            self.merging.publish,
            self.workspace.path(step.model),
            self._metadata(step.round),
            owner=_pin(step.round),
        )
        return Published(
            round=step.round,
            digest=digest,
            members_digest=members_digest(step.members),
            row=dict(step.edges.row),
            listeners=step.edges.listeners,
        )

    async def collect(self, step: Collect) -> Judged:
        """Fetch the neighbours' contributions and judge them."""
        found = await self.collector.contributions(
            step.round, step.members_digest, step.neighbours, self._deadline()
        )
        arrived = {node: item.digest for node, item in found.items() if isinstance(item, Arrived)}
        missed = {node: item.reason for node, item in found.items() if isinstance(item, Missed)}
        for digest in arrived.values():
            self.workspace.store.pin(digest, _pin(step.round))
        judgement = await self.judging.judge(step.round, step.own, arrived, owner=_pin(step.round))
        aligned = {node: found.digest for node, found in judgement.aligned.items()}
        accepted = {n: digest for n, digest in arrived.items() if n not in judgement.refused}
        missed |= judgement.refused
        if accepted and await self._score_drops(step, {**accepted, **aligned}):
            missed |= dict.fromkeys(accepted, Reason.SCORE)
            accepted, aligned = {}, {}
        return Judged(
            round=step.round,
            accepted=accepted,
            missed={node: str(reason) for node, reason in missed.items()},
            aligned=aligned,
            moved={node: judgement.aligned[node].moved for node in aligned},
        )

    async def _score_drops(self, step: Collect, kept: Mapping[NodeId, Digest]) -> bool:
        if self.spec.guards.score_metric is None:
            return False
        row = self.rounds.published[step.round].row
        parents = {self.me: step.own, **kept}
        folder = self.workspace.round_folder(step.round)
        weights = missing_to_self(row, self.me, set(row) - set(parents))
        tentative = await self._merged(step.round, parents, weights)
        before = await self.training.evaluate(folder / "trained.safetensors")
        after = await self.training.evaluate(self.workspace.store.payload_path(tentative))
        verdict = judge_score(before or {}, after or {}, self.spec.guards)
        return isinstance(verdict, Rejected)

    async def agree(self, step: Agree) -> Chosen:
        """Learn who declined this node's contribution, and fix what is merged."""
        declined = await self.collector.verdicts(step.round, step.neighbours, self._deadline())
        chosen = self.rounds.choose({node: f"declined: {why}" for node, why in declined.items()})
        for reason in chosen.missed.values():
            self.metrics.edge_missed(reason)
        return chosen

    async def merge(self, step: Merge) -> Merged:
        """Merge the chosen contributions, or absorb them, and write the ledger's entry."""
        chosen = step.chosen
        if self.spec.merge.mode == "continual":
            stream = OwnStream(self.workspace.stream, self.workspace.store, self.spec)
            merged, parents = await asyncio.to_thread(stream.absorb, self.me, chosen)
        else:
            models = {**chosen.parents, **chosen.aligned}
            merged = await self._merged(step.round, models, chosen.weights)
            parents = tuple(
                Parent(
                    node=node,
                    digest=digest,
                    weight=chosen.weights[node],
                    aligned=chosen.aligned.get(node),
                )
                for node, digest in sorted(chosen.parents.items())
            )
        digest, statistics = await self._re_estimated(step.round, merged)
        self.workspace.store.pin(digest, _pin(step.round))
        entry = self._ledger_entry(chosen, parents, digest, statistics)
        await asyncio.to_thread(self.ledger.append, entry)
        self.metrics.merge_adopted()
        return Merged(round=step.round, model=f"object:{digest}")

    async def _merged(
        self, round: int, parents: Mapping[NodeId, Digest], weights: Mapping[NodeId, float]
    ) -> Digest:
        contributions = [
            Weighted(node=node, digest=digest, weight=weights[node])
            for node, digest in sorted(parents.items())
        ]
        return await asyncio.to_thread(
            self.merging.merge,
            self.spec.merge.method,
            self.spec.merge.options,
            contributions,
            own=self.me,
            metadata=self._metadata(round),
        )

    async def _re_estimated(self, round: int, merged: Digest) -> tuple[Digest, Statistics]:
        path = self.workspace.store.payload_path(merged)
        if not await asyncio.to_thread(has_statistics, path):
            return merged, Statistics.NONE
        out = self.workspace.round_folder(round) / "re-estimated.safetensors"
        if not await self.training.re_estimate(path, out):
            return merged, Statistics.OWN
        digest = await asyncio.to_thread(
            self.merging.keep, out, self._metadata(round), owner=_pin(round)
        )
        out.unlink()
        return digest, Statistics.RE_ESTIMATED

    def _metadata(self, round: int) -> dict[str, str]:
        return {"run": self.spec.name, "node": self.me, "round": str(round)}

    def _ledger_entry(
        self, chosen: Chosen, parents: tuple[Parent, ...], result: Digest, statistics: Statistics
    ) -> LedgerEntry:
        return LedgerEntry(
            kind="continual" if self.spec.merge.mode == "continual" else "neighbours",
            run=self.spec.name,
            node=self.me,
            round=chosen.round,
            seed=self.spec.seed,
            base=self.spec.base,
            method=self.spec.merge.method,
            options=dict(self.spec.merge.options),
            align=self.spec.merge.align,
            parents=parents,
            missed={str(node): reason for node, reason in chosen.missed.items()},
            statistics=statistics,
            result=result,
        )

    async def evaluate(self, step: Evaluate) -> Evaluated:
        """Measure the round's model where the trainer can, and tidy up."""
        metrics = await self.training.evaluate(self.workspace.path(step.model))
        await asyncio.to_thread(self._forget, step.round)
        self.metrics.round_done()
        return Evaluated(round=step.round, metrics=dict(metrics or {}))

    def _forget(self, round: int) -> None:
        oldest = round - self.spec.merge.retain_rounds + 1
        store = self.workspace.store
        for digest, owner in store.pins():
            if owner.startswith("round-") and int(owner.removeprefix("round-")) < oldest:
                store.unpin(digest, owner)
        # Nothing else writes to the store between two rounds: what nobody pins is garbage.
        store.gc(keep_unpinned_s=0)
        self.workspace.discard_rounds_before(oldest)

    def _deadline(self) -> float | None:
        merge = self.spec.merge
        return merge.deadline_s if merge.policy == "deadline" else None


def _pin(round: int) -> str:
    return f"round-{round:06d}"
