"""The committed code of the wire is what its .proto files generate."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.support.repository import GENERATED, ROOT

PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")


def generated(folder: Path) -> dict[str, str]:
    """Name and text of every generated file in a folder."""
    paths = [path for pattern in PATTERNS for path in folder.glob(pattern)]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    sources = [f"weft/protocol/v1/{path.name}" for path in sorted(GENERATED.glob("*.proto"))]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Isrc", *outputs, *sources],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    fresh = generated(tmp_path / "weft" / "protocol" / "v1")
    committed = generated(GENERATED)
    assert sorted(fresh) == sorted(committed)
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert stale == [], f"run `make proto` (grpcio-tools here: {version('grpcio-tools')})"
