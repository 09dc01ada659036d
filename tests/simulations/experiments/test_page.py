"""The user's page names every key, engine and rule that there is."""

import dataclasses

import pytest

from tests.support.repository import ROOT
from weft.simulations.clock.links import Links
from weft.simulations.clock.machines import Machines
from weft.simulations.experiments.engines import ENGINES
from weft.simulations.experiments.settings import CellSettings
from weft.simulations.learning.registry import RULES
from weft.simulations.tasks.models import MODELS
from weft.simulations.tasks.splits import SPLITS

PAGE = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
MACHINES_SAID_AT_HOME = "_seconds"
"""Parts of a round that only the measurements of one's own runs tell: not on the page."""


def keys() -> list[str]:
    empty = CellSettings.model_validate({"experiment": {"name": "empty"}, "time": {}})
    return [key for section in empty.plain().values() for key in section]


@pytest.mark.parametrize("name", [*keys(), *ENGINES, *RULES])
def test_every_key_engine_and_rule_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", [*SPLITS, *MODELS])
def test_every_split_and_model_is_named(name: str) -> None:
    assert name in PAGE


@pytest.mark.parametrize("kind", [Machines, Links])
def test_machines_and_links_are_named(kind: type) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    missing = [name for name in names if f"`{name}`" not in PAGE]
    assert [name for name in missing if not name.endswith(MACHINES_SAID_AT_HOME)] == []
