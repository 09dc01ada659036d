"""Low-rank task vectors written as a PEFT adapter, for `PeftModel.from_pretrained`.

What is no product of factors, such as a norm's vector or a table of embeddings, can stand
in it whole, by modules: PEFT's `modules_to_save`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor

from weft.checkpoints.adapter_config import CONFIG_NAME, HARMLESS
from weft.checkpoints.adapter_layout import PREFIX
from weft.checkpoints.adapters import TENSORS_NAME
from weft.checkpoints.disk import write_bytes
from weft.checkpoints.dtypes import schema_of
from weft.checkpoints.errors import BadTensor
from weft.checkpoints.header import Json
from weft.checkpoints.new_folder import new_folder
from weft.checkpoints.schema import Schema
from weft.checkpoints.writer import SafetensorsWriter

__all__ = ["Whole", "write_adapter"]

DERIVED: Final = frozenset({"peft_type", "target_modules", "modules_to_save"})


class Whole(Protocol):
    """Tensors that an adapter holds whole, by the base's names; any reader will do."""

    @property
    def schema(self) -> Schema:
        """The tensors."""
        ...

    def blocks(self, name: str) -> Iterator[Tensor]:
        """One tensor as flat blocks."""
        ...


def write_adapter(
    folder: Path,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    config: Mapping[str, Json] | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    embeddings: Collection[str] = (),
    transposed: bool = False,
    whole: Whole | None = None,
    accept: Callable[[], None] | None = None,
) -> None:
    """Write an adapter whose every module adds B A, with scale 1, to the base.

    Args:
        folder: appears whole; nothing may be there yet.
        factors: B, A by the names of modules, the base's names without ".weight".
            B is (out, rank), A (rank, in); for a convolution (out, rank, 1, 1) and
            (rank, in, height, width). Ranks may differ.
        config: further fields of `adapter_config.json` that do not change the weights,
            such as `base_model_name_or_path` and `task_type`.
        dtype: of the factors on disk.
        embeddings: modules that are embeddings: B is (tokens, rank), A (rank, width).
        transposed: the base's matrices are (in, out), as those of GPT-2 are: so B is
            (in, rank) and A (rank, out).
        whole: tensors that replace the base's: all of some modules that have no factors.
        accept: called when all is written; what it raises keeps the folder from appearing.

    Raises:
        BadTensor: factors that do not fit each other or are not finite in that dtype, or
            a field that would change what the adapter adds.
        BadPath: something is there already, or it cannot be written.
        DiskFull: no room.
    """
    ranks = {module: _rank(module, *pair) for module, pair in factors.items()}
    saved = _saved(whole, factors)
    document = _document(ranks, dict(config or {}))
    document |= {"fan_in_fan_out": transposed, "modules_to_save": saved or None}
    tensors: dict[str, Tensor] = {}
    for module, (b, a) in factors.items():
        cast = [_cast(module, factor, dtype) for factor in (b, a)]
        if transposed and b.dim() == 2 and module not in embeddings:
            cast = [cast[1].T.contiguous(), cast[0].T.contiguous()]
        tensors |= _tensors(module, cast[0], cast[1], embedding=module in embeddings)
    with new_folder(folder) as made:
        _write(made / TENSORS_NAME, tensors, whole)
        text = json.dumps(document, indent=2, sort_keys=True)
        write_bytes(made / CONFIG_NAME, f"{text}\n".encode())
        if accept is not None:
            accept()


def _saved(whole: Whole | None, factors: Collection[str]) -> list[Json]:
    """The modules of tensors that are held whole."""
    modules: set[str] = set()
    for name in () if whole is None else whole.schema.names:
        module, dot, _ = name.rpartition(".")
        if not dot or module in factors:
            fault = "has factors as well" if dot else "there is none"
            raise BadTensor(f"tensor {name}: is saved whole by its module, and {fault}")
        modules.add(module)
    return [*sorted(modules)]


def _write(path: Path, tensors: Mapping[str, Tensor], whole: Whole | None) -> None:
    specs = () if whole is None else whole.schema.tensors
    names = {f"{PREFIX}{spec.name}": spec.name for spec in specs}
    added = tuple(replace(spec, name=f"{PREFIX}{spec.name}") for spec in specs)
    with SafetensorsWriter(path, Schema((*schema_of(tensors), *added))) as writer:
        for name in writer.schema.names:
            if name in tensors:
                writer.write(name, tensors[name])
            elif whole is not None:
                writer.write(name, whole.blocks(names[name]))


def _rank(module: str, b: Tensor, a: Tensor) -> int:
    if b.dim() < 2 or a.dim() < 2 or b.shape[1] != a.shape[0] or not a.shape[0]:
        raise BadTensor(
            f"module {module}: B of shape {tuple(b.shape)} and A of shape {tuple(a.shape)}; "
            "(out, rank) and (rank, in) expected, rank at least 1"
        )
    return a.shape[0]


def _cast(module: str, factor: Tensor, dtype: torch.dtype) -> Tensor:
    found = factor.detach().cpu().to(dtype)
    if not bool(found.to(torch.float32).isfinite().all()):
        raise BadTensor(f"module {module}: a factor is not finite as {dtype}; choose a wider dtype")
    return found.contiguous()


def _tensors(module: str, b: Tensor, a: Tensor, *, embedding: bool) -> dict[str, Tensor]:
    if embedding:
        return {
            f"{PREFIX}{module}.lora_embedding_A": b.T.contiguous(),
            f"{PREFIX}{module}.lora_embedding_B": a.T.contiguous(),
        }
    return {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}


def _document(ranks: Mapping[str, int], config: dict[str, Json]) -> dict[str, Json]:
    """The configuration: the most frequent rank for all, patterns for the others."""
    foreign = sorted(config.keys() - (HARMLESS - DERIVED))
    if foreign:
        raise BadTensor(f"{CONFIG_NAME}: {foreign[0]!r} follows from the factors; leave it out")
    counts = Counter(ranks.values())
    usual = max(counts, key=lambda rank: (counts[rank], rank), default=1)
    others: dict[str, Json] = {
        f"^{re.escape(module)}": rank for module, rank in sorted(ranks.items()) if rank != usual
    }
    modules: list[Json] = [*sorted(ranks)]
    return {
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
        **config,
        "alpha_pattern": others,
        "lora_alpha": usual,
        "peft_type": "LORA",
        "r": usual,
        "rank_pattern": others,
        "target_modules": modules,
    }
