"""Files of recipes: TOML or YAML into plain values, strictly.

Somebody else's file is read as such: its size is bounded, a key stands once, YAML makes
nothing but plain values (`safe_load`), and only so many aliases are followed.
"""

import tomllib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from weft.cli.recipe_values import BadRecipe, show

MAX_BYTES: Final = 2**20
MAX_ALIASES: Final = 64

_MERGE: Final = "tag:yaml.org,2002:merge"


def read_document(path: Path) -> dict[str, object]:
    """The file's keys and values; `.toml` is read as TOML, anything else as YAML.

    Raises:
        BadRecipe: not to be read, too large, or not well formed.
    """
    text = _text(path)
    found = _toml(text, path) if path.suffix == ".toml" else _yaml(text, path)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise BadRecipe(f"{path}: found {show(found)}, expected a recipe: keys with values")
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadRecipe(f"{path}: no such recipe") from None
    except OSError as error:
        raise BadRecipe(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise BadRecipe(f"{path}: more than {MAX_BYTES} bytes; a recipe is a short text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecipe(f"{path}: byte {error.start} is not UTF-8; a recipe is a text") from None


def _toml(text: str, path: Path) -> object:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecipe(f"{path}: not TOML: {error}") from None


def _yaml(text: str, path: Path) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadRecipe(f"{path}{where}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadRecipe(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise BadRecipe(f"{path}: not YAML: nested too deeply") from None


class _StrictLoader(yaml.SafeLoader):
    """Safe, no key twice, and few aliases: ten levels of ten make ten thousand million."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases (*name)")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen and key_node.tag != _MERGE:
                raise yaml.MarkedYAMLError(
                    problem=f"key {show(key)} occurs twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
