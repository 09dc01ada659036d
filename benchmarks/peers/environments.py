"""Virtual environments for other tools, made once in a cache folder."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool and the packages that are pinned with it."""

    name: str
    packages: tuple[str, ...]


MERGEKIT = Tool("mergekit", ("mergekit==0.1.5", TORCH))
# It imports neither with transformers 5 nor with datasets 4.
FUSION_BENCH = Tool("fusion-bench", ("fusion-bench==0.2.33", "transformers<5", "datasets<4", TORCH))


class NotThere(Exception):
    """A tool that cannot be installed here; says why in one line."""


def python_of(tool: Tool, cache: Path, torch_index: str = "") -> Path:
    """The interpreter of the tool's own environment, which is made on the first call.

    Args:
        tool: what is to be there.
        cache: holds `environments/NAME`.
        torch_index: a further package index to take torch from.

    Raises:
        NotThere: pip could not install it.
    """
    folder = cache / "environments" / tool.name
    stamp, python = folder / ".complete", folder / "bin" / "python"
    wanted = "\n".join(tool.packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"setting up {tool.name}: some minutes the first time", file=sys.stderr, flush=True)
    extra = ["--extra-index-url", torch_index] if torch_index else []
    install = [python, "-m", "pip", "install", "--quiet", *extra, *tool.packages]
    for command in ([sys.executable, "-m", "venv", "--clear", folder], install):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise NotThere(f"{tool.name} is left out: {lines[-1]}")
    stamp.write_text(wanted)  # last: a set-up that was interrupted is not taken for one that ended
    return python
