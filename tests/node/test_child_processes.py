"""How the end of a child is told: status, signal, last words."""

from pathlib import Path

import pytest

from weft.node.child_processes import last_line, obituary, output_to


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (0, "ended with status 0"),
        (1, "ended with status 1"),
        (-11, "was ended by SIGSEGV"),
        (139, "was ended by SIGSEGV"),  # as a shell tells it
        (-9, "was ended by SIGKILL (out of memory? see the kernel's log)"),
        (255, "ended with status 255"),
    ],
)
def test_an_end_in_words(status: int, how: str) -> None:
    assert obituary("the command", status, None) == f"the command {how}"


def test_the_last_words_are_the_last_line_with_anything_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(None) == last_line(log) == ""
    log.write_bytes(b"x" * 20_000 + b"\nfirst\n 10%\r 99%  \n\n  \n")
    assert last_line(log) == "99%"
    assert obituary("it", 1, log) == f"it ended with status 1; it said last: 99%; see {log}"
    log.write_bytes(b"caf\xe9\n")
    assert last_line(log) == "caf\N{REPLACEMENT CHARACTER}"


def test_a_log_is_added_to(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "training.log"
    for text in (b"one\n", b"two\n"):
        with output_to(log) as output:
            assert not isinstance(output, int)
            output.write(text)
    assert log.read_bytes() == b"one\ntwo\n"
