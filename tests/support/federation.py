"""A federation of real processes on loopback, for end-to-end and fault tests.

One coordinator and some nodes, each a process of its own with its own data
folder and certificate, run by the command line that users type.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from weft.protocol.authority import Authority
from weft.protocol.identity import Role

TRAINER = '''
import time
import torch
from torch import nn


class Tiny:
    """Fits a fixed random linear map on a shard of its own."""

    def __init__(self, shard=0, sleep_s=0.0, batch_norm=False, width=16):
        generator = torch.Generator().manual_seed(shard)
        self.x = torch.randn(64, 8, generator=generator) + shard
        self.y = self.x @ torch.randn(8, 4, generator=torch.Generator().manual_seed(99))
        self.sleep_s, self.batch_norm, self.width = sleep_s, batch_norm, width
        self.optimizer = None
        self.saved = None

    def model(self):
        norm = [nn.BatchNorm1d(self.width)] if self.batch_norm else []
        return nn.Sequential(nn.Linear(8, self.width), *norm, nn.ReLU(), nn.Linear(self.width, 4))

    def train(self, model, round):
        time.sleep(self.sleep_s)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        if self.saved:
            self.optimizer.load_state_dict(self.saved)
        model.train()
        for _ in range(5):
            rows = torch.randperm(64)[:32]
            loss = (model(self.x[rows]) - self.y[rows]).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"loss": float(loss)}

    def evaluate(self, model):
        model.eval()
        with torch.no_grad():
            return {"loss": float((model(self.x) - self.y).square().mean())}

    def calibration(self):
        return [self.x[:32], self.x[32:]]

    def state(self):
        return {"optimizer": self.optimizer.state_dict()}

    def load_state(self, state):
        self.saved = state.get("optimizer")
'''

WEFT = [sys.executable, "-m", "weft.cli"]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Federation:
    """Folders, certificates and processes of one run.

    Args:
        folder: everything lies below it.
        nodes: how many nodes there are, named n0, n1, ...
        run: sections of run.toml beyond name, nodes and base, as TOML text.
        rounds: how many.
        options: of the trainer, by node; `shard` is the node's number.
        trainer: the trainer's module, as text.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        rounds: int = 3,
        run: str = "",
        base: str = '[base]\ntrainer = "trainer:Tiny"\n',
        options: Mapping[str, Any] | None = None,
        node_keys: str = "",
        trainer: str = TRAINER,
    ) -> None:
        self.folder, self.count = folder, nodes
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.names = [f"n{i}" for i in range(nodes)]
        # Fixed, as in real life: a node that comes back is where the plan says.
        self.ports = dict(zip(self.names, free_ports(nodes), strict=True))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trainer.py").write_text(trainer)
        authority = Authority.init(folder / "ca", "test")
        for name, role in [
            ("coordinator", Role.COORDINATOR),
            ("operator", Role.OPERATOR),
            *((name, Role.NODE) for name in self.names),
        ]:
            authority.issue(name, role)
        (folder / "run.toml").write_text(
            f'name = "r"\nnodes = {nodes}\nrounds = {rounds}\nlease_s = 5\n{run}\n{base}'
        )
        self.write_coordinator("127.0.0.1:0")
        self._options, self._node_keys = dict(options or {}), node_keys
        self.port = 0

    def credentials(self, name: str) -> Path:
        return self.folder / "ca" / "issued" / name

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def write_coordinator(self, listen: str) -> None:
        (self.folder / "coordinator.toml").write_text(
            f'listen = "{listen}"\ncredentials = "ca/issued/coordinator"\n'
            'data = "data/coordinator"\nmetrics = ""\nrevoked = "ca/revoked.json"\n'
        )

    def write_node(self, name: str, more: str = "", *, listen: str | None = None) -> None:
        listen = listen or f"127.0.0.1:{self.ports[name]}"
        options = {"shard": self.names.index(name), **self._options}
        text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
        (self.folder / f"{name}.toml").write_text(
            f'run = "r"\ncoordinator = "127.0.0.1:{self.port}"\nlisten = "{listen}"\n'
            f'credentials = "ca/issued/{name}"\ndata = "data/{name}"\nmetrics = ""\n'
            f'log_level = "debug"\n{self._node_keys}{more}\n'
            f'[train]\ntrainer = "trainer:Tiny"\n[train.options]\n{text}\n'
        )

    # -- processes -----------------------------------------------------------

    def start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            command, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        log.close()
        self.processes[name] = process
        return process

    def start_coordinator(self) -> None:
        before = self.log("coordinator").count('"listening"')
        self.start("coordinator", [*WEFT, "coordinator", "--config", "coordinator.toml"])
        self.wait(
            lambda: self.log("coordinator").count('"listening"') > before, "the coordinator listens"
        )
        if not self.port:
            self.port = self._port_in_log()
            self.write_coordinator(f"127.0.0.1:{self.port}")

    def _port_in_log(self) -> int:
        for line in self.log("coordinator").splitlines():
            if '"listening"' in line:
                document = json.loads(line)
                return int(document.get("port") or str(document["address"]).rpartition(":")[2])
        raise AssertionError(self.log("coordinator"))

    def create_run(self) -> None:
        self.weft("run", "create", "run.toml")

    def start_node(self, name: str, more: str = "", *, listen: str | None = None) -> None:
        self.write_node(name, more, listen=listen)
        self.start(name, [*WEFT, "node", "--config", f"{name}.toml"])

    def start_all(self) -> None:
        self.start_coordinator()
        self.create_run()
        for name in self.names:
            self.start_node(name)

    def weft(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "WEFT_COORDINATOR": f"127.0.0.1:{self.port}",
            "WEFT_CREDENTIALS": str(self.credentials("operator")),
        }
        done = subprocess.run(
            [*WEFT, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"weft {' '.join(arguments)}: {done.stderr}\n{done.stdout}")
        return done

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.weft("status", "r", "--json").stdout)
        return document

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes[name]
        process.send_signal(how)
        process.wait(timeout=10)

    def wait(self, until: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {what}\n{self.tails()}")
            time.sleep(0.05)

    def wait_done(self, names: list[str] | None = None, timeout_s: float = 90.0) -> None:
        """Every node process exits with 0."""
        for name in names or self.names:
            process = self.processes[name]
            self.wait(lambda p=process: p.poll() is not None, f"{name} is done", timeout_s)  # type: ignore[misc]
            assert process.returncode == 0, f"{name}: {process.returncode}\n{self.tails()}"

    def tails(self) -> str:
        names = ["coordinator", *self.names]
        return "\n".join(f"--- {n}\n" + "\n".join(self.log(n).splitlines()[-25:]) for n in names)

    def merged(self, name: str) -> bytes:
        return (self.data(name) / "merged" / "model.safetensors").read_bytes()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(timeout=10)


@contextmanager
def federation(folder: Path, **arguments: Any) -> Iterator[Federation]:
    """A federation whose processes are ended in any case."""
    made = Federation(folder, **arguments)
    try:
        yield made
    finally:
        made.close()
