"""The page of methods says what the code says."""

import subprocess
import sys
from pathlib import Path

from weft.merging.registry import TABLE

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "weft.cli", "methods", "--markdown"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert (ROOT / "docs" / "methods.md").read_text() == printed


def test_every_method_has_a_row_with_a_source_and_a_reference() -> None:
    rows = {
        row.split("`")[1]: row.rstrip(" |").rpartition(" | ")[2]
        for row in (ROOT / "docs" / "methods.md").read_text().splitlines()
        if row.startswith("| `")
    }
    assert list(rows) == [entry.name for entry in TABLE]
    assert all(len(source) > 30 for source in rows.values())


def test_every_merge_method_has_a_reference_of_its_own() -> None:
    shared = {"multi_krum": "krum"}
    there = {path.stem for path in (ROOT / "tests" / "references").glob("*.py")}
    missing = {entry.name for entry in TABLE if shared.get(entry.name, entry.name) not in there}
    assert not missing
