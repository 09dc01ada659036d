"""Layers cut out of models and put one on the other: names and configuration, no bytes.

A layer is what shares the first component of a tensor's dotted name that is a number:
`model.layers.12.mlp.up_proj.weight` is of layer 12 of the stack `model.layers`. What
has no number stands before the layers (embeddings) or after them (norm, head).

    >>> split_layer("model.layers.12.mlp.weight")
    LayerName(stack='model.layers', index=12, rest='mlp.weight')
    >>> stands_before("model.embed_tokens.weight"), stands_before("lm_head.weight")
    (True, False)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from weft.checkpoints.errors import MalformedFile, SchemaMismatch

LAYER_COUNTS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Keys of a config.json that say how many layers a model has; the first that is there."""

TEXT_CONFIG: Final = "text_config"
"""Where models of several parts keep the keys of their text model."""

_BEFORE: Final = frozenset({"wte", "wpe", "shared", "ln_pre", "layernorm_pre", "relative_pe"})
_HEADS: Final = frozenset({"embed_out", "unembed"})


@dataclass(frozen=True, slots=True)
class LayerName:
    """A tensor's name, cut at its layer."""

    stack: str
    index: int
    rest: str

    def at(self, index: int) -> str:
        """The name of the same tensor in another layer."""
        return ".".join(part for part in (self.stack, str(index), self.rest) if part)


@dataclass(frozen=True, slots=True)
class LayerRange:
    """Layers `first` to `stop`, the latter left out, of a model with that configuration."""

    config: Mapping[str, object]
    first: int
    stop: int


def split_layer(name: str) -> LayerName | None:
    """The name cut at its layer; None for a tensor outside all layers."""
    parts = name.split(".")
    for depth, part in enumerate(parts):
        if part.isascii() and part.isdigit():
            return LayerName(".".join(parts[:depth]), int(part), ".".join(parts[depth + 1 :]))
    return None


def stands_before(name: str) -> bool:
    """Whether a tensor outside all layers stands before them: embeddings, not norm or head."""
    parts = name.split(".")
    if any(part in _HEADS for part in parts):
        return False
    return any("emb" in part or part in _BEFORE for part in parts)


def only_stack(names: Iterable[str], where: str) -> str:
    """The name of a model's one stack of layers.

    Raises:
        SchemaMismatch: there is none, or more than one.
    """
    stacks = sorted({found.stack for found in map(split_layer, names) if found})
    if len(stacks) != 1:
        found = " and ".join(map(repr, stacks[:3])) or "none"
        raise SchemaMismatch(f"{where}: stacks of layers: found {found}, expected exactly one")
    return stacks[0]


def stacked_config(
    config: Mapping[str, object], parts: Sequence[LayerRange], where: str = "config.json"
) -> dict[str, object]:
    """A model's configuration with the layers of a stack: their number, and lists of layers.

    A list is one of layers if its key says so (`layer_types`) and it has an entry a
    layer; each part brings the entries of its own configuration. Nothing is modified.

    Args:
        config: what the stacked model's configuration starts from.
        parts: the ranges in their order.
        where: what was read, for messages.

    Raises:
        MalformedFile: no key says how many layers there are, or a part's configuration
            lacks a list that `config` has.
    """
    count = next((key for key in LAYER_COUNTS if isinstance(config.get(key), int)), None)
    if count is not None:
        lists = {key: _stacked(key, parts, where) for key in _layer_lists(config, count)}
        return {**config, count: sum(part.stop - part.first for part in parts), **lists}
    inner = config.get(TEXT_CONFIG)
    if not isinstance(inner, Mapping):
        raise MalformedFile(
            f"{where}: no key says how many layers there are; expected {' or '.join(LAYER_COUNTS)}"
        )
    texts = [LayerRange(_text_config(part.config), part.first, part.stop) for part in parts]
    return {**config, TEXT_CONFIG: stacked_config(inner, texts, f"{where}: {TEXT_CONFIG}")}


def _text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    found = config.get(TEXT_CONFIG)
    return found if isinstance(found, Mapping) else {}


def _layer_lists(config: Mapping[str, object], count: str) -> list[str]:
    return [
        key
        for key, value in config.items()
        if isinstance(value, list) and "layer" in key and len(value) == config[count]
    ]


def _stacked(key: str, parts: Sequence[LayerRange], where: str) -> list[object]:
    entries: list[object] = []
    for part in parts:
        found = part.config.get(key)
        if not isinstance(found, list) or len(found) < part.stop:
            raise MalformedFile(
                f"{where}: {key} has an entry a layer, and the configuration that layers "
                f"{part.first} to {part.stop} come from has not"
            )
        entries += found[part.first : part.stop]
    return entries
