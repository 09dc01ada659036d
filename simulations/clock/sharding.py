"""The sharded global merge in virtual time: slices to the owners, merged shares to all."""

from collections.abc import Callable, Sequence

from weft.simulations.clock.events import Action
from weft.simulations.clock.machines import Pace
from weft.simulations.clock.world import Link, World

Spend = Callable[[float, Action], None]
"""Lets a node compute for so many seconds, then does something."""


class Sharding:
    """The global merge of all nodes; node i owns share i.

    An owner fetches its slice of every contributor (two manifests: the index of slices and
    the slice), folds it, and everybody pulls the result: 2 (n - 1) / n of a model each way
    where shares are alike.

    Args:
        world: clock and network.
        pace: how long steps take.
        sizes: bytes of each node's share, on the wire; (nodes,).
        settle_s: from the last announcement to the committed set.
    """

    def __init__(self, world: World, pace: Pace, sizes: Sequence[float], settle_s: float) -> None:
        self._world, self._pace, self._sizes, self._settle_s = world, pace, sizes, settle_s
        self._announced = 0
        self._waiting: list[Action] = []
        self.moved: dict[Link, float] = {}

    def announced(self) -> None:
        """One more node has announced its model; after the last one the set is committed."""
        self._announced += 1
        if self._announced == len(self._sizes):
            self._world.clock.at(self._world.clock.now + self._settle_s, self._commit)

    def when_committed(self, then: Action) -> None:
        """Do something once the set is committed."""
        self._waiting.append(then)

    def _commit(self) -> None:
        for then in self._waiting:
            then()

    def gather(self, node: int, spend: Spend, then: Action) -> None:
        """Fold a node's own share and fetch all others.

        Args:
            node: which.
            spend: lets it compute.
            then: called when it has all shares.
        """
        missing = len(self._sizes)

        def one_more() -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                then()

        def folded() -> None:
            self._world.post((node, "share"))
            one_more()

        self._fold(node, lambda: spend(self.fold_seconds(node), folded))
        for owner in self._others(node):
            self._world.ask(node, owner, (owner, "share"), self._pull(owner, node, one_more))

    def fold_seconds(self, owner: int) -> float:
        """Seconds that an owner folds its share."""
        total = sum(self._sizes)
        share = self._sizes[owner] / total if total else 1 / len(self._sizes)
        return share * self._pace.of("fold", owner)

    def _fold(self, owner: int, then: Action) -> None:
        missing = len(self._sizes) - 1
        if not missing:
            then()

        def one_more() -> None:
            nonlocal missing
            missing -= 1
            if not missing:
                then()

        for contributor in self._others(owner):
            link = contributor, owner
            self._world.fetch(link, self._sizes[owner], one_more, self.moved, manifests=2)

    def _pull(self, owner: int, node: int, then: Action) -> Action:
        def fetch() -> None:
            self._world.fetch((owner, node), self._sizes[owner], then, self.moved)

        return fetch

    def _others(self, node: int) -> list[int]:
        return [other for other in range(len(self._sizes)) if other != node]
