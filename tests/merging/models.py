"""Small models at hand whole, merged tensor by tensor as the engine would."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tests.merging.whole import facts_of
from weft.merging.blocks import Block, combined, merge_block
from weft.merging.method import Combination, Extent, Facts, Method
from weft.merging.methods.task_arithmetic import TaskArithmetic

SHAPES = {"embed.weight": (11, 4), "fc.weight": (6, 9), "fc.bias": (7,), "scale": ()}
Model = dict[str, Tensor]


def random_models(seed: int, count: int, common: float = 0.0) -> tuple[Model, list[Model]]:
    """A base, and models that moved from it; by so much of the same."""
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Model:
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in SHAPES.items()
        }

    base, shared = drawn(), drawn()
    models = []
    for _ in range(count):
        own = drawn()
        models.append({name: base[name] + 0.1 * own[name] + common * shared[name] for name in base})
    return base, models


def merged_model(
    method: Method,
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
) -> Model:
    """Base plus merged task vector, float64."""
    found = {}
    deltas = {name: [model[name] - base[name] for model in models] for name in base}
    spans_model = isinstance(method, Combination) and method.span is Extent.MODEL
    for name, start in base.items():
        chosen, facts = method, facts_of(deltas[name], weights, method)
        if isinstance(method, Combination) and spans_model:
            chosen, facts = (
                TaskArithmetic(scale=1.0),
                combined(method, _gram(deltas, len(models)), facts),
            )
        found[name] = start + _merged(chosen, name, deltas[name], facts, start)
    return found


def _gram(deltas: Mapping[str, Sequence[Tensor]], count: int) -> Tensor:
    rows = torch.stack([torch.cat([deltas[n][i].flatten() for n in deltas]) for i in range(count)])
    return rows @ rows.T


def _merged(
    method: Method, name: str, deltas: Sequence[Tensor], facts: Sequence[Facts], base: Tensor
) -> Tensor:
    if all(fact.weight == 0 for fact in facts):
        return torch.zeros_like(base)
    shape = tuple(base.shape)
    block = Block(name=name, tensor_shape=shape, shape=shape, base=base)
    return merge_block(method, block, deltas, facts)


def assert_same_models(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """To nine digits, and to what an exact sum rounds away."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-11)
