"""A process that merges files in forks of itself, each to be killed.

    python -m tests.checkpoints.merge_kill_child

A line on standard input is JSON: [PATH, FOLDER, POINT, RESUME, TRACED], as
`output_kill_child` has them; FOLDER holds the models. Imports are paid once.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tests.checkpoints.kill_child import die_at, say
from weft.checkpoints.engine import MergeSpec
from weft.checkpoints.job import Input, MergeJob, MergeReport, run_job
from weft.merging.methods.dare import Dare
from weft.merging.methods.lines import Lines
from weft.merging.methods.ties import Ties

SHARD_BYTES = 400


def merge_files(path: Path, folder: Path, *, resume: bool) -> MergeReport:
    """Steps that draw, rank and know of depth, into several shards."""
    names = ("a", "b", "c")
    job = MergeJob(
        spec=MergeSpec(method=Ties(), before=(Dare(), Lines())),
        base=Input(path=folder / "base", name="base"),
        models=tuple(Input(path=folder / name, name=name) for name in names),
        output=path,
        recipe={"method": "ties"},
        shard_bytes=SHARD_BYTES,
        threads=2,
        resume=resume,
    )
    return run_job(job)


def work(path: str, folder: str, point: int, resume: bool, traced: bool) -> None:
    """What a fork does with its life."""
    if traced:
        os.kill(os.getpid(), signal.SIGSTOP)
    if point:
        die_at(point)
    merge_files(Path(path), Path(folder), resume=resume)


def main() -> None:
    """One fork for each line."""
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                work(*asked)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if asked[-1]:
            say(f"born {pid}")
        _, status = os.waitpid(pid, 0)
        say("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")


if __name__ == "__main__":
    main()
