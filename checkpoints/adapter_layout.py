"""Which tensor of an adapter's file belongs to which tensor of the base; checked, not read."""

import math
import re
from dataclasses import dataclass
from typing import Final

from weft.checkpoints.adapter_config import CONFIG_NAME, AdapterConfig
from weft.checkpoints.errors import SchemaMismatch, UnsupportedFile, UnusableFile
from weft.checkpoints.schema import FLOATING, Schema, TensorSpec

PREFIX: Final = "base_model.model."
FACTOR: Final = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?")
WRAPPED: Final = re.compile(r"\.(base_layer|modules_to_save)(?=\.[^.]+$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The factors of one tensor, by their names in the file.

    Attributes:
        a, b: names; the product is B A.
        scale: what it is multiplied with.
        transposed: the tensor is the product's transpose.
    """

    a: str
    b: str
    scale: float
    transposed: bool


class Keys:
    """The tensors of an adapter's file, sorted by what they are for.

    Attributes:
        modules: for each tensor of the base that is changed: names of its factors,
            by "A" and "B", or "embedding_A" and "embedding_B".
        whole: for each tensor of the base that is replaced: its name in the file.
    """

    def __init__(self, schema: Schema, where: str) -> None:
        self.schema = schema
        self.where = where
        self.modules: dict[str, dict[str, str]] = {}
        self.whole: dict[str, str] = {}
        for key in schema.names:
            if not key.startswith(PREFIX):
                raise UnsupportedFile(
                    f"{where}: tensor {key[:80]!r} does not begin with {PREFIX!r}, as peft writes"
                )
            self._take(key, where)

    def _take(self, key: str, where: str) -> None:
        found = FACTOR.fullmatch(key.removeprefix(PREFIX))
        if found is not None and bool(found[2]) != bool(found[4]):
            half = f"{found[2] or ''}{found[3]}"
            self.modules.setdefault(f"{found[1]}.weight", {})[half] = key
        elif ".lora_" in key or "trainable_tokens" in key:
            raise UnsupportedFile(
                f"{where}: tensor {key[:80]!r} is no part of plain LoRA (DoRA, a bias, tokens); "
                "only lora_A and lora_B are read"
            )
        else:
            name = WRAPPED.sub("", key.removeprefix(PREFIX))
            if name in self.whole:
                raise UnusableFile(f"{where}: {name[:80]} is saved whole twice")
            self.whole[name] = key


def pair_of(name: str, keys: Keys, config: AdapterConfig, base: Schema) -> Pair:
    """The factors of one tensor, checked against the configuration and the base."""
    halves, where = keys.modules[name], keys.where
    if halves.keys() not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
        raise UnusableFile(
            f"{where}: {name} has lora_{min(halves)} and not the other half of the pair"
        )
    spec = _base_spec(name, base, where)
    module, embedding = name.removesuffix(".weight"), "embedding_A" in halves
    a, b = (keys.schema[halves[half]] for half in sorted(halves))
    rank = config.rank_of(module)
    if len(a.shape) < 2 or len(b.shape) < 2 or not a.shape[0] == b.shape[1] == rank:
        raise UnusableFile(
            f"{where}: {name} has factors of shapes {b.shape} and {a.shape}; rank {rank} expected "
            f"by {CONFIG_NAME}"
        )
    transposed = embedding or (config.transposed and len(spec.shape) == 2)
    rows, columns = b.shape[0], math.prod(a.shape[1:])
    made = (columns, rows) if transposed else (rows, *a.shape[1:])
    if made != spec.shape or math.prod(b.shape[2:]) != 1:
        raise SchemaMismatch(
            f"{where}: {name}: B of shape {b.shape} and A of shape {a.shape} make {made}, the base "
            f"has {spec.describe()}; the adapter belongs to another base"
        )
    if a.dtype not in FLOATING or b.dtype not in FLOATING:
        raise UnsupportedFile(f"{where}: {name} has factors of {a.dtype} and {b.dtype}")
    return Pair(a=a.name, b=b.name, scale=config.scale_of(module), transposed=transposed)


def saved_whole(keys: Keys, config: AdapterConfig, base: Schema) -> dict[str, str]:
    """The tensors that are replaced whole, checked against the base."""
    where = keys.where
    for name, key in keys.whole.items():
        spec, found = _base_spec(name, base, where), keys.schema[key]
        if found.shape != spec.shape or found.dtype not in FLOATING:
            raise SchemaMismatch(
                f"{where}: {name} is saved whole as {found.describe()}, the base has "
                f"{spec.describe()}; the adapter belongs to another base"
            )
    for module in config.saved:
        parts = f".{module}."
        if not any(parts in f".{name}" for name in keys.whole):
            raise UnusableFile(f"{where}: lacks {module[:80]!r}, which modules_to_save names")
    return keys.whole


def _base_spec(name: str, base: Schema, where: str) -> TensorSpec:
    if name not in base:
        raise SchemaMismatch(
            f"{where}: changes {name[:80]!r}, which the base does not have; the adapter belongs "
            "to another base"
        )
    if base[name].dtype not in FLOATING:
        raise SchemaMismatch(
            f"{where}: changes {name[:80]!r}, which is {base[name].describe()} in the base; a base "
            "with floating weights is expected, not a quantised one"
        )
    return base[name]
