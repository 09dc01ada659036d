"""The engine against whole tensors in float64, and what it refuses."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.merging.sketches import REGISTRY
from tests.merging.whole import cuts_of, facts_of
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.engine import Contribution, measure, merge
from weft.checkpoints.errors import MissingTensor, SchemaMismatch
from weft.checkpoints.reader import MemoryReader, TensorReader, open_checkpoint
from weft.checkpoints.schema import BLOCK_ELEMENTS, Schema, TensorSpec
from weft.checkpoints.writer import SafetensorsWriter, write_checkpoint
from weft.merging.blocks import Block, combined, in_proportion, merge_block
from weft.merging.errors import CannotMerge, NonFinite, OutOfBound
from weft.merging.layers import layers
from weft.merging.method import Combination, Extent, Facts, Joint, Method, Sequential
from weft.merging.methods.ema import Ema
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.monoids import Field, Shape
from weft.merging.registry import Kind
from weft.merging.sums import Sum

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NO_MERGES = (Kind.TRANSFORM, Kind.CALIBRATION)
MERGES = [n for n in REGISTRY.names() if REGISTRY.entry(n).kind not in NO_MERGES]
NAMES = ["b", "c", "a"]
KEYS = {name: name.encode() * 32 for name in NAMES}
LONG = BLOCK_ELEMENTS + 70_001


class MemorySink:
    """A sink that keeps what it is given, by name."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.tensors: dict[str, Tensor] = {}

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        spec = self.schema[name]
        blocks = [data] if isinstance(data, Tensor) else [block.clone() for block in data]
        nothing = torch.empty(0, dtype=TORCH_DTYPES[spec.dtype])
        flat = [nothing, *(block.reshape(-1) for block in blocks)]
        self.tensors[name] = torch.cat(flat).reshape(spec.shape)


def model(seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    return {
        "bn.num_batches_tracked": torch.tensor(seed),
        "bn.running_mean": values(4),
        "bn.weight": values(4),
        "empty": values(0, 3),
        "fc.weight": values(6, 5),
        "scale": values(),
    }


def finetuned(base: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A model near the base: base plus a tenth of another one."""
    delta = model(seed, base["scale"].dtype, 0.1)
    return {
        name: tensor + delta[name] if tensor.is_floating_point() else delta[name]
        for name, tensor in base.items()
    }


def contributions(
    models: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> list[Contribution]:
    weights = [1.0] * len(models) if weights is None else weights
    return [
        Contribution(name=name, reader=MemoryReader(tensors), weight=weight, key=KEYS[name])
        for name, tensors, weight in zip(NAMES, models, weights, strict=False)
    ]


def merged(
    method: Method,
    base: Mapping[str, Tensor] | None,
    models: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    only: Collection[str] | None = None,
) -> dict[str, Tensor]:
    own = MemoryReader(models[0])
    sink = MemorySink(own.schema)
    origin = None if base is None else MemoryReader(base)
    merge(method, origin, contributions(models, weights), own=own, sink=sink, only=only)
    return sink.tensors


def same_bytes(one: Tensor, two: Tensor) -> bool:
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return False
    flat = (one.contiguous().reshape(-1), two.contiguous().reshape(-1))
    return torch.equal(flat[0].view(torch.uint8), flat[1].view(torch.uint8))


def same_model(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(same_bytes(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_method_streamed_is_the_method_on_whole_tensors(
    name: str, dtype: torch.dtype
) -> None:
    method = REGISTRY.create(name)
    base = model(0, dtype)
    models = [finetuned(base, seed) for seed in (1, 2, 3)][: method.most]
    weights = [0.5, 1.0, 2.0][: method.most]
    found = merged(method, base, models, weights)
    for tensor, expected in reference(method, base, models, weights).items():
        torch.testing.assert_close(found[tensor], expected.to(dtype))


def reference(
    method: Method,
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """Base plus merged task vector from whole tensors and facts of whole models, float64."""
    merged = task_vectors(method, base, models, weights)
    factor = 1.0
    if isinstance(method, Sequential) and method.keeps_mean_norm:
        total = torch.cat([each.reshape(-1) for each in merged.values()]).norm()
        deltas = [[each[n].double() - base[n].double() for n in merged] for each in models]
        norms = [torch.cat([part.reshape(-1) for part in delta]).norm() for delta in deltas]
        pairs = zip(norms, weights, strict=True)
        factor = float(sum(weight * norm for norm, weight in pairs) / len(norms) / total)
    return {name: base[name].double() + factor * each for name, each in merged.items()}


def task_vectors(
    method: Method,
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """Merged, before the whole model is brought to any norm."""
    names = ("bn.weight", "fc.weight", "scale")
    deltas = [{n: each[n].double() - base[n].double() for n in names} for each in models]
    whole = [torch.cat([each[n].reshape(-1) for n in names]) for each in deltas]
    results = {}
    for name in names:
        mine = [each[name] for each in deltas]
        facts = facts_of(mine, weights, None, layers(names)[name])
        facts = [
            replace(
                fact,
                contribution=called,
                norm=float(vector.norm()),
                cuts=cuts_over(method, delta, vector),
                key=KEYS[called],
            )
            for fact, called, delta, vector in zip(facts, NAMES, mine, whole, strict=False)
        ]
        facts = in_proportion(method, facts)
        origin = base[name].double()
        block = Block(name=name, tensor_shape=origin.shape, shape=tuple(origin.shape), base=origin)
        if isinstance(method, Combination) and method.span is Extent.MODEL:
            gram = torch.stack(whole) @ torch.stack(whole).T
            weighted = combined(method, gram, facts)
            results[name] = merge_block(TaskArithmetic(scale=1.0), block, mine, weighted)
        else:
            results[name] = merge_block(method, block, mine, facts)
    return results


def cuts_over(method: Method, tensor: Tensor, model: Tensor) -> tuple[float, ...]:
    over = {Extent.TENSOR: cuts_of(method, tensor), Extent.MODEL: cuts_of(method, model)}
    return tuple(over[cut.extent][index] for index, cut in enumerate(method.cuts))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_base", [True, False])
def test_one_model_is_given_back(dtype: torch.dtype, with_base: bool) -> None:
    base = model(0, dtype)
    only_one = finetuned(base, 1)
    found = merged(Mean(), base if with_base else None, [only_one], [0.3])
    if dtype is torch.float64:
        torch.testing.assert_close(found, only_one, rtol=0, atol=2.0**-38)
    else:
        assert same_model(found, only_one)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_longer_than_a_block(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(LONG, generator=generator).to(dtype)
    models = [
        (base + torch.randn(LONG, generator=generator).to(dtype) * 0.01).to(dtype) for _ in range(3)
    ]
    found = merged(Mean(), {"w": base}, [{"w": tensor} for tensor in models], [1.0, 1.0, 2.0])["w"]
    reference = (models[0].double() + models[1].double() + 2 * models[2].double()) / 4
    # Half a unit in the last place, and the grid's three roundings.
    error = (found.double() - reference).abs()
    ulp = torch.finfo(dtype).eps * reference.abs().clamp(min=torch.finfo(dtype).smallest_normal)
    assert bool((error <= ulp + 2.0**-39).all())


def test_files_in_file_out(tmp_path: Path) -> None:
    base = model(0)
    models = [finetuned(base, seed) for seed in (1, 2, 3)]
    paths = [tmp_path / f"{index}.safetensors" for index in range(4)]
    for path, tensors in zip(paths, [base, *models], strict=True):
        write_checkpoint(path, tensors, {})
    readers = [open_checkpoint(path) for path in paths]
    given = [
        Contribution(name=name, reader=reader, weight=1.0)
        for name, reader in zip(NAMES, readers[1:], strict=True)
    ]
    out = tmp_path / "out.safetensors"
    with SafetensorsWriter(out, readers[1].schema, {}) as sink:
        merge(Mean(), readers[0], given, own=readers[1], sink=sink)
    for reader in readers:
        reader.close()
    assert same_model(load_file(out), merged(Mean(), base, models))


def test_statistics_and_buffers_are_ones_own() -> None:
    base = model(0)
    models = [finetuned(base, seed) for seed in (1, 2)]
    found = merged(Mean(), base, models)
    for name in ("bn.running_mean", "bn.num_batches_tracked"):
        assert same_bytes(found[name], models[0][name])
    assert not same_bytes(found["bn.weight"], models[0]["bn.weight"])


def test_the_order_of_contributions_leaves_no_trace() -> None:
    base = model(0)
    models = [finetuned(base, seed) for seed in (1, 2, 3)]
    own = MemoryReader(models[0])
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        sink = MemorySink(own.schema)
        given = contributions(models, [0.1, 0.2, 0.7])
        merge(Mean(), MemoryReader(base), [given[i] for i in order], own=own, sink=sink)
        results.append(sink.tensors)
    assert same_model(*results)


@pytest.mark.parametrize("name", ["mean", "sketch_IsoC", "sketch_ModelStock"])
def test_the_number_of_threads_leaves_no_trace(name: str) -> None:
    method = REGISTRY.create(name)
    generator = torch.Generator().manual_seed(0)
    models = [{"w": torch.randn(260, 260, generator=generator)} for _ in range(3)]
    base = {"w": torch.zeros(260, 260)}
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(merged(method, base, models))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same_model(*results)


def test_shares_of_a_merge_make_the_whole() -> None:
    base = model(0)
    models = [finetuned(base, seed) for seed in (1, 2)]
    whole = merged(Mean(), base, models)
    one = merged(Mean(), base, models, only=["fc.weight", "bn.running_mean"])
    two = merged(Mean(), base, models, only=set(whole) - set(one))
    assert list(one) == ["bn.running_mean", "fc.weight"]
    assert same_model({**one, **two}, {name: whole[name] for name in {**one, **two}})
    with pytest.raises(MissingTensor, match=r"fc\.wieght"):
        merged(Mean(), base, models, only=["fc.wieght"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness(Joint):
    """Merges to the number of threads that it runs on."""

    def merge(
        self, name: str, blocks: Sequence[Tensor], facts: Sequence[Facts], base: Tensor | None
    ) -> Tensor:
        return torch.full_like(blocks[0], torch.get_num_threads())


def test_a_merge_runs_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert merged(Witness(), None, [{"w": torch.zeros(2)}])["w"].tolist() == [1.0, 1.0]
        with pytest.raises(NonFinite):
            merged(Mean(), None, [{"w": torch.tensor([math.nan])}])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped(TaskArithmetic):
    """Refuses to fold anything but what it was told of when asked for its scope."""

    def fields(self, name: str, shape: Shape, phase: int = 0) -> Mapping[str, Field]:
        assert shape == {"bn.weight": (4,), "fc.weight": (6, 5), "scale": ()}[name]
        return {"sum": Sum()}


def test_methods_are_told_the_tensors_shape_and_not_the_blocks() -> None:
    base = model(0)
    models = [finetuned(base, 1)]
    assert same_model(merged(Shaped(), base, models), merged(TaskArithmetic(), base, models))


class Unreadable(MemoryReader):
    """A reader that may be looked at and not read."""

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        raise AssertionError(f"{spec.name} was read")


def test_contributions_of_weight_zero_are_not_read() -> None:
    base = model(0)
    models = [finetuned(base, seed) for seed in (1, 2)]
    own = MemoryReader(models[0])
    sink = MemorySink(own.schema)
    absent = Contribution(name="x", reader=Unreadable({"other": torch.zeros(1)}), weight=0.0)
    merge(Mean(), MemoryReader(base), [absent, *contributions(models)], own=own, sink=sink)
    assert same_model(sink.tensors, merged(Mean(), base, models))


class Watched(MemoryReader):
    """A reader that notes in a shared list how many bytes were read at a time."""

    def __init__(self, tensors: Mapping[str, Tensor], alive: list[int]) -> None:
        super().__init__(tensors)
        self.alive = alive

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        self.alive.append(len(into))
        super().fill(spec, into, offset)


def test_whole_tensors_are_read_once_each() -> None:
    base, alive = model(0), list[int]()
    models = [finetuned(base, seed) for seed in (1, 2, 3)]
    given = [
        Contribution(name=name, reader=Watched(tensors, alive), weight=1.0)
        for name, tensors in zip(NAMES, models, strict=True)
    ]
    own = MemoryReader(models[0])
    only = ["fc.weight"]
    sink = MemorySink(own.schema)
    merge(REGISTRY.create("sketch_IsoC"), MemoryReader(base), given, own=own, sink=sink, only=only)
    assert alive == [6 * 5 * 4] * 3


class Endless(MemoryReader):
    """One long tensor that lies nowhere: a model of any size for the price of a block."""

    def __init__(self, elements: int, value: float) -> None:
        super().__init__({})
        self._only = Schema((TensorSpec("w", "F32", (elements,)),))
        self._value = value

    @property
    def schema(self) -> Schema:
        return self._only

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        into[:] = torch.full((len(into) // 4,), self._value).view(torch.uint8).numpy().data


class Weighing(MemorySink):
    """Notes at each block how much memory the process has."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.most = 0
        self.sum = 0.0

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        for block in data:
            self.sum += float(block.double().sum())
            self.most = max(self.most, psutil.Process().memory_info().rss)


def test_memory_does_not_grow_with_the_model() -> None:
    elements, count = 12 * BLOCK_ELEMENTS, 6
    readers = [Endless(elements, float(value)) for value in range(count)]
    given = [
        Contribution(name=str(index), reader=reader, weight=1.0)
        for index, reader in enumerate(readers)
    ]
    small = Weighing(readers[0].schema)
    before = psutil.Process().memory_info().rss
    merge(Mean(), Endless(elements, 1.0), given, own=readers[0], sink=small)
    measure(given, Endless(elements, 1.0))
    assert small.sum == pytest.approx(2.5 * elements, rel=1e-9)
    # The models are 288 MiB and one block of each is 28 MiB.
    assert small.most - before < 80 * 2**20
    assert psutil.Process().memory_info().rss - before < 80 * 2**20


@pytest.mark.parametrize("name", ["task_arithmetic", "magmax", "ema", "sketch_IsoC"])
def test_methods_on_task_vectors_need_a_base(name: str) -> None:
    with pytest.raises(CannotMerge, match="works on task vectors and needs a base"):
        merged(REGISTRY.create(name), None, [model(1)])


def test_a_transform_is_no_merge() -> None:
    base = model(0)
    with pytest.raises(CannotMerge, match="does not merge several"):
        merged(REGISTRY.create("sketch_Clip"), base, [finetuned(base, 1)])


def test_nothing_and_namesakes_are_refused() -> None:
    base = model(0)
    with pytest.raises(CannotMerge, match="no contribution has a weight other than zero"):
        merged(Mean(), base, [model(1)], [0.0])
    with pytest.raises(CannotMerge, match="nothing to merge"):
        measure([], None)
    one = contributions([model(1)])
    with pytest.raises(CannotMerge, match="two contributions are called 'b'"):
        measure([*one, *one], None)


def test_other_models_are_refused_before_anything_is_written() -> None:
    base = model(0)
    lacking = {name: tensor for name, tensor in model(1).items() if name != "fc.weight"}
    wider = {**model(1), "fc.weight": torch.zeros(6, 6)}
    whole = {**model(1), "fc.weight": torch.zeros(6, 5, dtype=torch.int64)}
    for other, words in (
        (lacking, "c: tensor 'fc.weight' is missing"),
        (wider, r"c: tensor 'fc.weight' is F32\[6, 6\], expected F32\[6, 5\]"),
        (whole, r"c: tensor 'fc.weight' is I64\[6, 5\], expected F32\[6, 5\]"),
    ):
        sink = MemorySink(MemoryReader(base).schema)
        given = contributions([model(1), other])
        own = MemoryReader(model(1))
        with pytest.raises(SchemaMismatch, match=words):
            merge(Mean(), MemoryReader(base), given, own=own, sink=sink)
        assert sink.tensors == {}
        with pytest.raises(SchemaMismatch, match=words):
            measure(given, None)
    with pytest.raises(SchemaMismatch, match=r"the base: tensor 'fc\.weight' is missing"):
        merged(Mean(), lacking, [model(1)])


def test_dtypes_may_differ_and_ones_own_counts() -> None:
    base = model(0)
    half = {n: t.half() if t.is_floating_point() else t for n, t in finetuned(base, 1).items()}
    found = merged(Mean(), base, [half, finetuned(base, 2)])
    assert found["fc.weight"].dtype is torch.float16


class Cut(MemoryReader):
    """A reader with blocks of its own taste."""

    def blocks(self, name: str) -> Iterator[Tensor]:
        yield from super().read(name).reshape(-1).split(2)  # type: ignore[no-untyped-call]


def test_readers_that_cut_otherwise_are_refused() -> None:
    given = [
        *contributions([model(1)]),
        Contribution(name="cut", reader=Cut(model(2)), weight=1.0),
    ]
    with pytest.raises(SchemaMismatch, match="unlike blocks"):
        measure(given, None)


def spoiled(base: Mapping[str, Tensor], value: float) -> dict[str, Tensor]:
    found = finetuned(base, 2)
    found["fc.weight"][2, 3] = value
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    base = model(0)
    models = [finetuned(base, 1), spoiled(base, value)]
    with pytest.raises(NonFinite, match=r"c, tensor 'fc.weight': -?(nan|inf) found"):
        merged(Mean(), base, models)
    with pytest.raises(NonFinite, match=r"c, tensor 'fc.weight': .* found at element 13,"):
        merged(Ema(), base, models)


def test_what_is_beyond_the_bound_is_refused_by_name() -> None:
    base = model(0)
    with pytest.raises(OutOfBound, match=r"c, tensor 'fc.weight': 49\d\d\.?\d* is beyond"):
        merged(Mean(), base, [finetuned(base, 1), spoiled(base, 5000.0)])


def test_a_result_that_its_dtype_does_not_hold_is_refused() -> None:
    base = {"w": torch.full((3,), 40_000.0, dtype=torch.float16)}
    other = {"w": torch.full((3,), 41_000.0, dtype=torch.float16)}
    with pytest.raises(NonFinite, match=r"the merge gave inf at element 0; .* beyond what F16"):
        merged(TaskArithmetic(scale=1.0, bound=2.0**20), base, [other] * 3, [1.0, 1.0, 24.0])


def test_the_place_in_a_later_block_is_counted_from_the_start() -> None:
    tensor = torch.zeros(LONG)
    tensor[BLOCK_ELEMENTS + 5] = math.nan
    with pytest.raises(NonFinite, match=f"at element {BLOCK_ELEMENTS + 5},"):
        merged(Ema(), {"w": torch.zeros(LONG)}, [{"w": tensor}])


def vector(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[n].double().reshape(-1) for n in ("bn.weight", "fc.weight", "scale")])


@pytest.mark.parametrize("with_base", [True, False])
def test_measuring_is_a_gram_matrix_over_all_parameters(with_base: bool) -> None:
    base = model(0)
    models = [finetuned(base, seed) for seed in (1, 2, 3)]
    found = measure(contributions(models), MemoryReader(base) if with_base else None)
    origin = vector(base) * with_base
    deltas = torch.stack([vector(tensors) - origin for tensors in models])
    assert found.names == tuple(NAMES)
    np.testing.assert_allclose(found.gram, (deltas @ deltas.T).numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.norms, deltas.norm(dim=1).numpy(), rtol=1e-12)
    assert np.array_equal(found.gram, found.gram.T)
    assert found.gram.dtype == found.norms.dtype == np.float64
    assert found.non_finite == {}


def test_measuring_long_tensors_is_measuring_their_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    models = [{"w": torch.randn(LONG, generator=generator)} for _ in range(2)]
    found = measure(contributions(models), None)
    deltas = torch.stack([tensors["w"].double() for tensors in models])
    np.testing.assert_allclose(found.gram, (deltas @ deltas.T).numpy(), rtol=1e-9)


def test_measuring_names_what_is_not_finite_and_spares_the_others() -> None:
    base = model(0)
    bad = spoiled(base, math.nan)
    bad["scale"] = torch.tensor(math.inf)
    good = [finetuned(base, 1), finetuned(base, 3)]
    found = measure(contributions([good[0], bad, good[1]]), MemoryReader(base))
    assert found.non_finite == {"c": ("fc.weight", "scale")}
    assert np.isnan(found.gram[1]).all()
    assert np.isnan(found.gram[:, 1]).all()
    assert math.isnan(found.norms[1])
    bad = spoiled(base, math.inf)
    infinite = measure(contributions([good[0], bad, good[1]]), MemoryReader(base))
    assert np.isnan(infinite.gram[1]).all()
    assert np.isnan(infinite.gram[:, 1]).all()
    alone = measure(contributions(good), MemoryReader(base))
    np.testing.assert_allclose(found.gram[::2, ::2], alone.gram, rtol=1e-13)
    np.testing.assert_allclose(found.norms[::2], alone.norms, rtol=1e-13)


def test_statistics_and_buffers_are_not_measured() -> None:
    base = model(0)
    one = finetuned(base, 1)
    other = {**one, "bn.running_mean": torch.full((4,), math.nan)}
    found = measure(contributions([one, other]), MemoryReader(base))
    assert found.non_finite == {}
    assert found.norms[0] == found.norms[1]


def test_huge_is_not_the_same_as_not_finite() -> None:
    huge = {"w": torch.tensor([1e200, 1.0], dtype=torch.float64)}
    found = measure(contributions([huge]), None)
    assert found.non_finite == {}
    assert math.isinf(found.norms[0])


def test_a_method_of_the_whole_model_is_measuring_then_merging() -> None:
    """Krum (Blanchard et al. 2017): the one nearest to the others, from the Gram matrix."""
    base = model(0)
    near = finetuned(base, 1)
    models = [near, {n: t * 1.01 if t.is_floating_point() else t for n, t in near.items()}]
    models.append(finetuned(base, 3))
    readers: list[TensorReader] = [MemoryReader(tensors) for tensors in models]
    given = contributions(models)
    gram = measure(given, MemoryReader(base)).gram
    squares = np.diag(gram)
    distances = squares[:, None] + squares[None, :] - 2 * gram
    chosen = int(np.argmin(np.sort(distances, axis=1)[:, 1]))
    weights = [float(index == chosen) for index in range(3)]
    assert chosen in (0, 1)
    own = readers[chosen]
    sink = MemorySink(own.schema)
    merge(Mean(), MemoryReader(base), contributions(models, weights), own=own, sink=sink)
    assert same_model(sink.tensors, models[chosen])
