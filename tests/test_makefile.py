"""The verbs that people guess, and a set-up that is made once."""

import shutil
import subprocess

import pytest

from tests.support.repository import ROOT

VERBS = ("setup", "demo", "test", "check", "format", "e2e", "faults", "bench", "proto")


def make(*arguments: str) -> str:
    """What make prints, without doing what it prints."""
    program = shutil.which("make")
    if program is None:
        pytest.skip("make is not installed here")
    done = subprocess.run(
        [program, "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout


def test_make_alone_lists_every_verb() -> None:
    listed = [line.split()[1] for line in make().splitlines()]
    assert set(VERBS) <= set(listed)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "setup"])
def test_every_verb_sets_up_first(verb: str) -> None:
    assert "--editable" in make("--dry-run", "--assume-new=pyproject.toml", verb)


def test_a_set_up_is_skipped_when_nothing_changed() -> None:
    assert "pip install" not in make("--dry-run", "--assume-old=.venv/.stamp", "setup")


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt", "Makefile"])
def test_a_change_of_what_is_installed_sets_up_again(file: str) -> None:
    plan = make("--dry-run", f"--assume-new={file}", "setup").splitlines()
    installs = [line for line in plan if " install " in line]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)
    assert all("PIP_REQUIRE_VIRTUALENV=1" in line for line in installs)
    assert " torch " in installs[0]
    assert plan[-1].startswith("touch ")
