"""Bytes that change under a stream: noticed, or without effect; never merged."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.continual.streams import (
    TINY_SHARD,
    begun,
    newest,
    offered,
    save_models,
    save_tiny,
)
from weft.checkpoints.objects import MANIFEST_NAME
from weft.errors import Corrupt, WeftError
from weft.node.continual.errors import StreamCorrupt, Unfit
from weft.node.continual.files import JOURNAL, STREAM, read_identity
from weft.node.continual.history import queue_of
from weft.node.continual.records import Status
from weft.node.continual.spec import Keep
from weft.node.continual.stream import Stream
from weft.node.errors import OtherJournal
from weft.node.journal import Journal

SPARSE = 11
"""Every so manieth byte in the suite; all of them under `faults`."""

STRIDES = [SPARSE, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.timeout(1800)])]


@contextmanager
def flipped(path: Path, place: int) -> Iterator[None]:
    """One bit of one byte is another one, for a while."""
    before = path.read_bytes()
    data = bytearray(before)
    data[place] ^= 1 << place % 8
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    try:
        yield
    finally:
        path.write_bytes(before)


def places(path: Path, stride: int) -> range:
    return range(0, path.stat().st_size, stride)


@pytest.fixture
def tiny(home: Path) -> tuple[Path, list[Path]]:
    """A stream that has absorbed two tiny contributions, and four paths."""
    paths = save_tiny(home / "models", 4)
    folder = begun(home / "s", home / "models", shard_bytes=TINY_SHARD)
    with Stream(folder) as stream:
        offered(stream, paths[:2])
    return folder, paths


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("keep", [Keep.LOSSLESS, Keep.COMPRESSED])
def test_what_is_kept_of_a_contribution(stride: int, keep: Keep, home: Path) -> None:
    """To take it out it is read: whatever was changed in it, nothing happens but a message."""
    paths = save_tiny(home / "models", 3)
    folder, noticed = begun(home / "s", home / "models", keep=keep), 0
    with Stream(folder) as stream:
        offered(stream, paths)
        before, digest = newest(stream), stream.queue.contribution(2).digest
        payload = stream.parts.store.payload_path(digest)
        for place in places(payload, stride):
            with flipped(payload, place):
                with pytest.raises(Unfit, match=digest):
                    stream.revoke(2)
                noticed += 1
            assert newest(stream) == before
        stream.revoke(2)
        found = newest(stream)
    with Stream(begun(home / "t", home / "models", keep=keep)) as other:
        offered(other, [paths[0], paths[2]])
        assert newest(other) == found
    print(f"\n{noticed} flips noticed")


@pytest.mark.parametrize("stride", STRIDES)
def test_what_waits_is_set_aside(stride: int, home: Path) -> None:
    """It was acknowledged, and rots before its turn."""
    paths = save_tiny(home / "models", 2)
    with Stream(begun(home / "s", home / "models")) as stream:
        for place in range(0, 10**6, 7 * stride):
            seq = stream.offer(paths[0], again=True).contribution.seq
            payload = stream.parts.store.payload_path(stream.queue.contribution(seq).digest)
            if place >= payload.stat().st_size:
                break
            data = bytearray(payload.read_bytes())
            data[place] ^= 1
            payload.chmod(0o644)
            payload.write_bytes(bytes(data))
            stream.drain()
            assert stream.queue.contribution(seq).status is Status.SET_ASIDE
            assert stream.queue.contribution(seq).digest in stream.queue.contribution(seq).reason
        stream.drain()
        assert stream.queue.generation.members == (seq,)
        offered(stream, paths[1:])
        found = newest(stream)
    with Stream(begun(home / "t", home / "models")) as other:
        offered(other, paths)
        assert newest(other) == found


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("part", ["payload", "manifest"])
def test_the_state(stride: int, part: str, tiny: tuple[Path, list[Path]], home: Path) -> None:
    """What comes waits; nothing is made of a state that is not what it was."""
    folder, paths = tiny
    with Stream(folder) as stream:
        before, state = newest(stream), stream.queue.generation.state
        stream.offer(paths[2])
        path = stream.parts.store.payload_path(state)
    path = path if part == "payload" else path.with_name(MANIFEST_NAME)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little") if part == "payload" else 0
    noticed = list[str]()
    for place in places(path, stride):
        with flipped(path, place):
            try:
                with Stream(folder) as stream:
                    stream.drain()
                    # Weft reads by the manifest; the file's own header is for others.
                    assert place < header
                    stream.rollback(2)
                    assert newest(stream) == before
                    stream.rollback(3)
                    folder, _ = again(home, paths, place)
                    path = folder / path.relative_to(path.parents[4])
            except Corrupt as error:
                noticed.append(str(error))
    assert all(state in told for told in noticed)
    with Stream(folder) as stream:
        stream.drain()
        found = newest(stream)
    with Stream(begun(home / "t", home / "models", shard_bytes=TINY_SHARD)) as other:
        offered(other, paths[:3])
        assert newest(other) == found
    print(f"\n{len(noticed)} flips noticed")


def again(home: Path, paths: list[Path], number: int) -> tuple[Path, list[Path]]:
    """The same stream anew, where a flip had no effect and it went on."""
    folder = begun(home / f"again-{number}", home / "models", shard_bytes=TINY_SHARD)
    with Stream(folder) as stream:
        offered(stream, paths[:2])
        stream.offer(paths[2])
    return folder, paths


@pytest.mark.parametrize("stride", STRIDES)
def test_the_journal(stride: int, tiny: tuple[Path, list[Path]]) -> None:
    """Every byte of the file: an error that names it, or the same queue to the last word."""
    folder, _ = tiny
    path, whose = folder / JOURNAL, read_identity(folder).whose
    with Journal.open(path, identity=whose) as journal:
        queue = queue_of(journal)
        expected = (queue.contributions, queue.generations)
    noticed, silent = list[str](), 0
    for place in places(path, stride):
        with flipped(path, place):
            try:
                with Journal.open(path, identity=whose) as journal:
                    queue = queue_of(journal)
                    assert (queue.contributions, queue.generations) == expected
                    silent += 1
            except (Corrupt, OtherJournal) as error:
                noticed.append(str(error))
        for left in folder.glob(f"{JOURNAL}-*"):
            left.unlink()
    print(f"\n{len(noticed)} flips noticed, {silent} where SQLite keeps nothing")
    assert noticed
    assert all(str(path) in told for told in noticed)


@pytest.mark.parametrize("stride", STRIDES)
def test_what_says_which_stream_it_is(stride: int, tiny: tuple[Path, list[Path]]) -> None:
    """Or changes nothing: white space, and what is another spelling of the same."""
    folder, _ = tiny
    path, before = folder / STREAM, read_identity(folder)
    noticed, silent = list[str](), 0
    for place in places(path, stride):
        with flipped(path, place):
            try:
                assert read_identity(folder) == before
                silent += 1
            except StreamCorrupt as error:
                noticed.append(str(error))
    print(f"\n{len(noticed)} flips noticed, {silent} that say the same")
    assert all(str(path) in told for told in noticed)
    assert len(noticed) > 4 * silent


# The source, while it is read


def cut_at(call: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """From the n-th read on the file is half as long; returns how many reads there were."""
    reads, preadv = 0, os.preadv

    def cutting(descriptor: int, *arguments: object) -> int:
        nonlocal reads
        if os.path.samestat(os.fstat(descriptor), file.stat()):
            reads += 1
            if reads == call:
                os.truncate(file, file.stat().st_size // 2)
        return preadv(descriptor, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", cutting)
    return lambda: reads


def test_a_source_that_is_cut_short_while_it_is_read(home: Path) -> None:
    """Set aside, or taken whole; and the store holds nothing of what was not."""
    save_models(home / "models", 1)
    source, call, taken = home / "models" / "c1" / "model.safetensors", 0, False
    whole = source.read_bytes()
    with Stream(begun(home / "clean", home / "models")) as stream:
        offered(stream, [home / "models" / "c1"])
        expected = newest(stream)
    with Stream(begun(home / "s", home / "models")) as stream:
        held, told = set(stream.parts.store.digests()), list[str]()
        while not taken:
            call += 1
            source.write_bytes(whole)
            with pytest.MonkeyPatch.context() as patch:
                reads = cut_at(call, source, patch)
                try:
                    stream.offer(home / "models" / "c1")
                    taken = True
                except Unfit as error:
                    told.append(str(error))
            assert taken or set(stream.parts.store.digests()) == held
        assert reads() >= call - 1
        stream.drain()
        assert newest(stream) == expected
        assert len(told) >= 5
        assert all(str(source) in each for each in told)
    print(f"\ncut at {len(told)} reads")


def test_an_object_that_is_gone(tiny: tuple[Path, list[Path]]) -> None:
    folder, paths = tiny
    with Stream(folder) as stream:
        state = stream.parts.store.payload_path(stream.queue.generation.state).parent
        stream.offer(paths[2])
        shutil.rmtree(state)
        with pytest.raises(WeftError, match=state.name):
            stream.drain()
        assert [each.seq for each in stream.queue.waiting] == [3]
