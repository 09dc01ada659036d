"""Ways to make one network of two that started apart."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from weft.merging.alignment.activations import matched
from weft.merging.alignment.groups import Groups, groups_of
from weft.merging.alignment.least_squares import refined
from weft.merging.alignment.observation import Seen, observed
from weft.merging.alignment.orientation import Oriented, oriented_of
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.pleas import partial_by, reshaped, widenable
from weft.merging.alignment.scales import (
    Scalable,
    scalables_of,
    scales_by_activations,
    scales_by_weights,
)
from weft.merging.alignment.tracing import Traced, trace
from weft.merging.alignment.transport import transport_activations, transport_weights
from weft.merging.alignment.weights import match_weights
from weft.node.calibration import batch_norms, pooled_moments, set_running_statistics

BATCH = 100
Tensors: TypeAlias = dict[str, Tensor]
Merge: TypeAlias = Callable[[], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Two networks, and all that their merges share."""

    model: nn.Module
    tensors: tuple[Tensors, Tensors]
    batches: list[tuple[Tensor]]
    traced: Traced
    groups: Groups
    scalables: list[Scalable]
    oriented: list[Oriented]
    widened: list[Oriented]
    seen: Seen
    by_weights: Permutation
    by_activations: Permutation

    @classmethod
    def of(cls, models: tuple[nn.Module, nn.Module], inputs: Tensor) -> "Bench":
        """Trace, observe and match once for all rows."""
        batches = [(part,) for part in torch.split(inputs, BATCH) if len(part) == BATCH]
        traced = trace(models[0], batches[0], {})
        groups = groups_of(traced)
        oriented = oriented_of(traced, groups)
        mine, theirs = (tensors_of(model) for model in models)
        seen = observed(traced, groups, mine, [theirs], batches)[0]
        parameters = [{name: t.detach() for name, t in m.named_parameters()} for m in models]
        return cls(
            model=models[0],
            tensors=(mine, theirs),
            batches=batches,
            traced=traced,
            groups=groups,
            scalables=scalables_of(traced, groups),
            oriented=oriented,
            widened=widenable(models[0], groups, oriented, (inputs[:2],), {}),
            seen=seen,
            by_weights=match_weights(groups, parameters[0], parameters[1]),
            by_activations=matched(groups, seen, mine, theirs),
        )

    def rows(self) -> Iterator[tuple[str, Merge]]:
        """Names of ways to merge, and the ways."""
        yield "plain average", lambda: self.mean(self.tensors[1])
        yield "weight matching", lambda: self.mean(self.ordered(self.by_weights))
        yield "  + scales by weights", lambda: self.mean(self.scaled_by_weights(self.by_weights))
        yield "activation matching", lambda: self.mean(self.ordered(self.by_activations))
        yield (
            "  + scales by weights",
            lambda: self.mean(self.scaled_by_weights(self.by_activations)),
        )
        yield "  + scales by activations", lambda: self.mean(self.scaled_by_activations())
        for entropy in (0.02, 0.05, 0.2):
            yield (
                f"OT by activations, {entropy}",
                lambda entropy=entropy: self.mean(  # type: ignore[misc]
                    self.transported(entropy)
                ),
            )
        yield "OT by weights, 0.05", lambda: self.mean(self.transported_by_weights(0.05))
        for width in (1.0, 1.2, 2.0):
            yield f"PLeaS {width:g}x", lambda width=width: self.partly(width, fit=True)  # type: ignore[misc]
        yield "PLeaS 1.2x without least squares", lambda: self.partly(1.2, fit=False)

    def mean(self, other: Tensors) -> nn.Module:
        """The anchor and another model, half and half."""
        mine = self.tensors[0]
        return reshaped(
            self.model,
            {
                name: (tensor + other[name]) / 2 if tensor.is_floating_point() else tensor
                for name, tensor in mine.items()
            },
        ).eval()

    def ordered(self, permutation: Permutation) -> Tensors:
        """The other model in another order of units."""
        return permutation.applied(self.tensors[1])

    def scaled_by_weights(self, permutation: Permutation) -> Tensors:
        """In another order and at the anchor's scale, without data."""
        other = self.ordered(permutation)
        return scales_by_weights(self.groups, self.scalables, self.tensors[0], other).applied(other)

    def scaled_by_activations(self) -> Tensors:
        """In another order and at the anchor's scale, by what units do."""
        permutation = self.by_activations
        scales = scales_by_activations(self.groups, self.scalables, self.seen, permutation)
        return scales.applied(self.ordered(permutation))

    def transported(self, entropy: float) -> Tensors:
        """The other model's units mixed."""
        return transport_activations(
            self.oriented, self.by_activations, self.seen, entropy
        ).applied(self.tensors[1])

    def transported_by_weights(self, entropy: float) -> Tensors:
        """The other model's units mixed, without data."""
        return transport_weights(self.oriented, self.by_weights, self.tensors, entropy).applied(
            self.tensors[1]
        )

    def partly(self, width: float, *, fit: bool) -> nn.Module:
        """A wider network of both."""
        permutation = self.by_activations
        partial = partial_by(self.seen, permutation, self.widened, width=width)
        models = self.tensors[0], self.ordered(permutation)
        if fit:
            return reshaped(self.model, refined(self.traced, partial, models, self.batches)).eval()
        return reshaped(self.model, partial.applied(*models)).eval()


def re_estimated(model: nn.Module, batches: list[tuple[Tensor]]) -> nn.Module | None:
    """With running statistics of its own; None: it has none."""
    if not batch_norms(model):
        return None
    result = deepcopy(model)
    set_running_statistics(result, pooled_moments(result, batches))
    return result.eval()


def tensors_of(model: nn.Module) -> Tensors:
    """Parameters and buffers by name, tied ones once."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named}
