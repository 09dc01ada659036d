"""Schedules: the mixing matrix of any round, as a pure function.

A schedule is fixed by its parameters, the number of nodes, the number of rounds,
the seed, the data sizes where the weights want them, and what was announced. Any
round is computed without those before it, and alike on every machine.

>>> ring = build_schedule(ScheduleParams(graph="ring"), nodes=4, rounds=10, seed=0)
>>> ring.mixing(0).neighbours(0)
[1, 3]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from weft.topology.adaptive import Announcement, check_announced
from weft.topology.admission import admit, check_weights, graph_of, target_of
from weft.topology.draws import Source, Stream
from weft.topology.edges import Edges, Float64
from weft.topology.errors import BadOption, NotConnected, NotStochastic
from weft.topology.graphs import Complete, Graph
from weft.topology.matrices import Mixing, check_stochastic
from weft.topology.params import ScheduleParams
from weft.topology.sparse import pairs_along, pairs_anywhere, pulls_along, pulls_anywhere
from weft.topology.talk import Everybody, OnGraph, Pairs, Silent, Talk
from weft.topology.timings import Timing, timing
from weft.topology.weights import OWN, Rule, rule

__all__ = ["Schedule", "ScheduleParams", "build_schedule"]

SAMPLED_ROUNDS = 16
"""How many rounds of a schedule that never repeats `check` looks at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """The mixing matrices of a run with a fixed number of nodes. See `build_schedule`."""

    params: ScheduleParams
    nodes: int
    rounds: int
    seed: int
    graph: Graph
    rule: Rule
    timing: Timing
    target: Float64
    drifts: bool
    announced: tuple[Announcement, ...] = ()

    def talk(self, round: int) -> Talk:
        """What the nodes do in a round."""
        if round < 0:
            raise BadOption(f"round: found {round}, expected 0 or more")
        if self.nodes == 1:
            return Silent()
        return self.timing.at(round, self.rounds, self.announced)

    def mixes(self, round: int) -> bool:
        """Whether anybody may talk in a round; sparse gossip may draw nobody all the same."""
        return not isinstance(self.talk(round), Silent)

    def mixing(self, round: int) -> Mixing:
        """W of a round; the identity where nobody talks."""
        match self.talk(round):
            case Silent():
                return self._silence
            case OnGraph(step=step):
                return self._on_graph(step)
            case Pairs() as pairs:
                return self._weighed(self._drawn(pairs, round))
            case Everybody():
                return self._everybody

    @property
    def period(self) -> int | None:
        """After how many rounds the matrices repeat; None: never."""
        if self.nodes == 1:
            return 1
        return self.timing.period(self.graph.period(self.nodes), self.announced)

    @property
    def push_sum(self) -> bool:
        """Nodes must carry push-sum weights: columns sum to one, rows need not."""
        return self.rule.columns_only

    @property
    def exchangeable(self) -> bool:
        """No node is special: renaming nodes changes no probability."""
        return self.graph.exchangeable and not self.rule.needs_sizes

    @cached_property
    def silent(self) -> bool:
        """No round of the run moves anything, but for its global merge."""
        return not self._manners

    @cached_property
    def directed(self) -> bool:
        """Some edge is used one way only in some round."""
        if any(isinstance(talk, Pairs) and talk.one_way for talk in self._manners):
            return True
        on_graph = any(isinstance(talk, OnGraph) for talk in self._manners)
        return on_graph and any(edges.directed for edges in self._steps())

    @property
    def constant(self) -> Mixing | None:
        """The one W of all rounds that mix, where there is but one; None: there are more."""
        if self.silent or self.period is None or self.graph.period(self.nodes) != 1:
            return None
        return self._on_graph(0)

    def sample(self, limit: int) -> list[int]:
        """Rounds that stand for all: a whole period, or about `limit` of those that come.

        Without a period these are the first ones where the schedule goes on for
        ever, and rounds spread over the run where it means just those.
        """
        if self.period is not None:
            return list(range(self.period))
        if not self.timing.finite:
            return list(range(limit * self.timing.cycle))
        spread = np.linspace(0, self.rounds, min(limit, self.rounds), endpoint=False)
        return [int(round) for round in spread]

    def check(self) -> None:
        """Refuse a schedule that cannot make the nodes agree, or moves their average.

        Looked at: all edges of a period, the matrices of a period, or of the first
        sixteen rounds where there is no period. A schedule that never talks before
        the global merge passes; `silent` tells.

        Raises:
            NotConnected: some node never hears of some other.
            NotStochastic: a matrix has wrong sums, and no drift is declared: by
                `drift = true` among the graph's options, or by one-way pulls.
        """
        if self.silent:
            return
        self._check_connected()
        kept = None if self.drifts else self.target
        for round in filter(self.mixes, self.sample(SAMPLED_ROUNDS)):
            where = f"{self.params.title}, {self.nodes} nodes, round {round}"
            check_stochastic(self.mixing(round), where, kept=kept, columns=self.push_sum)

    def _check_connected(self) -> None:
        if self._all_may_meet or self.graph.period(self.nodes) is None:
            return
        steps = self._steps()
        joined = next(steps)
        for edges in steps:
            joined = joined.joined(edges)
        count, labels = joined.parts()
        if count > 1:
            other = int(np.flatnonzero(labels != labels[0])[0])
            raise NotConnected(
                f"{self.params.title}: found {count} parts among {self.nodes} nodes (node {other} "
                "and node 0 do not both hear of each other), expected a connected graph"
            )

    def _steps(self) -> Iterator[Edges]:
        for step in range(self.graph.period(self.nodes) or 1):
            yield self.graph.edges(self.nodes, step, self.seed)

    @property
    def _all_may_meet(self) -> bool:
        return isinstance(self.graph, Complete) or Everybody() in self._manners

    @cached_property
    def _manners(self) -> frozenset[Talk]:
        """The ways in which nodes talk in the run; steps of the graph count as one."""
        rounds = range(self.rounds) if self.period is None else range(self.period)
        talks = (self.talk(round) for round in rounds)
        return frozenset(
            OnGraph(0) if isinstance(talk, OnGraph) else talk
            for talk in talks
            if not isinstance(talk, Silent)
        )

    @cached_property
    def _silence(self) -> Mixing:
        return Mixing.identity(self.nodes)

    @cached_property
    def _everybody(self) -> Mixing:
        return self._weighed(Complete().edges(self.nodes, 0, self.seed))

    @cached_property
    def _static(self) -> Mixing:
        return self._step(0)

    def _on_graph(self, step: int) -> Mixing:
        return self._static if self.graph.period(self.nodes) == 1 else self._step(step)

    def _step(self, step: int) -> Mixing:
        own = self.graph.own_mixing(self.nodes, step) if self.params.weights == OWN else None
        if own is not None:
            return own
        return self._weighed(self.graph.edges(self.nodes, step, self.seed))

    def _weighed(self, edges: Edges) -> Mixing:
        try:
            return self.rule.apply(edges, self.target)
        except NotStochastic as error:
            raise NotStochastic(f"{self.params.title}: {error}") from None

    def _drawn(self, pairs: Pairs, round: int) -> Edges:
        source = Source(seed=self.seed, round=round, stream=Stream.SPARSE)
        counts = Source(seed=self.seed, round=round, stream=Stream.COUNTS)
        if isinstance(self.graph, Complete):
            draw = pulls_anywhere if pairs.one_way else pairs_anywhere
            return draw(self.nodes, pairs.expected, counts, source)
        edges = self.pool(round)
        if pairs.one_way:
            return pulls_along(edges, pairs.expected, counts, source)
        return pairs_along(edges, pairs.expected, source)

    def pool(self, round: int) -> Edges:
        """The edges from which sparse gossip draws in a round, over a graph."""
        if self.graph.period(self.nodes) == 1:
            return self._static_edges
        return self.graph.edges(self.nodes, round, self.seed)

    @cached_property
    def _static_edges(self) -> Edges:
        return self.graph.edges(self.nodes, 0, self.seed)


def build_schedule(
    params: ScheduleParams,
    *,
    nodes: int,
    rounds: int,
    seed: int,
    data_sizes: Sequence[float] | None = None,
    announced: Sequence[Announcement] = (),
) -> Schedule:
    """The schedule of a run, or of one epoch of its members.

    Args:
        params: the names and options.
        nodes: how many; node i is the i-th member.
        rounds: of the run; windows and late schedules are laid out in them.
        seed: of the run.
        data_sizes: (nodes,) above zero, for Hastings weights.
        announced: changes of the period, for the schedule `adaptive`.

    Raises:
        UnknownName: a graph, rule or schedule that does not exist; names the nearest.
        BadOption: an option that is not known or cannot be.
        BadGraph: there is no such graph of so many nodes.
        BadWeights: the weights do not fit the graph or the schedule.

    What only the edges tell (connected? stochastic?) is `Schedule.check`'s to say.
    """
    if nodes < 1 or rounds < 0 or seed < 0:
        raise BadOption(
            f"found {nodes} nodes, {rounds} rounds, seed {seed}; "
            "expected at least 1 node, and neither rounds nor seed below 0"
        )
    graph, declared = graph_of(params)
    when = timing(params.schedule, params.schedule_options)
    admit(params, graph, when, nodes)
    check_announced(announced)
    check_weights(params, graph, when)
    pulls = when.pairs is not None and when.pairs.one_way and params.weights == "uniform"
    return Schedule(
        params=params,
        nodes=nodes,
        rounds=rounds,
        seed=seed,
        graph=graph,
        rule=rule(params.weights),
        timing=when,
        target=target_of(params, nodes, data_sizes),
        drifts=declared or pulls,
        announced=tuple(announced),
    )
