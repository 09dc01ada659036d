import pytest
import torch

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import krum as reference
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Facts
from weft.merging.methods.krum import Krum
from weft.merging.methods.multi_krum import MultiKrum


def coefficients(points: list[float], *weights: float, **options: int) -> list[float]:
    rows = torch.tensor(points, dtype=torch.float64).unsqueeze(1)
    given = weights or [1.0] * len(points)
    facts = [Facts(contribution=name, weight=w) for name, w in zip("abcdefg", given, strict=False)]
    return MultiKrum(**options).coefficients(rows @ rows.T, facts)


def test_by_hand() -> None:
    # Scores with f = 1, two nearest: 5, 2, 5, 113, 65. The best two: 2 and, of a tie, 1.
    assert coefficients([1.0, 2.0, 3.0, 10.0, 11.0], hostile=1) == [0.5, 0.5, 0, 0, 0]
    found = coefficients([1.0, 2.0, 3.0, 10.0, 11.0], hostile=1, kept=3)
    assert found == pytest.approx([1 / 3] * 3 + [0, 0])


def test_weights_are_shares_of_the_chosen() -> None:
    found = coefficients([1.0, 2.0, 3.0, 10.0, 11.0], 1.0, 3.0, 5.0, 9.0, 9.0, hostile=1)
    assert found == [0.25, 0.75, 0, 0, 0]


@pytest.mark.parametrize(("count", "hostile", "kept"), [(5, 1, 2), (7, 2, 3), (7, 1, 6)])
def test_as_the_reference(count: int, hostile: int, kept: int) -> None:
    for seed in range(5):
        base, models = random_models(seed, count)
        found = merged_model(MultiKrum(hostile=hostile, kept=kept), base, models)
        assert_same_models(found, reference.merge(base, models, hostile=hostile, kept=kept))


def test_one_kept_is_krum_and_all_kept_is_the_mean() -> None:
    base, models = random_models(2, 6)
    assert_same_models(
        merged_model(MultiKrum(kept=1), base, models), merged_model(Krum(), base, models)
    )
    mean = {name: torch.stack([model[name] for model in models]).mean(0) for name in base}
    assert_same_models(merged_model(MultiKrum(hostile=0, kept=6), base, models), mean)


def test_attackers_far_away_are_left_out() -> None:
    base, models = random_models(3, 7)
    for model in models[:2]:
        for name in base:
            model[name] = model[name] + 100.0
    found = merged_model(MultiKrum(), base, models)
    assert_same_models(found, reference.merge(base, models, hostile=2, kept=3))
    assert float((found["fc.weight"] - base["fc.weight"]).abs().max()) < 1


def test_too_few_are_refused() -> None:
    with pytest.raises(CannotMerge, match=r"multi_krum: 5 are to be averaged of 5 .* at most 4"):
        coefficients([1.0] * 5, kept=5)
    with pytest.raises(CannotMerge, match=r"multi_krum: 4 contributions .* at least 5"):
        coefficients([1.0] * 4, hostile=1)
    with pytest.raises(BadOption, match="kept is -1"):
        MultiKrum(kept=-1)


def test_gives_one_back_unless_others_are_counted_on() -> None:
    assert coefficients([4.0]) == coefficients([4.0], kept=1, hostile=0) == [1.0]
    assert not MultiKrum(kept=2).gives_back_one
    assert not MultiKrum(hostile=1).gives_back_one
