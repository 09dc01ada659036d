"""Who is alive: every rank counts up in a store that all reach, and looks at the others' counts.

A collective that fails does not say who is gone, and one that waits for a rank that
hangs says nothing at all. The counts do, whatever the backend, and however long a rank
trains: a thread keeps counting meanwhile. So ranks wait for each other's training here
and not in a collective, which could not be called off: a process with one of gloo under
way does not even end.
"""

import logging
import os
import socket
import threading
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

from weft.simulations.errors import RankLost

logger = logging.getLogger(__name__)

BEAT_S = 0.5
SILENT_LOOKS = 40
"""After so many looks at a count that stands still, a beat apart, a rank counts as lost: 20 s."""
LOOKS_AFTER_FAILURE = 6
LONGEST_PAUSE_S = 0.05
VERDICT, MET, LEFT = "verdict", "met", "left"


class Hearts:
    """The counts of all ranks.

    Args:
        store: reached by all ranks.
        rank: this one.
        size: how many there are.
        beat_s: between two counts, and between two looks.
    """

    def __init__(self, store: Store, rank: int, size: int, beat_s: float = BEAT_S) -> None:
        self._store = PrefixStore("hearts", store)
        self._rank, self._size, self._beat_s = rank, size, beat_s
        self._stopped = threading.Event()
        self._counts = [-1] * size
        self._still = [0] * size
        self._looked = time.monotonic()
        self._who: list[str] = []
        self._meetings = 0
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def start(self, timeout_s: float) -> None:
        """Check in, wait for all others to do so, and begin to count.

        Raises:
            RankLost: ranks did not come in time; names them.
        """
        self._store.set(_count(self._rank), "0")
        self._store.set(f"who/{self._rank}", f"{socket.gethostname()}, process {os.getpid()}")
        deadline = time.monotonic() + timeout_s
        missing = [
            rank
            for rank in range(self._size)
            if not self._came(rank, max(0.1, deadline - time.monotonic()))
        ]
        if missing:
            raise RankLost(
                f"{_ranks(missing)} of {self._size} did not come within {timeout_s:.0f} s; "
                f"see {'its' if len(missing) == 1 else 'their'} output"
            )
        self._who = [self._store.get(f"who/{rank}").decode() for rank in range(self._size)]
        self._thread.start()

    def leave(self, failed: bool) -> None:
        """Count no more.

        Rank 0 may be the one that keeps the store. After a failure it stays for a moment, so
        that the others can read what happened.
        """
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            left = self._store.add(LEFT, 1)
            for _ in range(LOOKS_AFTER_FAILURE + 2):
                if not failed or self._rank != 0 or left == self._size:
                    break
                time.sleep(self._beat_s)
                left = self._store.add(LEFT, 0)
        except RuntimeError as error:
            logger.debug("the store of the ranks is gone: %s", error)

    def meet(self) -> None:
        """Wait until all ranks have come as often as this one, however long they train.

        Raises:
            RankLost: a rank's count has stood still for too long, or some rank has said
                why it goes.
        """
        self._meetings += 1
        pause = 1e-3
        try:
            self._store.add(MET, 1)
            while int(self._store.get(MET)) < self._meetings * self._size:
                time.sleep(pause)
                pause = min(1.5 * pause, LONGEST_PAUSE_S)
                self._watch()
        except RuntimeError as error:
            raise _no_store(str(error)) from error

    def lost(self, error: Exception) -> RankLost:
        """What to raise for a connection that failed: names the rank that is gone.

        Takes some beats of time, in which the living show that they are.
        """
        try:
            self._look()  # what moved since the last look may have moved before the failure
            self._still = [0] * self._size
            for _ in range(LOOKS_AFTER_FAILURE):
                time.sleep(self._beat_s)
                self._look()
        except RankLost as known:
            return known
        gone = [rank for rank, looks in enumerate(self._still) if looks == LOOKS_AFTER_FAILURE]
        if not gone:
            return self._agreed(
                f"rank {self._rank} lost its connection to another though all are alive: {error}"
            )
        return self._agreed(f"{self._names(gone)} ended or hangs; its own output says why")

    def tell(self, error: BaseException) -> None:
        """Leave word for the others of why this rank goes, where nobody went before it."""
        self._agreed(f"{self._names([self._rank])} failed: {type(error).__name__}: {error}")

    def _watch(self) -> None:
        if time.monotonic() - self._looked < self._beat_s:
            return
        self._look()
        silent = [rank for rank, looks in enumerate(self._still) if looks >= SILENT_LOOKS]
        if silent:
            seconds = SILENT_LOOKS * self._beat_s
            raise self._agreed(f"{self._names(silent)} fell silent {seconds:.0f} s ago")

    def _agreed(self, verdict: str) -> RankLost:
        """The first verdict that any rank gave, since who gave one falls silent as well."""
        try:
            first = self._store.compare_set(VERDICT, "", verdict)
        except RuntimeError:
            return _no_store(verdict)
        return RankLost(first.decode())

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            if self._store.check([VERDICT]):
                raise RankLost(self._store.get(VERDICT).decode())
            counts = [int(self._store.get(_count(rank))) for rank in range(self._size)]
        except RuntimeError as error:
            raise _no_store(str(error)) from error
        for rank, (count, before) in enumerate(zip(counts, self._counts, strict=True)):
            moved = count != before or rank == self._rank
            self._still[rank] = 0 if moved else self._still[rank] + 1
        self._counts = counts

    def _came(self, rank: int, timeout_s: float) -> bool:
        try:
            self._store.wait([f"who/{rank}"], timedelta(seconds=timeout_s))
        except RuntimeError:
            return False
        return True

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(self._beat_s):
            count += 1
            try:
                self._store.set(_count(self._rank), str(count))
            except RuntimeError as error:
                # Whoever keeps the store has gone: the next exchange fails and says so.
                logger.debug("the store of the ranks is gone: %s", error)
                return

    def _names(self, ranks: list[int]) -> str:
        return " and ".join(f"rank {rank} ({self._who[rank]})" for rank in ranks)


def _count(rank: int) -> str:
    return f"count/{rank}"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _no_store(what: str) -> RankLost:
    return RankLost(
        "the store of the ranks cannot be reached: whoever keeps it (rank 0, or the launcher of "
        f"the first host) has ended, and its output says why ({what})"
    )
