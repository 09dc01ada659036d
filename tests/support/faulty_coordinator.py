"""`weft coordinator`, killed at one commit: `faulty_coordinator.py POINT:N CONFIG`.

POINT is `before` (nothing is written), `after` (it is durable, nobody has been
told) or `within` (its effect is under way). N counts the commits of this process.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from weft.coordinator import daemon
from weft.coordinator.config import load_config
from weft.coordinator.database import SqlRepository
from weft.protocol.logs import configure_logs

WITHIN_S = 0.01


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(point: str, number: int) -> type[SqlRepository]:
    """A repository that kills its process at its n-th commit."""

    class DeadlyRepository(SqlRepository):
        commits = 0

        def commit(self, change: Any) -> None:
            DeadlyRepository.commits += 1
            now = DeadlyRepository.commits == number
            if now and point == "before":
                die()
            super().commit(change)
            if now and point == "after":
                die()
            if now:
                threading.Timer(WITHIN_S, die).start()

    return DeadlyRepository


def main() -> None:
    configure_logs("info")
    point, _, number = sys.argv[1].partition(":")
    vars(daemon)["SqlRepository"] = deadly(point, int(number))
    asyncio.run(daemon.serve(load_config(Path(sys.argv[2]))))


if __name__ == "__main__":
    main()
