"""Facts of whole models, found piece by piece, against what float64 says of all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tests.checkpoints.merges import (
    KEYS,
    NAMES,
    Model,
    facts_over,
    flat,
    small_pieces,
    some_models,
    task_vectors,
    transformed,
)
from weft.checkpoints import survey
from weft.checkpoints.found import Found
from weft.checkpoints.merge_spec import MergeSpec
from weft.checkpoints.parallel import Workers, one_thread
from weft.checkpoints.reader import MemoryReader, TensorReader
from weft.checkpoints.survey import Survey, by_name, passes
from weft.checkpoints.task_vectors import CheckpointStream, Meter, Stream, TransformedStream
from weft.merging.errors import CannotMerge, NonFinite
from weft.merging.method import Combination, Cut, Extent, Facts, Method, Need, Scope, Transform
from weft.merging.methods.larv import Larv
from weft.merging.methods.trim import Trim


@dataclass(frozen=True, slots=True, kw_only=True)
class Curious(Transform):
    """Asks for everything, and changes nothing."""

    needs: ClassVar[frozenset[Need]] = frozenset(Need) - {Need.SCALE}

    @property
    def cuts(self) -> tuple[Cut, ...]:
        ranks = [lambda n: 0, lambda n: 1, lambda n: n // 3, lambda n: n, lambda n: n + 1]
        return tuple(Cut(rank, extent) for rank in ranks for extent in reversed(Extent))

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        return block


@dataclass(frozen=True, slots=True, kw_only=True)
class Products(Combination):
    """Asks for inner products."""

    def coefficients(self, gram: Tensor, facts: Sequence[Facts]) -> Sequence[float]:
        return [1.0] * len(facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeProducts(Products):
    """The same over the model."""

    span: ClassVar[Extent] = Extent.MODEL


def stream_of(
    base: Model | None, models: Sequence[Model], dtype: torch.dtype = torch.float64
) -> CheckpointStream:
    readers: dict[str, TensorReader] = {
        name: MemoryReader(model) for name, model in zip(NAMES, models, strict=False)
    }
    return CheckpointStream(None if base is None else MemoryReader(base), readers, dtype, Meter())


def answer(
    stream: Stream,
    model: Model,
    methods: Sequence[Method | None],
    *,
    threads: int = 1,
    scope: Scope = Scope.ELEMENT,
    budget: int = 2**40,
) -> Found:
    question = Survey(
        stream=stream,
        specs=MemoryReader(model).schema.parameters,
        methods=methods,
        method_of=lambda index, spec: methods[index],
        scope_of=lambda spec: scope,
        workers=Workers(threads, budget),
        piece=MergeSpec(method=Trim()).piece_elements,
        key_of=lambda: tuple(KEYS[name] for name in stream.names),
    )
    with one_thread():
        return question.answer()


@pytest.fixture(params=["as shipped", "many spans"], autouse=True)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many spans":
        small_pieces(monkeypatch)


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("with_base", [True, False])
def test_every_fact_is_that_of_the_whole_model(scope: Scope, with_base: bool) -> None:
    base, models = some_models()
    origin = base if with_base else {name: torch.zeros_like(base[name]) for name in base}
    methods = [Curious()] * 3
    found = answer(stream_of(base if with_base else None, models), base, methods, scope=scope)
    for index, delta in enumerate(task_vectors(origin, models)):
        expected = facts_over(methods[index], delta, NAMES[index], key=KEYS[NAMES[index]])
        for name in base:
            bare = Facts(contribution=NAMES[index], offset=3)
            told = found.facts(index, bare, methods[index], name)
            wanted = expected[name]
            assert (told.cuts, told.layer, told.key) == (wanted.cuts, wanted.layer, wanted.key)
            assert (told.offset, told.contribution) == (3, NAMES[index])
            assert told.norm == pytest.approx(wanted.norm, rel=1e-13)
            assert told.sums is not None
            assert wanted.sums is not None
            assert told.sums.elements == wanted.sums.elements == base[name].numel()
            assert told.sums.absolute == pytest.approx(wanted.sums.absolute, rel=1e-13)
            assert told.sums.squares == pytest.approx(wanted.sums.squares, rel=1e-13)


def test_inner_products_by_tensor_and_over_the_model() -> None:
    base, models = some_models()
    deltas = task_vectors(base, models)
    by_tensor = answer(stream_of(base, models), base, [Products()] * 3)
    assert by_tensor.gram is None
    for name in base:
        rows = torch.stack([delta[name].reshape(-1) for delta in deltas])
        torch.testing.assert_close(by_tensor.grams[name], rows @ rows.T, rtol=1e-12, atol=1e-15)
    whole = answer(stream_of(base, models), base, [WholeProducts()] * 3).gram
    assert whole is not None
    rows = torch.stack([flat(delta) for delta in deltas])
    torch.testing.assert_close(whole, rows @ rows.T, rtol=1e-12, atol=0)
    assert torch.equal(whole, whole.T)


@pytest.mark.parametrize("method", [Curious(), Products(), WholeProducts()], ids=repr)
@pytest.mark.parametrize("threads", [2, 4])
def test_threads_find_the_same_to_the_bit(method: Method, threads: int) -> None:
    base, models = some_models(scale=1e-3)
    stream = stream_of(base, models)
    one = answer(stream, base, [method] * 3)
    assert repr(answer(stream, base, [method] * 3, threads=threads)) == repr(one)
    assert repr(answer(stream, base, [method] * 3, threads=threads, budget=1)) == repr(one)
    if one.gram is not None:
        other = answer(stream, base, [method] * 3, threads=threads).gram
        assert other is not None
        assert torch.equal(one.gram, other)


def test_the_order_of_contributions_leaves_no_trace_in_inner_products() -> None:
    base, models = some_models(scale=1e-3)
    readers = {n: MemoryReader(m) for n, m in zip(NAMES, models, strict=True)}
    grams = []
    for order in (NAMES, ("a", "b", "c"), ("c", "a", "b")):
        given: dict[str, TensorReader] = {name: readers[name] for name in order}
        stream = CheckpointStream(MemoryReader(base), given, torch.float64, Meter())
        gram = answer(stream, base, [WholeProducts()] * 3).gram
        assert gram is not None
        sort = by_name(order)
        grams.append(gram[sort][:, sort])
    assert torch.equal(grams[0], grams[1])
    assert torch.equal(grams[0], grams[2])


@pytest.mark.parametrize("extent", list(Extent))
def test_cuts_are_exact_among_ties(extent: Extent) -> None:
    values = torch.tensor([3.0, 1.0, 1.0, 2.0, -1.0, 0.0, 2.0, -2.0] * 40)
    method = Counted(extent=extent)
    model = {"w": values.reshape(16, 20)}
    found = answer(stream_of(None, [model]), model, [method])
    told = found.facts(0, Facts(contribution="b"), method, "w").cuts
    ordered = values.abs().sort().values.tolist()
    assert list(told) == [ordered[place - 1] for place in RANKS]


RANKS = (1, 40, 41, 160, 161, 280, 281, 320)


def _rank(rank: int, elements: int) -> int:
    return rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Transform):
    """Asks for magnitudes by their places."""

    extent: Extent = Extent.MODEL

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return tuple(Cut(partial(_rank, rank), self.extent) for rank in RANKS)

    def apply(self, name: str, block: Tensor, facts: Facts) -> Tensor:
        return block


def test_facts_after_a_transform_are_those_of_what_it_left() -> None:
    base, models = some_models()
    step = Trim(density=0.3, extent="tensor")
    inner = stream_of(base, models)
    trimmed = [
        transformed(step, delta, name, base)
        for delta, name in zip(task_vectors(base, models), NAMES, strict=True)
    ]
    first = answer(inner, base, [step] * 3)
    stream = TransformedStream(
        inner,
        lambda index, spec, offset: (
            step,
            first.facts(index, Facts(contribution=NAMES[index], offset=offset), step, spec.name),
        ),
    )
    found = answer(stream, base, [Curious()] * 3)
    for index, delta in enumerate(trimmed):
        expected = facts_over(Curious(), delta, NAMES[index])
        for name in base:
            told = found.facts(index, Facts(contribution="x"), Curious(), name)
            assert told.cuts == expected[name].cuts
            assert told.norm == pytest.approx(expected[name].norm, rel=1e-13)


def test_who_asks_nothing_is_told_nothing_and_nothing_is_read() -> None:
    base, models = some_models()
    meter = Meter()
    readers: dict[str, TensorReader] = {"b": MemoryReader(models[0])}
    stream = CheckpointStream(MemoryReader(base), readers, torch.float64, meter)
    assert answer(stream, base, [None]) == Found()
    assert meter.total == 0


def test_some_ask_and_others_do_not() -> None:
    base, models = some_models()
    step = Trim(density=0.3)
    found = answer(stream_of(base, models), base, [None, step, None])
    delta = task_vectors(base, models)[1]
    told = found.facts(1, Facts(contribution="c"), step, "conv.weight")
    assert told.cuts == facts_over(step, delta, "c")["conv.weight"].cuts
    assert found.model_cuts[0] == found.model_cuts[2] == ()


def test_factors_by_layer_are_those_of_whole_weights() -> None:
    base, models = some_models()
    base["layers.1.empty.weight"] = torch.zeros(0, 3)
    models = [{**model, "layers.1.empty.weight": torch.zeros(0, 3)} for model in models]
    step = Larv(low=0.5, high=2.0)
    found = answer(stream_of(base, models), base, [step, None, step])
    for index, delta in enumerate(task_vectors(base, models)):
        expected = facts_over(step, delta, NAMES[index], base=base)
        for name in base:
            scale = found.facts(index, Facts(contribution="x"), step, name).scale
            assert scale == (1.0 if index == 1 else expected[name].scale)
    assert {scale[0] for scale in found.scales.values()} == {0.5, 1.0, 2.0}
    with pytest.raises(CannotMerge, match="with their base, and there is none"):
        answer(stream_of(None, models), base, [step] * 3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("method", [Curious(), Products(), Larv()], ids=repr)
def test_what_is_not_finite_is_named(method: Method, threads: int) -> None:
    base, models = some_models()
    models[1]["layers.1.up.weight"][3, 2] = torch.inf
    with pytest.raises(NonFinite, match=r"c, tensor 'layers.1.up.weight': inf .* element 20,"):
        answer(stream_of(base, models), base, [method] * 3, threads=threads)


def test_passes_are_as_many_as_are_made() -> None:
    base, models = some_models(count=2)
    size = sum(tensor.nbytes for tensor in base.values()) * 3
    for method in (Curious(), Products(), Trim(), Trim(extent="tensor"), Counted()):
        meter = Meter()
        readers: dict[str, TensorReader] = {
            name: MemoryReader(model) for name, model in zip(NAMES, models, strict=False)
        }
        stream = CheckpointStream(MemoryReader(base), readers, torch.float64, meter)
        answer(stream, base, [method] * 2)
        # Small tensors are sorted, in one pass where large ones take two.
        ranked = any(cut.extent is Extent.TENSOR for cut in method.cuts)
        assert passes([method]) - ranked <= meter.total / size <= passes([method])


def test_a_matrix_beyond_one_span_is_counted_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(survey, "SPAN_ELEMENTS", 2**19)
    generator = torch.Generator().manual_seed(1)
    model = {"w": torch.randn(1100, 1000, generator=generator)}
    method = Curious()
    one, two = (answer(stream_of(None, [model]), model, [method], threads=n) for n in (1, 2))
    assert repr(one) == repr(two)
    expected = facts_over(method, {"w": model["w"].double()}, "b")["w"]
    told = one.facts(0, Facts(contribution="b"), method, "w")
    assert told.cuts == expected.cuts
    assert told.norm == pytest.approx(expected.norm, rel=1e-13)
