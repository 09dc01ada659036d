"""What a demo may be asked for."""

from pathlib import Path

import pytest

from weft.errors import InvalidInput
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.errors import BadOption
from weft.simulations.references import TaskOptions


def test_defaults_are_the_design_s() -> None:
    settings = DemoSettings()
    assert (settings.nodes, settings.topology, settings.schedule) == (4, "ring", "every")
    assert (settings.rounds, settings.task.steps, settings.task.alpha) == (20, 20, 0.3)
    assert settings.task.data == "digits"


@pytest.mark.parametrize("nodes", [4, 9, 10, 64])
def test_names_sort_as_they_count(nodes: int) -> None:
    names = DemoSettings(nodes=nodes, task=TaskOptions(nodes=nodes)).names
    assert len(set(names)) == nodes
    assert list(names) == sorted(names)


def test_spec_keeps_everything_that_the_report_looks_at() -> None:
    spec = DemoSettings(rounds=7).spec("0" * 64)
    assert spec.merge.retain_rounds > 7
    assert spec.nodes == 4
    assert spec.final.enabled


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodes": 0}, "1 to 64"),
        ({"nodes": 65}, "1 to 64"),
        ({"rounds": 0}, "--rounds 0"),
        ({"nodes": 3}, "dealt out to 4"),
        ({"topology": "rnig"}, "ring"),
        ({"schedule": "evry"}, "every"),
        ({"topology": "hypercube", "nodes": 6, "task": TaskOptions(nodes=6)}, "power of"),
    ],
)
def test_mistakes_are_told_before_anything_starts(change: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        DemoSettings(**change)  # type: ignore[arg-type]


def test_own_mistakes_are_options(tmp_path: Path) -> None:
    with pytest.raises(BadOption):
        DemoSettings(rounds=-1)
    assert DemoFolder(path=tmp_path).log("node-1").parent == tmp_path / "logs"
