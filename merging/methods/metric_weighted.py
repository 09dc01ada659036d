"""Metrics-weighted averaging: a checkpoint weighs by its loss, its score or its step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from weft.merging.errors import CannotMerge
from weft.merging.fact_weighted import BOUND, FactWeighted
from weft.merging.hyperparameters import option
from weft.merging.method import Facts, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricWeighted(FactWeighted):
    """sum_i v_i D_i / sum_i v_i, where v_i is made of i's metric m_i, given as its weight.

    v is m^p ("power": scores, steps), m^-p ("inverse": losses) or exp(-p (m - m_0))
    ("exponential": losses; m_0 cancels, but keeps v within what can be summed). A power
    goes by proportions of the metrics alone, an exponential by their differences. A
    metric of zero means, as every weight of zero, that the contribution is not there. Of
    a negative one the power is that of its magnitude, negative: it counts against; an
    inverse of it is refused. Nothing proves a metric: who reports a false one weighs more.

    Attributes:
        form: how a metric becomes a weight.
        penalty: p; the larger, the more the best one prevails. With 0 all weigh alike.
        reference: m_0 of the exponential: about the metric of the best.
        bound: largest magnitude of v D, a power of two.

    Source: Metrics-Weighted Averaging, arXiv:2504.18580, which weights checkpoints by
        training loss or step with one penalty factor. The formula was not to be had: the
        three forms are our proposal, without the softmax's standard deviation, which
        would need all metrics at once.
    """

    form: str = option("power", "m to v", choices=("power", "inverse", "exponential"))
    penalty: float = option(1.0, "p, how much the best one prevails", least=0)
    reference: float = option(0.0, "metric at which the weight is one, of the exponential")
    bound: float = option(BOUND, "largest magnitude of v D", power_of_two=True)

    @property
    def proportional(self) -> bool:
        """Powers go by proportions; the exponential by differences."""
        return self.form != "exponential"

    def share(self, name: str, facts: Facts) -> float:
        """V."""
        metric = facts.weight
        if self.form == "inverse" and metric < 0:
            raise CannotMerge(self._refused(name, facts, "a loss above zero"))
        try:
            return self._weight(metric)
        except OverflowError:
            expected = "one of which a weight can be made; a `reference` near it helps"
            raise CannotMerge(self._refused(name, facts, expected)) from None

    def finish(
        self, name: str, state: Mapping[str, Tensor], totals: Totals, base: Tensor | None
    ) -> Tensor:
        """The quotient."""
        if state["shares"].item() == 0:
            raise CannotMerge(
                f"tensor {name!r}: the weights made of {totals.count} metrics come to zero in sum;"
                " give a smaller `penalty`, or a `reference` near the metrics"
            )
        return FactWeighted.finish(self, name, state, totals, base)

    def _weight(self, metric: float) -> float:
        if self.form == "exponential":
            return math.exp(-self.penalty * (metric - self.reference))
        exponent = self.penalty if self.form == "power" else -self.penalty
        return math.copysign(math.pow(abs(metric), exponent), metric)

    def _refused(self, name: str, facts: Facts, expected: str) -> str:
        return (
            f"{facts.contribution}, tensor {name!r}: its metric is {facts.weight:g},"
            f" expected {expected}"
        )
