"""A process that merges with experts in forks of itself, each to be killed.

    python -m tests.checkpoints.expert_kill_child FOLDER

FOLDER holds the models of `tests.checkpoints.experts`. A line on standard input is JSON:
[OUT, EXPERTS, POINT, RESUME]. The fork dies just before its POINT-th call that touches the
disk; 0: it lives. At the end comes `killed` or `ended N`.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from tests.checkpoints.experts import merge
from tests.checkpoints.kill_child import die_at, say
from weft.merging.methods.consensus import Consensus


def main() -> None:
    """One fork for each line."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        out, experts, point, resume = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                if point:
                    die_at(point)
                merge(folder, Consensus(), out, experts, resume=resume, names=["a", "b"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        say("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")


if __name__ == "__main__":
    main()
