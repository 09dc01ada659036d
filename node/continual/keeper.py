"""The one thread that works on a stream, and what everybody else may see of it.

A `Stream` blocks and belongs to one thread. Whoever wants something of it asks here, and
waits for its turn behind at most the step that is under way; what has been made is in
`view`, which is answered at once.

    keeper = await Keeper.open(folder)
    receipt = await keeper.ask(lambda stream: stream.offer(path))
    await keeper.work()                     # for ever: absorbs what waits
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog

from weft.checkpoints.disk import FULL
from weft.errors import Corrupt
from weft.node.board import Board
from weft.node.continual.files import HEAD
from weft.node.continual.records import Contribution, Generation, Status
from weft.node.continual.stream import UNFIT, Stream
from weft.protocol.threads import Threads

log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Between attempts at what cannot be done now: the disk is full, the gate cannot be run."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What a stream has come to; immutable.

    Attributes:
        contributions: all, by their numbers from 1.
        generations: all, by their numbers from 0.
        state_bytes: of the newest generation's state.
    """

    contributions: tuple[Contribution, ...]
    generations: tuple[Generation, ...]
    state_bytes: int

    @property
    def newest(self) -> Generation:
        """The generation that is the head."""
        return self.generations[-1]

    @property
    def waiting(self) -> int:
        """How many are acknowledged and not absorbed."""
        return sum(each.status is Status.WAITING for each in self.contributions)

    def of_source(self, source: str) -> Contribution | None:
        """The newest contribution that came from there."""
        return self._sources.get(source)

    @cached_property
    def _sources(self) -> Mapping[str, Contribution]:
        return {each.source: each for each in self.contributions if each.source}


class Watcher(Protocol):
    """Told of what happens, for figures."""

    def saw(self, view: View) -> None:
        """The stream has changed, or may have."""
        ...

    def absorbed(self, seconds: float) -> None:
        """A generation was made, and took so long."""
        ...


class Keeper:
    """Keeps a stream; build it with `open`. All calls belong to one event loop.

    Attributes:
        view: what the stream has come to.
        head: the folder of the merged model.
        base: digest of the base.
        board: notified at every change.
    """

    def __init__(self, stream: Stream, view: View, threads: Threads, watcher: Watcher) -> None:
        self.view, self.board = view, Board()
        self._troubles: dict[str, str] = {}
        self.head, self.base = stream.folder.resolve() / HEAD, stream.identity.base
        self.base_schema = stream.parts.base.schema
        self._stream, self._threads, self._watcher = stream, threads, watcher
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        watcher.saw(view)

    @classmethod
    async def open(
        cls, folder: Path, watcher: Watcher, *, threads: int = 1, memory_bytes: int = 2**40
    ) -> "Keeper":
        """Open a stream in a thread of its own.

        Raises:
            WeftError: as `Stream`.
        """
        alone = Threads(1, "weft-stream")
        opening = partial(Stream, folder, threads=threads, memory_bytes=memory_bytes)
        try:
            stream = await alone.begin(opening)
            return cls(stream, await alone.begin(_view, stream), alone, watcher)
        except BaseException:
            alone.close()
            raise

    @property
    def trouble(self) -> str:
        """What keeps the stream from going on, in words; empty: nothing."""
        return "; ".join(self._troubles.values())

    def say(self, who: str, trouble: str) -> None:
        """Somebody's part of the trouble; empty: it is over."""
        if trouble != self._troubles.get(who, ""):
            self._troubles[who] = trouble
            self._troubles = {name: text for name, text in self._troubles.items() if text}
            self.board.notify()

    def keeps(self, generation: int) -> bool:
        """Whether the head of a generation can still be read; looks at files only."""
        return self._stream.parts.heads.has(generation)

    async def ask(self, job: Callable[[Stream], Answer]) -> Answer:
        """Do something with the stream when its turn comes; wakes `work`.

        Raises:
            WeftError: what the job raises.
        """
        try:
            return await self._do(job)
        finally:
            self._wake.set()

    async def work(self) -> None:
        """Absorb what waits, for ever; what cannot be done now is tried again.

        Raises:
            Corrupt: the stream's own files are damaged: nobody should go on.
            OSError: nor after an error of the disk.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            self._wake.clear()
            try:
                made = await self._do(self._step)
            except Exception as error:
                _require_mendable(error)
                log.exception("cannot go on; tried again", in_s=pause_s)
                self.say("work", str(error) or type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            self.say("work", "")
            if made is None:
                await self._wake.wait()

    async def close(self) -> None:
        """Let the stream go, once the step that is under way is done."""
        closing = self._threads.begin(self._stream.close)
        self._threads.close()
        await closing

    async def _do(self, job: Callable[[Stream], Answer]) -> Answer:
        return await self._threads.begin(self._and_look, job)

    def _and_look(self, job: Callable[[Stream], Answer]) -> Answer:
        """In the stream's thread: the job, and what has become of the stream by it."""
        try:
            return job(self._stream)
        finally:
            view = _view(self._stream)
            self._loop.call_soon_threadsafe(self._show, view)

    def _step(self, stream: Stream) -> Generation | None:
        begun = time.monotonic()
        try:
            made = stream.work()
        except UNFIT as error:  # a wish that cannot be done was dropped
            log.warning("a revocation or rollback was dropped", reason=str(error))
            return stream.queue.generation
        if made is not None:
            self._loop.call_soon_threadsafe(self._watcher.absorbed, time.monotonic() - begun)
        return made

    def _show(self, view: View) -> None:
        self.view = view
        self._watcher.saw(view)
        self.board.notify()


def _require_mendable(error: Exception) -> None:
    """Raise what nobody should go on after: damage, and errors of a disk that is not full."""
    full = isinstance(error, OSError) and error.errno in FULL
    if isinstance(error, Corrupt | OSError) and not full:
        raise error


def _view(stream: Stream) -> View:
    queue, store = stream.queue, stream.parts.store
    state = queue.generation.state
    return View(
        contributions=queue.contributions,
        generations=queue.generations,
        state_bytes=store.manifest(state).total_bytes if state else 0,
    )
