"""Random networks: every order leaves their function, and as many units move as can.

The count is told by the operators as they are drawn, not by a graph. By default a
hundred networks; `WEFT_FUZZ_EXAMPLES=400` or another number makes a long run of it.
"""

import os

import pytest
import torch
from torch import Tensor

from tests.merging.alignment.drawn_networks import OPERATORS, WORDS, drawn
from tests.merging.alignment.zoo import shuffled, tensors_of
from weft.merging.alignment.activations import match_activations
from weft.merging.alignment.groups import groups_of
from weft.merging.alignment.tracing import trace

EXAMPLES = int(os.environ.get("WEFT_FUZZ_EXAMPLES", "100"))


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_any_order_leaves_the_function_and_no_unit_is_forgotten(seed: int) -> None:
    draft, inputs = drawn(seed)
    traced = trace(draft.network, (inputs,), {})
    groups, tensors = groups_of(traced), tensors_of(draft.network)
    moved = shuffled(groups, seed).applied(tensors)
    assert traced.unruled == frozenset()
    assert difference(draft.network, inputs, tensors, moved) < 1e-9, draft.told
    assert sum(group.units for group in groups.groups) == draft.units, draft.told


@pytest.mark.parametrize("seed", range(5))
def test_a_tensor_out_of_step_is_seen(seed: int) -> None:
    """The law can fail: the orders of all tensors but one."""
    draft, inputs = drawn(seed)
    groups, tensors = groups_of(trace(draft.network, (inputs,), {})), tensors_of(draft.network)
    moved = shuffled(groups, seed).applied(tensors)
    first = groups.groups[-1].tensors[0]
    assert difference(draft.network, inputs, tensors, {**moved, first: tensors[first]}) > 1e-3


@pytest.mark.parametrize("seed", [4, 20, 27])
def test_activations_put_the_units_of_weights_that_are_turned_first_back(seed: int) -> None:
    """A weight that an operator transposes before it is read is no activation."""
    draft, inputs = drawn(seed)
    traced = trace(draft.network, (inputs,), {})
    groups, tensors = groups_of(traced), tensors_of(draft.network)
    moved = shuffled(groups, seed).applied(tensors)
    torch.manual_seed(1)
    batches = [(torch.randint(0, WORDS, inputs.shape),) for _ in range(30)]
    back = match_activations(traced, groups, tensors, moved, batches).applied(moved)
    mean, plain = (
        {name: (tensors[name] + each[name]) / 2 for name in tensors} for each in (back, moved)
    )
    assert not inputs.is_floating_point()
    assert difference(draft.network, inputs, tensors, mean) < 1e-5
    assert difference(draft.network, inputs, tensors, plain) > 0.1


def test_every_operator_is_drawn() -> None:
    assert {name for seed in range(100) for name in drawn(seed)[0].told} == OPERATORS


def difference(
    model: torch.nn.Module, inputs: Tensor, one: dict[str, Tensor], other: dict[str, Tensor]
) -> float:
    """Of the outputs, against the largest of them."""
    with torch.no_grad():
        before, after = (torch.func.functional_call(model, each, inputs) for each in (one, other))
    return float((before - after).abs().max() / before.abs().max())
