"""A small causal transformer, which says what token comes next."""

import torch
from torch import Tensor, nn

from weft.simulations.errors import BadModel, BadOption
from weft.simulations.tasks.models.attention import encoder

EMBEDDING_SCALE = 0.02


def transformer(
    shape: tuple[int, ...], classes: int, *, depth: int = 2, width: int = 64, heads: int = 4
) -> nn.Module:
    """A causal transformer over a text's tokens, with LayerNorm and without dropout.

    Args:
        shape: (context,): the most tokens that it sees.
        classes: tokens that there are.
        depth: blocks.
        width: of a token.
        heads: of an attention; they divide the width.

    Raises:
        BadOption: examples that are no rows of tokens.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask
        Learners", section 2.3 (LayerNorm before each part and at the end);
        the last layer has weights of its own.
    """
    if len(shape) != 1:
        raise BadOption(
            f"model 'transformer' wants rows of tokens; these examples have shape {shape}; "
            "try 'vit_tiny'"
        )
    return Transformer(shape[0], classes, depth=depth, width=width, heads=heads)


class Transformer(nn.Module):
    """Token and position embeddings, causal blocks, a linear layer over the vocabulary."""

    def __init__(
        self, context: int, vocabulary: int, *, depth: int, width: int, heads: int
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=EMBEDDING_SCALE)
        self.positions = nn.Parameter(EMBEDDING_SCALE * torch.randn(context, width))
        self.encoder = encoder(width=width, depth=depth, heads=heads, causal=True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t) int64 with t up to the context -> (n, t, vocabulary): of the token after each.

        Raises:
            BadModel: numbers that are no tokens.
        """
        if tokens.is_floating_point():
            raise BadModel(
                f"model 'transformer': found inputs of {tokens.dtype}, expected tokens (int64); "
                "train it with weft.simulations.tasks.text:LanguageTrainer"
            )
        embedded = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        return self.head(self.encoder(embedded))  # type: ignore[no-any-return]
