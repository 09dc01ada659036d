"""The files of deploy/, parsed: what the checks in this folder look at."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.repository import ROOT

DEPLOY = ROOT / "deploy"
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def document(path: str) -> Any:
    """A YAML file of deploy/ as plain values."""
    return yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))


def by_default(text: str) -> str:
    """A text with compose's variables at their defaults: `${UID:-10001}` is `10001`."""
    return VARIABLE.sub(lambda match: match[2], text)


@dataclass(frozen=True, slots=True)
class Volume:
    """One short-form volume of a compose service."""

    source: str
    target: str
    read_only: bool

    @property
    def is_bind(self) -> bool:
        """Whether a path of the machine is mounted, not a named volume."""
        return self.source.startswith((".", "/", "~"))


def volumes_of(service: dict[str, Any]) -> list[Volume]:
    """The volumes of a compose service, variables at their defaults."""
    found = []
    for text in service.get("volumes", []):
        source, target, *mode = by_default(text).split(":")
        found.append(Volume(source, target, mode == ["ro"]))
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, where it stands, and the labels that its legend shows."""

    where: str
    expression: str
    legend: set[str]


def asked_by_panels(dashboard: dict[str, Any]) -> Iterator[Asked]:
    """Every query of a dashboard: its panels' and its variables'."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            legend = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
            yield Asked(f"panel {panel['title']!r}", target["expr"], legend)
    for variable in dashboard["templating"]["list"]:
        query = variable["query"]["query"]
        expression, _, label = query.removeprefix("label_values(").rpartition(",")
        yield Asked(f"variable {variable['name']!r}", expression, {label.strip(" )")})


def asked_by_alerts(rules: dict[str, Any]) -> Iterator[Asked]:
    """Every query of the alerts, with the labels that their texts show."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            texts = " ".join(rule["annotations"].values())
            legend = set(re.findall(r"\$labels\.(\w+)", texts))
            yield Asked(f"alert {rule['alert']!r}", rule["expr"], legend)


def asked() -> list[Asked]:
    """Every query that deploy/ holds."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/weft.json").read_text(encoding="utf-8"))
    return [*asked_by_panels(dashboard), *asked_by_alerts(document("prometheus/alerts.yml"))]


def unit(path: Path) -> list[tuple[str, str, str]]:
    """A systemd unit as (section, key, value), in its order; keys may repeat."""
    section, found = "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = text[1:-1]
        elif text and not text.startswith(("#", ";")):
            key, _, value = text.partition("=")
            found.append((section, key.strip(), value.strip()))
    return found
