"""Facts of task vectors that are at hand whole, as plainly as can be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.merging.method import Facts, Layer, Method, TensorSums


def facts_of(
    deltas: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    method: Method | None = None,
    layer: Layer | None = None,
) -> list[Facts]:
    """Facts of models that consist of one tensor; cuts where a method asks for them."""
    weights = [1.0] * len(deltas) if weights is None else weights
    return [
        Facts(
            contribution=f"node-{index}",
            weight=weight,
            norm=float(delta.double().norm()),
            sums=sums_of(delta),
            cuts=() if method is None else cuts_of(method, delta),
            key=f"content-{index}".encode(),
            layer=layer or Layer(index=1, count=4),
            scale=0.75,
        )
        for index, (delta, weight) in enumerate(zip(deltas, weights, strict=True))
    ]


def sums_of(delta: Tensor) -> TensorSums:
    flat = delta.flatten().double()
    return TensorSums(
        elements=flat.numel(),
        absolute=float(flat.abs().sum()),
        squares=float(flat.square().sum()),
    )


def cuts_of(method: Method, delta: Tensor) -> tuple[float, ...]:
    """Every cut over this one tensor."""
    magnitudes = delta.flatten().to(torch.float32).abs().sort().values
    found = []
    for cut in method.cuts:
        rank = cut.rank(len(magnitudes))
        if rank < 1:
            found.append(-torch.inf)
        else:
            found.append(float(magnitudes[rank - 1]) if rank <= len(magnitudes) else torch.inf)
    return tuple(found)
