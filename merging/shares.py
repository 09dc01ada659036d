"""Weights as shares of one.

>>> shares([Facts(contribution="a", weight=3.0), Facts(contribution="b")])
[0.75, 0.25]
"""

import math
from collections.abc import Sequence

from weft.merging.errors import BadOption
from weft.merging.facts import Facts


def shares(facts: Sequence[Facts]) -> list[float]:
    """w_i / sum_j w_j.

    Raises:
        BadOption: a weight is negative; names the contribution.
    """
    for fact in facts:
        if fact.weight < 0:
            raise BadOption(
                f"{fact.contribution}: weight {fact.weight:g}; a share needs a positive one"
            )
    total = math.fsum(fact.weight for fact in facts)
    return [fact.weight / total for fact in facts]
