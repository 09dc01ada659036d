"""The table of codecs is complete and honest."""

from pathlib import Path

import weft.checkpoints.codecs
from weft.checkpoints.codecs.registry import CODECS, create, names

PARTS = {"__init__", "codec", "registry"}


def test_every_module_of_the_folder_is_in_the_table() -> None:
    folder = Path(weft.checkpoints.codecs.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - PARTS == set(names())


def test_names_are_those_of_the_classes() -> None:
    for name, codec in CODECS.items():
        assert codec.name == name
        assert isinstance(create(name), codec)
