"""The methods of a line or two against references of a line or two, on whole models."""

import torch
from torch import Tensor

from tests.merging.whole import facts_of
from tests.references import ema, magmax, mean, task_arithmetic
from weft.merging.blocks import Block, merge_block
from weft.merging.method import Method
from weft.merging.methods.ema import Ema
from weft.merging.methods.magmax import MagMax
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic

WEIGHTS = [0.5, 1.0, 2.0]
SHAPES: dict[str, tuple[int, ...]] = {"a": (5, 7), "b": (11,), "c": ()}


def model(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


BASE, MODELS = model(0), [model(seed) for seed in (1, 2, 3)]


def ours(method: Method, weights: list[float]) -> dict[str, Tensor]:
    result = {}
    for name, origin in BASE.items():
        deltas = [each[name].double() - origin.double() for each in MODELS]
        shape = tuple(origin.shape)
        block = Block(name=name, tensor_shape=shape, shape=shape, base=origin.double())
        merged = merge_block(method, block, deltas, facts_of(deltas, weights, method))
        result[name] = origin.double() + merged
    return result


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=2.0**-36)


def test_mean() -> None:
    agree(ours(Mean(), WEIGHTS), mean.merged(MODELS, WEIGHTS))


def test_task_arithmetic() -> None:
    expected = task_arithmetic.merged(BASE, MODELS, WEIGHTS, 0.3)
    agree(ours(TaskArithmetic(scale=0.3), WEIGHTS), expected)


def test_magmax() -> None:
    agree(ours(MagMax(scale=0.5), [1.0] * 3), magmax.merged(BASE, MODELS, 0.5))


def test_ema() -> None:
    agree(ours(Ema(rate=0.25), [1.0] * 3), ema.merged(BASE, MODELS, 0.25))
