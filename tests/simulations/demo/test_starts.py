"""A demo whose nodes start apart: what is asked for, and what its run's file says."""

from pathlib import Path

import pytest

from tests.simulations.demo.stories import story
from weft.cli.run_file import load_run_file, prepared
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.demo.stage import clear, set_stage, write_inputs
from weft.simulations.demo.starts import DEEP, Ending, apart
from weft.simulations.references import TaskOptions

SETTINGS = DemoSettings(nodes=2, rounds=3, task=TaskOptions(nodes=2))


def test_nodes_meet_once_after_the_last_round() -> None:
    schedule = apart(SETTINGS, "weights").mixing_schedule()
    assert [schedule.mixes(round) for round in range(3)] == [False, False, True]


def test_what_was_asked_for_is_kept() -> None:
    asked = DemoSettings(
        nodes=2,
        rounds=3,
        schedule="sparse",
        task=TaskOptions(nodes=2, model_options="hidden=8"),
    )
    made = apart(asked, "none")
    assert (made.schedule, made.schedule_options) == ("sparse", ())
    assert made.task.model_options == "hidden=8"
    assert apart(SETTINGS, "none").task.model_options == DEEP


@pytest.mark.parametrize("align", ["none", "activations"])
def test_the_run_s_file_is_the_run_that_is_created(tmp_path: Path, align: str) -> None:
    made = apart(SETTINGS, align)  # type: ignore[arg-type]
    folder = DemoFolder(path=tmp_path)
    clear(folder)
    set_stage(folder, made, coordinator="127.0.0.1:1")
    write_inputs(folder, made)
    with prepared(load_run_file(folder.run_file), folder.path) as (spec, reader):
        assert reader is None
        assert spec.schema_digest is not None
        assert spec == made.spec(spec.schema_digest)
    assert (spec.base, spec.merge.align) == (None, align)


def test_how_a_run_ended() -> None:
    stories = [story("node-1", "node-2"), story("node-2", "node-1", result="dd" * 32)]
    ending = Ending.of("weights", stories, 1.0)
    assert (ending.alone, ending.neighbour_merged) == ([0.5, 0.5], [0.9, 0.9])
    assert ending.result is None, "two digests are not one"
