"""compose.yaml: every name in it leads somewhere, and no service may more than it must."""

import re
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, VARIABLE, by_default, document, volumes_of
from weft import __version__
from weft.cli.run_file import load_run_file, prepared
from weft.coordinator.config import load_config
from weft.node.config import load_node_config
from weft.node.trainer import load_trainer

COMPOSE: dict[str, Any] = document("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
NODES = sorted(name for name in OURS if name.startswith("node-"))
DAEMONS = ["coordinator", *NODES]
# Made by whoever starts it: see the README. Never committed (deploy/.gitignore).
MADE = "./credentials/"

SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "init",
    "logging", "pids_limit", "ports", "profiles", "read_only", "restart", "security_opt",
    "shm_size", "stop_grace_period", "tmpfs", "volumes",
}  # fmt: skip
IMAGE = re.compile(r"^(?P<name>[a-z0-9./-]+):v?(?P<tag>\d+\.\d+\.\d+[\w.-]*)$")

each_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_daemon = pytest.mark.parametrize("name", DAEMONS)


def test_the_file_has_only_known_keys() -> None:
    extensions = {key for key in COMPOSE if key.startswith("x-")}
    assert set(COMPOSE) - extensions == {"name", "services", "volumes"}
    assert {*DAEMONS, "operator", "prometheus", "grafana"} == set(SERVICES)
    assert len(NODES) == 3


@each_service
def test_a_service_has_only_known_keys(name: str) -> None:
    assert set(SERVICES[name]) <= SERVICE_KEYS


@each_service
def test_images_are_pinned_by_a_version(name: str) -> None:
    match = IMAGE.match(SERVICES[name]["image"])
    assert match is not None
    if name in OURS:
        assert (match["name"], match["tag"]) == ("weft", __version__)


@each_service
def test_a_service_may_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "read_only" in service or name == "grafana"
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


@each_service
def test_a_service_comes_back_and_says_when_it_is_unwell(name: str) -> None:
    service = SERVICES[name]
    if name == "operator":
        assert "restart" not in service
        assert service["profiles"] == ["operator"]
    else:
        assert service["restart"] == ("on-failure" if name in NODES else "unless-stopped")
        assert name in DAEMONS or service["healthcheck"]["test"][0] == "CMD"


@each_service
def test_what_a_service_depends_on_is_there(name: str) -> None:
    depends = SERVICES[name].get("depends_on", {})
    assert set(depends) <= set(SERVICES)


@each_service
def test_volumes_are_declared_and_paths_exist(name: str) -> None:
    for volume in volumes_of(SERVICES[name]):
        if volume.is_bind:
            assert volume.read_only
            assert volume.source.startswith(MADE) or (DEPLOY / volume.source).exists()
        else:
            assert volume.source in COMPOSE["volumes"]
            assert not volume.read_only


def test_every_declared_volume_has_one_user() -> None:
    used = [v.source for s in SERVICES.values() for v in volumes_of(s) if not v.is_bind]
    assert sorted(used) == sorted(COMPOSE["volumes"])


def test_no_key_can_be_committed() -> None:
    ignored = (DEPLOY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/credentials/", "/.env"} <= set(ignored)


@each_daemon
def test_a_daemon_sees_its_own_credentials_only(name: str) -> None:
    sources = {v.source for v in volumes_of(SERVICES[name]) if v.source.startswith(MADE)}
    revoked = {f"{MADE}revoked.json"} if name == "coordinator" else set()
    assert sources == {f"{MADE}issued/{name}"} | revoked


def test_build_arguments_are_the_container_files() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))
    for name in OURS:
        build = SERVICES[name]["build"]
        assert (
            DEPLOY / build["context"] / build["dockerfile"]
        ).resolve() == DEPLOY / "Containerfile"
        given = {key: by_default(value) for key, value in build["args"].items()}
        assert given == {key: arguments[key] for key in given}


def test_every_variable_has_a_default_and_is_explained() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    head = text[: text.index("\nname:")]
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == {match[1] for match in VARIABLE.finditer(text)}
    assert [variable for variable in used if variable not in head] == []


def mounted(name: str, path: str) -> str:
    """Where a path inside a service's container comes from, on this side."""
    for volume in volumes_of(SERVICES[name]):
        if path == volume.target or path.startswith(f"{volume.target}/"):
            return volume.source + path.removeprefix(volume.target)
    raise AssertionError(f"{name}: nothing is mounted at {path}")


@pytest.mark.parametrize("name", NODES)
def test_a_node_starts_with_a_configuration_that_fits(name: str) -> None:
    command, flag, path = SERVICES[name]["command"]
    assert (command, flag) == ("node", "--config")
    config = load_node_config(DEPLOY / mounted(name, path))
    assert config.coordinator == SERVICES["operator"]["environment"]["WEFT_COORDINATOR"]
    assert config.advertise == f"{name}:{config.listen.split(':')[1]}"
    assert mounted(name, str(config.credentials)) == f"{MADE}issued/{name}"
    assert mounted(name, str(config.data)) == f"{name}-data"
    port = config.metrics.split(":")[1]
    assert SERVICES[name]["environment"]["WEFT_METRICS"] == f"127.0.0.1:{port}"
    assert f"{name}:{port}" in scraped("weft-node")


def test_the_coordinator_starts_with_a_configuration_that_fits() -> None:
    service = SERVICES["coordinator"]
    command, flag, path = service["command"]
    assert (command, flag) == ("coordinator", "--config")
    config = load_config(DEPLOY / mounted("coordinator", path))
    port = config.listen.split(":")[1]
    assert f"coordinator:{port}" == SERVICES["operator"]["environment"]["WEFT_COORDINATOR"]
    page = config.metrics.split(":")[1]
    assert service["ports"] == [f"127.0.0.1:{at}:{at}" for at in (port, page)]
    assert mounted("coordinator", str(config.credentials)) == f"{MADE}issued/coordinator"
    assert mounted("coordinator", str(config.revoked)) == f"{MADE}revoked.json"
    assert mounted("coordinator", str(config.data)) == "coordinator-data"
    assert scraped("weft-coordinator") == [f"coordinator:{page}"]


def scraped(job: str) -> list[str]:
    """The targets of a job in the Prometheus configuration."""
    [found] = [
        config["static_configs"][0]["targets"]
        for config in document("prometheus/prometheus.yml")["scrape_configs"]
        if config["job_name"] == job
    ]
    return list(found)


def test_the_gpu_file_adds_devices_to_the_nodes_and_nothing_else() -> None:
    services = document("compose.gpu.yaml")["services"]
    assert sorted(services) == NODES
    for service in services.values():
        [device] = service["deploy"]["resources"]["reservations"]["devices"]
        assert set(service) == {"deploy"}
        assert device["capabilities"] == ["gpu"]


def test_the_run_is_made_of_these_nodes() -> None:
    run = load_run_file(DEPLOY / "compose" / "run.toml")
    assert run.nodes == len(NODES)
    configs = [load_node_config(DEPLOY / "compose" / f"{name}.toml") for name in NODES]
    assert {config.run for config in configs} == {run.name}
    assert {config.train.trainer for config in configs} == {run.base.trainer}
    with prepared(run, DEPLOY / "compose") as (spec, reader):
        assert reader is not None
        assert spec.schema_digest == reader.schema.digest


def test_the_example_trainer_learns() -> None:
    config = load_node_config(DEPLOY / "compose" / "node-1.toml")
    target = config.train.trainer
    assert target is not None
    trainer = load_trainer(target, config.train.options, DEPLOY / "compose")
    import torch

    torch.manual_seed(0)
    model = trainer.model()
    losses = [trainer.train(model, round)["loss"] for round in range(3)]
    assert losses[-1] < losses[0] / 2
