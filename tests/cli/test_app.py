"""The root: what it imports, what it says, how typos and options end."""

import subprocess
import sys
from pathlib import Path

import pytest

import weft
from weft.cli.__main__ import main
from weft.cli.app import COMMANDS, CommandEntry, load

HEAVY = ("torch", "numpy", "grpc", "pydantic", "networkx", "sqlalchemy", "scipy", "safetensors")
PROBE = """
import sys
from weft.cli.__main__ import main
code = main(sys.argv[1:])
sys.stderr.write("imported " + " ".join(sorted({m.split(".")[0] for m in sys.modules})) + "\\n")
sys.exit(code)
"""


def imported_by(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ()], ids=" ".join)
def test_root_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments).isdisjoint(HEAVY)


def test_version_is_answered_before_typer() -> None:
    assert "typer" not in imported_by("--version")


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_help_of_a_command(entry: CommandEntry, capsys: pytest.CaptureFixture[str]) -> None:
    name = entry.name
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"weft {name}" in shown
    assert "example" in shown.lower()
    assert "completion" not in shown
    assert "--json" in shown or "COMMAND" in shown or name in {"node", "coordinator"}


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_help_of_a_command_loads_no_torch(entry: CommandEntry) -> None:
    heavy = {"torch", "numpy", "grpc", "networkx", "sqlalchemy"}
    assert imported_by(entry.name, "--help").isdisjoint(heavy)


def test_every_command_has_a_module() -> None:
    folder = Path(weft.__file__).parent / "cli"
    assert [entry.name for entry in COMMANDS if not (folder / f"{entry.name}.py").exists()] == []
    for entry in COMMANDS:
        assert load(entry).name == entry.name


def test_typo_names_the_nearest_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("weft: No such command 'statsu'")
    assert "'status'" in error
    assert error.count("\n") == 1


def test_unknown_option_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nope"]) == 2
    error = capsys.readouterr().err
    assert error == "weft: No such option: --nope; see 'weft --help'\n"


def test_debug_is_taken_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statsu", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"weft {weft.__version__}\n"


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for entry in COMMANDS:
        assert entry.name in shown
