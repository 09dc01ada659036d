"""Groups that a person pins or splits, by the names that weft prints."""

import pytest
import torch
from torch import nn

from tests.merging.alignment.zoo import ZOO, Inputs, images, prepared, shuffled, tensors_of
from weft.merging.alignment.groups import Groups, groups_of
from weft.merging.alignment.overrides import Overrides, overridden_groups
from weft.merging.alignment.tracing import Traced, trace
from weft.merging.alignment.weights import match_weights
from weft.merging.errors import CannotAlign


def fresh(name: str) -> tuple[nn.Module, Inputs, Traced]:
    """As `shown`, but traced anew: overrides change what a trace says."""
    torch.manual_seed(0)
    model, inputs = prepared(ZOO[name].build()), ZOO[name].inputs()
    return model, inputs, trace(model, inputs, {})


def by_name(groups: Groups) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {group.name: (group.size, group.orders) for group in groups.groups}


def holds(model: nn.Module, inputs: Inputs, groups: Groups) -> bool:
    """Whether any order leaves the function, and matching by weights finds the way back."""
    tensors = tensors_of(model)
    names = [name for name, _ in model.named_parameters()]
    moved = shuffled(groups, 2).applied(tensors)
    with torch.no_grad():
        before = model(*inputs)
        after = torch.func.functional_call(model, moved, inputs)
    mine, theirs = ({name: each[name] for name in names} for each in (tensors, moved))
    back = match_weights(groups, mine, theirs).applied(theirs)
    return torch.allclose(before, after, rtol=1e-4, atol=1e-5 * float(before.abs().max())) and all(
        torch.equal(back[name], mine[name]) for name in names
    )


def test_a_pinned_group_is_fixed_and_the_others_are_as_before() -> None:
    model, inputs, traced = fresh("mlp")
    before = by_name(groups_of(traced))
    groups = overridden_groups(traced, Overrides(pin=("1.weight[0]",)))
    assert by_name(groups) == {name: found for name, found in before.items() if name[0] != "1"}
    assert {line.tensor for line in groups.fixed if line.why == "pinned by the overrides"} == {
        "1.weight", "1.bias", "3.weight"
    }  # fmt: skip
    assert holds(model, inputs, groups)


def test_no_unit_leaves_its_part_of_a_split_group() -> None:
    model, inputs, traced = fresh("cnn")
    groups = overridden_groups(traced, Overrides(split={"3.weight[0]": 4}))
    assert by_name(groups)["3.weight[0.1]"] == (2, (4,))
    orders = shuffled(groups, 3)
    labels = torch.arange(8.0)
    moved = orders.applied({"3.bias": labels})["3.bias"]
    assert not torch.equal(moved, labels)
    assert torch.equal(moved // 2, labels // 2)
    assert holds(model, inputs, groups)


def test_groups_within_groups_can_be_split() -> None:
    """Units of heads as pieces; heads as parts, with the units still within their heads."""
    model, inputs, traced = fresh("bert")
    before = by_name(groups_of(traced))
    heads = next(name for name, found in before.items() if found == (4, ()))
    inner = [name for name, found in before.items() if found == (6, (4,))]
    groups = overridden_groups(traced, Overrides(split={heads: 2, inner[0]: 3}))
    found = list(by_name(groups).values())
    assert found.count((2, (2,))) == 1
    assert found.count((2, (2, 2))) == 3
    assert found.count((6, (2, 2))) == 1
    assert holds(model, inputs, groups)


def test_pinned_heads_leave_their_units_free() -> None:
    model, inputs, traced = fresh("bert")
    before = by_name(groups_of(traced))
    heads = next(name for name, found in before.items() if found == (4, ()))
    groups = overridden_groups(traced, Overrides(pin=(heads,)))
    assert list(by_name(groups).values()).count((6, (4,))) == 2
    assert holds(model, inputs, groups)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (Overrides(pin=("1.weigth[0]",)), "no group '1.weigth\\[0\\]'; did you mean '1.weight"),
        (Overrides(split={"x": 2}), "no group 'x'; its groups: 1.weight\\[0\\], 3.weight\\[0\\]"),
        (Overrides(split={"1.weight[0]": 4}), "has 9 units, found 4 parts"),
        (Overrides(split={"1.weight[0]": 0}), "found 0 parts"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(overrides: Overrides, message: str) -> None:
    traced = fresh("mlp")[2]
    before = by_name(groups_of(traced))
    with pytest.raises(CannotAlign, match=message):
        overridden_groups(traced, overrides)
    assert by_name(groups_of(traced)) == before


def test_a_group_between_two_is_not_split() -> None:
    norms = (nn.GroupNorm(2, 16), nn.GroupNorm(4, 16))
    model = nn.Sequential(nn.Conv2d(3, 16, 1), *norms, nn.Conv2d(16, 2, 1)).eval()
    traced = trace(model, images(), {})
    assert list(by_name(groups_of(traced)).values()) == [(2, ()), (2, (2,)), (4, (2, 2))]
    middle = groups_of(traced).groups[1].name
    with pytest.raises(CannotAlign, match="split the outermost or the innermost one"):
        overridden_groups(traced, Overrides(split={middle: 2}))
