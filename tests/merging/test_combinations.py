"""What a caller does with the coefficients of a combination, whatever method it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from weft.merging.blocks import Block, combined, merge_block
from weft.merging.errors import NonFinite
from weft.merging.method import Combination, Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed(Combination):
    """By name, and what it was given is looked at."""

    by_name: dict[str, float]

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        return [self.by_name[fact.contribution] for fact in facts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Products(Combination):
    """The last bits of the inner products, made visible."""

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        assert torch.equal(gram, gram.T)
        return [math.fmod(float(row.sum()) * 2.0**34, 1.0) for row in gram]


@dataclass(frozen=True, slots=True, kw_only=True)
class InOrder(Fixed):
    """The first alone."""

    ordered: ClassVar[bool] = True

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> list[float]:
        return [1.0, *[0.0] * (len(facts) - 1)]


def facts(**weights: float) -> list[Facts]:
    return [Facts(contribution=name, weight=weight) for name, weight in weights.items()]


def merge(method: Combination, deltas: Sequence[Tensor], given: Sequence[Facts]) -> Tensor:
    shape = tuple(deltas[0].shape)
    return merge_block(method, Block(name="w", tensor_shape=shape, shape=shape), deltas, given)


ONES = [torch.full((2,), float(value), dtype=torch.float64) for value in (1, 10, 100)]


def test_zero_leaves_out_and_a_negative_coefficient_subtracts() -> None:
    method = Fixed(by_name={"a": -2.0, "b": 0.0, "c": 0.5})
    assert merge(method, ONES, facts(c=1.0, a=1.0, b=1.0)).tolist() == [0.5 - 20.0] * 2


def test_minus_zero_is_zero() -> None:
    method = Fixed(by_name={"a": -0.0, "b": 1.0})
    assert merge(method, ONES[:2], facts(a=1.0, b=1.0)).tolist() == [10.0, 10.0]


def test_all_zero_is_no_change_of_the_blocks_shape() -> None:
    method = Fixed(by_name={"a": 0.0, "b": 0.0})
    result = merge(method, ONES[:2], facts(a=1.0, b=1.0))
    assert (result.tolist(), result.dtype) == ([0.0, 0.0], torch.float64)


def test_the_order_given_reaches_only_who_asks_for_it() -> None:
    assert merge(InOrder(by_name={}), ONES, facts(z=1.0, a=1.0, m=1.0)).tolist() == [1.0, 1.0]


def test_inner_products_depend_on_neither_order_nor_on_who_is_absent() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = list(torch.randn((7, 1000), generator=generator, dtype=torch.float64))
    names = "abcdefg"
    for leaving in range(7):
        weights = {n: float(i != leaving) for i, n in enumerate(names)}
        one = merge(Products(), deltas, facts(**weights))
        backwards = merge(Products(), deltas[::-1], facts(**weights)[::-1])
        rest = [i for i in range(7) if i != leaving]
        without = merge(Products(), [deltas[i] for i in rest], [facts(**weights)[i] for i in rest])
        assert torch.equal(one, backwards)
        assert torch.equal(one, without)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_even_if_it_would_be_left_out(value: float) -> None:
    method = Fixed(by_name={"a": 1.0, "b": 0.0})
    deltas = [ONES[0], torch.tensor([value, 1.0], dtype=torch.float64)]
    with pytest.raises(NonFinite, match=r"b, tensor 'w': .* expected finite numbers"):
        merge(method, deltas, facts(a=1.0, b=1.0))
    assert merge(method, deltas, facts(a=1.0, b=0.0)).tolist() == [1.0, 1.0]
    gram = torch.tensor([[1.0, value], [value, value]], dtype=torch.float64)
    with pytest.raises(NonFinite, match=r"b, all tensors: .* expected finite numbers"):
        combined(method, gram, facts(a=1.0, b=1.0))
