"""Maps between two models' units: orders where entropy is nothing, mixtures where it is more."""

import pytest
import torch

from tests.merging.alignment.zoo import ZOO, shown, shuffled, tensors_of
from weft.merging.alignment.activations import correlation_of, matched
from weft.merging.alignment.groups import Groups, groups_of
from weft.merging.alignment.observation import Seen, observed
from weft.merging.alignment.orientation import oriented_of
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.transport import (
    Transport,
    spread,
    transport_activations,
    transport_weights,
)
from weft.merging.alignment.weights import match_weights
from weft.merging.errors import BadOption, CannotAlign

Tensors = dict[str, torch.Tensor]
MIXED = {"mlp": 2, "cnn": 3, "resnet-20": 12, "resnet-50": 5, "mobilenet": 3, "vit": 2,
         "bert": 2, "llama": 3, "llama, tied": 2, "u-net": 3}  # fmt: skip


def twin(name: str) -> tuple[Tensors, Tensors, Groups, Seen, Permutation]:
    """A model, the same in another order, and what is found between the two."""
    model, _, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    other = shuffled(groups, 1).applied(tensors)
    torch.manual_seed(3)
    batches = [ZOO[name].inputs() for _ in range(12)]
    seen = observed(traced, groups, tensors, [other], batches)[0]
    return tensors, other, groups, seen, matched(groups, seen, tensors, other)


@pytest.mark.parametrize("name", ZOO)
def test_what_is_mixed_is_what_makers_and_readers_are_told_apart_of(name: str) -> None:
    traced = shown(name)[2]
    found = oriented_of(traced, groups_of(traced))
    assert len(found) == MIXED[name]
    assert all(
        set(each.group.tensors) == set(each.made) | set(each.read) and each.made and each.read
        for each in found
    )


@pytest.mark.parametrize("name", ["mlp", "cnn", "u-net"])
def test_a_little_entropy_leaves_the_order(name: str) -> None:
    model, inputs, traced = shown(name)
    _, other, groups, seen, permutation = twin(name)
    oriented = oriented_of(traced, groups)
    transport = transport_activations(oriented, permutation, seen, 1e-3)
    assert len(transport.maps) == len(oriented)
    for each, plan in transport.maps.items():
        order = torch.eye(each.group.size)[permutation.orders[each.group]].double()
        # Units that never change share what is left, and a row may be a thousandth off.
        alive = torch.from_numpy(correlation_of(each.group, seen)).abs().sum(1) > 0
        assert alive.sum() > 2
        assert torch.allclose(plan[alive], order[alive], atol=2e-3)
    with torch.no_grad():
        found = torch.func.functional_call(model, transport.applied(other), inputs)
        wanted = model(*inputs)
    assert (found - wanted).abs().max() <= 0.02 * wanted.abs().max()


def test_no_entropy_is_the_order_itself() -> None:
    _, other, groups, seen, permutation = twin("resnet-20")
    transport = transport_activations(
        oriented_of(shown("resnet-20")[2], groups), permutation, seen, 0.0
    )
    assert transport.maps == {}
    moved, exact = transport.applied(other), permutation.applied(other)
    assert all(torch.equal(moved[key], exact[key]) for key in exact)


def test_groups_within_others_keep_their_order() -> None:
    _, other, groups, seen, permutation = twin("bert")
    oriented = oriented_of(shown("bert")[2], groups)
    transport = transport_activations(oriented, permutation, seen, 0.1)
    assert transport.permutation.orders.keys() == (
        permutation.orders.keys() - {each.group for each in transport.maps}
    )
    exact, moved = permutation.applied(other), transport.applied(other)
    assert not torch.equal(moved["up.weight"], exact["up.weight"])


def test_weights_find_the_same_map_as_the_order() -> None:
    _, _, traced = shown("cnn")
    tensors, other, groups, _, _ = twin("cnn")
    permutation = match_weights(groups, tensors, other)
    oriented = oriented_of(traced, groups)
    moved = transport_weights(oriented, permutation, (tensors, other), 2e-3).applied(other)
    assert all(torch.allclose(moved[key], tensors[key], atol=5e-3) for key in tensors)


def test_a_map_is_doubly_stochastic_and_much_entropy_knows_nothing() -> None:
    scores = torch.randn(7, 7, generator=torch.Generator().manual_seed(0)).double()
    for entropy in (0.1, 1.0, 1e6):
        plan = spread(scores, entropy)
        assert bool((plan >= 0).all())
        for axis in (0, 1):
            assert torch.allclose(plan.sum(axis), torch.ones(7).double(), atol=2e-3)
    assert torch.allclose(plan, torch.full((7, 7), 1 / 7).double(), atol=1e-3)


def test_mixed_makers_and_readers_by_hand() -> None:
    """Halves of two units, made and read: rows and columns are means."""
    _, _, traced = shown("mlp")
    groups = groups_of(traced)
    first = next(each for each in oriented_of(traced, groups) if each.group.name == "1.weight[0]")
    half = torch.eye(9).double()
    half[:2, :2] = 0.5
    tensors = tensors_of(shown("mlp")[0])
    found = Transport(Permutation(groups, {}), {first: half}).applied(tensors)
    for key, axis in (("1.weight", 0), ("1.bias", 0), ("3.weight", 1)):
        old, new = tensors[key].movedim(axis, 0), found[key].movedim(axis, 0)
        assert torch.allclose(new[0], (old[0] + old[1]) / 2, atol=1e-6)
        assert torch.allclose(new[1], new[0])
        assert torch.allclose(new[2:], old[2:])
    assert torch.equal(found["5.weight"], tensors["5.weight"])


@pytest.mark.parametrize("entropy", [-0.1, float("nan"), float("inf")])
def test_no_such_entropy(entropy: float) -> None:
    _, _, groups, seen, permutation = twin("mlp")
    with pytest.raises(BadOption, match="expected a number from 0"):
        transport_activations(oriented_of(shown("mlp")[2], groups), permutation, seen, entropy)


def test_too_little_entropy_is_refused_rather_than_waited_for() -> None:
    scores = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(CannotAlign, match="take a larger one, or 0 for exact maps"):
        spread(scores, 1e-7)
