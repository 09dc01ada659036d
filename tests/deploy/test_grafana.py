"""The dashboard is whole: its layout, its data source, its words."""

import json
from itertools import combinations
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, document

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/weft.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]


def covers(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The cells of the grid that a panel covers."""
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    rows = range(place["y"], place["y"] + place["h"])
    return {(column, row) for column in columns for row in rows}


def test_panels_have_their_own_names_and_places() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(column < 24 for panel in PANELS for column, _ in covers(panel))
    clashes = [
        (one["title"], other["title"])
        for one, other in combinations(PANELS, 2)
        if covers(one) & covers(other)
    ]
    assert clashes == []


@pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: str(panel["title"]))
def test_a_panel_asks_the_provisioned_source_and_says_what_it_shows(panel: dict[str, Any]) -> None:
    [source] = document("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    asked = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert asked == [{"type": source["type"], "uid": source["uid"]}] * len(asked)
    assert panel["targets"]
    assert len(panel["description"]) > 15
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_the_dashboard_shows_what_an_operator_looks_for() -> None:
    titles = " ".join(panel["title"] for panel in CHARTS).lower()
    wanted = (
        "round",
        "state",
        "seconds by phase",
        "bytes sent by edge",
        "last contact",
        "consensus distance",
        "merges adopted",
        "rejected",
        "coordinator",
    )
    assert [word for word in wanted if word not in titles] == []


def test_the_dashboard_is_where_it_is_provisioned_from() -> None:
    [provider] = document("grafana/provisioning/dashboards/weft.yml")["providers"]
    volumes = document("compose.yaml")["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes
    home = document("compose.yaml")["services"]["grafana"]["environment"]
    name = home["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].removeprefix(
        provider["options"]["path"]
    )
    assert (DEPLOY / "grafana" / "dashboards" / name.strip("/")).is_file()
