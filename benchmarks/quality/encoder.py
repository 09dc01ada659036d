"""A BERT encoder whose modules are named as the tensors of its checkpoint."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

TOKENS_A_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers of `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    @classmethod
    def read(cls, file: Path) -> "Shape":
        """What a `config.json` says."""
        found = json.loads(file.read_text())
        return cls(**{name: found[name] for name in cls.__dataclass_fields__})


class SelfAttention(nn.Module):
    """Query, key and value, all heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.num_attention_heads
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(texts, tokens, width) to the same; `mask` (texts, tokens) is true at tokens."""
        query, key, value = (
            part(hidden).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = mask[:, None, None]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return mixed.transpose(1, 2).flatten(2)


class Added(nn.Module):
    """A linear map, added to what was there before, normalised."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(width, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        """(..., width) and (..., hidden) to (..., hidden)."""
        found: Tensor = self.LayerNorm(self.dense(inner) + residual)
        return found


class Layer(nn.Module):
    """Attention and a net of two linear maps."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(shape), "output": Added(shape.hidden_size, shape)}
        )
        self.intermediate = nn.ModuleDict(
            {"dense": nn.Linear(shape.hidden_size, shape.intermediate_size)}
        )
        self.output = Added(shape.intermediate_size, shape)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(texts, tokens, width) to the same."""
        seen = self.attention["output"](self.attention["self"](hidden, mask), hidden)
        found: Tensor = self.output(functional.gelu(self.intermediate["dense"](seen)), seen)
        return found


class Encoder(nn.Module):
    """Embeddings and layers; the layers from `cut` on are those that are fine-tuned.

    Args:
        folder: holds `config.json` and `model.safetensors`.
        tuned: how many layers, from the top.
    """

    def __init__(self, folder: Path, tuned: int) -> None:
        super().__init__()
        shape = Shape.read(folder / "config.json")
        self.cut = shape.num_hidden_layers - tuned
        self.width = width = shape.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(shape.vocab_size, width),
                "position_embeddings": nn.Embedding(shape.max_position_embeddings, width),
                "token_type_embeddings": nn.Embedding(shape.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, eps=shape.layer_norm_eps),
            }
        )
        self._layers = [Layer(shape) for _ in range(shape.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(self._layers)})
        with safe_open(folder / "model.safetensors", "pt") as file:
            self.load_state_dict({name: file.get_tensor(name) for name in self.state_dict()})
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in self.tuned_names)

    @property
    def tuned_names(self) -> frozenset[str]:
        """Of the tensors that are fine-tuned."""
        layers = range(self.cut, len(self._layers))
        starts = tuple(f"encoder.layer.{index}." for index in layers)
        return frozenset(name for name in self.state_dict() if name.startswith(starts))

    def tuned(self) -> dict[str, Tensor]:
        """Copies of these tensors: what the merge is about."""
        return {name: self.state_dict()[name].clone() for name in sorted(self.tuned_names)}

    def lower(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token numbers (texts, tokens) to hidden states below the cut."""
        places = torch.arange(tokens.shape[1])
        parts = self.embeddings
        hidden: Tensor = parts["word_embeddings"](tokens) + parts["position_embeddings"](places)
        kind = parts["token_type_embeddings"](torch.zeros_like(tokens))
        hidden = parts["LayerNorm"](hidden + kind)
        for layer in self._layers[: self.cut]:
            hidden = layer(hidden, mask)
        return hidden

    def upper(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states at the cut to unit vectors (texts, width): the mean over tokens."""
        for layer in self._layers[self.cut :]:
            hidden = layer(hidden, mask)
        held = mask[:, :, None]
        return functional.normalize((hidden * held).sum(1) / held.sum(1), dim=1)


class States:
    """Texts as hidden states at the cut, computed once: below it nothing ever changes.

    Args:
        encoder: its lower part is used.
        tokens: of each text.
    """

    def __init__(self, encoder: Encoder, tokens: Sequence[Sequence[int]]) -> None:
        self._states: list[Tensor] = [torch.empty(0)] * len(tokens)
        with torch.inference_mode():
            for rows in batches([len(text) for text in tokens]):
                numbers, mask = _padded([torch.tensor(tokens[row]) for row in rows])
                hidden = encoder.lower(numbers, mask)
                for row, state in zip(rows, hidden, strict=True):
                    self._states[row] = state[: len(tokens[row])].clone()

    @property
    def lengths(self) -> list[int]:
        """In tokens."""
        return [len(state) for state in self._states]

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Hidden states (texts, tokens, width) and the mask (texts, tokens)."""
        return _padded([self._states[row] for row in rows])

    def pooled(self, encoder: Encoder) -> Tensor:
        """The upper part on all texts: (texts, width)."""
        parts = list(batches(self.lengths))
        with torch.inference_mode():
            found = torch.cat([encoder.upper(*self.batch(rows)) for rows in parts])
        order = torch.tensor([row for rows in parts for row in rows])
        return found.clone()[torch.argsort(order)]


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """All rows, those of like length together, so that hardly anything is padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[row] > TOKENS_A_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
