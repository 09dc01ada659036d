"""Several models looked at side by side tell what each of them alone would."""

import torch

from tests.merging.alignment.zoo import ZOO, prepared, shown, shuffled, tensors_of
from weft.merging.alignment.activations import match_activations, match_neighbours
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.observation import observed


def test_moments_are_those_of_all_samples() -> None:
    """Of the values before a linear layer that reads them, over all batches at once."""
    model, _, traced = shown("mlp")
    groups, tensors = groups_of(traced), tensors_of(model)
    torch.manual_seed(1)
    other = tensors_of(prepared(ZOO["mlp"].build()))
    batches = [ZOO["mlp"].inputs() for _ in range(9)]
    seen = observed(traced, groups, tensors, [other], batches)[0]
    values = torch.cat([batch[0] for batch in batches]).flatten(1)
    one, two = (
        torch.relu(values @ each["1.weight"].T + each["1.bias"]).double()
        for each in (tensors, other)
    )
    site = next(each for each in seen if each.group.name == "1.weight[0]")
    assert seen[site].count == len(values)
    assert torch.allclose(seen[site].products, one.T @ two, rtol=1e-5)
    wanted = torch.corrcoef(torch.cat([one, two], 1).T)[:9, 9:].nan_to_num()
    assert torch.allclose(seen[site].correlations(), wanted, atol=1e-4)


def test_neighbours_are_matched_together_as_one_by_one() -> None:
    model, _, traced = shown("resnet-20")
    groups, tensors = groups_of(traced), tensors_of(model)
    others = [shuffled(groups, seed).applied(tensors) for seed in (1, 2)]
    batches = [ZOO["resnet-20"].inputs() for _ in range(4)]
    together = match_neighbours(traced, groups, tensors, others, batches)
    for found, other in zip(together, others, strict=True):
        alone = match_activations(traced, groups, tensors, other, batches)
        assert all(torch.equal(found.orders[each], alone.orders[each]) for each in groups.groups)


def test_bfloat16_finds_the_order_as_well() -> None:
    model, _, traced = shown("resnet-20")
    groups, tensors = groups_of(traced), tensors_of(model)
    drawn = shuffled(groups, 1)
    torch.manual_seed(3)
    batches = [ZOO["resnet-20"].inputs() for _ in range(12)]
    wanted, found = (
        match_activations(traced, groups, tensors, drawn.applied(tensors), batches, dtype)
        for dtype in (None, torch.bfloat16)
    )
    moved = sum(int((wanted.orders[each] != found.orders[each]).sum()) for each in groups.groups)
    assert moved <= 0.1 * sum(group.units for group in groups.groups)
