"""The configuration file of a model that is stacked from layers of others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from weft.checkpoints.errors import MalformedFile
from weft.checkpoints.sidecars import CONFIG_NAME, Sidecar
from weft.checkpoints.stacking import LayerRange, stacked_config


def with_layers(
    sidecars: Sequence[Sidecar], parts: Sequence[tuple[Path, int, int]]
) -> tuple[Sidecar, ...]:
    """The same companions, their `config.json` with the stack's number of layers.

    Args:
        sidecars: of the folder that the configuration starts from.
        parts: folder, first layer and the layer after the last, in the stack's order.

    Raises:
        MalformedFile: a configuration that is not a JSON object, or lacks the layers.
    """
    config = next((each for each in sidecars if each.name == CONFIG_NAME), None)
    if config is None:
        return tuple(sidecars)
    own = _parsed(b"".join(config.parts()), str(config.source))
    ranges = [LayerRange(_config_of(path, own), first, stop) for path, first, stop in parts]
    stacked = stacked_config(own, ranges, str(config.source))
    text = f"{json.dumps(stacked, indent=2, ensure_ascii=False)}\n".encode()
    return tuple(replace(each, edited=text) if each is config else each for each in sidecars)


def _config_of(folder: Path, otherwise: Mapping[str, object]) -> Mapping[str, object]:
    path = folder / CONFIG_NAME
    return _parsed(path.read_bytes(), str(path)) if path.is_file() else otherwise


def _parsed(data: bytes, where: str) -> Mapping[str, object]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise MalformedFile(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise MalformedFile(f"{where}: not a JSON object")
    return found
