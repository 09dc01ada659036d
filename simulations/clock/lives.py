"""The life of a node in virtual time: the daemon's machines, and how long their steps take."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from weft.node.due import (
    Agree,
    Begin,
    Collect,
    Evaluate,
    Join,
    Merge,
    Publish,
    RoundsDone,
    Start,
    Step,
    Train,
    Wait,
)
from weft.node.entries import (
    Announced,
    Chosen,
    Committed,
    Entry,
    Evaluated,
    Finished,
    Folded,
    Joined,
    Judged,
    Merged,
    PlanHeld,
    Published,
    Started,
    Trained,
    TrainingBegun,
)
from weft.node.global_merge import Announce, Finish, Fold, GlobalMerge, GlobalStep, Settle
from weft.node.rounds import RoundMachine
from weft.protocol.run import Digest, NodeId, Phase
from weft.simulations.clock.events import Action
from weft.simulations.clock.roster import Roster
from weft.simulations.clock.sharding import Sharding
from weft.simulations.clock.world import Link, Transfer, World


@dataclass(slots=True, eq=False)
class Account:
    """Where a node's time went, in seconds; and what came of its edges.

    Attributes:
        round_ends: when each round ended.
        busy: computed, work that an absence undid included.
        end: when its life was done; None before.
        missed: edges that were not used, by round.
    """

    round_ends: list[float] = field(default_factory=list)
    busy: float = 0.0
    end: float | None = None
    missed: dict[int, int] = field(default_factory=dict)


class Errand:
    """Something that is wanted of several nodes, until it has come or the time is over.

    Args:
        wanted: of whom.
        then: called once, when all has come or the time is over.
    """

    def __init__(self, wanted: Iterable[NodeId], then: Callable[["Errand"], None]) -> None:
        self.missing = set(wanted)
        self.transfers: dict[NodeId, Transfer] = {}
        self.is_over = False
        self._then = then

    def came(self, name: NodeId) -> None:
        """One of them has answered."""
        self.missing.discard(name)
        self.end_if_complete()

    def end_if_complete(self) -> None:
        """Nothing is missing: that is all."""
        if not self.missing:
            self.end()

    def end(self) -> None:
        """No longer wait."""
        if not self.is_over:
            self.is_over = True
            self._then(self)


class Life:
    """One node: asks its machines what is due, and lets it take its time.

    Args:
        node: its number.
        roster: the run and its members, as all of them know it.
        world: clock and network.
        sharding: the global merge of all.
        moved: where the bytes of contributions are counted, by link.
    """

    def __init__(
        self,
        node: int,
        roster: Roster,
        world: World,
        sharding: Sharding,
        moved: dict[Link, float],
    ) -> None:
        self.node, self.me = node, roster.names[node]
        self.account = Account()
        self._roster, self._world, self._sharding, self._moved = roster, world, sharding, moved
        self._rounds = RoundMachine(self.me, roster.edges_of(node))
        self._final = GlobalMerge(self.me)

    def proceed(self) -> None:
        """Do what is due, up to what takes time."""
        while (entry := self._perform(self._rounds.step())) is not None:
            self._apply(entry)

    def _record(self, entry: Entry) -> None:
        """A step is done: as in the daemon, the entry is applied, and others may know."""
        self._apply(entry)
        self.proceed()

    def _apply(self, entry: Entry) -> None:
        self._rounds.apply(entry)
        self._final.apply(entry)
        match entry:
            case Published(round=round):
                self._world.post((self.node, "published", round))
            case Judged(round=round, accepted=accepted):
                self._roster.judged[self.node, round] = frozenset(accepted)
                self._world.post((self.node, "judged", round))
            case Chosen(round=round, missed=missed):
                self.account.missed[round] = len(missed)
            case Evaluated():
                self.account.round_ends.append(self._world.clock.now)
            case Announced():
                self._sharding.announced()
            case Finished():
                self.account.end = self._world.clock.now

    # -- rounds --------------------------------------------------------------

    def _perform(self, step: Step) -> Entry | None:
        """The entry of a step that takes no time; None: it will come."""
        match step:
            case Join():
                return Joined(spec=self._roster.spec)
            case Wait():
                return PlanHeld(plan=self._roster.plan)
            case Start(round=round):
                return Started(round=round, model="object:base")
            case Begin(round=round):
                return TrainingBegun(round=round)
            case RoundsDone(model=model):
                members, enabled = self._roster.names, self._roster.has_final
                self._perform_global(self._final.step(model, members, enabled=enabled))
            case Collect():
                self._collect(step)
            case Agree():
                self._agree(step)
            case _:
                self._compute(step)
        return None

    def _compute(self, step: Step) -> None:
        pace, node = self._roster.pace, self.node
        match step:
            case Train(round=round):
                trained = Trained(round=round, model=f"object:{round}")
                self._work(pace.training(node, round), trained)
            case Publish(round=round):
                self._work(pace.of("publish", node), self._published(step))
            case Merge(round=round):
                self._work(pace.of("merge", node), Merged(round=round, model="object:merged"))
            case Evaluate(round=round):
                self._work(pace.of("evaluate", node), Evaluated(round=round))
            case _:
                raise RuntimeError(f"nothing performs {step}")

    def _published(self, step: Publish) -> Published:
        return Published(
            round=step.round,
            digest=Digest(self.me),
            members_digest=self._roster.members_digest,
            row=dict(step.edges.row),
            listeners=step.edges.listeners,
        )

    def _work(self, seconds: float, entry: Entry) -> None:
        self._spend(seconds, lambda: self._record(entry))

    def _spend(self, seconds: float, then: Action) -> None:
        """Compute for a while; begun anew where an absence cuts it short."""
        end, lost, _ = self._world.presence.finish(self.node, self._world.clock.now, seconds)
        self.account.busy += seconds + lost
        self._world.clock.at(end, then)

    # -- neighbours ----------------------------------------------------------

    def _collect(self, step: Collect) -> None:
        """Fetch every neighbour's contribution as soon as it is published."""

        def judge(errand: Errand) -> None:
            self._judge(step, errand)

        def fetch(errand: Errand, name: NodeId) -> None:
            errand.transfers[name] = self._world.fetch(
                (self._roster.number[name], self.node),
                self._roster.message_bytes,
                lambda: errand.came(name),
                self._moved,
                again=self._roster.deadline_s is None,
            )

        self._await("published", step.round, Errand(step.neighbours, judge), fetch)

    def _judge(self, step: Collect, errand: Errand) -> None:
        """What came in time is judged; the rest are missed edges, and no longer fetched."""
        for name in errand.missing & set(errand.transfers):
            self._world.drop(errand.transfers[name])
        came = {name: Digest(name) for name in step.neighbours if name not in errand.missing}
        late = dict.fromkeys(sorted(errand.missing), "late")
        judged = Judged(round=step.round, accepted=came, missed=late)
        self._work(self._roster.pace.of("judge", self.node), judged)

    def _agree(self, step: Agree) -> None:
        """Learn every listener's verdict; one that does not come in time is taken for a yes."""
        declined: dict[NodeId, str] = {}

        def hear(errand: Errand, name: NodeId) -> None:
            if self.me not in self._roster.judged[self._roster.number[name], step.round]:
                declined[name] = "declined: late"
            errand.came(name)

        def choose(errand: Errand) -> None:
            self._record(self._rounds.choose(declined))

        self._await("judged", step.round, Errand(step.neighbours, choose), hear)

    def _await(
        self, what: str, round: int, errand: Errand, then: Callable[[Errand, NodeId], None]
    ) -> None:
        for name in sorted(errand.missing):
            holder = self._roster.number[name]

            def answered(name: NodeId = name) -> None:
                if not errand.is_over:
                    then(errand, name)

            self._world.ask(self.node, holder, (holder, what, round), answered)
        errand.end_if_complete()
        if self._roster.deadline_s is not None:
            # Who was away asks again when it is back, and waits as long again.
            now = self._world.clock.now
            end, _, _ = self._world.presence.finish(self.node, now, self._roster.deadline_s)
            self._world.clock.at(end, errand.end)

    # -- the global merge ----------------------------------------------------

    def _perform_global(self, step: GlobalStep) -> None:
        pace, node = self._roster.pace, self.node
        match step:
            case Announce(phase=phase):
                announced = Announced(
                    phase=phase, digest=Digest(self.me), members=self._roster.names
                )
                self._work(pace.of("announce", node), announced)
            case Settle(phase=phase):
                self._sharding.when_committed(lambda: self._commit(phase))
            case Fold():
                folded = Folded(model="object:merged")
                self._sharding.gather(node, self._spend, lambda: self._record(folded))
            case Finish(model=model):
                self._work(pace.of("finish", node), Finished(model=model))

    def _commit(self, phase: Phase) -> None:
        found = self._final.consider(phase, self._roster.settled, {})
        if not isinstance(found, Committed):
            raise RuntimeError(f"a plan with a committed set leads to {found}")
        self._record(found)
