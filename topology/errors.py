"""What can be wrong with a topology; all of it is the request's fault."""

import difflib
from collections.abc import Iterable

from weft.errors import InvalidInput, NotFound


class UnknownName(NotFound):
    """A graph, a rule of weights or a schedule of that name does not exist."""


class BadOption(InvalidInput):
    """An option that is not known, or whose value cannot be."""


class BadGraph(InvalidInput):
    """The graph does not exist for this number of nodes, or is too large to hold."""


class BadWeights(InvalidInput):
    """The rule of weights does not fit the graph, or lacks what it needs."""


class NotConnected(InvalidInput):
    """Some node never hears of some other over the schedule's period."""


class NotStochastic(InvalidInput):
    """A mixing matrix that does not keep what it must keep."""


def unknown(kind: str, found: str, known: Iterable[str]) -> str:
    """The line for a name that is not known: the nearest one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    if near:
        return f"{kind} '{found}' is not known; did you mean '{near[0]}'?"
    return f"{kind} '{found}' is not known; expected {' | '.join(names) or 'none'}"
