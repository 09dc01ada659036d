"""A process that merges files in forks of itself and says how much memory each took.

    python -m tests.checkpoints.memory_child

A line on standard input is JSON: [METHOD, OPTIONS, BASE, MODELS, OUTPUT, THREADS, MEMORY,
SHARD_BYTES]. For each comes a line: the resident bytes just after the fork, and the most
that the fork ever had. Imports are paid once.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

from tests.checkpoints.kill_child import say
from weft.checkpoints.engine import MergeSpec
from weft.checkpoints.job import Input, MergeJob, run_job
from weft.merging import registry


def resident() -> int:
    """Bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def work(
    method: str,
    options: dict[str, object],
    base: str | None,
    models: list[str],
    output: str,
    threads: int,
    memory: int,
    shard_bytes: int,
) -> None:
    """One merge, in a fork."""
    before = resident()
    job = MergeJob(
        spec=MergeSpec(method=registry.create(method, **options)),
        base=None if base is None else Input(path=Path(base), name="base"),
        models=tuple(Input(path=Path(path), name=str(n)) for n, path in enumerate(models)),
        output=Path(output),
        recipe={},
        threads=threads,
        memory_bytes=memory,
        shard_bytes=shard_bytes,
    )
    report = run_job(job)
    say(json.dumps([before, report.peak_rss_bytes]))


def main() -> None:
    """One fork for each line."""
    for name in registry.names():
        registry.create(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                work(*json.loads(line))
            except BaseException:
                traceback.print_exc()
                say("failed")
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
