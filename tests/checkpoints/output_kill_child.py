"""A process that writes output folders in forks of itself; FOLDER holds the companions.

    python -m tests.checkpoints.output_kill_child

See `forks.py` for what it is told and says.
"""

from pathlib import Path

from tests.checkpoints.forks import serve
from tests.checkpoints.outputs import write_output
from weft.checkpoints.sidecars import find_sidecars


def work(path: Path, companions: Path, resume: bool) -> None:
    """What a fork does with its life."""
    write_output(path, resume=resume, sidecars=find_sidecars(companions))


if __name__ == "__main__":
    serve(work)
