"""BatchNorm layers of many nodes at once.

Under `torch.func.vmap` a layer cannot write its running statistics: a write into a
reshaped view would be lost, and one inside a gradient is refused. So layers normalise with
their batch and write nothing, what they saw is handed out, and the rows are brought
forward here, each node's by what its own batch held.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from weft.node.calibration import Moments, batch_norms
from weft.simulations.errors import BadModel, Diverged

Seen = dict[str, list[tuple[Tensor, Tensor]]]
"""By layer, mean and variance of each call's input, (channels,) or (nodes, channels) each."""


@dataclass(slots=True)
class Watch:
    """What layers saw since it was last taken.

    Attributes:
        counts: by layer, of how many values a channel each call's mean was taken; kept until
            the layer is called again.
    """

    counts: dict[str, list[int]] = field(default_factory=dict)
    _seen: Seen = field(default_factory=dict)

    def note(self, name: str, values: Tensor, *, correction: int, dtype: torch.dtype) -> None:
        """Mean and variance of a layer's input (n, channels, ...), over all but the channels."""
        over = [dim for dim in range(values.dim()) if dim != 1]
        var, mean = torch.var_mean(values.detach().to(dtype), dim=over, correction=correction)
        if name not in self._seen:
            self._seen[name], self.counts[name] = [], []
        self._seen[name].append((mean, var))
        self.counts[name].append(values.numel() // values.shape[1])

    def taken(self) -> Seen:
        """What was noted; and forget it, since it must not outlive the call it was seen in."""
        taken, self._seen = self._seen, {}
        return taken


def check_norms(model: nn.Module) -> None:
    """Refuse a layer whose running statistics depend on how often it was called.

    Raises:
        BadModel: names the layer.
    """
    for name, layer in batch_norms(model).items():
        if layer.momentum is None:
            raise BadModel(
                f"layer {name}: BatchNorm without a momentum counts its batches, and nodes that "
                "share a counter cannot; give it one, such as 0.1"
            )


@contextmanager
def watching(model: nn.Module, *, correction: int, dtype: torch.dtype) -> Iterator[Watch]:
    """Let BatchNorm layers normalise with their batch, write nothing, and be watched.

    Args:
        model: in any mode; other layers keep theirs, and these get theirs back.
        correction: 1 for the variance that torch keeps in `running_var`, 0 for the biased one.
        dtype: of the moments.
    """
    watch = Watch()
    with ExitStack() as undo:
        for name, layer in batch_norms(model).items():
            hook = layer.register_forward_pre_hook(
                lambda _, inputs, name=name: watch.note(
                    name, inputs[0], correction=correction, dtype=dtype
                )
            )
            undo.callback(hook.remove)
            for attribute in ("training", "track_running_stats"):
                undo.callback(setattr, layer, attribute, getattr(layer, attribute))
            layer.training, layer.track_running_stats = True, False
        yield watch


def follow(model: nn.Module, statistics: Mapping[str, Tensor], seen: Seen) -> None:
    """Bring running statistics forward by one step, as each layer would in training.

    Args:
        model: whose layers have the momenta.
        statistics: (nodes, channels) by name, changed in place.
        seen: (nodes, channels) moments, variances unbiased.
    """
    for name, layer in batch_norms(model).items():
        for mean, var in seen.get(name, []):
            for kept, value in (("running_mean", mean), ("running_var", var)):
                momentum = layer.momentum or 0.0
                statistics[of_layer(name, kept)].mul_(1 - momentum).add_(value, alpha=momentum)


def of_layer(layer: str, name: str) -> str:
    """The full name of a layer's buffer; the model itself may be the layer."""
    return f"{layer}.{name}" if layer else name


class PooledMoments:
    """Moments of each node's layers over batches that come in any order of the nodes."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._kept: dict[str, Moments] = {}

    def add(self, places: Sequence[int], seen: Seen, counts: Mapping[str, Sequence[int]]) -> None:
        """Pool one batch of each of some nodes; moments (len(places), channels), biased."""
        rows = torch.tensor(places)
        for name, calls in seen.items():
            for (mean, var), values in zip(calls, counts[name], strict=True):
                count = torch.full(mean.shape, float(values), dtype=torch.float64)
                self._pool(name, rows, Moments(count, mean.double().cpu(), var.double().cpu()))

    def write(self, statistics: Mapping[str, Tensor], nodes: range) -> None:
        """Write them over the running statistics, rounded once.

        Raises:
            Diverged: a layer saw a value that is not finite; names node and layer.
        """
        for name, kept in self._kept.items():
            finite = (torch.isfinite(kept.mean) & torch.isfinite(kept.var)).all(dim=1)
            if not finite.all():
                node = nodes[int(finite.int().argmin())]
                raise Diverged(
                    f"node {node}: layer {name} saw NaN or infinity while its running statistics "
                    "were measured; take a lower lr"
                )
            statistics[of_layer(name, "running_mean")].copy_(kept.mean)
            statistics[of_layer(name, "running_var")].copy_(kept.unbiased())

    def _pool(self, name: str, rows: Tensor, found: Moments) -> None:
        if name not in self._kept:
            zeros = torch.zeros(self._nodes, found.mean.shape[1], dtype=torch.float64)
            self._kept[name] = Moments(zeros, zeros.clone(), zeros.clone())
        kept = self._kept[name]
        pooled = Moments(kept.count[rows], kept.mean[rows], kept.var[rows]).pooled_with(found)
        kept.count[rows], kept.mean[rows], kept.var[rows] = pooled.count, pooled.mean, pooled.var
