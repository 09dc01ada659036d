"""The process that trains: `python -m weft.node.training_process SETTINGS`.

Started by `weft.node.training`, it lives between rounds, because importing torch
and reading data costs seconds. It answers one request at a time over a socket of
its own; what the user's code prints goes where its standard streams go. While it
works, a thread shows that it lives.

It does not outlive the daemon: a thread listens for requests all the time, and
when the other end of the socket closes it kills the process and its children,
even in the middle of a training. A process that was stopped is woken for that.
"""

import atexit
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NoReturn

from weft.errors import TrainingFailed, WeftError
from weft.node.training_messages import (
    ALIGN,
    ALIGNED,
    FACTS,
    LENGTH,
    REQUEST,
    RESULT,
    SETTINGS,
    UNITS,
    body_length,
    error_message,
    frame,
    message_of,
    one_line,
)

if TYPE_CHECKING:
    from weft.node.training_worker import TrainingWorker

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1

Message = Mapping[str, Any]
"""A decoded JSON object."""


class Link:
    """The child's end: whole messages, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)  # or the user's children would keep it open
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, object]) -> None:
        """Send one message; nothing happens where the daemon is gone."""
        with self._lock:
            try:
                self._socket.sendall(frame(message))
            except (BrokenPipeError, ConnectionResetError):
                log.warning("the daemon is gone")  # the listener ends this process

    def receive(self) -> Message | None:
        """The next message; None when the other end is closed."""
        header = self._exactly(LENGTH.size)
        if header is None:
            return None
        body = self._exactly(body_length(header))
        return None if body is None else message_of(body)

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._socket.recv(count - len(parts))
            except ConnectionResetError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)


class Pulse:
    """Sends heartbeats while there is work: `with pulse: work()`."""

    def __init__(self, link: Link, interval_s: float) -> None:
        self._link, self._interval_s = link, interval_s
        self._working = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def __enter__(self) -> None:
        self._working.set()

    def __exit__(self, *_: object) -> None:
        self._working.clear()

    def _beat(self) -> None:
        while self._working.wait():
            time.sleep(self._interval_s)
            if self._working.is_set():
                self._link.send({"heartbeat": True})


def main(arguments: list[str]) -> int:
    """Serve requests until told to stop; returns the exit status."""
    settings = SETTINGS.validate_json(arguments[0])
    _die_with(settings.parent)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    link = Link(settings.descriptor)
    requests: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=_listen, args=(link, requests), name="requests", daemon=True).start()
    pulse = Pulse(link, settings.heartbeat_s)

    def load() -> "TrainingWorker":
        # Torch comes in here, when the listener already watches over the daemon's life.
        from weft.node.training_worker import TrainingWorker

        return TrainingWorker(settings)

    worker = _answered(link, pulse, load, lambda ready: FACTS.dump_python(ready.facts()))
    if worker is None:
        return 1
    while (request := requests.get())["do"] != "stop":
        _answered(link, pulse, lambda: _perform(worker, request), lambda answer: answer)
    return 0


def _answered(
    link: Link, pulse: Pulse, work: Callable[[], Any], tell: Callable[[Any], object]
) -> Any:
    """Work with a pulse and send what came of it; returns None where it failed."""
    try:
        with pulse:
            result = work()
            answer = tell(result)
    except WeftError as error:
        link.send(error_message(error, traceback.format_exc()))
        return None
    except Exception as error:
        log.exception("the training process failed")
        failure = TrainingFailed(f"the training process failed: {one_line(error)}")
        link.send(error_message(failure, traceback.format_exc()))
        return None
    link.send({"answer": answer})
    return result


def _perform(worker: "TrainingWorker", request: Message) -> object:
    match request["do"]:
        case "train":
            result = worker.train(REQUEST.validate_python(request["request"]))
            return RESULT.dump_python(result)
        case "evaluate":
            return worker.evaluate(Path(request["model"]))
        case "calibrate":
            return worker.calibrate(Path(request["model"]), Path(request["out"]))
        case "re_estimate":
            return worker.re_estimate(Path(request["model"]), Path(request["out"]))
        case "units":
            return UNITS.dump_python(worker.units())
        case "align":
            return ALIGNED.dump_python(worker.align(ALIGN.validate_python(request["request"])))
        case "initial_model":
            worker.initial_model(Path(request["out"]), int(request["seed"]))
            return None
        case unknown:
            raise TrainingFailed(f"the training process was asked for {unknown!r}")


def _listen(link: Link, requests: "SimpleQueue[Message]") -> None:
    while (message := link.receive()) is not None:
        requests.put(message)
    _end_all()


def _end_all() -> None:
    """End this process and, where it leads a group, the processes of the user's code."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with(parent: int) -> None:
    # Not SIGKILL: it would come before the listener and leave the user's children alone.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    if parent and os.getppid() != parent:
        _end_all()


def _leave(status: int) -> NoReturn:
    """End as Python does, without taking torch apart, which costs a second of CPU."""
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
