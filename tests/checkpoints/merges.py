"""Merges of models in memory: as the engine does them, and plainly, tensor by whole tensor."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from tests.checkpoints.test_engine import MemorySink
from tests.merging.whole import cuts_of, sums_of
from weft.checkpoints import engine, merge_spec, survey
from weft.checkpoints.engine import Contribution, Workers, merge
from weft.checkpoints.merge_spec import MergeSpec
from weft.checkpoints.reader import MemoryReader, TensorReader
from weft.merging.blocks import Block, combined, in_proportion, merge_block
from weft.merging.layer_scores import rank_contrast
from weft.merging.layers import layers
from weft.merging.matrices import is_linear
from weft.merging.method import (
    Calibration,
    Combination,
    Extent,
    Facts,
    Method,
    Scope,
    Sequential,
    Transform,
)
from weft.merging.methods.larv import Larv
from weft.merging.methods.task_arithmetic import TaskArithmetic

Model = dict[str, Tensor]

NAMES = ("b", "c", "a")
KEYS = {name: name.encode() * 32 for name in NAMES}
SHAPES = {
    "conv.weight": (3, 2, 3, 3),
    "embed.weight": (9, 5),
    "layers.0.empty": (0, 4),
    "layers.0.norm": (7,),
    "layers.0.scale": (),
    "layers.0.up.weight": (11, 6),
    "layers.1.norm": (7,),
    "layers.1.up.weight": (11, 6),
    "layers.2.norm": (7,),
    "layers.2.up.weight": (6, 11),
}


def noise(seed: int, scale: float = 1.0) -> Model:
    """Float64 values of every shape; a quarter of them tie with others."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in SHAPES.items():
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        ties = torch.rand(shape, generator=generator) < 0.25
        found[name] = torch.where(ties, values.sign() * scale / 2, values)
    return found


def some_models(
    count: int = 3, dtype: torch.dtype = torch.float32, scale: float = 0.1
) -> tuple[Model, list[Model]]:
    """A base, and models near it."""
    base = {name: tensor.to(dtype) for name, tensor in noise(0).items()}
    tuned = [
        {name: (base[name].double() + step).to(dtype) for name, step in noise(seed, scale).items()}
        for seed in range(1, count + 1)
    ]
    return base, tuned


def task_vectors(base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]]) -> list[Model]:
    return [{name: model[name].double() - base[name].double() for name in base} for model in models]


def contributions(
    readers: Sequence[TensorReader], weights: Sequence[float] | None = None
) -> list[Contribution]:
    weights = [1.0] * len(readers) if weights is None else weights
    return [
        Contribution(name=name, reader=reader, weight=weight, key=KEYS[name])
        for name, reader, weight in zip(NAMES, readers, weights, strict=False)
    ]


def engine_merge(
    spec: MergeSpec,
    base: Mapping[str, Tensor] | None,
    models: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
    *,
    threads: int = 1,
    given: Sequence[Contribution] | None = None,
    only: Sequence[str] | None = None,
) -> Model:
    """What the engine makes of models in memory."""
    readers = [MemoryReader(model) for model in models]
    sink = MemorySink(readers[0].schema)
    merge(
        spec,
        None if base is None else MemoryReader(base),
        contributions(readers, weights) if given is None else given,
        readers[0],
        sink,
        only=only,
        workers=Workers(threads),
    )
    return sink.tensors


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tensors of a few dozen elements have several pieces, and several spans."""
    monkeypatch.setattr(merge_spec, "PIECE_ELEMENTS", 16)
    monkeypatch.setattr(engine, "CHUNK_BYTES", 128)
    monkeypatch.setattr(survey, "SPAN_ELEMENTS", 32)
    monkeypatch.setattr(survey, "SORTED_ELEMENTS", 20)


def flat(model: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in model.values()])


def facts_over(
    method: Method,
    delta: Model,
    called: str,
    *,
    weight: float = 1.0,
    key: bytes = b"",
    base: Mapping[str, Tensor] | None = None,
) -> dict[str, Facts]:
    """All that may be known of one contribution, by tensor, from all of it at once."""
    whole, depth = flat(delta), layers(delta)
    scales: Mapping[str, float] = {}
    if isinstance(method, Larv) and base is not None:
        contrasts = {
            name: rank_contrast(base[name].double(), tensor)
            for name, tensor in delta.items()
            if is_linear(name, tuple(tensor.shape))
        }
        scales = method.scales(contrasts, depth)
    found = {}
    for name, tensor in delta.items():
        answers = {Extent.TENSOR: cuts_of(method, tensor), Extent.MODEL: cuts_of(method, whole)}
        found[name] = Facts(
            contribution=called,
            weight=weight,
            norm=float(whole.norm()),
            sums=sums_of(tensor),
            cuts=tuple(answers[cut.extent][place] for place, cut in enumerate(method.cuts)),
            key=key,
            layer=depth[name],
            scale=scales.get(name, 1.0),
        )
    return found


def transformed(
    step: Transform, delta: Model, called: str, base: Mapping[str, Tensor], key: bytes = b""
) -> Model:
    """A transform of whole tensors."""
    facts = facts_over(step, delta, called, key=key, base=base)
    found = {}
    for name, tensor in delta.items():
        scope, seen = step.scope(name, tuple(tensor.shape)), tensor
        if scope is Scope.ROW:
            seen = tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(1, -1)
        if scope is Scope.ELEMENT:
            seen = tensor.reshape(-1)
        changed = step.apply(name, seen, facts[name]) if tensor.numel() else seen
        found[name] = changed.reshape(tensor.shape)
    return found


def combine(
    method: Method,
    deltas: Sequence[Model],
    weights: Sequence[float],
    base: Mapping[str, Tensor],
    names: Sequence[str] = NAMES,
) -> Model:
    """A method on whole tensors."""
    known = [
        facts_over(method, delta, called, weight=weight, key=KEYS[called], base=base)
        for delta, called, weight in zip(deltas, names, weights, strict=False)
    ]
    found = {}
    for name, origin in base.items():
        facts = in_proportion(method, [each[name] for each in known])
        block = Block(
            name=name,
            tensor_shape=tuple(origin.shape),
            shape=tuple(origin.shape),
            base=origin.double(),
        )
        mine = [delta[name] for delta in deltas]
        if not origin.numel():
            found[name] = origin.double()
        elif isinstance(method, Combination) and method.span is Extent.MODEL:
            rows = torch.stack([flat(delta) for delta in deltas])
            found[name] = merge_block(
                TaskArithmetic(scale=1.0), block, mine, combined(method, rows @ rows.T, facts)
            )
        else:
            found[name] = merge_block(method, block, mine, facts)
    if isinstance(method, Sequential) and method.keeps_mean_norm:
        norms = [abs(w) * float(flat(d).norm()) for d, w in zip(deltas, weights, strict=False)]
        factor = sum(norms) / len(norms) / float(flat(found).norm())
        found = {name: tensor * factor for name, tensor in found.items()}
    return found


def calibrated(
    step: Calibration, merged: Model, deltas: Sequence[Model], weights: Sequence[float]
) -> Model:
    """A calibration of whole tensors, by name, weights and all."""
    order = sorted(range(len(deltas)), key=lambda place: NAMES[place])
    facts = [Facts(contribution=NAMES[place], weight=weights[place]) for place in order]
    return {
        name: step.calibrate(name, tensor, [deltas[place][name] for place in order], facts)
        if tensor.numel()
        else tensor
        for name, tensor in merged.items()
    }


def added(base: Mapping[str, Tensor], merged: Model) -> Model:
    return {
        name: (origin.double() + merged[name]).to(origin.dtype) for name, origin in base.items()
    }


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape, name
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype))
