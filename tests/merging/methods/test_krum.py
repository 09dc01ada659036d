import pytest
import torch

from tests.merging.models import assert_same_models, merged_model, random_models
from tests.references import krum as reference
from weft.merging.errors import BadOption, CannotMerge
from weft.merging.method import Extent, Facts
from weft.merging.methods.krum import Krum


def chosen(points: list[float], hostile: int = -1, names: str = "abcdefg") -> list[float]:
    rows = torch.tensor(points, dtype=torch.float64).unsqueeze(1)
    facts = [Facts(contribution=name) for name in names[: len(points)]]
    return Krum(hostile=hostile).coefficients(rows @ rows.T, facts)


def test_by_hand() -> None:
    # n = 5, f = 1: two nearest. 1: 1 + 4, 2: 1 + 1, 3: 1 + 4, 10: 49 + 64, 11: 1 + 64.
    assert chosen([1.0, 2.0, 3.0, 10.0, 11.0], 1) == [0, 1, 0, 0, 0]
    # With f = 0 the three nearest, so that one of the pair counts: 86, 66, 54, 114, 146.
    assert chosen([1.0, 2.0, 3.0, 10.0, 11.0], 0) == [0, 0, 1, 0, 0]


def test_a_pair_far_away_does_not_win_where_two_may_be_hostile() -> None:
    # f = 2 of n = 7: three nearest. The pair has one near neighbour only. 1.1 has a score
    # of 5.63, 2 one of 5.81, 3 one of 5.61.
    assert chosen([0.0, 1.1, 2.0, 3.0, 4.0, 50.0, 50.0]) == [0, 0, 0, 1, 0, 0, 0]


def test_of_a_tie_the_first_by_name() -> None:
    assert chosen([1.0, 1.0, 1.0]) == [1, 0, 0]
    assert chosen([3.0, 4.0]) == [1, 0]
    base, models = random_models(0, 3)
    same = [models[0], models[1], models[0]]
    found = merged_model(Krum(), base, same)
    assert_same_models(found, models[0])


@pytest.mark.parametrize(("count", "hostile"), [(3, 0), (5, 1), (6, 1), (7, 2)])
def test_as_the_reference(count: int, hostile: int) -> None:
    for seed in range(5):
        base, models = random_models(seed, count)
        found = merged_model(Krum(hostile=hostile), base, models)
        assert_same_models(found, reference.merge(base, models, hostile=hostile))
        if hostile == (count - 3) // 2:
            assert_same_models(merged_model(Krum(), base, models), found)


def test_weights_say_only_who_is_there() -> None:
    base, models = random_models(1, 6)
    found = merged_model(Krum(), base, models, [1.0, 0.0, 5.0, 0.1, 1.0, 1.0])
    rest = [models[i] for i in (0, 2, 3, 4, 5)]
    assert_same_models(found, merged_model(Krum(), base, rest))


@pytest.mark.parametrize(("count", "hostile"), [(4, 1), (1, 1), (6, 2)])
def test_too_few_are_refused(count: int, hostile: int) -> None:
    needed = 2 * hostile + 3
    with pytest.raises(CannotMerge, match=rf"krum: {count} contributions .* at least {needed}"):
        chosen([1.0] * count, hostile)


def test_gives_one_back_unless_others_are_counted_on() -> None:
    assert chosen([4.0]) == chosen([4.0], 0) == [1.0]
    assert Krum(hostile=0).gives_back_one
    assert not Krum(hostile=1).gives_back_one


def test_over_the_whole_model() -> None:
    assert Krum.span is Extent.MODEL
    with pytest.raises(BadOption, match="hostile is -2"):
        Krum(hostile=-2)
