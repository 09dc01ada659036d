import pytest
import torch
from torch import Tensor

from tests.merging.small_models import AVERAGED, assert_same, merge_models, some_models
from tests.merging.whole import facts_of
from tests.references import svc as reference
from weft.merging.errors import BadOption, NonFinite
from weft.merging.method import Scope
from weft.merging.methods.svc import Svc
from weft.merging.methods.task_arithmetic import TaskArithmetic


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def calibrated(
    method: Svc, merged: Tensor, deltas: list[Tensor], *weights: float, name: str = "fc.weight"
) -> Tensor:
    return method.calibrate(name, merged, deltas, facts_of(deltas, weights or None, method))


def close(found: Tensor, *rows: list[float]) -> None:
    torch.testing.assert_close(found, matrix(*rows), rtol=0, atol=1e-12)


SUM = matrix([3.0, 0.0], [0.0, 1.0])
PARTS = [matrix([1.0, 0.0], [0.0, 0.5]), matrix([2.0, 0.0], [0.0, 0.5])]


def test_by_hand() -> None:
    # Along e1, p is 3 and 3/2, their mean 9/4; along e2 it is 2 for both.
    close(calibrated(Svc(), SUM, PARTS), [4 / 3, 0.0], [0.0, 0.5])


def test_a_response_may_go_elsewhere() -> None:
    # u_1^T D_1 = (1, 1): p = 3 * 1 / 2; with 3/2 of the other the mean is 3/2.
    deltas = [matrix([1.0, 1.0], [0.0, 0.5]), PARTS[1]]
    close(calibrated(Svc(), SUM, deltas), [2.0, 0.0], [0.0, 0.5])


def test_weights_average() -> None:
    # (3 * 3 + 1 * 3/2) / 4 = 21/8.
    close(calibrated(Svc(), SUM, PARTS, 3.0, 1.0), [8 / 7, 0.0], [0.0, 0.5])
    close(calibrated(Svc(), SUM, PARTS, 6.0, 2.0), [8 / 7, 0.0], [0.0, 0.5])


def test_alpha_is_the_least_that_counts() -> None:
    # The second goes the other way: p is 1 and -1/2.
    merged, deltas = matrix([1.0, 0], [0, 0]), [matrix([1.0, 0], [0, 0]), matrix([-2.0, 0], [0, 0])]
    close(calibrated(Svc(), merged, deltas), [2 / 1.1, 0.0], [0.0, 0.0])
    close(calibrated(Svc(alpha=1), merged, deltas), [1.0, 0.0], [0.0, 0.0])


def test_what_does_nothing_in_a_direction_counts_as_alpha() -> None:
    # Each direction is one contribution's alone: p is 1 and nothing.
    deltas = [matrix([3.0, 0.0], [0.0, 0.0]), matrix([0.0, 0.0], [0.0, 1.0])]
    close(calibrated(Svc(), SUM, deltas), [6 / 1.1, 0.0], [0.0, 2 / 1.1])
    tilted = [delta + 1e-17 for delta in deltas]
    torch.testing.assert_close(
        calibrated(Svc(), SUM, tilted), calibrated(Svc(), SUM, deltas), rtol=0, atol=1e-12
    )


def test_who_was_subtracted_or_is_not_there_does_not_count() -> None:
    broken = torch.full((2, 2), torch.nan).double()
    both = [PARTS[0], PARTS[1], broken, -PARTS[0]]
    found = calibrated(Svc(), SUM, both, 1.0, 1.0, 0.0, -2.0)
    close(found, [4 / 3, 0.0], [0.0, 0.5])
    close(calibrated(Svc(), SUM, PARTS, -1.0, 0.0), [3.0, 0.0], [0.0, 1.0])


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 2.0, 1.1]])
def test_as_the_reference(rank: int | None, alpha: float, weights: list[float]) -> None:
    base, models = some_models(1, 3, rank)
    merged = merge_models(TaskArithmetic(scale=0.6), base, models, weights)
    expected = reference.calibrate(
        base, merged, models, weights=weights, alpha=alpha, unchanged=AVERAGED
    )
    found = {}
    for name, start in base.items():
        deltas = [model[name] - start for model in models]
        delta = calibrated(Svc(alpha=alpha), merged[name] - start, deltas, *weights, name=name)
        found[name] = start + delta
    assert_same(found, expected)


def test_the_right_balance_is_left_alone() -> None:
    delta = some_models(2, 1)[1][0]["wide.weight"]
    found = calibrated(Svc(), delta, [delta, delta, delta])
    torch.testing.assert_close(found, delta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_scale_of_what_was_merged_does_not_matter_above_alpha(factor: float) -> None:
    # Of D and 2 D, s D is s and s/2 times as much: the mean is 3/4 s, whatever s is.
    delta = some_models(3, 1)[1][0]["tall.weight"]
    found = calibrated(Svc(), delta * 3 * factor, [delta, delta * 2])
    torch.testing.assert_close(found, delta * 4 / 3, rtol=0, atol=1e-12)


def test_singular_vectors_stay() -> None:
    deltas = [model["tall.weight"] for model in some_models(4, 3)[1]]
    total = deltas[0] + deltas[1] + deltas[2]
    u, _, vt = torch.linalg.svd(total, full_matrices=False)
    inner = u.T @ calibrated(Svc(), total, deltas) @ vt.T
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-10)


def test_only_linear_weights_change() -> None:
    vector = torch.tensor([1.0, 2.0]).double()
    table = torch.ones(3, 2).double()
    for merged, name in ((vector, "fc.bias"), (table, "embed.weight"), (table[:1], "fc.weight")):
        found = calibrated(Svc(), merged, [merged / 3], name=name)
        assert torch.equal(found, merged)
        assert found is not merged
    assert Svc().scope("embed.weight", (3, 2)) is Scope.ELEMENT
    assert Svc().scope("fc.weight", (3, 2)) is Scope.MATRIX


def test_what_is_not_finite_is_refused() -> None:
    broken = torch.tensor([[1.0, torch.inf], [0.0, 1.0]]).double()
    with pytest.raises(NonFinite, match=r"node-1, tensor 'fc.weight': inf found, expected finite"):
        calibrated(Svc(), SUM, [PARTS[0], broken])
    with pytest.raises(NonFinite, match=r"what was merged, tensor 'fc.weight': inf found"):
        calibrated(Svc(), broken, PARTS)


@pytest.mark.parametrize("alpha", [0.0, -0.1, float("inf")])
def test_bad_options(alpha: float) -> None:
    with pytest.raises(BadOption, match="svc: alpha is"):
        Svc(alpha=alpha)
