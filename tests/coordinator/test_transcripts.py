"""Plays every script of transcripts/ and compares what the run answers."""

import os
from pathlib import Path

import pytest

from tests.coordinator.scripts import Player, parse, written

FOLDER = Path(__file__).parent / "transcripts"
SCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    player = Player()
    played = [
        (block, "\n".join(player.play(command) for command in block.commands))
        for block in parse(text)
    ]
    if os.environ.get("WEFT_REWRITE"):
        path.write_text(written(played))
    for block, answer in played:
        assert answer == block.expected, f"{path.name}: {' / '.join(block.commands)}"


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 10
