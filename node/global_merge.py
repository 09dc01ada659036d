"""The single global merge at the end, as a machine without clock or socket.

    announce -> promise -> commit -> fold      (parameters)
    announce -> promise -> commit -> finish    (statistics, where the model has any)

Where the run aligns, the first set is not folded yet. Its first node is the anchor: each
of the set brings its own model into the anchor's order of units and announces it again,
and what is folded is the set of those. The anchor follows from a committed set, so all
have the same one, whatever lists of members they held.

Everybody merges one committed set. It is committed in one of two ways. The
coordinator commits it: all members of the last epoch, or, under the `deadline`
policy, the part that it proposed once each of that part has promised. Or the
members commit it among themselves while the coordinator is away: only the whole
list, and only when every member holds the same list and has promised it.

A node promises one set a phase and keeps that promise, so no two sets can be
committed: a part needs the promise of all in it, and the whole list needs the
promise of everybody. Only the coordinator commits parts, so only it may replace
one: a node moves its promise from a part to the part that a newer plan proposes,
and from the whole list never.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from weft.node.entries import Announced, Committed, Entry, Finished, Folded, Joined, Promised
from weft.protocol.run import Digest, GlobalSet, NodeId, Phase, Plan, RunSpec, members_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Publish this node's contribution to a phase."""

    phase: Phase
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Get a set committed: ask the members, watch the plan, call `consider`."""

    phase: Phase
    members: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Merge the parameters of the committed set."""

    chosen: GlobalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Give the merged model its statistics, if any, and measure it."""

    model: str
    statistics: GlobalSet | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Linger:
    """Done; keep serving until the others have what they need."""

    model: str


GlobalStep = Announce | Settle | Fold | Finish | Linger


class GlobalStage(StrEnum):
    """Names for status pages and metrics."""

    ANNOUNCING = "announcing"
    SETTLING = "settling"
    ALIGNING = "aligning"
    FOLDING = "folding"
    FINISHING = "finishing"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a member says that it holds for a phase."""

    digest: Digest
    members_digest: Digest
    promised: Digest | None = None
    committed: tuple[tuple[NodeId, Digest], ...] | None = None


class GlobalMerge:
    """Where a node is in the global merge; see the module for the rule.

    Args:
        me: this node.
    """

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._aligns = False
        self.announced: dict[Phase, Announced] = {}
        self.promised: dict[Phase, GlobalSet] = {}
        self.committed: dict[Phase, GlobalSet] = {}
        self._folded: Folded | None = None
        self.finished: Finished | None = None

    def step(self, model: str, members: tuple[NodeId, ...], *, enabled: bool = True) -> GlobalStep:
        """What is due, given the rounds' last model and the last epoch's members.

        Args:
            model: the reference of the rounds' last model.
            members: of the last epoch.
            enabled: False: there is no global merge, the model is final as it is.
        """
        if self.finished is not None:
            return Linger(model=self.finished.model)
        if not enabled:
            return Finish(model=model, statistics=None)
        if self._folded is None:
            return self._parameters(model, members)
        if not self._folded.has_statistics:
            return Finish(model=self._folded.model, statistics=None)
        return self._statistics(self._folded.model)

    @property
    def stage(self) -> GlobalStage:
        """The name of what is due."""
        if self.finished is not None:
            return GlobalStage.DONE
        phase = self._phase
        if phase not in self.announced:
            return GlobalStage.ALIGNING if phase is Phase.ALIGNED else GlobalStage.ANNOUNCING
        if phase not in self.committed:
            return GlobalStage.SETTLING
        return GlobalStage.FOLDING if self._folded is None else GlobalStage.FINISHING

    @property
    def _phase(self) -> Phase:
        if self._folded is not None:
            return Phase.STATISTICS
        return self._last if Phase.PARAMETERS in self.committed else Phase.PARAMETERS

    @property
    def _last(self) -> Phase:
        """The phase whose set is folded."""
        return Phase.ALIGNED if self._aligns else Phase.PARAMETERS

    @property
    def to_fold(self) -> GlobalSet | None:
        """The set that is folded, once it is committed."""
        return self.committed.get(self._last)

    @property
    def anchor(self) -> tuple[NodeId, Digest]:
        """Whose order of units all models of the first set are brought into, and its model."""
        return self.committed[Phase.PARAMETERS].contributors[0]

    def _parameters(self, model: str, members: tuple[NodeId, ...]) -> GlobalStep:
        if self.to_fold is not None:
            return Fold(chosen=self.to_fold)
        phase = Phase.PARAMETERS
        if phase in self.committed:
            return self._of_contributors(Phase.ALIGNED, model)
        if phase not in self.announced and self._me in members:
            return Announce(phase=phase, model=model)
        return Settle(phase=phase, members=self.members(phase, members))

    def _statistics(self, model: str) -> GlobalStep:
        phase = Phase.STATISTICS
        if phase in self.committed:
            return Finish(model=model, statistics=self.committed[phase])
        return self._of_contributors(phase, model)

    def _of_contributors(self, phase: Phase, model: str) -> Announce | Settle:
        """A phase of those whose models are in the first set."""
        contributors = self.members(phase, ())
        if phase not in self.announced and self._me in contributors:
            return Announce(phase=phase, model=model)
        return Settle(phase=phase, members=contributors)

    def members(self, phase: Phase, planned: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        """The frozen list: as announced, else as planned, else who was merged."""
        if phase in self.announced:
            return self.announced[phase].members
        if phase is not Phase.PARAMETERS and Phase.PARAMETERS in self.committed:
            return tuple(node for node, _ in self.committed[Phase.PARAMETERS].contributors)
        return planned

    def consider(
        self, phase: Phase, plan: Plan, heard: Mapping[NodeId, Announcement]
    ) -> Committed | Promised | str:
        """The next entry towards a committed set, or what is waited for, in words.

        Args:
            phase: which of the two sets.
            plan: the newest that this node holds.
            heard: the newest announcement of each other member that has made one.
        """
        final = plan.committed_set(phase) or self._committed_elsewhere(phase, heard)
        if final is not None:
            return Committed(phase=phase, contributors=final.contributors)
        if phase not in self.announced:
            return "waiting for the members to commit a set"
        proposed = self._asked_for(phase, plan)
        if proposed is not None:
            return Promised(phase=phase, contributors=proposed.contributors)
        if phase in self.promised:
            return self._keep_promise(phase, heard)
        return self._promise_whole(phase, heard)

    def _asked_for(self, phase: Phase, plan: Plan) -> GlobalSet | None:
        """The coordinator's proposal, where this node is in it and free to promise it."""
        proposed = next((chosen for chosen in plan.proposed if chosen.phase == phase), None)
        promised = self.promised.get(phase)
        if proposed is None or proposed == promised:
            return None
        if promised is not None and self._is_whole(promised):
            return None
        return proposed if self._me in dict(proposed.contributors) else None

    def _is_whole(self, chosen: GlobalSet) -> bool:
        members = self.announced[chosen.phase].members
        return tuple(sorted(members)) == tuple(node for node, _ in chosen.contributors)

    def _committed_elsewhere(
        self, phase: Phase, heard: Mapping[NodeId, Announcement]
    ) -> GlobalSet | None:
        for announcement in heard.values():
            if announcement.committed is not None:
                return GlobalSet(phase=phase, contributors=announcement.committed)
        return None

    def _promise_whole(self, phase: Phase, heard: Mapping[NodeId, Announcement]) -> Promised | str:
        own = self.announced[phase]
        others = [node for node in own.members if node != self._me]
        silent = [node for node in others if node not in heard]
        if silent:
            return f"waiting for {', '.join(silent)} to announce"
        frozen = members_digest(own.members)
        differing = [node for node in others if heard[node].members_digest != frozen]
        if differing:
            return (
                f"{', '.join(differing)} hold another list of members; "
                "waiting for the coordinator to settle it"
            )
        digests = {self._me: own.digest, **{node: heard[node].digest for node in others}}
        return Promised(phase=phase, contributors=tuple(sorted(digests.items())))

    def _keep_promise(self, phase: Phase, heard: Mapping[NodeId, Announcement]) -> Committed | str:
        chosen = self.promised[phase]
        own = self.announced[phase]
        if not self._is_whole(chosen):
            return "promised a part of the members; waiting for the coordinator to commit it"
        missing = [
            node
            for node in own.members
            if node != self._me and (node not in heard or heard[node].promised != chosen.digest)
        ]
        if missing:
            return f"waiting for {', '.join(missing)} to promise the same set"
        return Committed(phase=phase, contributors=chosen.contributors)

    def apply(self, entry: Entry) -> None:
        """Take in a durable entry; of those of the rounds only what the run is matters."""
        match entry:
            case Joined(spec=spec):
                self._aligns = RunSpec.from_bytes(spec.encode()).merge.aligns
            case Announced(phase=phase):
                self.announced[phase] = entry
            case Promised(phase=phase, contributors=contributors):
                self.promised[phase] = GlobalSet(phase=phase, contributors=contributors)
            case Committed(phase=phase, contributors=contributors):
                self.committed[phase] = GlobalSet(phase=phase, contributors=contributors)
            case Folded():
                self._folded = entry
            case Finished():
                self.finished = entry
            case _:
                pass
