"""What all nodes of a forecast know alike: the run, its plan, who hears whom."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from weft.node.due import Edges
from weft.node.entries import PlanHeld
from weft.protocol.run import (
    Digest,
    Epoch,
    GlobalSet,
    Member,
    MergeSpec,
    NodeId,
    Phase,
    Plan,
    RunName,
    RunSpec,
    RunState,
    members_digest,
)
from weft.simulations.clock.machines import Pace
from weft.topology.schedules import Schedule

_ROUNDS_KEPT = 32


@dataclass(kw_only=True, eq=False)
class Roster:
    """A run and its members; all of them take part from the first round to the last.

    Attributes:
        schedule: who hears whom, round by round.
        rounds: how many.
        pace: how long steps take.
        message_bytes: of one contribution, on the wire.
        deadline_s: how long contributions, and then verdicts, are waited for; None: for ever.
        has_final: the run ends with a global merge.
        judged: whose contributions a node has accepted, by node and round.
    """

    schedule: Schedule
    rounds: int
    pace: Pace
    message_bytes: float
    deadline_s: float | None
    has_final: bool
    judged: dict[tuple[int, int], frozenset[NodeId]] = field(default_factory=dict)
    _edges: dict[int, list[Edges]] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[NodeId, ...]:
        """Of the nodes, in their order, which is that of the alphabet."""
        digits = len(str(self.schedule.nodes - 1))
        return tuple(NodeId(f"n{node:0{digits}d}") for node in range(self.schedule.nodes))

    @cached_property
    def number(self) -> dict[NodeId, int]:
        """Of each node, by its name."""
        return {name: node for node, name in enumerate(self.names)}

    @cached_property
    def members_digest(self) -> Digest:
        """Of the list of names."""
        return members_digest(self.names)

    @cached_property
    def spec(self) -> str:
        """The run, as a coordinator hands it out."""
        policy = "wait" if self.deadline_s is None else "deadline"
        merge = MergeSpec.model_validate(
            {"policy": policy}
            | ({} if self.deadline_s is None else {"deadline_s": self.deadline_s})
        )
        return (
            RunSpec(
                name="forecast",
                nodes=self.schedule.nodes,
                rounds=self.rounds,
                base="0" * 64,
                merge=merge,
            )
            .to_bytes()
            .decode()
        )

    @cached_property
    def plan(self) -> str:
        """The plan with all members, as a journal holds it."""
        return PlanHeld.of(self._plan(())).plan

    @cached_property
    def settled(self) -> Plan:
        """The plan with the set of the global merge: everybody's."""
        everybody = tuple((name, Digest(name)) for name in self.names)
        return self._plan((GlobalSet(phase=Phase.PARAMETERS, contributors=everybody),))

    def _plan(self, committed: tuple[GlobalSet, ...]) -> Plan:
        return Plan(
            run=RunName("forecast"),
            version=1 + len(committed),
            state=RunState.RUNNING,
            members=tuple(Member(node=name, address=name) for name in self.names),
            epochs=(Epoch(number=0, from_round=0, members=self.names),),
            committed=committed,
        )

    def edges_of(self, node: int) -> Callable[[Plan, Epoch, int], Edges]:
        """A node's edges of a round, as its machine asks for them."""
        return lambda plan, epoch, round: self._round(round)[node]

    def _round(self, round: int) -> list[Edges]:
        if round not in self._edges:
            self._edges = dict(list(self._edges.items())[-_ROUNDS_KEPT:])
            self._edges[round] = self._drawn(round)
        return self._edges[round]

    def _drawn(self, round: int) -> list[Edges]:
        mixing = self.schedule.mixing(round)
        rows: list[dict[NodeId, float]] = [{} for _ in self.names]
        listeners: list[list[NodeId]] = [[] for _ in self.names]
        entries = zip(
            mixing.receivers.tolist(), mixing.senders.tolist(), mixing.weights.tolist(), strict=True
        )
        for receiver, sender, weight in entries:
            if weight > 0 or sender == receiver:
                rows[receiver][self.names[sender]] = weight
            if weight > 0 and sender != receiver:
                listeners[sender].append(self.names[receiver])
        pairs = zip(rows, listeners, strict=True)
        return [Edges(row=row, listeners=tuple(heard)) for row, heard in pairs]
