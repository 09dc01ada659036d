"""A model folder is there whole or not at all, opens elsewhere, and can be gone on with."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints.crafted import bits, contents, model, random_tensor
from tests.checkpoints.outputs import PLAN, around, companions, tensors, tree, write_output
from weft.checkpoints.artifacts import put_model
from weft.checkpoints.errors import BadPath, BadTensor, DiskFull, InUse, OtherPlan, TooLarge
from weft.checkpoints.header import Json
from weft.checkpoints.output import OutputFolder
from weft.checkpoints.reader import MemoryReader, open_checkpoint
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec
from weft.checkpoints.sidecars import Sidecar
from weft.checkpoints.store import Store
from weft.errors import InvalidInput

SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
EVERY_DTYPE = {
    f"t{number:02}": random_tensor(TensorSpec("t", dtype, (300, 1 + number)), number)
    for number, dtype in enumerate(DTYPE_BYTES)
}
LONG = {"long": torch.arange(700_000, dtype=torch.float32), "short": torch.ones(3)}
"""More than two chunks of a mebibyte in one tensor."""


class Stop(Exception):
    """Raised on purpose."""


def stop_after(
    path: Path, count: int, fault: type[BaseException] = Stop, *, resume: bool = True
) -> None:
    """Write `count` of the remaining tensors, then raise in the middle of the next."""
    reader = MemoryReader(tensors())

    def halves(name: str) -> Iterator[torch.Tensor]:
        yield reader.read(name)[:1]
        raise fault

    with OutputFolder(path, reader.schema, shard_bytes=2500, plan=PLAN, resume=resume) as output:
        for number, spec in enumerate(output.remaining):
            blocks = reader.blocks(spec.name) if number < count else halves(spec.name)
            output.write(spec.name, blocks)


def write_names(path: Path, names: Iterable[str], meanwhile: Callable[[], object] = bool) -> None:
    """Write these tensors in this order, and do something else first."""
    reader = MemoryReader(tensors())
    with OutputFolder(path, reader.schema, shard_bytes=2500, plan=PLAN) as output:
        meanwhile()
        for name in names:
            output.write(name, reader.blocks(name))


# What is written


@pytest.mark.parametrize("shard_bytes", [10**9, 2000, 1])
def test_any_number_of_shards_opens_and_is_the_model(tmp_path: Path, shard_bytes: int) -> None:
    write_output(tmp_path / "out", model(3), shard_bytes=shard_bytes)
    with open_checkpoint(tmp_path / "out") as reader:
        assert contents(reader) == contents(MemoryReader(model(3)))
        assert reader.metadata == {"format": "pt"}
    assert around(tmp_path / "out") == ["out"]


def test_other_libraries_find_every_tensor_by_the_index(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_output(out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index.keys() == {"metadata", "weight_map"}
    assert index["metadata"] == {"total_size": 1400 * 4}
    assert list(index["weight_map"]) == sorted(tensors())
    found = {
        name: load_file(out / home)[name] for name, home in sorted(index["weight_map"].items())
    }
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in tensors().items()}
    assert sorted(load_file(out / SHARDS[1])) == ["b", "c", "d"]
    assert sorted(tree(out)) == [*SHARDS, "model.safetensors.index.json", "weft.json"]


def test_one_shard_has_the_plain_name_and_no_index(tmp_path: Path) -> None:
    write_output(tmp_path / "out", shard_bytes=5600)
    assert sorted(tree(tmp_path / "out")) == ["model.safetensors", "weft.json"]
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(tensors())


@pytest.mark.parametrize("given", [model(1), EVERY_DTYPE, LONG, tensors()])
@pytest.mark.parametrize("shard_bytes", [10**9, 4000, 1])
def test_digest_is_that_of_the_store(
    tmp_path: Path, given: Mapping[str, torch.Tensor], shard_bytes: int
) -> None:
    expected = put_model(Store(tmp_path / "store"), MemoryReader(given))
    output, _ = write_output(tmp_path / "out", given, shard_bytes=shard_bytes)
    assert output.digest == expected
    assert json.loads((tmp_path / "out" / "weft.json").read_text())["digest"] == expected
    with open_checkpoint(tmp_path / "out") as reader:
        assert put_model(Store(tmp_path / "store"), reader) == expected


def test_whole_tensors_and_blocks_of_any_length_are_the_same(tmp_path: Path) -> None:
    given = {"m": torch.arange(12.0).reshape(3, 4).t(), "z": torch.tensor(3)}
    first, _ = write_output(tmp_path / "first", given)
    reader = MemoryReader(given)
    with OutputFolder(tmp_path / "out", reader.schema, shard_bytes=2500, plan=PLAN) as output:
        output.write("m", given["m"])
        output.write("z", [reader.read("z").reshape(-1)])
    assert output.digest == first.digest
    assert tree(tmp_path / "out") == tree(tmp_path / "first")


def test_bytes_written_are_those_of_the_models_files(tmp_path: Path) -> None:
    output, _ = write_output(tmp_path / "out", sidecars=companions(tmp_path / "base"))
    sizes = {name: len(data) for name, data in tree(tmp_path / "out").items()}
    assert output.bytes_written == sum(sizes.values()) - sizes["weft.json"]


def test_provenance_says_how_the_model_was_made(tmp_path: Path) -> None:
    output, _ = write_output(tmp_path / "out", sidecars=companions(tmp_path / "base"))
    document = json.loads((tmp_path / "out" / "weft.json").read_text())
    assert document["plan"] == PLAN
    assert document["digest"] == output.digest
    assert document["schema"] == output.schema.digest
    assert sorted(document["sidecars"]) == ["config.json", "tokenizer.json"]


def test_the_same_output_twice_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_output(tmp_path / name, sidecars=companions(tmp_path / "base"))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


# What is refused, before anything is written


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link"])
def test_a_path_that_is_taken(tmp_path: Path, kind: str, resume: bool) -> None:
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    match kind:
        case "file":
            out.touch()
        case "folder":
            (tmp_path / "other").rename(out)
        case "link":
            out.symlink_to(tmp_path / "other")
        case _:
            out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadPath, match=r"exists.*; choose another, or remove it"):
        write_output(out, resume=resume)
    assert around(out) == ["out"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_output(tmp_path / "out")
    assert len(tree(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("nowhere/out", "nowhere is no folder; make it first"),
        ("file/out", "file is no folder; make it first"),
        ("n" * 250, "File name too long"),
        ("..", "no name of a new folder"),
    ],
)
def test_a_path_that_cannot_be(tmp_path: Path, path: str, fault: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadPath, match=fault):
        write_output(tmp_path / path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("path", [".", "/"])
def test_a_path_without_a_name(path: str) -> None:
    with pytest.raises(BadPath, match="no name of a new folder"):
        write_output(Path(path))


def test_a_mounted_disk_cannot_be_replaced() -> None:
    with pytest.raises(BadPath, match="name a folder on it"):
        write_output(Path("/proc"))


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="weft-output-") as name:
        Path(name).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(BadPath, match="cannot be written: Permission denied"):
                write_output(Path(name) / "out")
        finally:
            os.seteuid(user)
        assert os.listdir(name) == []


@pytest.mark.parametrize(
    "name", ["weft.json", "model.safetensors.index.json", "model.safetensors", "a/b", ".x", ""]
)
def test_companions_that_may_not_stand_beside_a_model(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name that may stand beside a model"):
        write_output(tmp_path / "out", sidecars=[Sidecar(name, tmp_path, b"x")])


def test_two_companions_of_one_name(tmp_path: Path) -> None:
    twice = [Sidecar("a", tmp_path, b"x"), Sidecar("a", tmp_path, b"y")]
    with pytest.raises(InvalidInput, match="'a'"):
        write_output(tmp_path / "out", sidecars=twice)


def test_a_model_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="without tensors"):
        write_output(tmp_path / "out", {})


def test_a_model_beyond_what_an_artifact_may_be(tmp_path: Path) -> None:
    schema = Schema((TensorSpec("w", "U8", (2**40 + 1,)),))
    with pytest.raises(TooLarge, match="chunks"):
        OutputFolder(tmp_path / "out", schema, shard_bytes=2**50, plan=PLAN)


def test_more_than_the_disk_has_is_refused_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.checkpoints.output.free_bytes", lambda _: 1_000_000)
    with pytest.raises(DiskFull, match=r"1054\d\d\d bytes are needed .* 54\d\d\d are missing"):
        write_output(tmp_path / "out")
    assert around(tmp_path / "out") == []


def test_room_is_asked_for_only_what_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        stop_after(out, 4)
    monkeypatch.setattr("weft.checkpoints.output.free_bytes", lambda _: 0)
    with pytest.raises(DiskFull) as told:
        write_output(out, resume=True)
    needed = int(str(told.value).split(": ")[1].split()[0])
    assert 2**20 + 400 * 4 < needed < 2**20 + 500 * 4 + 1000
    assert (out.parent / "out.partial" / SHARDS[1]).exists()


# Exceptions


@pytest.mark.parametrize("fault", [Stop, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("count", range(5))
def test_an_exception_removes_all_unless_one_may_go_on(
    tmp_path: Path, count: int, fault: type[BaseException]
) -> None:
    with pytest.raises(fault):
        stop_after(tmp_path / "out", count, fault, resume=False)
    assert around(tmp_path / "out") == []
    with pytest.raises(fault):
        stop_after(tmp_path / "out", count, fault, resume=True)
    assert around(tmp_path / "out") == ["out.partial"]
    assert not [n for n in os.listdir(tmp_path / "out.partial") if n.endswith(".tmp")]


@pytest.mark.parametrize("count", range(5))
def test_going_on_after_an_exception_in_every_tensor(tmp_path: Path, count: int) -> None:
    whole, _ = write_output(tmp_path / "whole")
    with pytest.raises(Stop):
        stop_after(tmp_path / "out", count)
    output, remaining = write_output(tmp_path / "out", resume=True)
    done = {0: "", 1: "a", 2: "a", 3: "a", 4: "abcd"}[count]
    assert [spec.name for spec in remaining] == [name for name in "abcde" if name not in done]
    assert output.digest == whole.digest
    assert output.damaged == ()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert around(tmp_path / "out") == ["out"]


def test_stopped_again_and_again(tmp_path: Path) -> None:
    write_output(tmp_path / "whole")
    for count in (0, 1, 2, 3, 0):
        with pytest.raises(Stop):
            stop_after(tmp_path / "out", count)
    write_output(tmp_path / "out", resume=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_tensor_that_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadTensor, match="1 tensors in 1 files were not written, e the first"):
        write_names(tmp_path / "out", "abcd")
    assert around(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["a", "c", "e"])
def test_a_tensor_out_of_turn(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadTensor, match="not its turn"):
        write_names(tmp_path / "out", ["a", name])


@pytest.mark.parametrize(
    "data",
    [torch.zeros(600, 1), torch.zeros(599), torch.zeros(600).double(), [torch.zeros(601)], []],
)
def test_a_tensor_that_does_not_fit_can_be_given_again(
    tmp_path: Path, data: torch.Tensor | Sequence[torch.Tensor]
) -> None:
    reader = MemoryReader(tensors())
    with OutputFolder(tmp_path / "out", reader.schema, shard_bytes=2500, plan=PLAN) as output:
        with pytest.raises(BadTensor):
            output.write("a", data)
        for spec in output.remaining:
            output.write(spec.name, reader.blocks(spec.name))
    assert output.digest == write_output(tmp_path / "whole")[0].digest


# What was left by others


def test_work_that_was_left_needs_a_word(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        stop_after(tmp_path / "out", 3)
    before = tree(tmp_path / "out.partial")
    with pytest.raises(BadPath, match=r"go on with it \(--resume\), or remove it"):
        write_output(tmp_path / "out")
    assert tree(tmp_path / "out.partial") == before


def test_an_empty_work_folder_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    write_output(tmp_path / "out")
    assert around(tmp_path / "out") == ["out"]


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        ({**PLAN, "method": "ties"}, 'plan.method is "mean" there and "ties" now'),
        ({**PLAN, "weights": [0.5, 0.6]}, r"plan.weights\[1\] is 0.5 there and 0.6 now"),
        ({**PLAN, "inputs": {"a": "1", "b": "3"}}, 'plan.inputs.b is "2" there and "3" now'),
        ({**PLAN, "base": "x"}, "plan.base is given now only"),
        ({"method": "mean"}, "plan.inputs is given there only"),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, plan: Mapping[str, Json], word: str) -> None:
    with pytest.raises(Stop):
        stop_after(tmp_path / "out", 3)
    before = tree(tmp_path / "out.partial")
    with pytest.raises(OtherPlan, match=word):
        write_output(tmp_path / "out", plan=plan, resume=True)
    assert tree(tmp_path / "out.partial") == before
    write_output(tmp_path / "out", resume=True)
    before = tree(tmp_path / "out")
    with pytest.raises(OtherPlan, match=word):
        write_output(tmp_path / "out", plan=plan, resume=True)
    assert tree(tmp_path / "out") == before


def test_other_tensors_shards_or_companions_are_another_plan(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        stop_after(tmp_path / "out", 3)
    doubled = {name: tensor.double() for name, tensor in tensors().items()}
    changes: dict[str, Callable[[], object]] = {
        "schema": lambda: write_output(tmp_path / "out", doubled, resume=True),
        "shard_bytes": lambda: write_output(tmp_path / "out", shard_bytes=999, resume=True),
        "sidecars.config.json": lambda: write_output(
            tmp_path / "out", resume=True, sidecars=companions(tmp_path / "base")
        ),
    }
    for word, change in changes.items():
        with pytest.raises(OtherPlan, match=word):
            change()


def test_a_finished_model_of_the_same_plan_is_a_success(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, _ = write_output(out)
    before = {path.name: path.stat().st_mtime_ns for path in [*out.iterdir(), out]}
    again, remaining = write_output(out, resume=True)
    assert again.done_before
    assert remaining == ()
    assert again.digest == first.digest
    assert again.bytes_written == 0
    assert {path.name: path.stat().st_mtime_ns for path in [*out.iterdir(), out]} == before
    with pytest.raises(BadPath, match="this plan made it: --resume takes it as done"):
        write_output(out)
    assert around(out) == ["out"]


def test_a_finished_model_that_lost_a_shard_is_no_success(tmp_path: Path) -> None:
    write_output(tmp_path / "out")
    (tmp_path / "out" / SHARDS[1]).unlink()
    with pytest.raises(BadPath, match=r"has changed since .*; remove it"):
        write_output(tmp_path / "out", resume=True)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the data": lambda path: flip(path, -1),
    "a bit of the header": lambda path: flip(path, 20),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "a link": lambda path: path.symlink_to(path.rename(path.parent.parent / "elsewhere")),
    "without its record": lambda path: (path.parent / f".{path.stem}.json").unlink(),
    "with a record of nothing": lambda path: (path.parent / f".{path.stem}.json").write_text("{}"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_shard_that_was_damaged_is_made_again(tmp_path: Path, kind: str) -> None:
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    write_output(tmp_path / "whole")
    with pytest.raises(Stop):
        stop_after(out, 4)
    DAMAGE[kind](partial / SHARDS[0])
    output, remaining = write_output(out, resume=True)
    assert [spec.name for spec in remaining] == ["a", "e"]
    assert output.damaged == (SHARDS[0],)
    assert tree(out) == tree(tmp_path / "whole")
    assert not any(path.is_symlink() for path in out.iterdir())


def test_a_complete_model_that_lost_its_records_is_believed_by_its_digest(tmp_path: Path) -> None:
    """Killed between the removal of the records and the rename."""
    write_output(tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    output, remaining = write_output(tmp_path / "out", resume=True)
    assert (remaining, output.done_before) == ((), False)
    assert tree(tmp_path / "out") == before
    (tmp_path / "out").rename(tmp_path / "out.partial")
    flip(tmp_path / "out.partial" / SHARDS[2], -1)
    output, remaining = write_output(tmp_path / "out", resume=True)
    assert [spec.name for spec in remaining] == list("abcde")
    assert tree(tmp_path / "out") == before


def test_what_is_not_ours_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        stop_after(tmp_path / "out", 3)
    (tmp_path / "out.partial" / "notes.txt").write_text("mine")
    with pytest.raises(BadPath, match=r"holds notes\.txt, which is no part of this output"):
        write_output(tmp_path / "out", resume=True)
    assert (tmp_path / "out.partial" / "notes.txt").read_text() == "mine"


def test_a_folder_of_somebody_else_under_the_works_name(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / SHARDS[0]).write_bytes(b"x")
    with pytest.raises(BadPath, match="no part of this output"):
        write_output(tmp_path / "out", resume=True)
    assert tree(tmp_path / "out.partial") == {SHARDS[0]: b"x"}


def test_the_path_is_taken_while_the_model_is_made(tmp_path: Path) -> None:
    """What was computed is not thrown away."""
    out = tmp_path / "out"

    def take_it() -> None:
        out.mkdir()
        (out / "theirs").touch()

    with pytest.raises(BadPath, match=r"it is whole in .*out.partial: free the name"):
        write_names(out, "abcde", meanwhile=take_it)
    assert tree(out) == {"theirs": b""}
    (out / "theirs").unlink()
    _, remaining = write_output(out, resume=True)
    assert remaining == ()


@pytest.mark.parametrize("resume", [False, True])
def test_two_at_a_time(tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "out"
    reader = MemoryReader(tensors())
    with OutputFolder(out, reader.schema, shard_bytes=2500, plan=PLAN) as output:
        output.write("a", reader.blocks("a"))
        with pytest.raises(InUse, match="another process is writing it"):
            write_output(out, resume=resume)
        for name in "bcde":
            output.write(name, reader.blocks(name))
    assert output.digest == write_output(tmp_path / "whole")[0].digest
    assert around(out) == ["out"]


# Every call fails once

FAILING = ("open", "mkdir", "pwrite", "fsync", "replace", "rename", "posix_fallocate")


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("resume", [False, True])
def test_every_call_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, resume: bool
) -> None:
    """Nothing half appears, and nothing is left unless one may go on."""
    sidecars = companions(tmp_path / "base")
    whole, _ = write_output(tmp_path / "whole", sidecars=sidecars)
    failed = 0
    for point in range(1, 1000):
        out = tmp_path / f"{point:03}" / "out"
        out.parent.mkdir()
        with monkeypatch.context() as patch:
            fail_at(patch, point, fault)
            try:
                write_output(out, sidecars=sidecars, resume=resume)
                break
            except (DiskFull, KeyboardInterrupt, BadPath):
                failed += 1
        if out.exists():
            assert tree(out) == tree(tmp_path / "whole")
        elif not resume:
            # Only a model that is whole and could not take its name is kept.
            assert (
                around(out) == []
                or json.loads((out.parent / "out.partial" / "weft.json").read_text())["digest"]
                == whole.digest
            )
        write_output(out, sidecars=sidecars, resume=True)
        assert tree(out) == tree(tmp_path / "whole")
    assert failed > 50


def fail_at(patch: pytest.MonkeyPatch, point: int, fault: BaseException) -> None:
    """Make one of the calls that touch the disk fail, and none after it."""
    calls = 0

    def failing(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == point:
                raise fault
            return call(*arguments, **options)

        return wrapper

    for name in FAILING:
        patch.setattr(os, name, failing(getattr(os, name)))
