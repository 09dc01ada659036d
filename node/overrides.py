"""The file that pins and splits groups of units: TOML, by the names that weft prints.

pin = ["stem.weight[0]"]

[split]
"head.weight[0]" = 4
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from weft.merging.alignment.overrides import Overrides
from weft.protocol.configuration import load_toml


class OverridesFile(BaseModel):
    """What the file holds; see `Overrides`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pin: tuple[str, ...] = ()
    split: dict[str, PositiveInt] = Field(default_factory=dict)


def load_overrides(path: Path) -> Overrides:
    """Read an override file; whether a model has such groups is not looked at.

    Raises:
        InvalidInput: no such file, not TOML, an unknown key, a value of the wrong kind.
    """
    file = load_toml(path, OverridesFile)
    return Overrides(pin=file.pin, split=file.split)
