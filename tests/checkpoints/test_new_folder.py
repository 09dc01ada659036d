"""A folder appears whole or not at all."""

import os
from pathlib import Path

import pytest

from weft.checkpoints.errors import BadPath
from weft.checkpoints.new_folder import new_folder, require_new


def test_appears_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "f") as made:
        (made / "a").write_text("x")
        assert not (tmp_path / "f").exists()
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == ["a"]


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with new_folder(tmp_path / "f") as made:
        (made / "a").write_text("x")
    assert os.listdir(tmp_path / "f") == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(error: type[BaseException], tmp_path: Path) -> None:
    def work() -> None:
        with new_folder(tmp_path / "f") as made:
            (made / "a").write_text("x")
            raise error

    with pytest.raises(error):
        work()
    assert os.listdir(tmp_path) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("full", "file", "link", "none/there"):
        with pytest.raises(BadPath):
            require_new(tmp_path / name)
        with pytest.raises(BadPath), new_folder(tmp_path / name):
            pass
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "link"]


def test_taken_meanwhile(tmp_path: Path) -> None:
    """Who comes second finds the name taken, and leaves nothing."""

    def work() -> None:
        with new_folder(tmp_path / "f") as made:
            (made / "a").write_text("x")
            (tmp_path / "f").mkdir()
            (tmp_path / "f" / "b").write_text("y")

    with pytest.raises(OSError, match="not empty"):
        work()
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(tmp_path / "f") == ["b"]
