"""Running statistics of BatchNorm layers, measured on calibration data.

After a merge the running means and variances of the parents mean nothing: they
are measured again, by a pass in which every BatchNorm layer normalises with the
statistics of its batch (Jordan et al. 2022, "REPAIR", reset of BatchNorm
statistics). We pool exactly, in float64: each sample counts once. That departs
from `momentum=None`, which averages the batches' variances and so drops what
lies between batches, and gives a short last batch the weight of a full one.

Only BatchNorm layers are switched; dropout and the like stay as in evaluation.
The moments are what `weft.merging.statistics.moments` folds over many nodes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from weft.node.errors import BadBatch, NotFinite
from weft.node.trainer import Batch


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and biased variance of what a layer saw, a value a channel.

    float64, (channels,) each, on the CPU; the count is the same for all channels.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def pooled_with(self, other: "Moments") -> "Moments":
        """The moments of both together.

        Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise
            algorithm for computing sample variances", equation 2.1.
        """
        count = self.count + other.count
        delta = other.mean - self.mean
        between = delta.square() * self.count * other.count / count
        squares = self.var * self.count + other.var * other.count + between
        return Moments(count, self.mean + delta * other.count / count, squares / count)

    def unbiased(self) -> Tensor:
        """The variance as torch keeps it in `running_var`: N / (N - 1) times the biased."""
        return self.var * self.count / (self.count - 1).clamp(min=1)


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name; shared ones once."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, BatchNorm) and layer.running_mean is not None
    }


def pooled_moments(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Moments]:
    """What each BatchNorm layer sees over all batches; the model stays as it was.

    Args:
        model: in any mode; left in evaluation mode.
        batches: moved to the device of the model's first parameter.

    Returns:
        By layer name; a layer that the model never calls is left out.

    Raises:
        BadBatch: no batch at all, or one that a model cannot be called with.
        NotFinite: a layer saw a NaN or an infinity; names it.
    """
    layers = batch_norms(model)
    seen: dict[str, Moments] = {}
    device = _device_of(model)
    count = 0
    with torch.no_grad(), _watched(model, layers, seen):
        for batch in batches:
            call(model, batch, device)
            count += 1
    if count == 0:
        raise BadBatch("calibration() gave no batch; give at least one, or leave the method out")
    for name, moments in seen.items():
        if not bool(torch.isfinite(moments.mean).all() and torch.isfinite(moments.var).all()):
            raise NotFinite(f"calibration: layer {name or 'model'} saw NaN or infinity")
    return seen


def set_running_statistics(model: nn.Module, moments: Mapping[str, Moments]) -> None:
    """Write moments into the layers, rounded once; `num_batches_tracked` stays."""
    layers = batch_norms(model)
    for name, found in moments.items():
        with torch.no_grad():
            layers[name].get_buffer("running_mean").copy_(found.mean)
            layers[name].get_buffer("running_var").copy_(found.unbiased())


def moment_tensors(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """As tensors for a file: `LAYER.count`, `LAYER.mean`, `LAYER.var`, float64."""
    tensors: dict[str, Tensor] = {}
    for name, found in moments.items():
        prefix = f"{name}." if name else ""
        tensors[f"{prefix}count"] = found.count
        tensors[f"{prefix}mean"] = found.mean
        tensors[f"{prefix}var"] = found.var
    return tensors


def call(model: nn.Module, batch: Batch, device: torch.device) -> None:
    """Call a model with a batch of any of the three forms."""
    inputs, keywords = arguments_of(batch, device)
    model(*inputs, **keywords)


def arguments_of(
    batch: Batch, device: torch.device
) -> tuple[tuple[Tensor, ...], Mapping[str, Tensor]]:
    """What a model is called with for a batch: by place and by name, on a device.

    Raises:
        BadBatch: none of the three forms.
    """
    if isinstance(batch, Mapping):
        return (), {name: tensor.to(device) for name, tensor in batch.items()}
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(inputs, Tensor):
        raise BadBatch(
            f"calibration() gave a batch of {type(inputs).__name__}; expected a tensor, "
            "a tuple or list that begins with one, or a mapping of keyword arguments"
        )
    return (inputs.to(device),), {}


@contextmanager
def _watched(
    model: nn.Module, layers: Mapping[str, BatchNorm], seen: dict[str, Moments]
) -> Iterator[None]:
    """Let the layers use batch statistics, keep theirs, and note what they are given."""

    def note(name: str, values: Tensor) -> None:
        moments = _moments_of(values)
        seen[name] = seen[name].pooled_with(moments) if name in seen else moments

    model.eval()
    with ExitStack() as undo:
        undo.callback(model.eval)
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(
                lambda _, inputs, name=name: note(name, inputs[0])
            )
            undo.callback(hook.remove)
            undo.callback(setattr, layer, "track_running_stats", layer.track_running_stats)
            # In training mode without tracking, torch normalises with the batch
            # and touches neither the running statistics nor the counter.
            layer.training, layer.track_running_stats = True, False
        yield


def _moments_of(values: Tensor) -> Moments:
    channels = values.detach().transpose(0, 1).reshape(values.shape[1], -1).double()
    count = torch.full((channels.shape[0],), channels.shape[1], dtype=torch.float64)
    # In two passes: torch.var_mean runs one number after the other, eight times slower.
    mean = channels.mean(dim=1)
    var = (channels - mean[:, None]).square_().mean(dim=1)
    return Moments(count, mean.cpu(), var.cpu())


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
