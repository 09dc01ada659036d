"""Which files the repository holds: what git would commit, or the tree without git."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "merging",
    "topology",
    "checkpoints",
    "protocol",
    "coordinator",
    "node",
    "simulations",
    "cli",
)
GENERATED = ROOT / "protocol" / "v1"


def git(*arguments: str) -> list[str] | None:
    """The lines that a git command prints; None where this is no git checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()


def files() -> list[Path]:
    """Every file that is committed or would be: no links, nothing that git ignores."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    paths = walked(ROOT) if listed is None else (ROOT / line for line in listed)
    return sorted(path for path in set(paths) if path.is_file() and not path.is_symlink())


def walked(folder: Path) -> Iterator[Path]:
    """The files below a folder, without hidden folders, caches and build outputs."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name.startswith(".") or path.name in {"__pycache__", "build"}:
            continue
        if path.is_dir():
            yield from walked(path)
        else:
            yield path


def shipped() -> list[Path]:
    """The Python files that are packed as `weft`, without the generated ones."""
    folders = {*FOLDERS, "src"}
    return [
        path
        for path in files()
        if path.suffix == ".py"
        and path.relative_to(ROOT).parts[0] in folders
        and (path.parent != GENERATED or path.name == "__init__.py")
    ]


def name(path: Path) -> str:
    """A path as the messages and test ids show it: from the repository's root."""
    return path.relative_to(ROOT).as_posix()
