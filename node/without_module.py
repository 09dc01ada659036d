"""What a way to train cannot do where weft has no module in hand: a command, or two folders."""

from pathlib import Path
from typing import NoReturn

from weft.node.errors import NoInitialModel, NoModule
from weft.node.training_messages import AlignRequest, AlignResult, UnitFacts


class WithoutModule:
    """The part of `TrainerBackend` that wants a module: nothing to measure, trace or draw.

    Args:
        called: how messages call this way to train.
    """

    def __init__(self, called: str) -> None:
        self._called = called

    async def calibrate(self, model: Path, moments_out: Path) -> bool:
        """See `TrainerBackend`: there is no calibration data."""
        return False

    async def re_estimate(self, model_in: Path, model_out: Path) -> bool:
        """See `TrainerBackend`: there is no calibration data."""
        return False

    async def units(self) -> UnitFacts:
        """See `TrainerBackend`: there is no module here to trace."""
        self._refuse_aligning()

    async def align(self, request: AlignRequest) -> AlignResult:
        """See `TrainerBackend`: there is no module here to trace."""
        self._refuse_aligning()

    async def initial_model(self, path: Path, seed: int) -> None:
        """See `TrainerBackend`: there is no module here to draw."""
        raise NoInitialModel(
            f"{self._called} cannot make a first model; create the run with a base checkpoint"
        )

    def _refuse_aligning(self) -> NoReturn:
        raise NoModule(
            f"{self._called} has no module whose units could be "
            "aligned; train with a class, or create the run with merge.align = 'none'"
        )
