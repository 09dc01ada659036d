"""Facts that a method asked for, or an error that says which one is missing.

>>> tensor_sums("w", Facts(contribution="a"))
Traceback (most recent call last):
weft.merging.errors.CannotMerge: a, tensor 'w': its sums over the tensor were not given
"""

from weft.merging.errors import CannotMerge
from weft.merging.facts import Facts, TensorSums


def tensor_sums(name: str, facts: Facts) -> TensorSums:
    """What a method with `Need.SUMS` was given.

    Args:
        name: of the tensor.
        facts: of one contribution.

    Raises:
        CannotMerge: nothing.
    """
    if facts.sums is None:
        raise CannotMerge(_missing(name, facts, "sums over the tensor"))
    return facts.sums


def only_cut(name: str, facts: Facts) -> float:
    """The one magnitude of a method with one cut.

    Args:
        name: of the tensor.
        facts: of one contribution.

    Raises:
        CannotMerge: none was given, or several.
    """
    if len(facts.cuts) != 1:
        raise CannotMerge(_missing(name, facts, "cut by magnitude"))
    return facts.cuts[0]


def _missing(name: str, facts: Facts, what: str) -> str:
    were = "were" if what.startswith("sums") else "was"
    return f"{facts.contribution}, tensor {name!r}: its {what} {were} not given"
