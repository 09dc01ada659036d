"""What decentralised merging of aligned neighbours must do, law by law.

Source: Saadati et al. 2024, "DIMAT", Algorithm 1: every node permutes its neighbours' models
    to its own and averages with its row of the mixing matrix. The laws of the matrices
    themselves (rows that sum to one, two hubs, rings of any size) are in tests/topology.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.merging.alignment.zoo import images, prepared, resnet, shown, shuffled, tensors_of
from tests.topology.built import built
from weft.merging.alignment.activations import match_activations
from weft.merging.alignment.assignment import assigned
from weft.merging.alignment.calls import operator_name
from weft.merging.alignment.groups import Group, Groups, groups_of
from weft.merging.alignment.permutations import Order, Permutation
from weft.merging.alignment.tracing import trace
from weft.merging.alignment.weights import match_weights
from weft.node.calibration import pooled_moments, set_running_statistics

Tensors = dict[str, Tensor]
Match = Callable[[Tensors, Tensors], Permutation]


def by_weights(groups: Groups, model: nn.Module) -> Match:
    names = [name for name, _ in model.named_parameters()]

    def match(anchor: Tensors, other: Tensors) -> Permutation:
        return match_weights(groups, *({name: each[name] for name in names}
                                       for each in (anchor, other)))  # fmt: skip

    return match


def mixed(models: Sequence[Tensors], weights: Iterable[float]) -> Tensors:
    """The weighted mean of the floating tensors; of whole numbers the first model's."""
    pairs = list(zip(models, weights, strict=True))
    return {
        name: sum((weight * each[name] for each, weight in pairs), torch.zeros(()))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in models[0].items()
    }


def merged(node: int, models: Sequence[Tensors], row: Sequence[float], match: Match) -> Tensors:
    """One node's model after a round."""
    around = [node, *(other for other in range(len(models)) if other != node and row[other])]
    aligned = [models[node]] + [
        match(models[node], models[other]).applied(models[other]) for other in around[1:]
    ]
    return mixed(aligned, [row[each] for each in around])


def outputs(model: nn.Module, tensors: Tensors, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        found: Tensor = torch.func.functional_call(model, tensors, inputs)
    return found


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, against the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def nearly_equal(one: Tensors, other: Tensors) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-6) for name in one)


def test_1_copies_of_one_network_stay_it() -> None:
    model, _, traced = shown("resnet-20")
    groups, tensors = groups_of(traced), tensors_of(model)
    match = by_weights(groups, model)
    row = built("ring", 5).mixing(0).dense()[0].tolist()
    assert nearly_equal(merged(0, [tensors] * 5, row, match), tensors)


@pytest.mark.parametrize("name", ["mlp", "resnet-20", "llama"])
def test_2_a_permuted_copy_merges_to_the_anchor(name: str) -> None:
    model, inputs, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    other = shuffled(groups, 5).applied(tensors)
    after = merged(0, [tensors, other], (0.5, 0.5), by_weights(groups, model))
    assert nearly_equal(after, tensors)
    before = outputs(model, tensors, inputs)
    assert apart(outputs(model, after, inputs), before) < 1e-5
    # What this guards against: the plain average of the same two.
    assert apart(outputs(model, mixed([tensors, other], (0.5, 0.5)), inputs), before) > 0.1


def inverse(permutation: Permutation) -> Permutation:
    """Outer groups first: an inner order is found under the outer unit's new place."""
    orders: dict[Group, Order] = {}
    for group in permutation.groups.groups:
        found = torch.empty_like(permutation.orders[group])
        for old in np.ndindex(*group.orders):
            new: tuple[int, ...] = ()
            for depth, leaf in enumerate(group.within):
                outer = permutation.groups.of(leaf)
                at = old[: depth + 1] if outer is None or outer.within else old[depth : depth + 1]
                new = (*new, old[depth] if outer is None else int(orders[outer][at]))
            found[old] = permutation.orders[group][new].argsort()
        orders[group] = found
    return Permutation(permutation.groups, orders)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet-20", "mobilenet", "bert", "llama", "u-net"])
def test_3_an_order_and_its_inverse_leave_the_function(name: str) -> None:
    model, inputs, traced = shown(name)
    groups, tensors = groups_of(traced), tensors_of(model)
    permutation = shuffled(groups, 6)
    back = inverse(permutation)
    before = outputs(model, tensors, inputs)
    for each in (permutation, back):
        assert apart(outputs(model, each.applied(tensors), inputs), before) < 1e-5
    again = back.applied(permutation.applied(tensors))
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", ["resnet-20", "resnet-50", "bert"])
def test_4_both_inputs_of_an_addition_have_one_order(name: str) -> None:
    traced = shown(name)[2]
    sums = [node for node in traced.program.graph.nodes
            if node.op == "call_function" and operator_name(node) == "add"
            and len(node.all_input_nodes) == 2]  # fmt: skip
    axes = traced.axes
    for node in sums:
        one, other = (traced.values[each] for each in node.all_input_nodes)
        assert isinstance(one, tuple)
        assert isinstance(other, tuple)
        for left, right in zip(one[::-1], other[::-1], strict=False):
            assert list(axes.leaves(left)) == list(axes.leaves(right))
    assert len(sums) >= 2


def test_5_all_weight_on_itself_leaves_the_anchor() -> None:
    model, _, traced = shown("resnet-20")
    groups, tensors = groups_of(traced), tensors_of(model)
    other = shuffled(groups, 7).applied(tensors)
    after = merged(0, [tensors, other, other], (1.0, 0.0, 0.0), by_weights(groups, model))
    assert all(torch.equal(after[name], tensors[name]) for name in tensors)


def two_hidden(seed: int) -> tuple[nn.Module, Tensors]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    return model, tensors_of(model)


def test_6_all_with_all_compute_one_function() -> None:
    """Copies in other orders; and two networks with one hidden layer that started apart."""
    model, inputs, traced = shown("resnet-20")
    groups, tensors = groups_of(traced), tensors_of(model)
    copies = [shuffled(groups, seed).applied(tensors) for seed in range(4)]
    match = by_weights(groups, model)
    after = [merged(node, copies, [0.25] * 4, match) for node in range(4)]
    assert all(apart(outputs(model, each, inputs), outputs(model, tensors, inputs)) < 1e-5
               for each in after)  # fmt: skip

    (net, one), (_, other) = two_hidden(0), two_hidden(1)
    rows = (torch.randn(50, 6),)
    match = by_weights(groups_of(trace(net, rows, {})), net)
    left, right = (outputs(net, merged(node, [one, other], (0.5, 0.5), match), rows)
                   for node in range(2))  # fmt: skip
    assert apart(left, right) < 1e-5
    plain = outputs(net, mixed([one, other], (0.5, 0.5)), rows)
    assert apart(plain, right) > 0.1


def test_7_the_order_of_the_nodes_does_not_matter() -> None:
    drawn = [two_hidden(seed) for seed in range(4)]
    net, models = drawn[0][0], [tensors for _, tensors in drawn]
    match = by_weights(groups_of(trace(net, (torch.randn(3, 6),), {})), net)
    mixing = built("ring", 4).mixing(0).dense().tolist()
    forth, back = ({node: merged(node, models, mixing[node], match) for node in nodes}
                   for nodes in (range(4), reversed(range(4))))  # fmt: skip
    for node in range(4):
        assert all(torch.equal(forth[node][key], back[node][key]) for key in models[0])
    # What this guards against: a node that reads what another one has merged already.
    late = list(models)
    for node in range(4):
        late[node] = merged(node, late, mixing[node], match)
    assert not nearly_equal(late[3], forth[3])


def rescaled(tensors: Tensors, scale: Tensor) -> Tensors:
    """Of a ReLU network with one hidden layer: the same function."""
    return {
        "0.weight": tensors["0.weight"] * scale[:, None],
        "0.bias": tensors["0.bias"] * scale,
        "2.weight": tensors["2.weight"] / scale,
        "2.bias": tensors["2.bias"],
    }


def test_8_correlation_sees_through_scales_and_a_mean_does_not() -> None:
    net, drawn = two_hidden(2)
    generator = torch.Generator().manual_seed(1)
    ours, scale = torch.exp(torch.randn(2, 32, generator=generator))
    tensors = rescaled(drawn, ours)
    probes = (torch.randn(512, 6, generator=torch.Generator().manual_seed(0)),)
    traced = trace(net, probes, {})
    groups = groups_of(traced)
    group = groups.groups[0]
    permutation = shuffled(groups, 8)
    other = permutation.applied(rescaled(tensors, scale))
    found = match_activations(traced, groups, tensors, other, [probes])
    right = permutation.orders[group].argsort()
    assert torch.equal(found.orders[group], right)
    # Covariances do not find all of them.
    mine, theirs = (
        torch.relu(probes[0] @ each["0.weight"].T + each["0.bias"]) for each in (tensors, other)
    )
    covariance = (mine - mine.mean(0)).T @ (theirs - theirs.mean(0))
    assert (assigned(covariance.double().numpy()) != right.numpy()).any()
    # The mean of both is not the function, however well the units are matched: the scales
    # of the units are still there. It is nearer than the plain mean, and exact without scales.
    wanted = outputs(net, tensors, probes)
    matched, plain, unscaled = (
        apart(outputs(net, mixed([tensors, each], (0.5, 0.5)), probes), wanted)
        for each in (found.applied(other), other, found.applied(permutation.applied(tensors)))
    )
    assert unscaled < 1e-5
    assert 0.1 < matched < plain


def test_9_batch_norm_is_measured_again_and_its_counter_is_not_averaged() -> None:
    torch.manual_seed(0)
    model = prepared(resnet(4, 1))
    traced = trace(model, images(), {})
    groups, tensors = groups_of(traced), tensors_of(model)
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    other = {name: tensor * 2 if name.endswith("weight") else tensor + 6
             for name, tensor in shuffled(groups, 9).applied(tensors).items()}  # fmt: skip
    after = merged(0, [tensors, other], (0.5, 0.5), by_weights(groups, model))
    model.load_state_dict(after)
    batch = torch.randn(20, 3, 8, 8)
    set_running_statistics(model, pooled_moments(model, [batch[:12], batch[12:]]))
    assert counters
    assert all(torch.equal(model.state_dict()[name], tensors[name]) for name in counters)
    # The first layer's by hand, over both batches as one.
    seen = outputs(model.get_submodule("0"), {}, (batch,)).transpose(0, 1).flatten(1)
    assert torch.allclose(model.get_buffer("1.running_mean"), seen.mean(1), atol=1e-5)
    assert torch.allclose(model.get_buffer("1.running_var"), seen.var(1), rtol=1e-4)


def test_10_a_ring_of_two_is_the_mean_of_both() -> None:
    """Where each neighbour has a third, both would be the same one, and a third is lost."""
    assert built("ring", 2).mixing(0).dense().tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_11_no_order_is_better_than_the_assignment() -> None:
    generator = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        scores = generator.normal(size=(size, size))
        best = scores[np.arange(size), assigned(scores)].sum()
        assert best >= np.trace(scores) - 1e-12
        for _ in range(50):
            order = generator.permutation(size)
            assert best >= scores[np.arange(size), order].sum() - 1e-12
