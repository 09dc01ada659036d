"""Models of a few tensors, merged tensor by tensor as an engine would."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tests.merging.whole import facts_of
from weft.merging.blocks import Block, merge_block
from weft.merging.method import Method

SHAPES = {"tall.weight": (7, 4), "wide.weight": (5, 9), "bias": (7,), "embed.weight": (6, 4)}
AVERAGED = ("bias", "embed.weight")
"""Those that are no linear weights."""

Model = dict[str, Tensor]


def some_models(seed: int, count: int, rank: int | None = None) -> tuple[Model, list[Model]]:
    """A base, and models that differ from it by noise; linear weights by that rank."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def delta(name: str, shape: tuple[int, ...]) -> Tensor:
        if rank is None or name in AVERAGED:
            return noise(*shape)
        return noise(shape[0], rank) @ noise(rank, shape[1])

    base = {name: noise(*shape) for name, shape in SHAPES.items()}
    models = [
        {name: base[name] + delta(name, shape) for name, shape in SHAPES.items()}
        for _ in range(count)
    ]
    return base, models


def merge_models(
    method: Method, base: Model, models: Sequence[Model], weights: Sequence[float]
) -> Model:
    merged = {}
    for name, start in base.items():
        deltas = [model[name] - start for model in models]
        shape = tuple(start.shape)
        block = Block(name=name, tensor_shape=shape, shape=shape, base=start)
        merged[name] = start + merge_block(method, block, deltas, facts_of(deltas, weights, method))
    return merged


def assert_same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-9, atol=1e-9)
