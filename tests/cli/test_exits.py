"""Every family has its code; every error is one line."""

import inspect

import pytest

import weft.errors
from weft.cli.exits import EXIT_CODES, describe, exit_code, run_command
from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    InvalidInput,
    NotFound,
    Refused,
    Stalled,
    TrainingFailed,
    Unavailable,
    WeftError,
)

EXPECTED = {
    WeftError: 1,
    InvalidInput: 2,
    NotFound: 2,
    Refused: 2,
    Denied: 2,
    Exhausted: 1,
    Unavailable: 1,
    Stalled: 1,
    Corrupt: 1,
    TrainingFailed: 1,
}


def test_every_family_is_expected_here() -> None:
    classes = dict(inspect.getmembers(weft.errors, inspect.isclass)).values()
    families = {item for item in classes if issubclass(item, WeftError)}
    assert families == set(EXPECTED)


@pytest.mark.parametrize(("family", "code"), EXPECTED.items())
def test_code_of_a_family(family: type[WeftError], code: int) -> None:
    assert exit_code(family("what was found")) == code


def test_faults_and_interrupts() -> None:
    assert exit_code(KeyError("x")) == 1
    assert exit_code(OSError(28, "No space left on device")) == 1
    assert exit_code(KeyboardInterrupt()) == 130


def test_families_before_the_root_in_the_table() -> None:
    families = [family for family, _ in EXIT_CODES]
    for place, family in enumerate(families):
        assert not any(issubclass(family, earlier) for earlier in families[:place])


def test_message_is_one_line() -> None:
    assert describe(Corrupt("a.safetensors\n  header 12\n  expected 13\n")) == (
        "a.safetensors; header 12; expected 13"
    )
    assert describe(PermissionError(13, "Permission denied", "/x/y")).startswith(
        "Permission denied: /x/y"
    )
    assert describe(KeyError("x")) == "KeyError: 'x' (--debug shows the traceback)"


def test_a_list_stays_one() -> None:
    listed = "a: 2 tensors differ:\n  w is missing\n  v is missing"
    assert describe(Corrupt(f"{listed}\n")) == listed
    trace = 'Traceback:\n  File "x"\nValueError: no'
    assert describe(TrainingFailed(trace)) == 'Traceback: File "x"; ValueError: no'


def test_run_command_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise NotFound("run 'a' does not exist")

    assert run_command(fail) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "weft: run 'a' does not exist\n"


def test_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    assert run_command(fail) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run_command(fail, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_codes_of_commands_pass_through() -> None:
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 3) == 3


def test_notes_are_part_of_the_line() -> None:
    error = ValueError("two\nlines")
    error.add_note("while node 1 trained in round 2")
    assert describe(error) == (
        "ValueError: two; lines, while node 1 trained in round 2 (--debug shows the traceback)"
    )
    silent = TrainingFailed("")
    silent.add_note("in cell 3")
    assert describe(silent) == "in cell 3"
