"""What stands before and after a method, and that nothing tells how the work was cut."""

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoints.merges import (
    KEYS,
    NAMES,
    Model,
    added,
    assert_close,
    calibrated,
    combine,
    contributions,
    engine_merge,
    facts_over,
    flat,
    small_pieces,
    some_models,
    task_vectors,
    transformed,
)
from tests.checkpoints.test_engine import MemorySink, same_model
from weft.checkpoints.artifacts import open_contribution, put_delta, put_model
from weft.checkpoints.engine import Contribution, Meter, merge
from weft.checkpoints.errors import TooLarge
from weft.checkpoints.merge_spec import MergeSpec, Tailored, Varied
from weft.checkpoints.parallel import Workers
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.store import Store
from weft.merging import registry
from weft.merging.errors import CannotMerge
from weft.merging.hyperparameters import option
from weft.merging.method import Calibration, Facts, Method, Scope, Transform
from weft.merging.methods.breadcrumbs import Breadcrumbs
from weft.merging.methods.consensus import Consensus
from weft.merging.methods.dare import Dare
from weft.merging.methods.della import Della
from weft.merging.methods.krum import Krum
from weft.merging.methods.larv import Larv
from weft.merging.methods.lines import Lines
from weft.merging.methods.mean import Mean
from weft.merging.methods.norm_clip import NormClip
from weft.merging.methods.opcm import Opcm
from weft.merging.methods.sce import Sce
from weft.merging.methods.slerp import Slerp
from weft.merging.methods.svc import Svc
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.methods.ties import Ties
from weft.merging.methods.trim import Trim
from weft.merging.monoids import Shape
from weft.merging.precision import Precision
from weft.merging.registry import Kind

WEIGHTS = (0.5, 1.0, 2.0)
NO_MERGES = (Kind.TRANSFORM, Kind.CALIBRATION)
NAMES_OF_METHODS = registry.names()
MERGES = [name for name in NAMES_OF_METHODS if registry.entry(name).kind not in NO_MERGES]
TRANSFORMS = [n for n in NAMES_OF_METHODS if registry.entry(n).kind is Kind.TRANSFORM]


def transform(name: str) -> Transform:
    made = registry.create(name)
    assert isinstance(made, Transform)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped(Transform):
    """Changes nothing, and looks at the shape that it is shown."""

    whole: bool = option(False, "whether it must see the whole tensor")

    def scope(self, name: str, shape: Shape) -> Scope:
        return Scope.MATRIX if self.whole else Scope.ELEMENT

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        assert block.ndim == (2 if self.whole else 1)
        return block.clone()


def before(steps: Sequence[Transform], base: Model, deltas: Sequence[Model]) -> list[Model]:
    found = list(deltas)
    for step in steps:
        found = [
            transformed(step, delta, name, base, KEYS[name])
            for delta, name in zip(found, NAMES, strict=False)
        ]
    return found


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("small", [False, True])
def test_each_transform_before_a_mean(
    name: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        small_pieces(monkeypatch)
    base, models = some_models()
    step = transform(name)
    deltas = before([step], base, task_vectors(base, models))
    found = engine_merge(MergeSpec(method=Mean(), before=(step,)), base, models, WEIGHTS)
    assert_close(found, added(base, combine(Mean(), deltas, WEIGHTS, base)))


@pytest.mark.parametrize(
    "step", [transform(name) for name in TRANSFORMS if name not in ("dare", "della", "larv")]
)
@pytest.mark.parametrize("small", [False, True])
def test_each_transform_after_a_sum(
    step: Transform, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms, cuts and depth are those of the merged task vector."""
    if small:
        small_pieces(monkeypatch)
    base, models = some_models()
    method = TaskArithmetic()
    merged = combine(method, task_vectors(base, models), WEIGHTS, base)
    found = engine_merge(MergeSpec(method=method, after=(step,)), base, models, WEIGHTS)
    assert_close(found, added(base, transformed(step, merged, "merged", base)))


def test_a_chain_of_steps() -> None:
    base, models = some_models()
    chain = (Trim(density=0.7), Dare(density=0.6), Breadcrumbs())
    method, clip, lines = Ties(density=0.5), NormClip(longest=0.4), Lines()
    deltas = before(chain, base, task_vectors(base, models))
    merged = combine(method, deltas, WEIGHTS, base)
    merged = transformed(clip, merged, "merged", base)
    assert float(flat(merged).norm()) == pytest.approx(0.4)
    merged = transformed(lines, merged, "merged", base)
    spec = MergeSpec(method=method, before=chain, after=(clip, lines))
    assert_close(engine_merge(spec, base, models, WEIGHTS), added(base, merged))


def test_steps_of_single_contributions_come_first() -> None:
    base, models = some_models()
    deltas = task_vectors(base, models)
    own = {"c": (Trim(density=0.2), NormClip(longest=0.1)), "a": (Dare(density=0.3),)}
    deltas[1] = transformed(own["c"][1], transformed(own["c"][0], deltas[1], "c", base), "c", base)
    deltas[2] = transformed(own["a"][0], deltas[2], "a", base, KEYS["a"])
    last = Trim(density=0.9, extent="tensor")
    deltas = before([last], base, deltas)
    spec = MergeSpec(method=Mean(), own=own, before=(last,))
    assert_close(
        engine_merge(spec, base, models, WEIGHTS),
        added(base, combine(Mean(), deltas, WEIGHTS, base)),
    )


@pytest.mark.parametrize("method", [TaskArithmetic(scale=1.0), Mean(), Krum(), Ties()], ids=repr)
def test_a_calibration_sees_weights_and_transformed_contributions(method: Method) -> None:
    base, models = some_models()
    weights = (3.0, -0.5, 0.25)
    if not isinstance(method, TaskArithmetic):
        weights = WEIGHTS
    step, svc = Trim(density=0.6), Svc()
    deltas = before([step], base, task_vectors(base, models))
    merged = combine(method, deltas, weights, base)
    expected = added(base, calibrated(svc, merged, deltas, weights))
    spec = MergeSpec(method=method, before=(step,), after=(svc,))
    found = engine_merge(spec, base, models, weights)
    assert_close(found, expected)
    equal = calibrated(svc, merged, deltas, (1.0, 1.0, 1.0))
    assert not torch.allclose(added(base, equal)["layers.1.up.weight"], found["layers.1.up.weight"])


def test_after_a_calibration_comes_what_was_calibrated() -> None:
    base, models = some_models()
    deltas = task_vectors(base, models)
    merged = combine(TaskArithmetic(scale=1.0), deltas, WEIGHTS, base)
    svc, clip = Svc(), NormClip(longest=0.3)
    expected = transformed(clip, calibrated(svc, merged, deltas, WEIGHTS), "merged", base)
    spec = MergeSpec(method=TaskArithmetic(scale=1.0), after=(svc, clip))
    assert_close(engine_merge(spec, base, models, WEIGHTS), added(base, expected))


@pytest.mark.parametrize("extent", ["tensor"])
def test_a_transform_may_vary_from_tensor_to_tensor(extent: str) -> None:
    base, models = some_models()
    densities = {name: (1 + place) / len(base) for place, name in enumerate(base)}
    steps = {name: Trim(density=share, extent=extent) for name, share in densities.items()}
    varied = Varied(usual=Trim(extent=extent), at=steps.__getitem__)
    deltas = task_vectors(base, models)
    changed = [
        {name: transformed(steps[name], delta, "x", base)[name] for name in base}
        for delta in deltas
    ]
    spec = MergeSpec(method=Mean(), before=(varied,))
    assert_close(
        engine_merge(spec, base, models, WEIGHTS),
        added(base, combine(Mean(), changed, WEIGHTS, base)),
    )


@pytest.mark.parametrize("name", ["task_arithmetic", "ties"])
def test_method_and_weights_may_vary_from_tensor_to_tensor(name: str) -> None:
    base, models = some_models()
    place = {tensor: index for index, tensor in enumerate(base)}
    ranks: dict[str, object] = {"extent": "tensor"} if name == "ties" else {}

    def at(tensor: str) -> Tailored:
        share = place[tensor] / len(base)
        if name == "ties":
            ranks["density"] = 0.2 + share / 2
        method = registry.create(name, scale=1 + share, **ranks)
        return Tailored(method=method, weights=(share, 1.0, 1 - share))

    spec = MergeSpec(method=registry.create(name, **ranks), tailor=at)
    found = engine_merge(spec, base, models)
    deltas = task_vectors(base, models)
    for tensor in base:
        expected = combine(at(tensor).method, deltas, at(tensor).weights, base)
        assert_close({tensor: found[tensor]}, added({tensor: base[tensor]}, expected))


def test_a_tensor_is_seen_as_its_own_method_and_steps_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that say what is needed are content with any elements."""
    small_pieces(monkeypatch)
    base, models = some_models()
    whole = "layers.1.up.weight"

    def at(name: str) -> Tailored:
        return Tailored(method=Sce(select=0.5 if name == whole else 1.0), weights=WEIGHTS)

    varied = Varied(usual=Shaped(), at=lambda name: Shaped(whole=name == "layers.2.up.weight"))
    found = engine_merge(MergeSpec(method=Sce(), tailor=at, before=(varied,)), base, models)
    deltas = task_vectors(base, models)
    for name in base:
        expected = combine(at(name).method, deltas, WEIGHTS, base)
        assert_close({name: found[name]}, added({name: base[name]}, expected))


@pytest.mark.parametrize("step", [False, True])
def test_ranks_that_were_not_looked_up_are_missed_in_one_line(step: bool) -> None:
    base, models = some_models()
    few, every = Trim(density=0.5, extent="tensor"), Trim(density=1, extent="tensor")
    spec = MergeSpec(method=Mean(), before=(Varied(usual=every, at=lambda name: few),))
    if not step:
        method = Ties(density=0.5, extent="tensor")
        tailored = Tailored(method=method, weights=WEIGHTS)
        spec = MergeSpec(method=replace(method, density=1), tailor=lambda name: tailored)
    with pytest.raises(
        CannotMerge, match=r"'conv.weight': t\w+ asks for ranks there that were not"
    ):
        engine_merge(spec, base, models)


def test_no_weight_at_a_tensor_leaves_the_base_there() -> None:
    base, models = some_models()
    ones = Tailored(method=Mean(), weights=(1.0, 1.0, 1.0))
    none = Tailored(method=Mean(), weights=(0.0, 0.0, 0.0))
    spec = MergeSpec(
        method=Mean(), tailor=lambda name: none if name == "layers.1.up.weight" else ones
    )
    found = engine_merge(spec, base, models)
    assert torch.equal(found["layers.1.up.weight"], base["layers.1.up.weight"])
    assert not torch.equal(found["layers.2.up.weight"], base["layers.2.up.weight"])


def kept_share(spec: MergeSpec, seed: int = 0) -> float:
    generator = torch.Generator().manual_seed(seed)
    values = {"w": torch.rand(40_000, generator=generator) + 1}
    found = engine_merge(spec, {"w": torch.zeros(40_000)}, [values])["w"]
    return float((found != 0).double().mean())


def test_two_steps_that_draw_drop_apart_from_each_other() -> None:
    """The same draws would keep the same elements, and scale them up twice."""
    half = Dare(density=0.5)
    for spec in (
        MergeSpec(method=Mean(), before=(half, half)),
        MergeSpec(method=Mean(), own={"b": (half,)}, before=(half,)),
        MergeSpec(method=Mean(), before=(half,), after=(half,)),
        MergeSpec(method=Mean(), after=(half, half)),
    ):
        assert kept_share(spec) == pytest.approx(0.25, abs=0.02)
    assert kept_share(MergeSpec(method=Mean(), before=(half,))) == pytest.approx(0.5, abs=0.02)


def test_draws_after_a_merge_are_those_of_all_contributions_whatever_their_order() -> None:
    base, models = some_models()
    readers = [MemoryReader(model) for model in models]
    given = contributions(readers)
    spec = MergeSpec(method=Mean(), after=(Dare(),))
    one = engine_merge(spec, base, models, given=given)
    assert same_model(one, engine_merge(spec, base, models, given=given[::-1]))
    other = [*given[:2], Contribution(name="a", reader=readers[2], weight=1.0, key=b"other")]
    assert not same_model(one, engine_merge(spec, base, models, given=other))


@pytest.mark.parametrize("after", [(), (Lines(), Breadcrumbs())])
@pytest.mark.parametrize("steps", [(), (Trim(density=0.6),)])
def test_the_mean_norm_is_kept_before_what_comes_after(
    steps: tuple[Transform, ...], after: tuple[Transform, ...]
) -> None:
    base, models = some_models()
    weights = (0.5, 1.0, -2.0)
    deltas = before(steps, base, task_vectors(base, models))
    merged = combine(Opcm(), deltas, weights, base)
    norms = [
        float(flat(delta).norm()) * abs(weight)
        for delta, weight in zip(deltas, weights, strict=True)
    ]
    assert float(flat(merged).norm()) == pytest.approx(sum(norms) / 3, rel=1e-12)
    for step in after:
        merged = transformed(step, merged, "merged", base)
    spec = MergeSpec(method=Opcm(), before=steps, after=after)
    found = engine_merge(spec, base, models, weights)
    assert_close(found, added(base, merged))
    rest = ["layers.2.norm", "layers.2.up.weight", "embed.weight"]
    part = engine_merge(spec, base, models, weights, only=rest)
    assert same_model(part, {name: found[name] for name in base if name in rest})


def test_the_mean_norm_is_that_of_the_weights_by_tensor() -> None:
    base, models = some_models()
    deltas = task_vectors(base, models)
    place = {tensor: index for index, tensor in enumerate(base)}

    def at(tensor: str) -> Tailored:
        return Tailored(method=Opcm(), weights=(place[tensor] / len(base), 0.0, -1.0))

    spec = MergeSpec(method=Opcm(), tailor=at)
    found = task_vectors(base, [engine_merge(spec, base, models)])[0]
    weighted = [
        {name: delta[name] * at(name).weights[index] for name in base}
        for index, delta in enumerate(deltas)
    ]
    expected = sum(float(flat(weighted[index]).norm()) for index in (0, 2)) / 2
    assert float(flat(found).norm()) == pytest.approx(expected, rel=1e-5)


def test_a_merge_reads_as_often_as_it_says() -> None:
    base, models = some_models()
    size = sum(tensor.nbytes for tensor in base.values())
    for spec, passes, over_base in (
        (MergeSpec(method=Mean()), 1, 1),
        (MergeSpec(method=Opcm()), 3, 3),
        (MergeSpec(method=Opcm(), after=(NormClip(),)), 4, 4),
        (MergeSpec(method=Consensus()), 2, 1),
        (MergeSpec(method=Consensus(), before=(NormClip(),), after=(NormClip(),)), 5, 3),
        (MergeSpec(method=Consensus(), after=(Svc(), NormClip())), 6, 4),
        (MergeSpec(method=Sce(select=0.5)), 3, 2),
        (MergeSpec(method=Mean(), own={"a": (NormClip(),), "b": (NormClip(),)}), 2, 2),
    ):
        meter, sink = Meter(), MemorySink(MemoryReader(base).schema)
        readers = [MemoryReader(model) for model in models]
        merge(spec, MemoryReader(base), contributions(readers), readers[0], sink, meter=meter)
        assert (spec.passes, spec.passes_over_base) == (passes, over_base)
        assert meter.total == (passes * len(models) + over_base) * size


def test_who_draws_needs_a_key() -> None:
    base, models = some_models(count=1)
    given = [Contribution(name="x", reader=MemoryReader(models[0]), weight=1.0)]
    with pytest.raises(CannotMerge, match="x: a step draws at random and was given no key"):
        engine_merge(MergeSpec(method=Mean(), before=(Dare(),)), base, models, given=given)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("name", MERGES)
def test_the_order_of_contributions_leaves_no_trace(name: str, precision: Precision) -> None:
    method = registry.create(name)
    if getattr(method, "ordered", False) or registry.entry(name).kind is Kind.SEQUENTIAL:
        return
    base, models = some_models(dtype=torch.float64, scale=1e-2)
    given = contributions([MemoryReader(model) for model in models], WEIGHTS)
    spec = MergeSpec(method=method, precision=precision)
    found = [
        engine_merge(spec, base, models, given=[given[place] for place in order])
        for order in ((0, 1, 2), (2, 0, 1), (1, 0, 2))
    ]
    assert same_model(found[0], found[1])
    assert same_model(found[0], found[2])


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("name", MERGES)
def test_the_number_of_threads_leaves_no_trace(
    name: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    method = registry.create(name)
    base, models = some_models(dtype=torch.float64)
    models = models[: method.most]
    spec = MergeSpec(method=method, precision=precision)
    one, *others = [
        engine_merge(spec, base, models, WEIGHTS, threads=threads) for threads in (1, 2, 3, 5)
    ]
    assert all(same_model(one, other) for other in others)
    if precision is Precision.EXACT:
        expected = combine(method, task_vectors(base, models), WEIGHTS, base)
        for tensor, merged in added(base, expected).items():
            torch.testing.assert_close(one[tensor], merged, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", list(Precision))
def test_threads_leave_no_trace_in_a_long_chain(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    base, models = some_models(dtype=torch.float64)
    spec = MergeSpec(
        method=Ties(),
        before=(Trim(), Dare(), Larv(), Della()),
        after=(Svc(), NormClip(longest=0.1), Breadcrumbs(), Dare(rescale="l1")),
        precision=precision,
    )
    one, *others = [
        engine_merge(spec, base, models, WEIGHTS, threads=threads) for threads in (1, 2, 3, 5)
    ]
    assert all(same_model(one, other) for other in others)


@pytest.mark.parametrize("steps", [(), (Della(),), (Dare(),), (Lines(), NormClip(longest=0.1))])
@pytest.mark.parametrize("name", ["mean", "ties", "widen", "krum", "iso_c", "slerp"])
def test_readers_that_cannot_seek_give_the_same_bytes(
    name: str, steps: tuple[Transform, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch)
    base, models = some_models(dtype=torch.float64)
    method = registry.create(name)
    models = models[: method.most]
    store = Store(tmp_path)
    against = put_model(store, origin := MemoryReader(base))
    digests = [put_delta(store, MemoryReader(m), origin, against, "lossless") for m in models]
    streamed = [open_contribution(store, digest, origin) for digest in digests]
    spec = MergeSpec(method=method, before=steps)
    expected = engine_merge(spec, base, models, WEIGHTS)
    for threads in (1, 3):
        given = contributions(streamed, WEIGHTS)
        found = engine_merge(spec, base, models, given=given, threads=threads)
        assert same_model(found, expected)


@pytest.mark.parametrize("steps", [(Lines(),), (Larv(),), (NormClip(longest=0.1),), (Trim(),)])
@pytest.mark.parametrize("after", [False, True])
def test_a_part_of_a_merge_is_that_part_of_the_whole(
    steps: tuple[Transform, ...], after: bool
) -> None:
    """Depth, norms and ranks are those of the model, also where only a rest is to be made."""
    base, models = some_models()
    spec = MergeSpec(method=Mean(), before=() if after else steps, after=steps if after else ())
    whole = engine_merge(spec, base, models)
    rest = ["layers.2.norm", "layers.2.up.weight", "embed.weight"]
    part = engine_merge(spec, base, models, only=rest)
    assert same_model(part, {name: whole[name] for name in base if name in rest})


def test_methods_that_take_two_are_refused_more_before_anything_is_read() -> None:
    base, models = some_models()
    with pytest.raises(CannotMerge, match="slerp takes at most 2 contributions; 3 have"):
        engine_merge(MergeSpec(method=Slerp()), base, models)
    engine_merge(MergeSpec(method=Slerp()), base, models, [1.0, 0.0, 1.0])


@pytest.mark.parametrize("name", ["iso_c", "mean", "opcm", "tsv_m"])
def test_too_little_memory_is_said_before_anything_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, models = some_models()
    readers = [MemoryReader(model) for model in models]
    monkeypatch.setattr(MemoryReader, "fill", lambda *_: pytest.fail("something was read"))
    reader_of_base = MemoryReader(base)
    with pytest.raises(TooLarge, match=r"takes about \d+ bytes of memory at a time; 1000 are"):
        merge(
            registry.create(name),
            reader_of_base,
            contributions(readers),
            reader_of_base,
            MemorySink(reader_of_base.schema),
            workers=Workers(1, 1000),
        )


def test_the_length_of_a_merged_task_vector_is_measured_not_assumed() -> None:
    """Clipping after a sum: parallel vectors add up, opposite ones cancel."""
    base = {"w": torch.zeros(10, dtype=torch.float64)}
    up, down = torch.ones(10).double(), -torch.ones(10).double()
    clip = MergeSpec(method=TaskArithmetic(scale=1.0), after=(NormClip(longest=1.0),))
    found = engine_merge(clip, base, [{"w": up}, {"w": up}])["w"]
    assert float(found.norm()) == pytest.approx(1.0)
    found = engine_merge(clip, base, [{"w": up}, {"w": down}])["w"]
    assert not found.any()


def test_facts_reach_a_method_after_transforms() -> None:
    """TIES trims what DARE left, by ranks among what it left."""
    base, models = some_models()
    deltas = before([Dare(density=0.4)], base, task_vectors(base, models))
    method = Ties(density=0.3)
    expected = combine(method, deltas, WEIGHTS, base)
    spec = MergeSpec(method=method, before=(Dare(density=0.4),))
    assert_close(engine_merge(spec, base, models, WEIGHTS), added(base, expected))
    cut = facts_over(method, deltas[0], "b")["conv.weight"].cuts[0]
    assert 0 < cut < math.inf


def test_a_merge_leaves_no_object_behind() -> None:
    """What one merge found out must not live as long as the process."""
    base, models = some_models()
    readers = [MemoryReader(model) for model in models]
    alive = [weakref.ref(reader) for reader in readers]
    for method in (Krum(), Mean()):
        engine_merge(MergeSpec(method=method), base, models, given=contributions(readers))
    del readers
    gc.collect()
    assert [each() for each in alive] == [None] * 3


def test_calibrations_are_no_methods() -> None:
    assert isinstance(Svc(), Calibration)
    base, models = some_models()
    with pytest.raises(CannotMerge, match="does not merge several"):
        engine_merge(MergeSpec(method=Svc()), base, models)
