"""A trainer's state: back as it was, whole or not at all, and never code."""

import pickle
import resource
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from weft.checkpoints.errors import DiskFull
from weft.errors import TrainingFailed
from weft.node.errors import StateCorrupt
from weft.node.trainer_state import load_state, save_state


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "best": (0.5, None, "name", b"raw", [True, {3: 2.0}]),
        "random": torch.get_rng_state(),
        "ordered": OrderedDict(a=torch.zeros(0)),
    }
    save_state(state, tmp_path / "s", where="x")
    back = load_state(tmp_path / "s")
    optimizer.load_state_dict(back["optimizer"])  # type: ignore[arg-type]
    assert back["best"] == state["best"]
    assert back["step"] == 7
    assert torch.equal(back["random"], torch.get_rng_state())  # type: ignore[arg-type]


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    state = {"a": torch.arange(5.0), "b": {"c": [1, 2]}}
    for name in ("one", "another-name"):
        save_state(state, tmp_path / name, where="x")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "another-name").read_bytes()


class Own(dict[str, int]):
    """A dict that would need its own code to be read back."""


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "gave a list, expected a dict"),
        ({"a": [torch.zeros(1), object()]}, r"holds a object at \['a'\]\[1\]"),
        ({"a": Own()}, r"holds a Own at \['a'\]"),
        ({"a": nn.Linear(1, 1)}, r"holds a Linear at \['a'\]"),
        ({"a": lambda: 1}, "holds a function at"),
        ({object: 1}, "holds a type at"),
    ],
)
def test_what_needs_code_to_be_read_back_is_refused(
    state: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match=f"^round 1: it {message}"):
        save_state(state, tmp_path / "s", where="round 1: it")
    assert not list(tmp_path.iterdir())


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_file_with_code_in_it_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": Trap()}, tmp_path / "s")
    (tmp_path / "p").write_bytes(pickle.dumps({"a": Trap()}))
    for name in ("s", "p"):
        with pytest.raises(StateCorrupt, match="cannot be read"):
            load_state(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 100, 500])
def test_a_file_that_was_cut_short_is_corrupt(size: int, tmp_path: Path) -> None:
    save_state({"a": torch.zeros(100)}, tmp_path / "s", where="x")
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:size])
    with pytest.raises(StateCorrupt, match="cannot be read"):
        load_state(tmp_path / "s")


def test_a_file_of_something_else_is_corrupt(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "s")
    with pytest.raises(StateCorrupt, match="is a list, expected a dict"):
        load_state(tmp_path / "s")


@contextmanager
def files_up_to(limit_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_leaves_the_old_state(tmp_path: Path) -> None:
    save_state({"a": 1}, tmp_path / "s", where="x")
    with pytest.raises(DiskFull, match="make room"), files_up_to(4096):
        save_state({"a": torch.zeros(100_000)}, tmp_path / "s", where="x")
    assert load_state(tmp_path / "s") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
