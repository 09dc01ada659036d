"""Verdicts on contributions, from vectors small enough to check by hand."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.checkpoints.engine import DeltaStatistics
from weft.node.errors import BadScore
from weft.node.guards import Accepted, Reason, Rejected, judge, judge_score
from weft.protocol.run import GuardSpec

NORMS_ONLY = GuardSpec(norm_ratio=10.0)


def statistics_of(
    vectors: dict[str, list[float]], non_finite: dict[str, tuple[str, ...]] | None = None
) -> DeltaStatistics:
    matrix = np.array(list(vectors.values()), dtype=np.float64)
    spoiled = [list(vectors).index(name) for name in non_finite or {}]
    matrix[spoiled] = np.nan
    gram = matrix @ matrix.T
    return DeltaStatistics(
        names=tuple(vectors),
        norms=np.sqrt(np.diag(gram)),
        gram=gram,
        non_finite=non_finite or {},
    )


def reasons(
    vectors: dict[str, list[float]],
    spec: GuardSpec,
    own: int = 0,
    non_finite: dict[str, tuple[str, ...]] | None = None,
) -> dict[str, Reason]:
    verdicts = judge(statistics_of(vectors, non_finite), own, spec)
    assert list(verdicts) == list(vectors)
    return {
        name: verdict.reason for name, verdict in verdicts.items() if isinstance(verdict, Rejected)
    }


def test_the_reasons_are_closed() -> None:
    assert [reason.value for reason in Reason] == [
        "schema", "base", "non_finite", "norm", "cosine", "score", "corrupt", "late", "left",
        "unreachable", "declined",
    ]  # fmt: skip


def test_like_contributions_are_accepted() -> None:
    vectors = {"me": [1.0, 0.0], "a": [0.0, 2.0], "b": [0.5, 0.5]}
    assert judge(statistics_of(vectors), 0, GuardSpec()) == dict.fromkeys(vectors, Accepted())


@pytest.mark.parametrize(
    ("norms", "refused"),
    [
        ([1, 9.99], []),
        ([1, 10.01], ["n1"]),  # of two, one's own is the yardstick
        ([1, 1.1, 10.9], []),  # 9.9 times the middle one
        ([1, 1.1, 11.1], ["n2"]),
        ([1, 1, 1, 100], ["n3"]),
        ([1, 1, 100, 100], ["n2", "n3"]),  # a tie: the middle nearer to one's own
        ([100, 1, 1, 100], []),
        ([50, 1, 1], []),  # one's own is never refused
        ([0, 5], []),  # nothing to compare with
        ([0, 0, 5], []),
        ([5, 0.001], []),  # short ones do no harm
    ],
)
def test_norms_against_the_median(norms: list[float], refused: list[str]) -> None:
    vectors = {f"n{i}": [float(norm)] for i, norm in enumerate(norms)}
    assert reasons(vectors, NORMS_ONLY) == dict.fromkeys(refused, Reason.NORM)


def test_the_text_says_with_figures_why() -> None:
    verdicts = judge(statistics_of({"me": [2.0], "a": [2.0], "b": [50.0]}), 0, NORMS_ONLY)
    rejected = verdicts["b"]
    assert isinstance(rejected, Rejected)
    assert rejected.text == "norm 50 is 25 times the median 2; at most 10 times is allowed"


def test_a_nan_is_refused_and_moves_no_yardstick() -> None:
    vectors = {"me": [1.0, 0.0], "bad": [0.0, 0.0], "a": [1.0, 0.1]}
    spec = GuardSpec(norm_ratio=2.0, cosine=0.9)
    names = ("w1", "w2", "w3", "w4", "w5")
    assert reasons(vectors, spec, non_finite={"bad": names}) == {"bad": Reason.NON_FINITE}
    rejected = judge(statistics_of(vectors, {"bad": names}), 0, spec)["bad"]
    assert isinstance(rejected, Rejected)
    assert rejected.text == "NaN or infinity in w1, w2, w3 and 2 more"


def test_cosine_to_the_mean_direction_of_the_others() -> None:
    # b against (1, 0) + (0.6, 0.8): 0.8 / |(1.6, 0.8)| = 0.4472; a, the middle one, 0.9899.
    vectors = {"me": [2.0, 0.0], "a": [3.0, 4.0], "b": [0.0, 1.0]}
    assert reasons(vectors, GuardSpec(cosine=0.44)) == {}
    assert reasons(vectors, GuardSpec(cosine=0.45)) == {"b": Reason.COSINE}
    rejected = judge(statistics_of(vectors), 0, GuardSpec(cosine=0.45))["b"]
    assert isinstance(rejected, Rejected)
    assert rejected.text == (
        "cosine 0.4472 to the mean direction of the others; at least 0.45 is wanted"
    )


def test_the_opposite_is_refused_and_the_honest_stay() -> None:
    # By length, a's cosine to the others (1 - 5) would be -1 as well.
    vectors = {"me": [1.0], "a": [1.0], "flipped": [-5.0]}
    assert reasons(vectors, GuardSpec(cosine=0.0)) == {"flipped": Reason.COSINE}


def test_a_giant_is_out_before_angles_are_taken() -> None:
    vectors = {"me": [1.0, 0.0], "a": [1.0, 0.0], "giant": [0.0, 1000.0]}
    assert reasons(vectors, GuardSpec(cosine=0.5)) == {"giant": Reason.NORM}


def test_a_zero_vector_has_no_angle_and_passes() -> None:
    vectors = {"me": [1.0], "late": [0.0], "a": [1.0]}
    assert reasons(vectors, GuardSpec(cosine=0.9)) == {}


def test_ones_own_is_accepted_even_among_opposites() -> None:
    vectors = {"a": [1.0], "me": [-1.0], "b": [1.0]}
    assert "me" not in reasons(vectors, GuardSpec(cosine=0.5), own=1)


def test_no_check_wanted_no_check_made() -> None:
    vectors = {"me": [1.0], "a": [-1e9]}
    assert reasons(vectors, GuardSpec(norm_ratio=None, cosine=None)) == {}


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_the_order_of_the_contributions_does_not_matter(
    rows: list[list[int]], shuffler: random.Random
) -> None:
    vectors = {f"n{i}": [float(value) for value in row] for i, row in enumerate(rows)}
    spec = GuardSpec(norm_ratio=3.0)
    mixed = list(vectors)
    shuffler.shuffle(mixed)
    found = reasons({name: vectors[name] for name in mixed}, spec, own=mixed.index("n0"))
    assert found == reasons(vectors, spec, own=0)
    assert "n0" not in found


# -- score -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "drop", "accepted"),
    [(0.8, 0.81, 0.0, True), (0.8, 0.8, 0.0, True), (0.8, 0.79, 0.0, False), (0.8, 0.5, 0.3, True)],
)
def test_the_score_may_drop_so_far(
    before: float, after: float, drop: float, accepted: bool
) -> None:
    spec = GuardSpec(score_metric="accuracy", score_drop=drop)
    verdict = judge_score({"accuracy": before}, {"accuracy": after}, spec)
    assert isinstance(verdict, Accepted) == accepted
    if isinstance(verdict, Rejected):
        assert verdict.reason is Reason.SCORE
        assert verdict.text.startswith("accuracy 0.79 after the merge, 0.8 before")


def test_without_a_metric_there_is_no_gate() -> None:
    assert judge_score({}, {}, GuardSpec()) == Accepted()


def test_a_metric_that_is_not_measured_is_named() -> None:
    spec = GuardSpec(score_metric="accuracy")
    with pytest.raises(BadScore, match=r"wants the metric 'accuracy'; evaluate gave \['loss'\]"):
        judge_score({"accuracy": 1.0}, {"loss": 0.1}, spec)


def test_a_score_that_is_undefined_is_no_good_score() -> None:
    spec = GuardSpec(score_metric="auc")
    assert isinstance(judge_score({"auc": 0.5}, {"auc": float("nan")}, spec), Rejected)
