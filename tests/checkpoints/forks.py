"""A process that does its work in forks of itself, each to be killed.

A line on standard input is JSON: [PATH, FOLDER, POINT, RESUME, TRACED]. The fork dies
just before its POINT-th call that touches the disk; 0: it lives. A fork that is to be
TRACED stops itself first, and `born PID` says so. At the end comes `killed` or `ended N`.
Imports are paid once.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.checkpoints.kill_child import die_at, say


def serve(work: Callable[[Path, Path, bool], object]) -> None:
    """One fork for each line; `work` gets PATH, FOLDER and RESUME."""
    for line in sys.stdin:
        path, folder, point, resume, traced = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                if traced:
                    os.kill(os.getpid(), signal.SIGSTOP)
                if point:
                    die_at(point)
                work(Path(path), Path(folder), resume)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if traced:
            say(f"born {pid}")
        _, status = os.waitpid(pid, 0)
        say("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")
