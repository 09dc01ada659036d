"""Checks between what a neighbour sent and what is merged: pure decisions.

`judge` looks at norms and angles of task vectors, `judge_score` at what the
trainer measured. A contribution that is refused is a missed edge; the reasons
are a closed set, because both ends book them and metrics count them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from weft.node.errors import BadScore
from weft.node.trainer import Metrics
from weft.protocol.run import GuardSpec

if TYPE_CHECKING:
    from weft.checkpoints.engine import DeltaStatistics


_NO_LENGTH = 1e-20  # squared; below it a sum of unit vectors is rounding


class Reason(StrEnum):
    """Why an edge was not used."""

    SCHEMA = "schema"  # other names, shapes or dtypes
    BASE = "base"  # a task vector from another base
    NON_FINITE = "non_finite"  # a NaN or an infinity
    NORM = "norm"  # too long a task vector
    COSINE = "cosine"  # points away from the others
    SCORE = "score"  # the merged model measures worse
    CORRUPT = "corrupt"  # bytes that do not match their digests
    LATE = "late"  # not there by the deadline
    LEFT = "left"  # no member any more: left, dropped or revoked
    UNREACHABLE = "unreachable"  # did not answer
    DECLINED = "declined"  # the other end refused this node's


@dataclass(frozen=True, slots=True)
class Accepted:
    """May be merged."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """May not be merged; `text` says with figures why, for people."""

    reason: Reason
    text: str


def judge(
    statistics: "DeltaStatistics", own: int, spec: GuardSpec
) -> dict[str, Accepted | Rejected]:
    """Which contributions may be merged with one's own.

    In this order, each step on what the one before left: finite values; norm at
    most `norm_ratio` times the median norm; cosine to the mean of the others at
    least `cosine`, the worst refused first and the rest looked at again. The mean
    is that of unit vectors: a long one has one vote as well. So no NaN, no giant
    and no opposite moves the yardstick for the rest.

    The median counts one's own; with an even number the middle value nearer to
    one's own is taken, so that of two nodes the own one is the yardstick. A
    *small* task vector passes: it cannot harm a mean, and a node that joined late
    has one. Zero vectors have no angle and pass the cosine.

    Args:
        statistics: of all contributions, one's own among them.
        own: its index; it is not judged and always accepted.
        spec: the run's thresholds; None leaves a check out.

    Returns:
        A verdict for each name.
    """
    names = statistics.names
    verdicts: dict[str, Accepted | Rejected] = dict.fromkeys(names, Accepted())
    bad = {name: tensors for name, tensors in statistics.non_finite.items() if tensors}
    for name, tensors in bad.items():
        verdicts[name] = Rejected(Reason.NON_FINITE, f"NaN or infinity in {_some(tensors)}")
    left = [index for index, name in enumerate(names) if name not in bad]
    norms = [float(norm) for norm in statistics.norms]
    for index, rejected in _by_norm(norms, left, own, spec.norm_ratio).items():
        verdicts[names[index]] = rejected
        left.remove(index)
    gram = [[float(value) for value in row] for row in statistics.gram]
    for index, rejected in _by_cosine(gram, left, own, spec.cosine).items():
        verdicts[names[index]] = rejected
    verdicts[names[own]] = Accepted()
    return verdicts


def judge_score(before: Metrics, after: Metrics, spec: GuardSpec) -> Accepted | Rejected:
    """Whether the merged model measures well enough against one's own.

    Args:
        before: of the own model, as the trainer's `evaluate` measured it.
        after: of the merged one.
        spec: names the metric, of which more is better; None accepts.

    Raises:
        BadScore: the trainer does not measure that metric.
    """
    if spec.score_metric is None:
        return Accepted()
    for measured in (before, after):
        if spec.score_metric not in measured:
            raise BadScore(
                f"the run's score gate wants the metric {spec.score_metric!r}; "
                f"evaluate gave {sorted(measured) or 'none'}; let it measure that one"
            )
    old, new = before[spec.score_metric], after[spec.score_metric]
    if new >= old - spec.score_drop:
        return Accepted()
    text = f"{spec.score_metric} {new:.6g} after the merge, {old:.6g} before"
    return Rejected(Reason.SCORE, f"{text}; a drop of {spec.score_drop:.6g} is allowed")


def _by_norm(
    norms: Sequence[float], left: Sequence[int], own: int, ratio: float | None
) -> dict[int, Rejected]:
    others = [index for index in left if index != own]
    if ratio is None or not others:
        return {}
    median = _median_near(sorted(norms[index] for index in left), norms[own])
    return {
        index: Rejected(
            Reason.NORM,
            f"norm {norms[index]:.6g} is {norms[index] / median:.3g} times the median "
            f"{median:.6g}; at most {ratio:g} times is allowed",
        )
        for index in others
        if median > 0 and norms[index] > ratio * median
    }


def _median_near(ordered: Sequence[float], own: float) -> float:
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if abs(own - low) <= abs(high - own) else high


def _by_cosine(
    gram: Sequence[Sequence[float]], left: Sequence[int], own: int, least: float | None
) -> dict[int, Rejected]:
    rejected: dict[int, Rejected] = {}
    while least is not None:
        among = [index for index in left if index not in rejected]
        cosines = _cosines_to_others(gram, among)
        judged = (index for index in cosines if index != own)
        worst = min(judged, key=lambda index: cosines[index], default=None)
        if worst is None or cosines[worst] >= least:
            break
        text = f"cosine {cosines[worst]:.4f} to the mean direction of the others"
        rejected[worst] = Rejected(Reason.COSINE, f"{text}; at least {least:g} is wanted")
    return rejected


def _cosines_to_others(gram: Sequence[Sequence[float]], among: Sequence[int]) -> dict[int, float]:
    # u_i the unit vectors, s their sum: <u_i, s - u_i> / |s - u_i|. Those without an
    # angle (no length of their own, or none of the others' sum) are left out.
    norms = {index: math.sqrt(gram[index][index]) for index in among if gram[index][index] > 0}
    rows = {
        one: math.fsum(gram[one][two] / (norms[one] * norms[two]) for two in norms) for one in norms
    }
    total = math.fsum(rows.values())
    cosines: dict[int, float] = {}
    for index, row in rows.items():
        square = total - 2 * row + 1
        if square > _NO_LENGTH:
            cosines[index] = (row - 1) / math.sqrt(square)
    return cosines


def _some(tensors: Sequence[str]) -> str:
    more = len(tensors) - 3
    return ", ".join(tensors[:3]) + (f" and {more} more" if more > 0 else "")
