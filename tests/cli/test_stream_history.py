"""What a person sees of a stream's history, whatever its contributions are called."""

from dataclasses import asdict

import pytest
from rich.console import Console

from weft.cli.stream_history import table
from weft.node.continual.queue import ACCEPTED, BEGUN, REFUSED, Queue
from weft.node.continual.records import Cause, Contribution, Generation, Status


def queue_with(name: str, lineage: str, reason: str) -> Queue:
    queue = Queue()
    queue.apply(BEGUN, asdict(Generation(number=0, cause=Cause.BEGUN, head="0" * 64)))
    queue.apply(ACCEPTED, asdict(Contribution(seq=1, name="plain", digest="a" * 64)))
    told = Contribution(
        seq=2, name=name, digest="", lineage=lineage, status=Status.SET_ASIDE, reason=reason
    )
    queue.apply(REFUSED, asdict(told))
    return queue


def printed(queue: Queue) -> str:
    console = Console(width=400, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(table(queue))
    return capture.get()


@pytest.mark.parametrize("text", ["[/x]evil", "[red]run[/red]", "[link=file:///]x[/link]", "a[b]"])
@pytest.mark.parametrize("where", ["name", "lineage", "reason"])
def test_what_others_named_is_shown_as_it_is(where: str, text: str) -> None:
    told = {"name": "c", "lineage": "l", "reason": "r"} | {where: text}
    assert text in printed(queue_with(**told))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("bad\udcff.safetensors", r"bad\udcff.safetensors"), ("\x1b]0;mine\a", r"\x1b]0;mine\x07")],
)
def test_what_no_terminal_should_get_is_escaped(text: str, shown: str) -> None:
    found = printed(queue_with(text, text, text))
    assert found.count(shown) == 3
    assert text not in found
    found.encode()
