"""What a package offers is what it lists, and importing it does no work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import FOLDERS, ROOT, name, shipped

PACKAGES = sorted(path for path in shipped() if path.name == "__init__.py")
MODULES = sorted(path for path in shipped() if path.name != "__main__.py")

# What these start when they are first imported is not ours to judge.
HEAVY = ("torch", "numpy")


def listed(source: str) -> list[str]:
    """The names in `__all__`, in their order; empty where there is none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def brought_in(source: str) -> set[str]:
    """The public names that a module imports from weft at its top level."""
    return {
        alias.asname or alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("weft")
        for alias in node.names
        if not (alias.asname or alias.name).startswith("_")
    }


def defined(source: str) -> set[str]:
    """The names that a module defines or assigns at its top level, or resolves lazily."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def complaints(source: str) -> list[str]:
    """How the list of a package differs from what the package brings in."""
    names = listed(source)
    known = brought_in(source) | defined(source)
    found = [f"{name} is imported, but not in __all__" for name in brought_in(source) - set(names)]
    if "__getattr__" not in known:
        found += [f"{name} is in __all__, but not there" for name in set(names) - known]
    if names != sorted(set(names)):
        found.append("__all__ is not sorted, or names something twice")
    return sorted(found)


def dotted(path: Path) -> str:
    """The name under which a shipped file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "src" else ("weft", *parts)
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("path", PACKAGES, ids=name)
def test_a_package_lists_what_it_offers(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_top_level_package_says_what_it_is_and_where_to_start(folder: str) -> None:
    source = (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
    words = (ast.get_docstring(ast.parse(source)) or "").split()
    assert len(words) >= 15, f"{folder}/__init__.py: what it is, what it is not, where to start"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_without_a_word(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    __import__(dotted(path))
    assert capfd.readouterr() == ("", "")


def test_importing_starts_no_thread_and_no_child() -> None:
    script = (
        f"for heavy in {HEAVY}: __import__(heavy)\n"
        "import threading, psutil\n"
        "before = threading.active_count()\n"
        f"for module in {[dotted(path) for path in MODULES]}: __import__(module)\n"
        "print(threading.active_count() - before, len(psutil.Process().children()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.stdout.strip(), done.returncode) == ("0 0", 0), done.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from weft.node.a import B", ["B is imported, but not in __all__"]),
        ("__all__ = ['B']", ["B is in __all__, but not there"]),
        ("def b(): ...\ndef a(): ...\n__all__ = ['b', 'a']", ["__all__ is not sorted"]),
        ("def a(): ...\n__all__ = ['a', 'a']", ["names something twice"]),
    ],
)
def test_a_planted_difference_is_found(source: str, expected: list[str]) -> None:
    found = complaints(source)
    assert len(found) == len(expected)
    assert all(want in have for want, have in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "source",
    [
        '"""Only words."""',
        "import torch\nfrom weft.node.a import B, _c\nA: int = 1\n__all__ = ['A', 'B']",
        "def __getattr__(name: str) -> object: ...\n__all__ = ['Lazy']",
    ],
)
def test_a_list_that_fits_is_let_be(source: str) -> None:
    assert complaints(source) == []
