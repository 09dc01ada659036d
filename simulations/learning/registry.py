"""The table of rules: name, class, and what the schedule under it must be.

A rule's options are the fields of its class.

>>> rule("diloco", {"momentum": 0.5}).momentum
0.5
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from weft.simulations.errors import BadOption
from weft.simulations.learning import demands
from weft.simulations.learning.aligned import Dimat
from weft.simulations.learning.choco import Choco
from weft.simulations.learning.diloco import DiLoCo, FedAdam
from weft.simulations.learning.noloco import NoLoCo
from weft.simulations.learning.outer import AllReduce
from weft.simulations.learning.push_sum import PushSum
from weft.simulations.learning.rule import Gossip, Rule
from weft.simulations.learning.tracking import ExactDiffusion, GradientTracking
from weft.topology.errors import BadOption as BadField
from weft.topology.errors import unknown
from weft.topology.options import Scalar, with_options
from weft.topology.schedules import Schedule


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Attributes:
        of: the class.
        demand: refuses a schedule with which the rule would not be what it is called.
    """

    of: type[Rule]
    demand: Callable[[Schedule], None]


RULES: dict[str, Entry] = {
    "gossip": Entry(Gossip, demands.averages),
    "dimat": Entry(Dimat, demands.averages),
    "push_sum": Entry(PushSum, demands.push_sum_weights),
    "gradient_tracking": Entry(GradientTracking, demands.keeps_the_mean),
    "exact_diffusion": Entry(ExactDiffusion, demands.one_symmetric),
    "choco": Entry(Choco, demands.one_symmetric),
    "all_reduce": Entry(AllReduce, demands.everybody),
    "diloco": Entry(DiLoCo, demands.everybody),
    "fed_adam": Entry(FedAdam, demands.everybody),
    "noloco": Entry(NoLoCo, demands.pairs),
}


def rule(name: str, options: Mapping[str, Scalar] | None = None) -> Rule:
    """A new rule, for one run.

    Raises:
        BadOption: no rule of that name, no such option, or a value that cannot be.
    """
    if name not in RULES:
        raise BadOption(unknown("rule", name, RULES))
    try:
        return with_options(f"rule {name}", RULES[name].of, (options or {}).items())
    except BadField as error:
        raise BadOption(str(error)) from None


def fits(rule: Rule, schedule: Schedule) -> None:
    """Refuse a schedule that a rule cannot use; rules that are not in the table take any.

    Raises:
        BadOption: names the rule, and says what to take.
    """
    for name, entry in RULES.items():
        if type(rule) is entry.of:
            try:
                entry.demand(schedule)
            except BadOption as error:
                raise BadOption(f"rule {name}: {error}") from None
