"""Sets the stage of a demo: certificates, configurations, the base.

A folder that an earlier demo left is made anew; any other folder that holds
something is left alone.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from weft.checkpoints.writer import write_checkpoint
from weft.protocol.authority import Authority
from weft.protocol.identity import COORDINATOR_NAME, Role
from weft.simulations.demo.settings import RUN_NAME, TRAINER, DemoFolder, DemoSettings
from weft.simulations.errors import BadOption
from weft.simulations.references import initial_model
from weft.simulations.tasks.arrays import save_npz
from weft.simulations.tasks.classification import DIGITS
from weft.simulations.tasks.digits import digits_arrays

OPERATOR_NAME = "operator"

Sections: TypeAlias = Mapping[str, Mapping[str, object]]


def clear(folder: DemoFolder) -> None:
    """Make an empty folder of the demo's.

    Raises:
        BadOption: there is one with files that no demo wrote.
    """
    path = folder.path
    if path.exists() and not path.is_dir():
        raise BadOption(f"--out {path}: is a file; name a folder")
    if path.is_dir() and any(path.iterdir()):
        if not folder.marker.exists():
            raise BadOption(f"--out {path}: holds files that no demo wrote; name another folder")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    folder.marker.write_text("Made by weft demo; the next demo makes this folder anew.\n")
    folder.log("any").parent.mkdir()


def set_stage(folder: DemoFolder, settings: DemoSettings, *, coordinator: str) -> None:
    """Write certificates and configurations.

    Args:
        folder: empty, see `clear`.
        settings: the demo.
        coordinator: host:port at which the coordinator will listen.
    """
    authority = Authority.init(folder.authority, RUN_NAME)
    authority.issue(COORDINATOR_NAME, Role.COORDINATOR)
    authority.issue(OPERATOR_NAME, Role.OPERATOR)
    folder.run_file.write_text(_toml(_run_sections(folder, settings)))
    folder.config(COORDINATOR_NAME).write_text(_toml({"": _coordinator_keys(folder, coordinator)}))
    for node, name in enumerate(settings.names):
        authority.issue(name, Role.NODE)
        sections: Sections = {
            "": _node_keys(folder, name, coordinator),
            "train": {"trainer": TRAINER},
            "train.options": settings.task.of_node(node)
            | {"data": str(_data_file(folder, settings))},
        }
        folder.config(name).write_text(_toml(sections))


def write_inputs(folder: DemoFolder, settings: DemoSettings) -> None:
    """Write what all nodes start from: the model, and the digits where these are the data.

    Raises:
        InvalidInput: the task cannot be used: its data, its split, its model.
    """
    if settings.task.data == DIGITS:
        save_npz(_data_file(folder, settings), digits_arrays())
    model = initial_model(settings.task.trainer(0), settings.task.seed)
    write_checkpoint(folder.base, dict(model.state_dict()), {"weft": "the base of a demo"})


def keep_model(folder: DemoFolder, node: str) -> None:
    """Take a node's copy of the globally merged model out of its data."""
    folder.merged.mkdir(exist_ok=True)
    shutil.copyfile(folder.data(node) / "merged" / folder.merged_model.name, folder.merged_model)


def tidy(folder: DemoFolder) -> None:
    """Remove what only the daemons needed; report, merged model, base and logs stay."""
    for path in (folder.authority, folder.path / "data"):
        shutil.rmtree(path, ignore_errors=True)
    for path in [*folder.path.glob("*.toml"), *folder.path.glob("*.npz")]:
        path.unlink()


def _data_file(folder: DemoFolder, settings: DemoSettings) -> Path:
    """Where the nodes read their data; a file, so that they need not import scikit-learn."""
    data = settings.task.data
    return (folder.path / "digits.npz" if data == DIGITS else Path(data)).resolve()


def _run_sections(folder: DemoFolder, settings: DemoSettings) -> Sections:
    spec, base = settings.spec("0" * 64), _beside(folder, folder.base)
    sections: dict[str, Mapping[str, object]] = {
        "": {key: getattr(spec, key) for key in ("name", "nodes", "rounds", "seed")},
        "merge": {key: getattr(spec.merge, key) for key in ("method", "align", "retain_rounds")},
        "topology": {"graph": spec.topology.graph, "weights": spec.topology.weights},
        "topology.options": spec.topology.options,
        "schedule": {"name": spec.schedule.name},
        "schedule.options": spec.schedule.options,
        "base": {"none": True, "schema": base} if settings.apart else {"path": base},
    }
    return {section: keys for section, keys in sections.items() if keys}


def _coordinator_keys(folder: DemoFolder, listen: str) -> dict[str, object]:
    return {
        "listen": listen,
        "credentials": _beside(folder, folder.credentials(COORDINATOR_NAME)),
        "data": _beside(folder, folder.data(COORDINATOR_NAME)),
        "revoked": _beside(folder, folder.authority / "revoked.json"),
        "metrics": "",
    }


def _node_keys(folder: DemoFolder, name: str, coordinator: str) -> dict[str, object]:
    return {
        "run": RUN_NAME,
        "coordinator": coordinator,
        "listen": "127.0.0.1:0",
        "credentials": _beside(folder, folder.credentials(name)),
        "data": _beside(folder, folder.data(name)),
        "metrics": "",
    }


def _beside(folder: DemoFolder, path: Path) -> str:
    return path.relative_to(folder.path).as_posix()


def _toml(sections: Sections) -> str:
    """Keys by section, "" being the top; JSON's strings, numbers and booleans are TOML's."""
    lines = []
    for section, keys in sections.items():
        lines += ["", f"[{section}]"] if section else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([*lines, ""])
