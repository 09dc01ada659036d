"""A network whose units were shuffled is put back in order, by weights and by activations."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.merging.alignment.zoo import ZOO, shown, shuffled, tensors_of
from weft.merging.alignment.activations import match_activations
from weft.merging.alignment.assignment import assigned
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.weights import match_weights
from weft.merging.errors import CannotAlign


def batches(name: str, count: int) -> list[tuple[Tensor, ...]]:
    torch.manual_seed(3)
    return [ZOO[name].inputs() for _ in range(count)]


@pytest.mark.parametrize("name", ZOO)
def test_weights_put_every_unit_back(name: str) -> None:
    model, _, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    parameters = {key: tensors[key] for key, _ in model.named_parameters()}
    other = shuffled(groups, 1).applied(parameters)
    back = match_weights(groups, parameters, other).applied(other)
    assert all(torch.equal(back[key], parameters[key]) for key in parameters)


@pytest.mark.parametrize("name", ZOO)
def test_activations_put_the_function_back(name: str) -> None:
    """Units that never change may change places: the mean of both is the anchor's function."""
    model, inputs, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    other = shuffled(groups, 1).applied(tensors)
    found = match_activations(traced, groups, tensors, other, batches(name, 12))
    back = found.applied(other)
    mean, plain = (
        {key: (tensors[key] + each[key]) / 2 if tensors[key].is_floating_point() else tensors[key]
         for key in tensors}
        for each in (back, other)
    )  # fmt: skip
    with torch.no_grad():
        wanted = model(*inputs)
        aligned, mixed = (torch.func.functional_call(model, each, inputs) for each in (mean, plain))
    error, without = (float((each - wanted).abs().max()) for each in (aligned, mixed))
    assert error <= 1e-4 * float(wanted.abs().max())
    assert error * 20 < without


def test_correlation_finds_units_that_were_scaled() -> None:
    """Of core-papers' vector 8: the order is found whatever the scale of each unit."""
    model, _, traced = shown("mlp")
    groups, tensors = groups_of(traced), tensors_of(model)
    first = groups.groups[0]
    scale = torch.linspace(0.1, 10, first.size)
    scaled = dict(tensors)
    scaled["1.weight"] = tensors["1.weight"] * scale[:, None]
    scaled["1.bias"] = tensors["1.bias"] * scale
    scaled["3.weight"] = tensors["3.weight"] / scale
    permutation = shuffled(groups, 2)
    other = permutation.applied(scaled)
    found = match_activations(traced, groups, tensors, other, batches("mlp", 40))
    # First drawn, then found: everything where it was.
    for group in groups.groups:
        order = permutation.orders[group][found.orders[group]]
        assert torch.equal(order, torch.arange(group.size))


def test_n_copies_stay_where_they_are() -> None:
    model, _, traced = shown("resnet-20")
    groups, tensors = groups_of(traced), tensors_of(model)
    parameters = {key: tensors[key] for key, _ in model.named_parameters()}
    found = match_weights(groups, parameters, parameters)
    unmoved = Permutation.identity(groups)
    assert all(torch.equal(found.orders[each], unmoved.orders[each]) for each in groups.groups)


def test_the_assignment_is_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        scores = generator.normal(size=(5, 5))
        best = max(
            sum(scores[row, column] for row, column in enumerate(order))
            for order in itertools.permutations(range(5))
        )
        order = assigned(scores)
        assert abs(scores[np.arange(5), order].sum() - best) < 1e-12


def test_no_batch_is_refused() -> None:
    model, _, traced = shown("mlp")
    tensors = tensors_of(model)
    with pytest.raises(CannotAlign, match="found no calibration batch"):
        match_activations(traced, groups_of(traced), tensors, tensors, [])
