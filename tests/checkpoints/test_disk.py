"""Exact reads and writes, whatever the system does in one call."""

import errno
import os
from pathlib import Path

import pytest

from weft.checkpoints.disk import (
    disk_errors,
    free_bytes,
    open_for_reading,
    read_exactly,
    read_whole,
    require_space,
    write_bytes,
    write_fully,
)
from weft.checkpoints.errors import BadPath, DiskFull, MalformedFile, MissingCheckpoint


def test_short_reads_and_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, pwrite = os.preadv, os.pwrite

    def little_read(fd: int, buffers: list[memoryview], offset: int) -> int:
        return pread(fd, [buffers[0][:3]], offset)

    def little_write(fd: int, data: memoryview, offset: int) -> int:
        return pwrite(fd, data[:3], offset)

    monkeypatch.setattr(os, "preadv", little_read)
    monkeypatch.setattr(os, "pwrite", little_write)
    descriptor = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    try:
        write_fully(descriptor, b"0123456789", 2)
        found = bytearray(8)
        read_exactly(descriptor, memoryview(found), 4, "x")
        assert found == b"23456789"
        with pytest.raises(MalformedFile, match="x: ends at byte 12, 13 expected"):
            read_exactly(descriptor, memoryview(found), 5, "x")
    finally:
        os.close(descriptor)


def test_links_are_followed_only_where_that_is_said(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"1")
    (tmp_path / "link").symlink_to("file")
    descriptor, size = open_for_reading(tmp_path / "link")
    os.close(descriptor)
    assert size == 1
    with pytest.raises(BadPath):
        open_for_reading(tmp_path / "link", follow=False)
    with pytest.raises(MissingCheckpoint):
        open_for_reading(tmp_path / "nothing")
    with pytest.raises(BadPath, match="not a regular file"):
        open_for_reading(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_in_any_way_is_disk_full(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match=r"7 bytes are needed, \d+ are free"),
        disk_errors(tmp_path / "x", 7),
    ):
        raise OSError(number, os.strerror(number))


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadPath, match="Read-only"), disk_errors(tmp_path / "x"):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_broken_disk_passes_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output") as caught, disk_errors(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert caught.value.errno == errno.EIO


def test_space(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(DiskFull, match=f"{2**60} bytes are needed"):
        require_space(tmp_path, 2**60)
    assert free_bytes(tmp_path) > 0


def test_replaced_file_is_the_new_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"old and longer")
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x"]


def test_small_files_are_read_whole_and_others_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    assert read_whole(tmp_path / "x", 10) == b"0123456789"
    with pytest.raises(MalformedFile, match="10 bytes are beyond the limit of 9"):
        read_whole(tmp_path / "x", 9)
    with pytest.raises(MissingCheckpoint):
        read_whole(tmp_path / "y", 9)
    with pytest.raises(BadPath):
        read_whole(tmp_path, 9)
