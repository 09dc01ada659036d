"""The image, as far as it can be judged without building it."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.deploy.files import DEPLOY
from tests.support.repository import FOLDERS, ROOT

CONTAINER = DEPLOY / "container"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile, continued lines joined, comments left out."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, rest) for name, rest in pairs]


STEPS = instructions()
LAST_STAGE = STEPS[max(at for at, (name, _) in enumerate(STEPS) if name == "FROM") :]
ARGUMENTS = dict(rest.partition("=")[::2] for name, rest in STEPS if name == "ARG")


def copied() -> list[str]:
    """What is copied from the repository."""
    found: list[str] = []
    for name, rest in STEPS:
        words = rest.split()
        if name == "COPY" and not any(word.startswith("--from") for word in words):
            found += [word for word in words if not word.startswith("--")][:-1]
    return found


def test_only_known_instructions_in_the_right_order() -> None:
    known = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "STOPSIGNAL", "HEALTHCHECK"}
    names = [name for name, _ in STEPS]
    assert set(names) <= known | {"ENTRYPOINT", "CMD"}
    assert names[0] == "ARG"
    assert names[-2:] == ["ENTRYPOINT", "CMD"]


def test_the_base_is_pinned_to_a_patch_release() -> None:
    assert {rest.split()[0] for name, rest in STEPS if name == "FROM"} == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", ARGUMENTS["PYTHON_IMAGE"])
    assert "latest" not in " ".join(rest for _, rest in STEPS)


def test_the_daemons_do_not_run_as_root() -> None:
    [user] = [rest for name, rest in LAST_STAGE if name == "USER"]
    assert user == "${WEFT_UID}:${WEFT_UID}"
    assert int(ARGUMENTS["WEFT_UID"]) > 1000
    after = [name for name, _ in LAST_STAGE][[name for name, _ in LAST_STAGE].index("USER") :]
    assert not {"RUN", "COPY"} & set(after)


def test_the_image_stops_as_the_daemons_do_and_tells_when_it_is_unwell() -> None:
    steps = dict(LAST_STAGE)
    assert steps["STOPSIGNAL"] == "SIGTERM"
    assert steps["HEALTHCHECK"].endswith('CMD ["healthy"]')
    assert steps["ENTRYPOINT"] == '["weft"]'


def test_what_is_copied_is_there_and_is_what_a_build_needs() -> None:
    assert [path for path in copied() if not (ROOT / path).exists()] == []
    assert {path for path in copied() if (ROOT / path).is_dir()} == {"src", *FOLDERS}


def test_the_build_context_is_what_is_copied() -> None:
    lines = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    assert allowed == {re.sub(r"^(deploy/container)/.*", r"\1", path) for path in copied()}


def test_every_installation_is_constrained() -> None:
    runs = " && ".join(rest for name, rest in STEPS if name == "RUN")
    script = (CONTAINER / "install-torch").read_text(encoding="utf-8")
    installs = re.findall(r"pip install[^&\n]*", runs + "\n" + script)
    assert len(installs) == 3
    assert [command for command in installs if "--constraint constraints.txt" not in command] == []


def test_what_is_copied_builds_the_whole_package(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for path in copied():
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, context / path, symlinks=True)
        else:
            shutil.copy(ROOT / path, context)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "out")],
        cwd=context,
        check=True,
        capture_output=True,
        timeout=60,
    )
    [wheel] = (tmp_path / "out").glob("weft-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"weft/py.typed", "weft/errors.py", "weft/protocol/v1/peer_pb2.py"} <= set(names)
    assert {f"weft/{folder}/__init__.py" for folder in FOLDERS} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"weft"}


def install_torch(folder: Path, *arguments: str, machine: str = "x86_64") -> tuple[int, str, str]:
    """Run install-torch with a Python that only notes what it is asked."""
    notes = folder / "notes"
    for name, script in (
        ("python", f'echo "$@" >> {notes}; cat > /dev/null'),
        ("uname", f"echo {machine}"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        [str(CONTAINER / "install-torch"), str(folder / "python"), *arguments],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.returncode, done.stderr, notes.read_text() if notes.exists() else ""


def test_torch_is_installed_as_pinned(tmp_path: Path) -> None:
    code, error, notes = install_torch(tmp_path, "cuda", "")
    assert (code, error) == (0, "")
    assert notes.splitlines() == ["-m pip install --constraint constraints.txt torch", "- cuda"]


def test_torch_without_cuda_comes_from_the_index_that_was_named(tmp_path: Path) -> None:
    code, _, notes = install_torch(tmp_path, "cpu", "https://index.example.org/cpu")
    assert code == 0
    assert "--extra-index-url https://index.example.org/cpu torch" in notes


def test_torch_without_cuda_needs_no_index_where_there_is_no_other(tmp_path: Path) -> None:
    code, _, notes = install_torch(tmp_path, "cpu", machine="aarch64")
    assert code == 0
    assert "index" not in notes


@pytest.mark.parametrize(
    ("arguments", "word"), [(("cpu", ""), "TORCH_INDEX"), (("gpu",), "TORCH is 'gpu'")]
)
def test_a_build_that_would_install_another_torch_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], word: str
) -> None:
    code, error, notes = install_torch(tmp_path, *arguments)
    assert (code, notes) == (2, "")
    assert word in error
    assert error.count("\n") == 1


def healthy(address: str) -> tuple[int, str]:
    """What the image's health check says of an address."""
    done = subprocess.run(
        [sys.executable, str(CONTAINER / "healthy.py")],
        env={**os.environ, "WEFT_METRICS": address, "http_proxy": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_health_check_asks_the_daemon(status: int, expected: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/metrics" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        code, error = healthy(f"127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    assert code == expected
    assert ("503" in error) == (status == 503)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_the_health_check_says_when_nobody_answers(address: str) -> None:
    code, error = healthy(address)
    assert code == 1
    assert address in error
    assert error.count("\n") == 1
