"""The exponential moving average of a stream of models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from weft.merging.errors import BadOption
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Need, Sequential, Totals
from weft.merging.monoids import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Ema(Sequential):
    """M <- (1 - rate) M + rate D, from M = 0, the base.

    A contribution of weight w counts as w equal ones in a row: its rate is
    1 - (1 - rate)^w. Order matters: the latest weighs most.

    Attributes:
        rate: the share of a new contribution.

    Source: the EMA-merge baseline of Roth et al. 2024, A Practitioner's Guide to
        Continual Multimodal Pretraining, arXiv:2408.14471, which tunes the rate around
        0.05 to 0.1; the weights are ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.BASE})

    rate: float = option(0.1, "share of a new contribution", above=0, most=1)

    @property
    def gives_back_one(self) -> bool:
        """Only where the newest replaces all."""
        return self.rate == 1

    def init(self, name: str, shape: Shape, base: Tensor | None) -> dict[str, Tensor]:
        """The base: a task vector of zeros."""
        return {"average": torch.zeros(shape, dtype=torch.float64)}

    def absorb(
        self, name: str, state: Mapping[str, Tensor], block: Tensor, facts: Facts
    ) -> dict[str, Tensor]:
        """A step towards the new task vector."""
        if facts.weight < 0:
            raise BadOption(
                f"{facts.contribution}: weight {facts.weight:g}; a moving average needs a"
                " positive one"
            )
        kept = (1.0 - self.rate) ** facts.weight
        # Not lerp: it may fuse a product and a sum, and then the last bits of an element
        # depend on its place in the block.
        average = state["average"] * kept
        return {"average": average.add_(block * (1.0 - kept))}

    def result(self, name: str, state: Mapping[str, Tensor], totals: Totals) -> Tensor:
        """The average."""
        return state["average"]
