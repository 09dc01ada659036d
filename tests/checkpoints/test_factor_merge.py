"""Adapters merged as factors: the dense merge's numbers, without its matrices."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoints.crafted import bits
from tests.checkpoints.folders import save_adapter
from weft.checkpoints.adapters import AdapterReader
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.contribution import Contribution
from weft.checkpoints.deltas import ModelReader
from weft.checkpoints.factor_merge import FactoredReader, FactorMerge, without_dense
from weft.checkpoints.merge_spec import MergeSpec, Tailored
from weft.checkpoints.reader import MemoryReader
from weft.merging.blocks import Block, merge_block
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.method import Facts, Method
from weft.merging.methods.knots import Knots
from weft.merging.methods.lora_lego import LoraLego
from weft.merging.methods.lora_svd import LoraSvd
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.methods.ties import Ties
from weft.merging.methods.trim import Trim
from weft.merging.precision import Precision

WEIGHTS = [0.5, 2.0, 1.25]
METHODS: list[Method] = [
    Mean(),
    TaskArithmetic(scale=0.4),
    Knots(),
    LoraSvd(),
    LoraSvd(rank=1, combine="sum"),
]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def base() -> dict[str, Tensor]:
    return {
        "q.weight": normal(1, 8, 6),
        "v.weight": normal(2, 8, 6),
        "conv.weight": normal(3, 4, 3, 2, 2),
        "embed.weight": normal(4, 9, 5),
        "q.bias": normal(5, 8),
    }


def factors(seed: int, rank: int, *modules: str) -> dict[str, Tensor]:
    """LoRA factors of these modules of `base`."""
    found = {}
    for place, module in enumerate(modules, start=10 * seed):
        shape = base()[f"{module}.weight"].shape
        if module == "embed":
            found["embed.lora_embedding_A"] = normal(place, rank, shape[0])
            found["embed.lora_embedding_B"] = normal(place + 500, shape[1], rank)
        else:
            ones = (1,) * (len(shape) - 2)
            found[f"{module}.lora_A.weight"] = normal(place, rank, *shape[1:])
            found[f"{module}.lora_B.weight"] = normal(place + 500, shape[0], rank, *ones)
    return found


@pytest.fixture
def adapters(tmp_path: Path) -> Iterator[list[AdapterReader]]:
    """Three of unlike ranks; not all touch all."""
    origin = MemoryReader(base())
    held = [("q", "v", "embed"), ("q", "conv"), ("q", "embed", "conv")]
    readers = []
    for seed, modules in enumerate(held, start=1):
        folder = save_adapter(tmp_path / f"n{seed}", factors(seed, seed, *modules), r=seed)
        readers.append(AdapterReader(folder, origin))
    yield readers
    for reader in readers:
        reader.close()


def contributions(
    readers: Sequence[RangeReader], weights: Sequence[float] = WEIGHTS
) -> list[Contribution]:
    return [
        Contribution(name=f"n{index}", reader=reader, weight=weight)
        for index, (reader, weight) in enumerate(zip(readers, weights, strict=True))
    ]


def dense(method: Method, readers: Sequence[AdapterReader], name: str) -> Tensor:
    """What the dense task vectors merge to."""
    shape = tuple(base()[name].shape)
    count = base()[name].numel()
    deltas = [
        next(reader.delta_ranges(name, 0, count, count, torch.float64)).reshape(shape)
        for reader in readers
    ]
    facts = [Facts(contribution=f"n{i}", weight=w) for i, w in enumerate(WEIGHTS)]
    block = Block(name=name, tensor_shape=shape, shape=shape)
    return merge_block(method, block, deltas, facts)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("name", ["q.weight", "v.weight", "conv.weight", "embed.weight"])
def test_as_the_dense_merge(method: Method, name: str, adapters: list[AdapterReader]) -> None:
    merge = FactorMerge.of(MergeSpec(method=method), contributions(adapters))
    assert merge is not None
    spec = MemoryReader(base()).schema[name]
    found = merge.merged(spec).dense().reshape(spec.shape)
    torch.testing.assert_close(found, dense(method, adapters, name), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", [*METHODS, LoraLego(rank=2)], ids=repr)
def test_order_changes_no_bit(method: Method, adapters: list[AdapterReader]) -> None:
    spec = MemoryReader(base()).schema["q.weight"]
    items = contributions(adapters)
    found = [
        FactorMerge(MergeSpec(method=method), each).merged(spec) for each in (items, items[::-1])
    ]
    assert bits(found[0].B) == bits(found[1].B)
    assert bits(found[0].A) == bits(found[1].A)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_weight_zero_is_not_there(method: Method, adapters: list[AdapterReader]) -> None:
    spec = MemoryReader(base()).schema["q.weight"]
    three = contributions(adapters, [0.5, 0.0, 1.25])
    two = [item for item in three if item.weight]
    found = [
        FactorMerge(MergeSpec(method=method), each).merged(spec).dense() for each in (three, two)
    ]
    assert torch.equal(found[0], found[1])


def test_one_adapter_comes_back_as_it_is(adapters: list[AdapterReader]) -> None:
    spec = MemoryReader(base()).schema["q.weight"]
    for method in (LoraSvd(), LoraLego(), Mean()):
        merge = FactorMerge(MergeSpec(method=method), contributions(adapters[1:2], [3.0]))
        expected = dense(Mean(), [adapters[1]] * 3, "q.weight")
        torch.testing.assert_close(merge.merged(spec).dense(), expected, rtol=1e-7, atol=1e-9)


def test_weights_by_tensor(adapters: list[AdapterReader]) -> None:
    def tailor(name: str) -> Tailored:
        weights = (0.0, 0.0, 0.0) if name == "v.weight" else (0.0, 1.0, 0.0)
        return Tailored(method=TaskArithmetic(scale=2.0), weights=weights)

    spec = MergeSpec(method=TaskArithmetic(), tailor=tailor)
    merge = FactorMerge(spec, contributions(adapters))
    schema = MemoryReader(base()).schema
    (alone,) = adapters[1].delta_ranges("q.weight", 0, 48, 48, torch.float64)
    found = merge.merged(schema["q.weight"]).dense().reshape(-1)
    torch.testing.assert_close(found, 2 * alone, rtol=1e-7, atol=1e-9)
    with pytest.raises(CannotMerge, match=r"tensor 'v\.weight': no contribution has a weight"):
        merge.merged(schema["v.weight"])


def test_where_there_is_no_way_through_factors(adapters: list[AdapterReader]) -> None:
    items = contributions(adapters)
    assert FactorMerge.of(MergeSpec(method=Ties()), items) is None
    assert FactorMerge.of(MergeSpec(method=Mean(), before=(Trim(),)), items) is None
    assert FactorMerge.of(MergeSpec(method=Mean(), after=(Trim(),)), items) is None
    assert FactorMerge.of(MergeSpec(method=Mean(), own={"n1": (Trim(),)}), items) is None
    model = [ModelReader(adapters[0]), *adapters[1:]]
    assert FactorMerge.of(MergeSpec(method=Mean()), contributions(model)) is None
    assert FactorMerge.of(MergeSpec(method=Mean()), contributions(model, [0, 1, 1])) is not None
    assert FactorMerge.of(MergeSpec(method=Mean()), contributions(adapters, [0, 0, 0])) is None


@pytest.mark.parametrize("method", [Knots(), LoraSvd(), LoraLego(rank=2)], ids=repr)
def test_the_merged_model_is_read_in_any_ranges(
    method: Method, adapters: list[AdapterReader]
) -> None:
    origin = MemoryReader(base())
    spec, found = without_dense(MergeSpec(method=method), origin, contributions(adapters))
    assert spec == MergeSpec(method=Mean(), precision=Precision.FLOAT64)
    (item,) = found
    reader = item.reader
    assert isinstance(reader, FactoredReader)
    merge = FactorMerge(MergeSpec(method=method), contributions(adapters))
    for name, tensor in base().items():
        count = tensor.numel()
        (whole,) = reader.delta_ranges(name, 0, count, count, torch.float64)
        if name == "q.bias":
            assert not whole.any()
        else:
            expected = merge.merged(origin.schema[name]).dense().reshape(-1)
            torch.testing.assert_close(whole, expected, rtol=1e-12, atol=1e-12)
        parts = [p.clone() for p in reader.delta_ranges(name, 3, count, 5, torch.float64)]
        assert torch.equal(torch.cat(parts), whole[3:])
        right = (tensor.double() + whole.reshape(tensor.shape)).float()
        assert bits(reader.read(name)) == bits(right)
    reader.close()
    assert reader.schema == origin.schema


def test_who_keeps_the_dense_way(adapters: list[AdapterReader], tmp_path: Path) -> None:
    origin, items = MemoryReader(base()), contributions(adapters)
    for method in (Mean(), TaskArithmetic(), Ties()):
        spec = MergeSpec(method=method)
        assert without_dense(spec, origin, items) == (spec, items)
    whole = {"q.bias": normal(9, 8), **factors(7, 2, "v")}
    folder = save_adapter(tmp_path / "whole", whole, modules_to_save=["q"])
    with AdapterReader(folder, origin) as reader:
        spec, items = MergeSpec(method=Knots()), contributions([reader, *adapters[:2]])
        assert without_dense(spec, origin, items) == (spec, items)


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    found = factors(1, 2, "q")
    found["q.lora_A.weight"][0, 0] = torch.nan
    origin = MemoryReader(base())
    with AdapterReader(save_adapter(tmp_path, found), origin) as reader:
        merge = FactorMerge(MergeSpec(method=LoraSvd()), contributions([reader], [1.0]))
        with pytest.raises(NonFinite, match=r"n0, tensor 'q\.weight': nan found"):
            merge.merged(origin.schema["q.weight"])
