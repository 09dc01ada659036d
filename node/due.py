"""What can be due in a node's rounds: one small record for each thing to be done.

`RoundMachine.step` says which; `round_steps` does it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from weft.node.entries import Chosen
from weft.protocol.run import Digest, NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """A node's edges of one round.

    Attributes:
        row: the row of W that it applies: weights by node, its own included,
            summing to one.
        listeners: the nodes whose rows hold this one, sorted; where W is symmetric
            they are those of the row.
    """

    row: Mapping[NodeId, float]
    listeners: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Ask the coordinator to be taken into the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do until the plan changes; `reason` is for people."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Find the model of the first round."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Say in the journal that the round's training starts."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train the round."""

    round: int
    model: str
    state: str | None
    fresh_optimizer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Make the trained model a contribution, for those who listen."""

    round: int
    model: str
    members: tuple[NodeId, ...]
    edges: Edges


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Fetch the neighbours' contributions and judge them."""

    round: int
    own: Digest
    members_digest: Digest
    neighbours: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agree:
    """Learn from each listener whether it accepted this node's contribution.

    Waiting for their verdicts also keeps a node from running away from those who
    still need what it published.
    """

    round: int
    neighbours: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Merge the chosen contributions."""

    round: int
    chosen: Chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Measure the model that the round ended with."""

    round: int
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsDone:
    """All rounds are over; the global merge is next."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """An operator stopped the run."""


Step = (
    Join | Wait | Start | Begin | Train | Publish | Collect | Agree | Merge | Evaluate
    | RoundsDone | Stop
)  # fmt: skip
