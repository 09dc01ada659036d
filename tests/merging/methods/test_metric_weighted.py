import math

import pytest
import torch

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references.metric_weighted import metric_weighted
from weft.merging.blocks import Block, in_proportion, merge_block
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts
from weft.merging.methods.metric_weighted import MetricWeighted
from weft.merging.registry import entry

ONE = torch.tensor([1.0, 2.0], dtype=torch.float64)
TWO = torch.tensor([5.0, -2.0], dtype=torch.float64)
BLOCK = Block(name="w", tensor_shape=(2,), shape=(2,))


def merged(method: MetricWeighted, *metrics: float) -> list[float]:
    facts = [Facts(contribution=f"n{i}", weight=metric) for i, metric in enumerate(metrics)]
    deltas = [ONE, TWO][: len(metrics)]
    result: list[float] = merge_block(method, BLOCK, deltas, in_proportion(method, facts)).tolist()
    return result


def test_a_score_by_hand() -> None:
    # Shares 1/4 and 3/4.
    assert merged(MetricWeighted(), 0.25, 0.75) == [4.0, -1.0]


def test_a_penalty_by_hand() -> None:
    # Squares 1 and 9, shares 1/10 and 9/10.
    assert merged(MetricWeighted(penalty=2), 1.0, 3.0) == pytest.approx([4.6, -1.6], rel=1e-13)


def test_a_loss_by_hand() -> None:
    # Inverses 1 and 1/3.
    assert merged(MetricWeighted(form="inverse"), 1.0, 3.0) == pytest.approx([2.0, 1.0], rel=1e-13)


def test_an_exponential_by_hand() -> None:
    # exp(-ln 3) to 1 is 1 to 3.
    method = MetricWeighted(form="exponential", penalty=math.log(3))
    assert merged(method, 3.0, 2.0) == pytest.approx([4.0, -1.0], rel=1e-13)


@pytest.mark.parametrize("form", ["power", "inverse", "exponential"])
@pytest.mark.parametrize("penalty", [0.5, 1.0, 4.0])
def test_as_the_reference(form: str, penalty: float) -> None:
    base, models = random_models(1, 4)
    metrics = [2.5, 1.75, 3.0, 2.25]
    found = merged_model(MetricWeighted(form=form, penalty=penalty), base, models, metrics)
    expected = metric_weighted(base, models, metrics=metrics, form=form, penalty=penalty)
    assert_same_models(found, expected)


@pytest.mark.parametrize("form", ["power", "inverse"])
def test_powers_go_by_proportions(form: str) -> None:
    method = MetricWeighted(form=form, penalty=1.5)
    assert method.proportional
    few, many = merged(method, 1.0, 3.0), merged(method, 1000.0, 3000.0)
    assert few == pytest.approx(many, rel=1e-12)


def test_an_exponential_goes_by_differences() -> None:
    method = MetricWeighted(form="exponential", penalty=2.0)
    assert not method.proportional
    assert merged(method, 1.0, 2.0) == pytest.approx(merged(method, 2.0, 3.0), rel=1e-12)
    assert merged(method, 1.0, 2.0) != pytest.approx(merged(method, 2.0, 4.0), rel=1e-3)


def test_the_reference_metric_cancels() -> None:
    plain = merged(MetricWeighted(form="exponential"), 2.0, 2.5)
    moved = merged(MetricWeighted(form="exponential", reference=2.25), 2.0, 2.5)
    assert plain == pytest.approx(moved, rel=1e-13)


def test_weights_that_vanish_are_refused_and_a_reference_helps() -> None:
    with pytest.raises(CannotMerge, match="`reference` near the metrics"):
        merged(MetricWeighted(form="exponential", penalty=500.0), 2.3, 2.31)
    near = MetricWeighted(form="exponential", penalty=500.0, reference=2.3)
    assert merged(near, 2.3, 2.31)[0] == pytest.approx((1 + 5 * math.exp(-5)) / (1 + math.exp(-5)))


def test_a_hopeless_one_has_no_say() -> None:
    method = MetricWeighted(form="exponential", penalty=500.0, reference=2.3)
    assert merged(method, 2.3, 100.0) == ONE.tolist()


def test_weights_that_overflow_are_refused() -> None:
    with pytest.raises(CannotMerge, match="n0, tensor 'w': its metric is -2000"):
        merged(MetricWeighted(form="exponential"), -2000.0, 1.0)
    with pytest.raises(CannotMerge, match=r"n, tensor 'w': its metric is 4\.94066e-324"):
        MetricWeighted(form="inverse").share("w", Facts(contribution="n", weight=5e-324))


def test_a_metric_of_zero_is_not_there() -> None:
    assert merged(MetricWeighted(form="inverse"), 0.0, 3.0) == TWO.tolist()


def test_a_negative_score_counts_against() -> None:
    # (3 * (5, -2) - (1, 2)) / 2.
    assert merged(MetricWeighted(), -1.0, 3.0) == pytest.approx([7.0, -4.0], rel=1e-13)
    with pytest.raises(CannotMerge, match="a mean needs more than zero"):
        merged(MetricWeighted(), -3.0, 1.0)


def test_a_negative_loss_has_no_inverse() -> None:
    with pytest.raises(CannotMerge, match=r"n0, tensor 'w': .* expected a loss above zero"):
        merged(MetricWeighted(form="inverse"), -1.0, 3.0)


@pytest.mark.parametrize("form", ["power", "inverse", "exponential"])
def test_without_a_penalty_all_weigh_alike(form: str) -> None:
    expected = ((ONE + TWO) / 2).tolist()
    assert merged(MetricWeighted(form=form, penalty=0.0), 0.3, 7.0) == expected


@pytest.mark.parametrize("form", ["power", "inverse", "exponential"])
@pytest.mark.parametrize("metric", [0.3, 7.0])
def test_one_is_given_back(form: str, metric: float) -> None:
    method = MetricWeighted(form=form, penalty=2.0)
    assert method.gives_back_one
    assert merged(method, metric) == pytest.approx(ONE.tolist(), rel=1e-14)


def test_it_is_marked_as_experimental() -> None:
    assert entry("metric_weighted").experimental


@pytest.mark.parametrize(
    "options",
    [{"form": "softmax"}, {"penalty": -1.0}, {"reference": math.nan}],
    ids=str,
)
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(BadOption, match=next(iter(options))):
        MetricWeighted(**options)  # type: ignore[arg-type]
