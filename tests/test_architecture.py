"""The rules of the house that no linter knows.

Each rule is a table and a function from a source text to complaints; each function
is tried on planted sources first, so that a rule that stops biting is a red test.
"""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.repository import FOLDERS, ROOT, files, name, shipped

BELOW_NODE = {"protocol", "checkpoints", "merging", "topology"}

# Imports run one way; this table is the only place that says which.
MAY_IMPORT: dict[str, set[str]] = {
    "src": {"errors"},
    "merging": {"errors"},
    "topology": {"errors"},
    "checkpoints": {"errors", "merging"},
    "protocol": {"errors", "checkpoints", "merging", "topology"},
    "coordinator": {"errors", *BELOW_NODE},
    "node": {"errors", *BELOW_NODE},
    "simulations": {
        "coordinator.membership",
        "errors",
        "node.calibration",
        "node.due",
        "node.entries",
        "node.errors",
        "node.global_merge",
        "node.rounds",
        "node.trainer",
        *BELOW_NODE,
    },
    "cli": {"errors", "__version__", "simulations", "node", "coordinator", *BELOW_NODE},
}

CLOCKS_AND_CHANCE = {"time", "random", "secrets"}
DISK = {"os", "pathlib", "shutil", "tempfile"}
SOCKETS = {"asyncio", "grpc", "socket", "ssl", "threading", "subprocess"}
PURE = CLOCKS_AND_CHANCE | DISK | SOCKETS | {"safetensors", "logging", "structlog"}
SANS_IO = CLOCKS_AND_CHANCE | DISK | SOCKETS

# What a part must stay free of: (files, modules), first match or not; all rows hold.
MUST_NOT_IMPORT: list[tuple[str, set[str]]] = [
    ("merging/*", PURE),
    ("topology/*", PURE),
    ("node/due.py", SANS_IO),
    ("node/rounds.py", SANS_IO),
    ("node/global_merge.py", SANS_IO),
    ("coordinator/membership.py", SANS_IO),
    ("coordinator/leases.py", SANS_IO),
    ("coordinator/admission.py", SANS_IO),
    ("coordinator/epochs.py", SANS_IO),
    ("coordinator/global_sets.py", SANS_IO),
    ("coordinator/records.py", SANS_IO),
    ("protocol/transfer.py", SANS_IO),
    ("node/continual/queue.py", SANS_IO),
    ("node/continual/watch.py", SANS_IO),
    ("simulations/*", {"grpc"}),
    ("coordinator/*", {"torch"}),
    ("checkpoints/manifest.py", {"torch"} | PURE),
    ("checkpoints/digest.py", {"torch"} | PURE),
    ("checkpoints/schema.py", {"torch"}),
]

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "core", "base"}

LONGEST_FUNCTION = 60

# A home or a work folder of some machine; written in pieces, so that this file has none.
# Somebody called `me` lives on every machine: examples and planted secrets may speak of them.
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|Users|root|work|workspace)" + r"/(?!me\b)[\w.-]+")

SHIPPED = shipped()


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, as text or by call."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = "." * level + (module or "")
                yield from ((node.lineno, f"{start}.{alias.name}") for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(target)), *_]):
                if ast.unparse(function).split(".")[-1] in {"import_module", "__import__"}:
                    yield node.lineno, target


def against_the_arrow(folder: str, source: str) -> list[str]:
    """Imports that go upwards, that are relative, or that leave out `weft.`."""
    complaints = []
    allowed = MAY_IMPORT.get(folder)
    for line, target in imported(source):
        head, *rest = target.split(".")
        if head == "":
            complaints.append(f"line {line}: relative import {target}")
        elif head in FOLDERS:
            complaints.append(f"line {line}: {target} without weft.")
        elif head == "weft" and rest and allowed is not None:
            inside = ".".join(rest)
            if not any(f"{inside}.".startswith(f"{row}.") for row in {*allowed, folder}):
                complaints.append(f"line {line}: {folder}/ may not import {target}")
    return complaints


def impurities(path: str, source: str) -> list[str]:
    """Imports that the second table forbids to this file."""
    forbidden = {
        module for rows, modules in MUST_NOT_IMPORT if fnmatch(path, rows) for module in modules
    }
    return [
        f"line {line}: {path} may not import {target}"
        for line, target in imported(source)
        if target.split(".")[0] in forbidden
    ]


def undocumented(source: str) -> list[str]:
    """The module, and its public classes, where they have no docstring."""
    tree = ast.parse(source)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    return missing + [
        f"line {node.lineno}: class {node.name}"
        for node in public_classes(tree)
        if not ast.get_docstring(node)
    ]


def public_classes(scope: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef]:
    """The classes that others can name: those of a module, and theirs; not a function's own."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node
            yield from public_classes(node)


def long_functions(source: str) -> list[str]:
    """Functions that do not fit on a page."""
    return [
        f"line {node.lineno}: {node.name} has {length} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def vague_names(path: str) -> list[str]:
    """Parts of a path that say nothing about what is inside."""
    return [part for part in path.removesuffix(".py").split("/") if part in FORBIDDEN_NAMES]


def machine_paths(text: str) -> list[str]:
    """Absolute paths below a home or a work folder."""
    return MACHINE_PATH.findall(text)


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert against_the_arrow(folder, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_pure_parts_stay_pure(path: Path) -> None:
    assert impurities(name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_public_modules_and_classes_say_what_they_are(path: Path) -> None:
    assert undocumented(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_functions_fit_on_a_page(path: Path) -> None:
    assert long_functions(path.read_text(encoding="utf-8")) == []


def test_tests_and_examples_import_the_package_by_its_name() -> None:
    others = [
        p for p in files() if p.suffix == ".py" and p not in set(SHIPPED) and "v1" not in p.parts
    ]
    complaints = {name(p): against_the_arrow("", p.read_text(encoding="utf-8")) for p in others}
    assert {path: found for path, found in complaints.items() if found} == {}


def test_every_row_of_the_tables_guards_a_file() -> None:
    paths = [name(path) for path in SHIPPED]
    rows = [rows for rows, _ in MUST_NOT_IMPORT]
    assert [row for row in rows if not any(fnmatch(path, row) for path in paths)] == []
    assert set(MAY_IMPORT) == {*FOLDERS, "src"}


def test_no_file_has_a_name_that_says_nothing() -> None:
    paths = [name(path) for path in files() if path.suffix == ".py"]
    assert [path for path in paths if vague_names(path)] == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    found = {}
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or a tensor, not a text
        if paths := machine_paths(text):
            found[name(path)] = paths
    assert found == {}


UPWARD = [
    ("merging", "import weft.topology.graphs"),
    ("merging", "from weft import checkpoints"),
    ("topology", "from weft.merging.method import Method"),
    ("checkpoints", "from weft.protocol.run import Plan"),
    ("protocol", "def f():\n    from weft.node import daemon"),
    ("node", "from weft.coordinator.membership import Membership"),
    ("coordinator", "from weft.node.rounds import Machine"),
    ("coordinator", "import importlib\nimportlib.import_module('weft.node.daemon')"),
    ("simulations", "from weft.node.daemon import Daemon"),
    ("simulations", "from weft.node import rounds_of_another_kind"),
    ("simulations", "from weft.node import *"),
    ("simulations", "from weft.cli.app import app"),
    ("node", "if TYPE_CHECKING:\n    from weft.cli.app import app"),
    ("src", "from weft.merging import method"),
    ("node", "from . import rounds"),
    ("node", "from .rounds import Machine"),
    ("cli", "import node"),
    ("cli", "from merging.method import Method"),
    ("", "from protocol.run import Plan"),
    ("", "from ..support import repository"),
]

DOWNWARD = [
    ("merging", "from weft.errors import InvalidInput\nfrom weft.merging.method import Fold"),
    ("checkpoints", "from weft.merging import registry"),
    ("node", "from weft.protocol.run import Plan\nimport torch\nimport weft.topology"),
    ("simulations", "from weft.node import rounds\nfrom weft.node.trainer import Trainer"),
    ("simulations", "from weft.coordinator.membership import Membership"),
    ("cli", "from weft import __version__\nfrom weft.node.daemon import serve\nimport weft"),
    ("", "from weft.node.daemon import serve"),
]


@pytest.mark.parametrize(("folder", "source"), UPWARD)
def test_a_planted_import_upwards_is_found(folder: str, source: str) -> None:
    assert len(against_the_arrow(folder, source)) == 1


@pytest.mark.parametrize(("folder", "source"), DOWNWARD)
def test_an_import_downwards_is_let_be(folder: str, source: str) -> None:
    assert against_the_arrow(folder, source) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        *[
            (f"{folder}/deep/planted.py", f"import {module}")
            for folder in ("merging", "topology")
            for module in (
                "asyncio",
                "grpc",
                "socket",
                "os",
                "os.path",
                "pathlib",
                "time",
                "random",
                "safetensors.torch",
                "logging",
            )
        ],
        *[
            (path, f"def f():\n    from {module} import anything")
            for path in (
                "node/rounds.py",
                "node/global_merge.py",
                "coordinator/membership.py",
                "coordinator/leases.py",
                "protocol/transfer.py",
            )
            for module in ("asyncio", "grpc", "socket", "time", "random", "os", "pathlib")
        ],
        ("simulations/planted.py", "import grpc.aio"),
        ("coordinator/planted.py", "import torch"),
        ("coordinator/membership.py", "from torch import nn"),
        ("checkpoints/manifest.py", "import torch"),
        ("checkpoints/digest.py", "from torch import Tensor"),
        ("checkpoints/schema.py", "import torch.nn"),
    ],
)
def test_a_planted_impurity_is_found(path: str, source: str) -> None:
    assert len(impurities(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("merging/method.py", "import torch\nimport math\nimport timeit_of_ours"),
        ("node/daemon.py", "import asyncio\nimport os\nimport time"),
        ("node/rounds.py", "from dataclasses import dataclass\nfrom weft.protocol.run import Plan"),
        ("checkpoints/reader.py", "import os\nimport torch"),
    ],
)
def test_a_clean_module_is_let_be(path: str, source: str) -> None:
    assert impurities(path, source) == []


def test_a_planted_gap_in_the_docstrings_is_found() -> None:
    assert undocumented("x = 1") == ["the module"]
    assert undocumented('"""What."""\nclass Open:\n    x = 1') == ["line 2: class Open"]
    nested = '"""What."""\nclass A:\n    """A."""\n    class B:\n        x = 1'
    assert undocumented(nested) == ["line 4: class B"]
    assert undocumented('"""What."""\nclass _Own:\n    x = 1') == []
    assert undocumented('"""What."""\ndef f():\n    class Inside:\n        x = 1') == []


def test_a_planted_long_function_is_found() -> None:
    page = "def f():\n" + "    x = 1\n" * (LONGEST_FUNCTION - 1)
    assert long_functions(page) == []
    assert long_functions(page + "    x = 2\n") == ["line 1: f has 61 lines"]
    assert len(long_functions("async " + page + "    x = 2\n")) == 1


@pytest.mark.parametrize(
    "path", ["node/utils.py", "cli/helpers/a.py", "core.py", "merging/base.py"]
)
def test_a_planted_vague_name_is_found(path: str) -> None:
    assert len(vague_names(path)) == 1


@pytest.mark.parametrize("path", ["topology/base_k.py", "cli/commonplace.py", "node/rounds.py"])
def test_a_telling_name_is_let_be(path: str) -> None:
    assert vague_names(path) == []


@pytest.mark.parametrize("folder", ["home", "Users", "root", "work", "workspace"])
@pytest.mark.parametrize("before", ["", "'", "see ", "-v ", "=", "("])
def test_a_planted_machine_path_is_found(folder: str, before: str) -> None:
    assert machine_paths(f"{before}/{folder}/somebody/weft") == [f"/{folder}/somebody"]


@pytest.mark.parametrize(
    "text",
    [
        "/home/me/data",
        "/var/lib/weft/node",
        "a/home/b",
        "https://x.org/work/a",
        "$HOME/work/a",
        "at work/home",
    ],
)
def test_a_path_of_every_machine_is_let_be(text: str) -> None:
    assert machine_paths(text) == []
