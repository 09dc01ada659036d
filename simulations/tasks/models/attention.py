"""The block that both transformers are made of, without dropout.

Attention is written out in products and a softmax: the fused kernels of torch
have no rule for many nodes' weights at once.
"""

import math

import torch
from torch import Tensor, nn

from weft.simulations.errors import BadOption

MLP_RATIO = 4


def encoder(*, width: int, depth: int, heads: int, causal: bool) -> nn.Sequential:
    """Blocks and a last LayerNorm: (n, tokens, width) -> (n, tokens, width).

    Raises:
        BadOption: heads that do not divide the width.
    """
    if width % heads:
        raise BadOption(f"width = {width} with heads = {heads}; expected a multiple of the heads")
    blocks = [Block(width, heads, causal=causal) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.LayerNorm(width))


class Block(nn.Module):
    """Attention and a small net, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=causal)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        attended = tokens + self.attention(self.before_attention(tokens))
        return attended + self.mlp(self.before_mlp(attended))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Softmax attention of several heads; a causal one sees no token that comes later.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 1.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inputs = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        n, count, width = tokens.shape
        parts = self.inputs(tokens).reshape(n, count, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(width // self.heads)
        if self.causal:
            later = torch.ones(count, count, dtype=torch.bool, device=tokens.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        seen = scores.softmax(dim=-1) @ values
        return self.outputs(seen.transpose(1, 2).reshape(n, count, width))  # type: ignore[no-any-return]
