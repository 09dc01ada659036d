"""The scrape configuration and the alerts; with promtool, their behaviour too."""

import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, document
from tests.support.repository import ROOT

CONFIG: dict[str, Any] = document("prometheus/prometheus.yml")
JOBS: dict[str, dict[str, Any]] = {job["job_name"]: job for job in CONFIG["scrape_configs"]}
RULES: list[dict[str, Any]] = [
    rule for group in document("prometheus/alerts.yml")["groups"] for rule in group["rules"]
]
DURATION = re.compile(r"^\d+(ms|s|m|h|d)$")


def targets(job: str) -> list[str]:
    """Where a job scrapes."""
    return [target for config in JOBS[job]["static_configs"] for target in config["targets"]]


def test_the_configuration_has_only_known_keys() -> None:
    assert set(CONFIG) == {"global", "rule_files", "scrape_configs"}
    assert all(DURATION.match(value) for value in CONFIG["global"].values())
    known = {"job_name", "static_configs", "relabel_configs"}
    assert all(set(job) <= known for job in JOBS.values())


def test_the_rule_files_are_there() -> None:
    assert [DEPLOY / "prometheus" / name for name in CONFIG["rule_files"]] == [
        DEPLOY / "prometheus" / "alerts.yml"
    ]


def test_both_daemons_are_scraped_and_nodes_go_by_their_name() -> None:
    assert set(JOBS) == {"weft-coordinator", "weft-node"}
    [relabel] = JOBS["weft-node"]["relabel_configs"]
    assert relabel["target_label"] == "node"
    for target in targets("weft-node"):
        match = re.fullmatch(relabel["regex"], target)
        assert match is not None
        assert match[1] == target.split(":")[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Weft[A-Z][A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.search(r"\{\{ \$labels\.(node|run|instance) \}\}", rule["annotations"]["summary"])
    assert DURATION.match(rule.get("for", "0s"))


def test_the_alerts_cover_what_goes_wrong() -> None:
    names = {rule["alert"] for rule in RULES}
    assert len(names) == len(RULES)
    wanted = {"NodeDown", "NodeSilent", "CoordinatorDown", "MergesRejected", "CertificateExpiring"}
    assert {f"Weft{name}" for name in wanted} | {"WeftDiskFills"} <= names


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"),
        ("check", "rules", "deploy/prometheus/alerts.yml"),
        ("test", "rules", "tests/deploy/alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here")
    done = subprocess.run(
        [promtool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
