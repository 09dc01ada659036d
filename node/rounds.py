"""The life of a node, on one page: a machine without clock, socket or disk.

    joining -> training -> publishing -> collecting -> merging -> evaluating -> training ... -> done

`step()` says what is due; the daemon does it and hands back one entry, which is
made durable first and applied then. `apply()` is the only thing that changes
the machine, so a node that applies its journal is where it was: a step that was
cut short is due again, one whose entry is in the journal never is.

Two rules live here and nowhere else. No round whose result is in the journal is
trained again. What is merged is fixed (`Chosen`) before it is merged, so that a
restart merges the same bytes.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from weft.node.due import (
    Agree,
    Begin,
    Collect,
    Edges,
    Evaluate,
    Join,
    Merge,
    Publish,
    RoundsDone,
    Start,
    Step,
    Stop,
    Train,
    Wait,
)
from weft.node.entries import (
    Chosen,
    Entry,
    Evaluated,
    Joined,
    Judged,
    Merged,
    PlanHeld,
    Published,
    Started,
    Trained,
    TrainingBegun,
)
from weft.protocol.run import Epoch, NodeId, Plan, RunSpec, RunState
from weft.topology.matrices import missing_to_self


class Stage(StrEnum):
    """What a node is doing, as status pages and metrics name it."""

    JOINING = "joining"
    WAITING = "waiting"
    TRAINING = "training"
    PUBLISHING = "publishing"
    COLLECTING = "collecting"
    AGREEING = "agreeing"
    MERGING = "merging"
    EVALUATING = "evaluating"
    ROUNDS_DONE = "finishing"


class RoundMachine:
    """Where a node is in its rounds; see the module for the two rules.

    Args:
        me: this node.
        edges_of: this node's edges of a round, for an epoch of a plan. Pure.
    """

    def __init__(self, me: NodeId, edges_of: Callable[[Plan, Epoch, int], Edges]) -> None:
        self._me = me
        self._edges_of = edges_of
        self.spec: RunSpec | None = None
        self.plan: Plan | None = None
        self.stage = Stage.JOINING
        self.round = 0
        self.training_starts = 0
        self.published: dict[int, Published] = {}
        self.judged: dict[int, Judged] = {}
        self.chosen: dict[int, Chosen] = {}
        self.metrics: Mapping[str, float] = {}
        self._model = ""
        self._state: str | None = None
        self._merged_since_state = False
        self._begun = False

    # -- what is due ---------------------------------------------------------

    def step(self) -> Step:
        """What is due now; calling it twice changes nothing."""
        if self.spec is None:
            return Join()
        if self.plan is None or self.plan.state is RunState.WAITING:
            return Wait(reason=self._waiting_reason())
        if self.plan.state is RunState.STOPPED:
            return Stop()
        return self._due()

    def _due(self) -> Step:
        match self.stage:
            case Stage.JOINING | Stage.WAITING:
                return self._first()
            case Stage.TRAINING:
                return self._training()
            case Stage.PUBLISHING:
                return self._publishing()
            case Stage.COLLECTING:
                return self._collecting()
            case Stage.AGREEING:
                return self._agreeing()
            case Stage.MERGING:
                return self._merging()
            case Stage.EVALUATING:
                return Evaluate(round=self.round, model=self._model)
            case _:
                return RoundsDone(model=self._model)

    def _waiting_reason(self) -> str:
        here = 0 if self.plan is None else len(self.plan.members)
        wanted = self.spec.nodes if self.spec else 0
        return f"{here} of {wanted} nodes have joined"

    def _first(self) -> Step:
        plan = self._held()
        first = None
        for epoch in reversed(plan.epochs):  # the newest unbroken stretch of membership
            if self._me not in epoch.members:
                break
            first = epoch.from_round
        if first is None:
            return Wait(reason="not yet among the members")
        return Start(round=first)

    def _training(self) -> Step:
        if self._begun:
            return Train(
                round=self.round,
                model=self._model,
                state=self._state,
                fresh_optimizer=self._merged_since_state and self._resets_optimizer(),
            )
        if self._held().state is RunState.PAUSED:
            return Wait(reason="the run is paused")
        return Begin(round=self.round)

    def _publishing(self) -> Step:
        plan = self._held()
        epoch = plan.epoch_of(self.round)
        if self._me not in epoch.members:
            return Evaluate(round=self.round, model=self._model)
        edges = self._edges_of(plan, epoch, self.round)
        if set(edges.row) <= {self._me} and not edges.listeners:
            return Evaluate(round=self.round, model=self._model)
        return Publish(round=self.round, model=self._model, members=epoch.members, edges=edges)

    def _collecting(self) -> Step:
        published = self.published[self.round]
        return Collect(
            round=self.round,
            own=published.digest,
            members_digest=published.members_digest,
            neighbours=tuple(sorted(set(published.row) - {self._me})),
        )

    def _agreeing(self) -> Step:
        missed = self.judged[self.round].missed
        listeners = self.published[self.round].listeners
        # Whoever did not deliver in time is not waited for a second time.
        asked = tuple(node for node in listeners if node not in missed)
        return Agree(round=self.round, neighbours=asked)

    def _merging(self) -> Step:
        chosen = self.chosen[self.round]
        if set(chosen.parents) == {self._me} and not self._is_continual():
            return Evaluate(round=self.round, model=self._model)
        return Merge(round=self.round, chosen=chosen)

    def choose(self, declined: Mapping[NodeId, str]) -> Chosen:
        """Fix what the round merges, once the neighbours' verdicts are in.

        A missed edge gives its weight to self (in continual mode to nobody: what came
        over it before is still in the stream). An edge that goes both ways is used
        where neither end declined, so both book it alike and the mean over the
        nodes stays; on an edge that goes one way only the listener can know.
        """
        published, judged = self.published[self.round], self.judged[self.round]
        mutual = {node: why for node, why in declined.items() if node in judged.accepted}
        missed = {**judged.missed, **mutual}
        if self._is_continual():
            row = {node: weight for node, weight in published.row.items() if node not in missed}
        else:
            row = missing_to_self(published.row, self._me, set(missed))
        parents = {self._me: published.digest, **judged.accepted}
        return Chosen(
            round=self.round,
            parents={node: parents[node] for node in sorted(row)},
            weights={NodeId(node): row[node] for node in sorted(row)},
            missed=missed,
            aligned={node: judged.aligned[node] for node in sorted(row) if node in judged.aligned},
        )

    # -- what happened -------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Take in a durable entry; entries of the global merge are left alone."""
        match entry:
            case Joined(spec=spec):
                self.spec = RunSpec.from_bytes(spec.encode())
                self.stage = Stage.WAITING
            case PlanHeld():
                self.plan = entry.held()
            case Started(round=round, model=model):
                self._model = model
                self._enter(round)
            case TrainingBegun():
                self.training_starts += 1
                self._begun = True
            case Evaluated(round=round, metrics=metrics):
                self.metrics = {**self.metrics, **metrics}
                self._enter(round + 1)
            case _:
                self._apply_within_round(entry)

    def _apply_within_round(self, entry: Entry) -> None:
        match entry:
            case Trained(model=model, state=state, metrics=metrics):
                self._model, self._state, self.metrics = model, state, metrics
                self._merged_since_state = False
                self.stage = Stage.PUBLISHING
            case Published(round=round):
                self.published[round] = entry
                self.stage = Stage.COLLECTING
            case Judged(round=round, moved=moved):
                self.judged[round] = entry
                if moved:
                    share = sum(moved.values()) / len(moved)
                    self.metrics = {**self.metrics, "moved_units": share}
                self.stage = Stage.AGREEING
            case Chosen(round=round):
                self.chosen[round] = entry
                self.stage = Stage.MERGING
            case Merged(model=model):
                self._model = model
                self._merged_since_state = True
                self.stage = Stage.EVALUATING
            case _:
                pass

    def resumed(self) -> None:
        """Call once after the journal is replayed: no training is under way now."""
        self._begun = False

    def _enter(self, round: int) -> None:
        spec = self._known()
        self.round = round
        self._begun = False
        self.stage = Stage.TRAINING if round < spec.rounds else Stage.ROUNDS_DONE

    def _is_continual(self) -> bool:
        return self._known().merge.mode == "continual"

    def _resets_optimizer(self) -> bool:
        return self._known().merge.optimizer == "reset"

    def _known(self) -> RunSpec:
        if self.spec is None:
            raise RuntimeError("the journal holds a round but no run")
        return self.spec

    def _held(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("the journal holds a round but no plan")
        return self.plan
