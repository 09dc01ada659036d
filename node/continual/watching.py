"""Takes what training jobs leave in a folder into a stream, for as long as it is served.

What becomes of a checkpoint stands in the stream's history; there it is also looked up
whether one has come before, so that a restart reads nothing twice.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import watchfiles

from weft.checkpoints.errors import MissingCheckpoint, UnsupportedFile
from weft.errors import Corrupt, Exhausted, InvalidInput, Unavailable, WeftError
from weft.node.continual.errors import StillChanging, Unfit
from weft.node.continual.keeper import Keeper
from weft.node.continual.stream import Stream
from weft.node.continual.watch import SETTLE_S, STALE_S, Found, Verdict, Watch
from weft.node.continual.watch_folder import checkpoints_in, stamp_of, unwhole
from weft.protocol.threads import Threads

log = structlog.get_logger(__name__)

RESCAN_S: Final = 10.0
_SHORTEST_S: Final = 0.2


class Watching:
    """A watched folder and the stream that takes from it.

    Args:
        folder: where training jobs write.
        keeper: of the stream.
        settle_s: how long nothing may have changed.
        stale_s: how long one that is not whole is waited for.
        rescan_s: how often all is looked at, whatever the system tells.
        prefix: of torch.distributed checkpoints only tensors that begin with it.
        clock: seconds, of a monotonic clock.
    """

    def __init__(
        self,
        folder: Path,
        keeper: Keeper,
        *,
        settle_s: float = SETTLE_S,
        stale_s: float = STALE_S,
        rescan_s: float = RESCAN_S,
        prefix: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._keeper, self._clock = folder, keeper, clock
        self._watch = Watch(settle_s=settle_s, stale_s=stale_s)
        self._pause_s = max(_SHORTEST_S, min(settle_s / 2, rescan_s))
        self._rescan_s, self._prefix = rescan_s, prefix
        self._threads = Threads(1, "weft-watch")
        self._unsettled = True
        self._stuck: dict[str, str] = {}
        """Why some cannot be taken now, by path."""

    async def run(self) -> None:
        """Watch for ever."""
        changed = asyncio.Event()
        telling = asyncio.create_task(self._told(changed))
        try:
            while True:
                changed.clear()
                await self.look()
                wait_s = self._pause_s if self._unsettled else self._rescan_s
                try:
                    async with asyncio.timeout(wait_s):
                        await changed.wait()
                    await asyncio.sleep(_SHORTEST_S)  # many changes, one look
                except TimeoutError:
                    pass
        finally:
            telling.cancel()
            self._threads.close()

    async def look(self) -> None:
        """Look at the folder once, and take what is due."""
        found = await self._threads.begin(checkpoints_in, self._folder)
        due = self._watch.due(found, self._clock())
        present = {each.path for each in found}
        self._stuck = {path: why for path, why in self._stuck.items() if path in present}
        for each in due:
            self._stuck.pop(each.path, None)
            verdict = await self._judge(each)
            self._watch.judged(each, verdict, self._clock())
        self._keeper.say("watch", next(iter(self._stuck.values()), ""))
        self._unsettled = self._watch.waits_for_any

    async def _judge(self, each: Found) -> Verdict:
        """What becomes of one; nothing that a file can hold stops the watch."""
        if self._keeper.view.of_source(each.source) is not None:
            return Verdict.TAKEN
        try:
            reason = await self._threads.begin(unwhole, self._folder / each.path, self._prefix)
        except UnsupportedFile as error:
            return await self._refuse(each, str(error))
        except Exception as error:
            return await self._unexpected(each, error)
        if not reason:
            return await self._offer(each)
        if not self._watch.is_stale(each, self._clock()):
            log.debug("not whole yet", path=each.path, reason=reason)
            return Verdict.NOT_WHOLE
        return await self._refuse(each, f"not whole, and nobody writes it: {reason}")

    async def _offer(self, each: Found) -> Verdict:
        try:
            receipt = await self._keeper.ask(partial(self._offered, each))
        except Unfit:
            return Verdict.TAKEN  # noted with its reason
        except (StillChanging, MissingCheckpoint):
            return Verdict.NOT_WHOLE  # or gone: then it is not found again
        except Corrupt:
            raise  # of the stream itself: what a file is not was noted already
        except InvalidInput as error:
            return await self._refuse(each, str(error))
        except (WeftError, OSError) as error:
            return self._later(each, error)
        except Exception as error:
            return await self._unexpected(each, error)
        log.info("seen", path=each.path, contribution=receipt, lineage=each.lineage)
        return Verdict.TAKEN

    def _offered(self, each: Found, stream: Stream) -> int:
        """In the stream's thread: take one; returns its number."""
        path = self._folder / each.path
        receipt = stream.offer(
            path,
            name=each.path,
            lineage=each.lineage,
            step=each.step,
            source=each.source,
            check=partial(_require_unchanged, path, each),
            prefix=self._prefix,
        )
        return receipt.contribution.seq

    async def _refuse(self, each: Found, reason: str) -> Verdict:
        def job(stream: Stream) -> None:
            stream.refuse(
                reason, name=each.path, lineage=each.lineage, step=each.step, source=each.source
            )

        try:
            await self._keeper.ask(job)
        except (Exhausted, Unavailable) as error:
            return self._later(each, error)
        return Verdict.TAKEN

    async def _unexpected(self, each: Found, error: Exception) -> Verdict:
        """No file may stop the watch, not even by a mistake of ours."""
        log.error("internal error", path=each.path, exc_info=error)
        return await self._refuse(each, f"{type(error).__name__}: {error}")

    def _later(self, each: Found, error: Exception) -> Verdict:
        log.error("cannot be taken now; tried again", path=each.path, reason=str(error))
        self._stuck[each.path] = str(error)
        return Verdict.LATER

    async def _told(self, changed: asyncio.Event) -> None:
        """Set the event whenever the system tells of a change; where it cannot, the rescan does."""
        try:
            changes = watchfiles.awatch(self._folder, recursive=True, step=100, debounce=400)
            async with aclosing(changes):
                async for _ in changes:
                    changed.set()
        except (OSError, RuntimeError) as error:
            log.warning("changes are not told; the folder is scanned", reason=str(error))


def _require_unchanged(path: Path, each: Found) -> None:
    """What was read is what was looked at.

    Raises:
        StillChanging: somebody wrote it meanwhile.
    """
    if stamp_of(path) != each.stamp:
        raise StillChanging(f"{each.path}: changed while it was read; it is read again")
