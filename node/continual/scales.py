"""By how much the merged task vector is scaled where a stream says `auto`.

With a gate: the factor among `TRIED` whose head scores best, the smallest of equal ones.
Without: one, the method's own strength.
"""

from typing import Final

from weft.merging.method import Method, Sequential

TRIED: Final = (0.3, 0.5, 0.7, 1.0)

TOO_FAR: Final = (
    "the gate scores the head best at {scale:g} of its own length, the mean norm of the "
    "contributions: for these {method} goes too far; another method may keep more of them"
)


def warnings_of(name: str, method: Method, scale: float) -> tuple[str, ...]:
    """What a user should know of the factor that a gate has chosen for a method.

    A method that keeps the mean norm makes a task vector that is longer than the plain mean
    of contributions by as much as those differ in direction. No figure of the task vectors
    alone tells where that begins to cost (`benchmarks/opcm_border.py`); a gate does.
    """
    keeps = isinstance(method, Sequential) and method.keeps_mean_norm
    return (TOO_FAR.format(scale=scale, method=name),) if keeps and scale < 1 else ()
