"""A process that takes contributions in forks of itself and says how much memory each took.

    python -m tests.node.continual.stream_memory_child

A line on standard input is JSON: [STREAM, MODELS]; the stream is there, and takes each of
the models. For each line comes one: the resident bytes just after the fork, and the most
that the fork ever had. Imports are paid once.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

import torch

from tests.checkpoints.kill_child import say
from tests.checkpoints.memory_child import resident
from tests.node.continual.stream_kill_child import quiet
from weft.merging import registry
from weft.node.continual.stream import Stream


def work(folder: str, models: list[str]) -> None:
    """A life."""
    before = resident()
    with Stream(Path(folder)) as stream:
        for path in models:
            stream.offer(Path(path))
            stream.drain()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(json.dumps([before, most]))


def main() -> None:
    """One fork for each line."""
    torch.set_num_threads(1)
    quiet()
    for name in registry.names():
        registry.create(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                work(*json.loads(line))
            except BaseException:
                traceback.print_exc()
                say("[0, 0]")
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
