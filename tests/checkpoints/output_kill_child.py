"""A process that writes output folders in forks of itself, each to be killed.

    python -m tests.checkpoints.output_kill_child

A line on standard input is JSON: [PATH, COMPANIONS, POINT, RESUME, TRACED]. The fork dies
just before its POINT-th call that touches the disk; 0: it lives. A fork that is to be
TRACED stops itself first, and `born PID` says so. At the end comes `killed` or `ended N`.
Imports are paid once.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tests.checkpoints.kill_child import die_at, say
from tests.checkpoints.outputs import write_output
from weft.checkpoints.sidecars import find_sidecars


def work(path: str, companions: str, point: int, resume: bool, traced: bool) -> None:
    """What a fork does with its life."""
    if traced:
        os.kill(os.getpid(), signal.SIGSTOP)
    if point:
        die_at(point)
    write_output(Path(path), resume=resume, sidecars=find_sidecars(Path(companions)))


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
