"""The file `adapter_config.json` of a PEFT adapter: what LoRA makes of it, or why not.

Pure. What changes the arithmetic and is not carried out here (DoRA, biases, other kinds
of adapters, initialisations that change the base as well) is refused by its name: an
adapter that is applied wrongly looks like one that was trained badly.

Format: peft 0.4 to 0.21, `peft/tuners/lora/config.py`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from weft.checkpoints.errors import UnsupportedFile, UnusableFile
from weft.checkpoints.header import Json, parse_strict

CONFIG_NAME: Final = "adapter_config.json"
MAX_CONFIG_BYTES: Final = 2**20
MAX_RANK: Final = 2**16
MAX_PATTERN: Final = 1024
MAX_REPEATS: Final = 3

HARMLESS: Final = frozenset(
    {"auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config"}
    | {"exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform"}
    | {"lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version"}
    | {"qalora_group_size", "revision", "runtime_config", "target_modules", "task_type"}
)
"""Fields that do not change what an adapter adds to the weights, whatever they hold."""

READ: Final = frozenset(
    {"alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "r"}
    | {"rank_pattern", "use_rslora"}
)
KEEPS_THE_BASE: Final = frozenset({"gaussian", "eva", "orthogonal"})
"""Initialisations by name that leave the base as it was."""

PATTERN: Final = re.compile(r"[\w.\-^$\\|()\[\]*+?]+")
AFTER_GROUP: Final = re.compile(r"(?<!\\)[)\]][*+?{]")
REPEAT: Final = re.compile(r"(?<!\\)[*+?]")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What of the configuration decides the weights.

    Attributes:
        rank, alpha: of every module that no pattern names.
        rank_stabilised: the scale is alpha / sqrt(rank) instead of alpha / rank.
        rank_pattern, alpha_pattern: regular expressions for the end of a module's name,
            and what holds there; the first that matches counts.
        transposed: the base's matrices are (in, out), as those of GPT-2 are.
        saved: last parts of the names of modules that are replaced whole.
    """

    rank: int
    alpha: float
    rank_stabilised: bool = False
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    transposed: bool = False
    saved: tuple[str, ...] = ()

    def rank_of(self, module: str) -> int:
        """The rank of a module."""
        return next((self.rank_pattern[k] for k in _matching(self.rank_pattern, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product B A of a module is multiplied with."""
        alphas = (self.alpha_pattern[key] for key in _matching(self.alpha_pattern, module))
        alpha, rank = next(alphas, self.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def parse_config(data: bytes, where: str) -> AdapterConfig:
    """Parse `adapter_config.json`.

    Raises:
        MalformedFile: no such document.
        UnusableFile: a field that cannot be.
        UnsupportedFile: an adapter of another kind than plain LoRA; names the field.
    """
    document = parse_strict(data, where, floats=True)
    _refuse_other_kinds(document, where)
    saved = document.get("modules_to_save") or []
    if not isinstance(saved, list):
        raise UnusableFile(f"{where}: modules_to_save is no list")
    ranks = _pattern(document, "rank_pattern", where)
    return AdapterConfig(
        rank=_rank(document.get("r"), "r", where),
        alpha=_number(document.get("lora_alpha"), "lora_alpha", where),
        rank_stabilised=document.get("use_rslora") is True,
        rank_pattern={key: _rank(value, f"rank_pattern {key}", where) for key, value in ranks},
        alpha_pattern={
            key: _number(value, f"alpha_pattern {key}", where)
            for key, value in _pattern(document, "alpha_pattern", where)
        },
        transposed=document.get("fan_in_fan_out") is True,
        saved=tuple(str(name) for name in saved),
    )


def _refuse_other_kinds(document: Mapping[str, Json], where: str) -> None:
    kind = document.get("peft_type")
    if kind != "LORA":
        raise UnsupportedFile(f"{where}: peft_type {_shown(kind)}; only LORA is read")
    if document.get("bias", "none") != "none":
        raise UnsupportedFile(
            f"{where}: bias {_shown(document['bias'])}; only adapters with bias 'none' are read"
        )
    start = document.get("init_lora_weights", True)
    if not (start is None or isinstance(start, bool) or start in KEEPS_THE_BASE):
        raise UnsupportedFile(
            f"{where}: init_lora_weights {_shown(start)} changes the base as well; convert the "
            "adapter to plain LoRA when saving (path_initial_model_for_weight_conversion)"
        )
    for name in sorted(document.keys() - HARMLESS - READ):
        if document[name]:
            raise UnsupportedFile(
                f"{where}: {_shown(name)} is {_shown(document[name])}; only plain LoRA is read"
            )


def _rank(value: Json, name: str, where: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise UnusableFile(f"{where}: {name} is {_shown(value)}, a rank from 1 expected")
    return value


def _number(value: Json, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise UnusableFile(f"{where}: {name} is {_shown(value)}, a finite number expected")
    return float(value)


def _pattern(document: Mapping[str, Json], name: str, where: str) -> list[tuple[str, Json]]:
    found = document.get(name) or {}
    if not isinstance(found, dict):
        raise UnusableFile(f"{where}: {name} is no object")
    for key in found:
        _check_pattern(key, f"{where}: {name}")
    return list(found.items())


def _check_pattern(key: str, shown: str) -> None:
    """Regular expressions of strangers: none that could search for ever."""
    repeats = len(REPEAT.findall(key))
    tame = len(key) <= MAX_PATTERN and PATTERN.fullmatch(key) and repeats <= MAX_REPEATS
    try:
        re.compile(key)
    except (re.error, RecursionError, OverflowError):
        tame = None
    if not tame or AFTER_GROUP.search(key):
        raise UnsupportedFile(
            f"{shown}: the pattern {_shown(key)} is not a simple one; write the modules' names"
        )


def _matching(patterns: Mapping[str, object], module: str) -> list[str]:
    """As peft matches: the whole name, or its end behind a dot."""
    return [key for key in patterns if re.match(rf"(.*\.)?({key})$", module)]


def _shown(value: object) -> str:
    return repr(value)[:80]
