"""`weft doctor`: checks a machine before it joins a run.

Each check says what it found and, where that will not do, how to mend it.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.exits import FAULT, SUCCESS
from weft.cli.output import JsonFlag, emit, size
from weft.errors import InvalidInput, WeftError

if TYPE_CHECKING:
    from rich.console import RenderableType

LEAST_FREE = 1024**3
LEAST_FILES = 1024
LEAST_DAYS = 14
CONNECT_S = 3.0
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found; `remedy` is empty where all is well."""

    name: str
    found: str
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Nothing to mend."""
        return not self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What to look at; None and empty: not asked for.

    Attributes:
        data: where the daemon's data will lie.
        credentials: folder of node.pem, node.key, ca.pem.
        listen: host:port to be taken by the daemon.
        metrics: likewise.
        coordinator: host:port that must be reached.
    """

    data: Path
    credentials: Path | None = None
    listen: str = ""
    metrics: str = ""
    coordinator: str = ""


@app.command(epilog="Example: weft doctor --config node-a.toml")
def doctor(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A node's or a coordinator's configuration."),
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="A folder that weft certs issue wrote.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Where a daemon's data would lie.")] = Path(),
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it would listen.")] = "",
    as_json: JsonFlag = False,
) -> int:
    """Check this machine before it joins a run.

    Python, torch, disk, clock, open files; with a configuration also its
    certificate, its ports and the way to the coordinator. Stop the daemon
    first: its own ports count as taken. Exits 1 where something has to be mended.
    """
    machine = Machine(data=data, credentials=credentials, listen=listen)
    checks = examine(machine if config is None else _configured(config))
    document = {
        "passed": all(check.passed for check in checks),
        "checks": [
            {"name": c.name, "passed": c.passed, "found": c.found, "remedy": c.remedy}
            for c in checks
        ],
    }
    emit(document, as_json, lambda _: _table(checks))
    return SUCCESS if document["passed"] else FAULT


def examine(machine: Machine) -> list[Check]:
    """Every check that the machine can be asked for, in order."""
    wanted: list[Callable[[], Check]] = [
        _python,
        _torch,
        lambda: _disk(machine.data),
        _clock,
        _open_files,
    ]
    folder = machine.credentials
    if folder is not None:
        wanted.append(lambda: _certificate(folder))
    for name, address in (("listen", machine.listen), ("metrics", machine.metrics)):
        if address:
            wanted.append(lambda name=name, address=address: _port(name, address))  # type: ignore[misc]
    if machine.coordinator:
        wanted.append(lambda: _reachable(machine.coordinator))
    return [check() for check in wanted]


def _configured(path: Path) -> Machine:
    """What a configuration file says about the machine."""
    import tomllib

    from weft.coordinator.config import load_config
    from weft.node.config import load_node_config

    try:
        is_node = "train" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}") from error
    if is_node:
        node = load_node_config(path)
        return Machine(
            data=node.data,
            credentials=node.credentials,
            listen=node.listen,
            metrics=node.metrics,
            coordinator=node.coordinator,
        )
    coordinator = load_config(path)
    return Machine(
        data=coordinator.data,
        credentials=coordinator.credentials,
        listen=coordinator.listen,
        metrics=coordinator.metrics,
    )


def _python() -> Check:
    version = sys.version_info
    found = f"{version.major}.{version.minor}.{version.micro}"
    fine = version[:2] >= OLDEST_PYTHON
    return Check(name="python", found=found, remedy="" if fine else "install Python 3.11 or newer")


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check(name="torch", found=str(error), remedy="pip install torch")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    found = f"{torch.__version__}, {device}, {torch.get_num_threads()} threads"
    older = tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH
    return Check(name="torch", found=found, remedy="install torch 2.6 or newer" if older else "")


def _disk(data: Path) -> Check:
    """Room where the data will lie: its nearest folder that exists."""
    there = next(path for path in (data.resolve(), *data.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    remedy = f"free some: expected {size(LEAST_FREE)}, and more for large models"
    return Check(
        name="disk",
        found=f"{size(free)} free at {there}",
        remedy="" if free >= LEAST_FREE else remedy,
    )


def _clock() -> Check:
    """Certificates need the time: a clock behind weft's own installation is wrong."""
    installed = Path(__file__).stat().st_mtime
    now = time.time()
    remedy = "set the clock (timedatectl set-ntp true): it is behind the time of installation"
    return Check(
        name="clock",
        found=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC",
        remedy="" if now >= installed - 60 else remedy,
    )


def _open_files() -> Check:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fine = soft == resource.RLIM_INFINITY or soft >= LEAST_FILES
    remedy = f"raise it: ulimit -n {LEAST_FILES}, or LimitNOFILE={LEAST_FILES} in the unit"
    return Check(name="open files", found=f"limit {soft}", remedy="" if fine else remedy)


def _certificate(folder: Path) -> Check:
    from weft.protocol.identity import Credentials

    try:
        credentials = Credentials.load(folder)
    except WeftError as error:
        return Check(name="certificate", found=str(error), remedy="weft certs issue")
    left = credentials.expires_at - datetime.now(UTC)
    found = f"{credentials.identity.uri}, until {credentials.expires_at:%Y-%m-%d}"
    remedy = f"renew it within {left.days} days: weft certs issue --renew"
    return Check(
        name="certificate", found=found, remedy="" if left > timedelta(days=LEAST_DAYS) else remedy
    )


def _port(name: str, address: str) -> Check:
    import socket

    host, port = _split(name, address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            remedy = f"stop what uses it, or set another {name} in the configuration"
            return Check(name=name, found=f"{address}: {error}", remedy=remedy)
    return Check(name=name, found=f"{address} is free")


def _reachable(address: str) -> Check:
    import socket

    try:
        with socket.create_connection(_split("coordinator", address), timeout=CONNECT_S):
            return Check(name="coordinator", found=f"{address} answers")
    except OSError as error:
        return Check(
            name="coordinator",
            found=f"{address}: {error}",
            remedy="start it, or open the way there (firewall, address)",
        )


def _split(name: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InvalidInput(f"{name} {address!r}: expected host:port")
    return host.strip("[]"), int(port)


def _table(checks: Sequence[Check]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    for check in checks:
        verdict = Text("PASS", "green") if check.passed else Text("MEND", "bold red")
        table.add_row(verdict, check.name, Text(check.found))
        if check.remedy:
            table.add_row("", "", Text(f"-> {check.remedy}"))
    return table
