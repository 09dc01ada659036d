"""The running statistics of the globally merged model: one for all nodes.

Every node measures the merged model on its own calibration data; the moments of
the committed set are folded exactly, so that all nodes end with one digest. A
node without calibration data contributes the statistics that its own training
left, as the moments of a single value a channel. Counters are never averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weft.checkpoints.artifacts import open_model
from weft.checkpoints.reader import TensorReader, open_checkpoint
from weft.checkpoints.store import Store
from weft.checkpoints.writer import SafetensorsWriter, write_checkpoint
from weft.merging.statistics.moments import Moments, MomentSum
from weft.protocol.run import Digest

MEASURED = "measured"
"""Metadata of a moments artifact: "true" where calibration data gave them."""

_MEAN, _VARIANCE = "running_mean", "running_var"


def has_statistics(model: Path) -> bool:
    """Whether a checkpoint holds running statistics."""
    with open_checkpoint(model) as reader:
        return bool(reader.schema.statistics)


def local_moments(model: Path, out: Path) -> None:
    """Write a checkpoint's own running statistics as moments of one value a channel."""
    tensors: dict[str, Tensor] = {}
    with open_checkpoint(model) as reader:
        for layer in _layers(reader):
            tensors[_named(layer, "mean")] = reader.read(_named(layer, _MEAN)).double()
            tensors[_named(layer, "var")] = reader.read(_named(layer, _VARIANCE)).double()
            tensors[_named(layer, "count")] = torch.ones_like(tensors[_named(layer, "mean")])
    write_checkpoint(out, tensors, {})


@dataclass(frozen=True, slots=True)
class Pooled:
    """The moments of several nodes, by layer.

    `measured` is False where nobody had calibration data: they are running
    statistics then, whose variances are unbiased already.
    """

    moments: Mapping[str, Moments]
    measured: bool


def fold_moments(store: Store, contributions: Sequence[tuple[str, Digest]]) -> Pooled:
    """The moments of all contributions together; in any order the same bytes.

    Of those that measured the merged model, where any did.

    Args:
        store: holds the artifacts.
        contributions: (node, digest of its moments).
    """
    measured = [
        pair for pair in contributions if store.manifest(pair[1]).metadata[MEASURED] == "true"
    ]
    sums: dict[str, MomentSum] = {}
    for node, digest in measured or contributions:
        with open_model(store, digest) as reader:
            tensors = {name: reader.read(name) for name in reader.schema.names}
        for name in tensors:
            if not name.endswith("count"):
                continue
            layer = name.removesuffix("count").removesuffix(".")
            found = Moments(
                count=tensors[name],
                mean=tensors[_named(layer, "mean")],
                var=tensors[_named(layer, "var")],
            )
            sums.setdefault(layer, MomentSum(layer, found.count.numel())).add(found, node)
    moments = {layer: folded.finish() for layer, folded in sums.items()}
    return Pooled(moments, measured=bool(measured))


def write_with_statistics(model: Path, pooled: Pooled, out: Path) -> None:
    """Copy a checkpoint, its running statistics replaced; rounded once to its dtype."""
    replaced: dict[str, Tensor] = {}
    for layer, found in pooled.moments.items():
        replaced[_named(layer, _MEAN)] = found.mean
        variance = found.unbiased_var if pooled.measured else found.var
        replaced[_named(layer, _VARIANCE)] = variance
    with open_checkpoint(model) as reader, SafetensorsWriter(out, reader.schema, {}) as sink:
        for spec in reader.schema.tensors:
            if spec.name in replaced:
                sink.write(spec.name, replaced[spec.name].to(reader.read(spec.name).dtype))
            else:
                sink.write(spec.name, reader.blocks(spec.name))


def _layers(reader: TensorReader) -> list[str]:
    names = [spec.name for spec in reader.schema.statistics if spec.name.endswith(_MEAN)]
    return [name.removesuffix(_MEAN).removesuffix(".") for name in names]


def _named(layer: str, what: str) -> str:
    return f"{layer}.{what}" if layer else what
