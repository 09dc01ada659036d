"""A stream: who comes, who goes, who is not taken; and the head that comes of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.checkpoints.folders import save_adapter
from tests.node.continual.streams import (
    COUNTER,
    STATISTICS,
    begun,
    model,
    newest,
    offered,
    outcome,
    published,
    read_head,
    same,
    save,
    tuned,
)
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.errors import MissingCheckpoint
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import open_checkpoint
from weft.merging import registry
from weft.merging.errors import CannotMerge
from weft.merging.precision import Precision
from weft.merging.streaming import require_streaming
from weft.node.continual.errors import (
    BadStream,
    NoSuchGeneration,
    NotKept,
    StreamCorrupt,
    StreamExists,
    Unfit,
)
from weft.node.continual.head import HeadFolder
from weft.node.continual.records import Form, Status
from weft.node.continual.spec import Keep
from weft.node.continual.stream import Stream
from weft.node.errors import FolderInUse

METHODS = ["mean", "iso_c", "magmax", "opcm"]
"""Exact folds, a fold of extremes, a sequence."""

MATRIX = {"w": (2, 3), "v": (4,)}


def plain(**values: float) -> dict[str, Tensor]:
    """A model of two tensors of one value each."""
    return {name: torch.full(MATRIX[name], values.get(name, 0.0)) for name in MATRIX}


def plain_stream(home: Path, method: str = "mean", **fields: object) -> Path:
    """A stream on a base of zeros."""
    save(home / "models" / "base", plain())
    return begun(home / "stream", home / "models", method, **fields)  # type: ignore[arg-type]


def offer(stream: Stream, home: Path, value: float, **said: object) -> int:
    """Take a model whose `w` has this value, and absorb it; its number."""
    name = f"m{len(stream.queue.contributions)}"
    receipt = stream.offer(save(home / name, plain(w=value)), **said)  # type: ignore[arg-type]
    stream.drain()
    return receipt.contribution.seq


def head(stream: Stream) -> float:
    """The one value of `w` in the head."""
    (value,) = set(read_head(stream.folder)["w"].reshape(-1).tolist())
    return float(value)


# Revocation


@pytest.mark.parametrize(
    ("method", "keep"),
    [
        *((method, Keep.LOSSLESS) for method in METHODS),
        ("mean", Keep.COMPRESSED),
        ("opcm", Keep.COMPRESSED),
    ],
)
def test_one_of_ten_was_never_there(method: str, keep: Keep, models: Path, home: Path) -> None:
    paths = [models / f"c{number}" for number in range(1, 11)]
    with Stream(begun(home / "all", models, method, keep=keep)) as stream:
        offered(stream, paths)
        stream.revoke(4)
        found = newest(stream)
        assert stream.queue.contribution(4).status is Status.REVOKED
        assert not stream.parts.store.has(stream.queue.contribution(4).digest)
    with Stream(begun(home / "nine", models, method, keep=keep)) as stream:
        offered(stream, [*paths[:3], *paths[4:]])
        assert newest(stream) == found
        assert same(read_head(home / "all"), read_head(home / "nine"))


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT64])
@pytest.mark.parametrize("method", ["mean", "opcm"])
def test_nor_in_other_precisions(
    method: str, precision: Precision, models: Path, home: Path
) -> None:
    paths = [models / f"c{number}" for number in (1, 2, 3, 4)]
    with Stream(begun(home / "all", models, method, precision=precision)) as stream:
        offered(stream, paths)
        stream.revoke(1)
        found = newest(stream)
    with Stream(begun(home / "three", models, method, precision=precision)) as stream:
        offered(stream, paths[1:])
        assert newest(stream) == found


def streaming() -> Iterator[str]:
    for name in registry.names():
        with suppress(CannotMerge):
            require_streaming(registry.create(name))
            if name not in METHODS:
                yield name


@pytest.mark.parametrize("method", list(streaming()))
def test_the_last_of_three_was_never_there(method: str, models: Path, home: Path) -> None:
    """Every other method that streams."""
    paths = [models / f"c{number}" for number in (1, 2, 3)]
    with Stream(begun(home / "two", models, method)) as stream:
        offered(stream, paths[:2])
        found = newest(stream)
        offered(stream, paths[2:])
        assert newest(stream) != found
        stream.revoke(3)
        assert newest(stream) == found


def test_all_gone_is_the_base(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        base = newest(stream)
        offered(stream, [models / "c1", models / "c2"])
        stream.revoke(1)
        stream.revoke(2)
        assert newest(stream) == base
        offered(stream, [models / "c3"])
        assert stream.queue.generation.members == (3,)
    with Stream(begun(home / "t", models)) as other:
        offered(other, [models / "c3"])
        found = newest(other)
    assert outcome(home / "s") == found


@pytest.mark.parametrize("method", ["mean", "opcm"])
def test_what_was_not_kept_cannot_go(method: str, models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models, method, keep=Keep.NONE)) as stream:
        offered(stream, [models / "c1", models / "c2"])
        before, made = newest(stream), len(stream.queue.generations)
        with pytest.raises(NotKept, match=r"cannot be revoked: contributions .*--keep none"):
            stream.revoke(1)
        assert newest(stream) == before
        assert len(stream.queue.generations) == made
        assert not stream.queue.wishing
        assert not [d for d, owner in stream.parts.store.pins() if owner.startswith("contrib")]
        offered(stream, [models / "c3"])
        assert stream.queue.generation.members == (1, 2, 3)


def test_before_its_turn_it_is_only_set_aside(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        seq = stream.offer(models / "c1").contribution.seq
        stream.revoke(seq)
        assert stream.queue.contribution(seq).status is Status.SET_ASIDE
        assert stream.work() is None
        stream.revoke(seq)
        assert len(stream.queue.generations) == 1
        refused = stream.refuse("odd", name="x").seq
        with pytest.raises(NotKept, match="is set aside"):
            stream.revoke(refused)


def test_what_is_revoked_again_is_no_other_generation(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        offered(stream, [models / "c1", models / "c2"])
        first = stream.revoke(1)
        assert stream.revoke(1) == first
        assert len(stream.queue.generations) == 4


def test_a_revocation_that_rot_makes_impossible_holds_nobody_up(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models, "opcm")) as stream:
        offered(stream, [models / "c1", models / "c2"])
        flip_last_byte(stream.parts.store.payload_path(stream.queue.contribution(2).digest))
        with pytest.raises(Unfit, match=r"c2: .*changed on the disk"):
            stream.revoke(1)
        assert not stream.queue.wishing
        offered(stream, [models / "c3"])
        assert stream.queue.generation.members == (1, 2, 3)


def flip_last_byte(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_wish_is_asked_for_once(
    models: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle: asked again it is the same wish, and it is done once."""
    with Stream(begun(home / "s", models)) as stream:
        offered(stream, [models / "c1", models / "c2"])
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            for _ in range(2):
                with pytest.raises(Exception, match="No space"):
                    stream.revoke(1)
        stream.revoke(1)
        assert len(stream.queue.generations) == 4
        assert stream.queue.generation.members == (2,)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


# Lineages, and what was trained from a head


def test_a_newer_checkpoint_replaces_an_older_one(home: Path) -> None:
    """By hand: the mean of 2 and 4 is 3; then 8 comes in place of 2, and it is 6."""
    with Stream(plain_stream(home)) as stream:
        offer(stream, home, 2.0, lineage="run", step=500)
        offer(stream, home, 4.0)
        assert head(stream) == 3.0
        offer(stream, home, 8.0, lineage="run", step=1000)
        assert head(stream) == 6.0
        assert stream.queue.contribution(1).status is Status.REPLACED
        with pytest.raises(Unfit, match="step 700 of 'run', and step 1000 has come already"):
            offer(stream, home, 16.0, lineage="run", step=700)
        offer(stream, home, 12.0, lineage="other", step=1)
        assert head(stream) == 8.0
        assert stream.queue.generation.members == (2, 3, 5)


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("method", METHODS)
def test_replaced_is_never_there(method: str, keep: Keep, models: Path, home: Path) -> None:
    """Whatever is kept of others, of a run there is always what a newer one needs."""
    with Stream(begun(home / "s", models, method, keep=keep)) as stream:
        stream.offer(models / "c1", lineage="run", step=1)
        stream.drain()
        stream.offer(models / "c2", lineage="run", step=2)
        stream.drain()
        found = newest(stream)
    with Stream(begun(home / "t", models, method, keep=keep)) as stream:
        offered(stream, [models / "c2"])
        assert newest(stream) == found


def test_of_a_sequence_without_the_others_it_is_set_aside(models: Path, home: Path) -> None:
    """To be replaced it would have to be replayed, and the others were not kept."""
    with Stream(begun(home / "s", models, "opcm", keep=Keep.NONE)) as stream:
        offered(stream, [models / "c1"])
        for number in (2, 3):
            stream.offer(models / f"c{number}", lineage="run", step=number)
            stream.drain()
        assert stream.queue.contribution(3).status is Status.SET_ASIDE
        assert "were not kept" in stream.queue.contribution(3).reason
        offered(stream, [models / "c4"])
        assert stream.queue.generation.members == (1, 2, 4)


def test_started_from_a_head(home: Path) -> None:
    """By hand: 5 trained from a head of 2 is a task vector of 3; its mean with 2 is 2.5."""
    with Stream(plain_stream(home)) as stream:
        offer(stream, home, 2.0)
        assert head(stream) == 2.0
        offer(stream, home, 5.0, started_from=1)
        assert head(stream) == 2.5
        assert stream.queue.contribution(2).form is Form.VECTOR
        assert stream.queue.contribution(2).norm == pytest.approx(3 * 6**0.5)
        # From the base is as ever: 7, and the mean of 2, 3 and 7 is 4.
        offer(stream, home, 7.0, started_from=0)
        assert head(stream) == 4.0
        stream.revoke(2)
        assert head(stream) == 4.5
        with pytest.raises(NoSuchGeneration):
            offer(stream, home, 1.0, started_from=99)


def test_started_from_a_head_that_is_gone_or_rotten(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeadFolder, "grace_s", 0.0)
    with Stream(plain_stream(home, retain=1)) as stream:
        for value in (1.0, 2.0, 3.0):
            offer(stream, home, value)
        with pytest.raises(MissingCheckpoint, match="generation 1 is not kept"):
            offer(stream, home, 4.0, started_from=1)
        (shard,) = (home / "stream" / "head").glob("model-g000003-*.safetensors")
        flip_last_byte(shard)
        with pytest.raises(Unfit, match="shards of generation 3 have changed on the disk"):
            stream.offer(save(home / "x", plain(w=9.0)), started_from=3)
        assert stream.queue.contributions[-1].status is Status.SET_ASIDE


# Rollback


@pytest.mark.parametrize("method", ["mean", "magmax", "opcm"])
def test_back_within_and_beyond_what_is_retained(method: str, models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models, method, retain=2)) as stream:
        seen = [newest(stream)]
        for number in range(1, 6):
            offered(stream, [models / f"c{number}"])
            seen.append(newest(stream))
        states = [each for each in seen if stream.parts.store.has(each[0] or "0" * 64)]
        assert states == seen[3:]
        for number in (4, 1, 0):
            stream.rollback(number)
            assert newest(stream) == seen[number]
            assert published(home / "s")[0] == seen[number][1]
        assert {each.status for each in stream.queue.contributions} == {Status.ROLLED_BACK}


def test_back_and_on_again(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        offered(stream, [models / f"c{number}" for number in (1, 2, 3)])
        stream.rollback(1)
        assert stream.offer(models / "c2").known
        stream.offer(models / "c2", again=True)
        stream.drain()
        assert stream.queue.generation.members == (1, 4)
    with Stream(begun(home / "t", models)) as other:
        offered(other, [models / "c1", models / "c2"])
        found = newest(other)
    assert outcome(home / "s") == found


def test_back_to_what_cannot_be_made_again(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models, keep=Keep.NONE, retain=1)) as stream:
        stream.offer(models / "c1", lineage="kept")
        stream.drain()
        offered(stream, [models / "c2", models / "c3", models / "c4"])
        before = newest(stream)
        with pytest.raises(NotKept, match="generation 1 cannot be made again"):
            stream.rollback(1)
        assert not stream.queue.wishing
        assert newest(stream) == before
        with pytest.raises(NoSuchGeneration, match="there are 0 to 4"):
            stream.rollback(7)
        stream.rollback(3)
        assert stream.queue.generation.members == (1, 2, 3)


# Once, and not at all


def test_what_came_is_known(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        first = stream.offer(models / "c1")
        assert not first.known
        for _ in range(2):
            again = stream.offer(models / "c1", name="other", again=True)
            assert again.known
            assert again.contribution.seq == 1
            stream.drain()
        assert len(stream.queue.contributions) == 1
        stream.revoke(1)
        assert stream.offer(models / "c1").known
        assert stream.work() is None
        assert not stream.offer(models / "c1", again=True).known
        stream.drain()
        assert stream.queue.generation.members == (2,)
    with Stream(home / "s") as stream:
        assert stream.offer(models / "c1").contribution.seq == 2


def spoilt(**changes: Tensor | None) -> dict[str, Tensor]:
    found: dict[str, Tensor | None] = {**tuned(1), **changes}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


NAN = tuned(1)["layers.0.norm.weight"].index_fill(0, torch.tensor([2]), torch.nan)
INFINITE = tuned(1)["layers.0.norm.weight"].index_fill(0, torch.tensor([2]), torch.inf)

UNFIT: Mapping[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "a NaN": (lambda: spoilt(**{"layers.0.norm.weight": NAN}), "nan|finite"),
    "an infinity": (lambda: spoilt(**{"layers.0.norm.weight": INFINITE}), "inf|finite"),
    "a tensor missing": (lambda: spoilt(**{"layers.0.up.weight": None}), "layers.0.up.weight"),
    "a tensor more": (lambda: spoilt(extra=torch.zeros(2)), "extra"),
    "another shape": (lambda: spoilt(**{"embed.weight": torch.zeros(5, 7)}), "embed.weight"),
    "another dtype": (lambda: tuned(1, torch.bfloat16), "BF16"),
    "far too long": (lambda: tuned(1, strength=50.0), "10 times that"),
}


@pytest.mark.parametrize("keep", [Keep.LOSSLESS, Keep.COMPRESSED])
@pytest.mark.parametrize("what", UNFIT)
def test_what_is_unfit_is_set_aside(what: str, keep: Keep, models: Path, home: Path) -> None:
    tensors, words = UNFIT[what]
    bad = save(home / "bad", tensors())
    good = [models / f"c{number}" for number in (2, 3, 4)]
    with Stream(begun(home / "s", models, keep=keep)) as stream:
        offered(stream, good)
        before = newest(stream)
        with pytest.raises(Unfit, match=words):
            stream.offer(bad)
        assert stream.work() is None
        assert newest(stream) == before
        told = stream.queue.contributions[-1]
        assert (told.status, told.name) == (Status.SET_ASIDE, "bad")
        assert told.reason
        offered(stream, [models / "c5"])
        assert stream.queue.generation.members == (1, 2, 3, 5)
        found = newest(stream)
    with Stream(begun(home / "t", models, keep=keep)) as other:
        offered(other, [*good, models / "c5"])
        assert newest(other) == found


def test_a_corrupt_file_is_set_aside(models: Path, home: Path) -> None:
    bad = save(home / "bad", tuned(1))
    file = bad / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with Stream(begun(home / "s", models)) as stream:
        with pytest.raises(Unfit, match=r"model\.safetensors"):
            stream.offer(bad)
        file.write_bytes(b"hello")
        with pytest.raises(Unfit, match=r"model\.safetensors"):
            stream.offer(bad)
        with pytest.raises(MissingCheckpoint):
            stream.offer(home / "nowhere")
        offered(stream, [models / "c1"])
        assert stream.queue.generation.members == (3,)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_what_makes_no_mean_is_set_aside(weight: float, models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        stream.offer(models / "c1", weight=weight)
        stream.offer(models / "c2")
        stream.drain()
        assert stream.queue.contribution(1).status is Status.SET_ASIDE
        assert "weight" in stream.queue.contribution(1).reason
        assert stream.queue.generation.members == (2,)
        # Without it what is left would have no mean: it stays.
        offered(stream, [models / "c3"])
        stream.offer(models / "c4", weight=-1.0)
        stream.drain()
        before = newest(stream)
        for _ in range(2):
            with pytest.raises(Exception, match="mean needs more than zero"):
                stream.revoke(2)
            assert newest(stream) == before
        assert stream.work() is None


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_a_number(weight: float, models: Path, home: Path) -> None:
    with (
        Stream(begun(home / "s", models)) as stream,
        pytest.raises(BadStream, match="cannot have weight"),
    ):
        stream.offer(models / "c1", weight=weight)


def test_what_does_not_fit_the_dtype_is_set_aside(home: Path) -> None:
    """A sum beyond what float16 holds: the head would not be finite."""
    save(home / "models" / "base", {"w": torch.full((3,), 65024.0, dtype=torch.float16)})
    for number, value in ((1, 65344.0), (2, 65312.0), (3, 65056.0)):
        save(home / "models" / f"c{number}", {"w": torch.full((3,), value, dtype=torch.float16)})
    folder = begun(home / "s", home / "models", "task_arithmetic", options={"scale": 1.0})
    with Stream(folder) as stream:
        offered(stream, [home / "models" / f"c{number}" for number in (1, 2, 3)])
        assert stream.queue.contribution(2).status is Status.SET_ASIDE
        assert "not finite in F16" in stream.queue.contribution(2).reason
        assert stream.queue.generation.members == (1, 3)


# Forms


def test_adapters_and_deltas(home: Path, models: Path) -> None:
    """By hand: B A alpha / r = 2 * (1, 1) (2, 2)^T; a delta says what its model says."""
    base = {"q.weight": torch.zeros(3, 4), "v": torch.ones(2)}
    save(home / "models" / "base", base)
    factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.full((3, 2), 0.5)}
    adapter = save_adapter(home / "adapter", factors)
    tuned_q = {"q.weight": torch.full((3, 4), 8.0), "v": torch.full((2,), 3.0)}
    full_model = save(home / "full", tuned_q)
    with (
        open_checkpoint(full_model) as finetuned,
        open_checkpoint(home / "models" / "base") as origin,
    ):
        write_delta(home / "delta", finetuned, origin, model_digest(origin), "lossless")
    with Stream(begun(home / "s", home / "models")) as stream:
        offered(stream, [adapter])
        assert stream.queue.contribution(1).form is Form.ADAPTER
        found = read_head(home / "s")
        assert torch.equal(found["q.weight"], torch.full((3, 4), 2.0))
        assert torch.equal(found["v"], base["v"])
        offered(stream, [home / "delta"])
        assert stream.offer(full_model).known
        found = read_head(home / "s")
        assert torch.equal(found["q.weight"], torch.full((3, 4), 5.0))
        assert torch.equal(found["v"], torch.full((2,), 2.0))
        with pytest.raises(Unfit, match="against"):
            stream.offer(delta_of_another(home))
        stream.revoke(1)
        assert same(read_head(home / "s"), tuned_q)
        stream.revoke(2)
        assert same(read_head(home / "s"), base)


def delta_of_another(home: Path) -> Path:
    one = save(home / "one", {"q.weight": torch.ones(3, 4), "v": torch.ones(2)})
    two = save(home / "two", {"q.weight": torch.zeros(3, 4), "v": torch.zeros(2)})
    with open_checkpoint(one) as origin, open_checkpoint(two) as finetuned:
        write_delta(home / "foreign", finetuned, origin, model_digest(origin), "lossless")
    return home / "foreign"


# The gate


GATE = """
import json, struct, sys
from pathlib import Path
folder = Path(sys.argv[1])
index = json.loads((folder / "model.safetensors.index.json").read_text())
data = (folder / index["weight_map"]["w"]).read_bytes()
length = int.from_bytes(data[:8], "little")
start, stop = json.loads(data[8 : 8 + length])["w"]["data_offsets"]
values = struct.unpack(f"<{(stop - start) // 4}f", data[8 + length + start : 8 + length + stop])
print("looking")
print(json.dumps({"score": 0 - abs(sum(values) / len(values) - TARGET)}))
"""


def gate(home: Path, target: float) -> str:
    """A command that likes a `w` near the target."""
    script = home / "gate.py"
    script.write_text(GATE.replace("TARGET", str(target)))
    return f"{sys.executable} -I -S {script} {{checkpoint}}"


def test_the_gate_takes_and_refuses(home: Path) -> None:
    """By hand, with a target of 4: 3 scores -1, its mean with 5 0, with 20 as well -5.3."""
    folder = plain_stream(home, gate=gate(home, 4.0), gate_bound=0.25, norm_factor=1e6)
    with Stream(folder) as stream:
        offer(stream, home, 3.0)
        assert stream.queue.generation.score == -1.0
        offer(stream, home, 5.0)
        assert stream.queue.generation.score == 0.0
        offer(stream, home, 20.0)
        assert stream.queue.contribution(3).status is Status.SET_ASIDE
        assert "the gate scores -5.33333 with it" in stream.queue.contribution(3).reason
        assert head(stream) == 4.0
        # By less than the bound it may be worse: 4.125 on average.
        offer(stream, home, 4.375)
        assert head(stream) == pytest.approx(4.125)
        # Who wants somebody out is not asked by a gate.
        stream.revoke(2)
        assert stream.queue.generation.members == (1, 4)
        assert not (folder / "candidate").exists()


def test_the_best_of_some_scales(home: Path) -> None:
    folder = plain_stream(home, scale="auto", gate=gate(home, 4.8))
    with Stream(folder) as stream:
        offer(stream, home, 10.0)
        assert stream.queue.generation.scale == 0.5
        assert head(stream) == 5.0
        digest, tensors = published(folder)
        assert digest == stream.queue.generation.head
        assert stream.queue.generation.norm == pytest.approx(5 * 6**0.5)
        assert set(tensors["w"].reshape(-1).tolist()) == {5.0}


@pytest.mark.parametrize(("method", "warned"), [("opcm", True), ("mean", False)])
def test_a_norm_that_the_gate_finds_too_long_is_said(home: Path, method: str, warned: bool) -> None:
    """OPCM's head has the mean norm of the contributions: a gate that likes half of it tells."""
    folder = plain_stream(home, method, scale="auto", gate=gate(home, 4.8))
    with Stream(folder) as stream:
        offer(stream, home, 10.0)
        assert stream.queue.generation.scale == 0.5
        warnings = stream.queue.generation.warnings
        assert bool(warnings) == warned
        assert all("scores the head best at 0.5 of its own length" in each for each in warnings)


def test_scales(home: Path) -> None:
    with Stream(plain_stream(home, scale=0.25)) as stream:
        offer(stream, home, 8.0)
        assert head(stream) == 2.0
    with Stream(plain_stream(home / "auto", scale="auto")) as stream:
        offer(stream, home / "auto", 8.0)
        assert head(stream) == 8.0
    with pytest.raises(BadStream, match="scale"):
        plain_stream(home / "much", scale="much")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("print('fine')", "its last line is 'fine'"),
        ("print('NaN')", "its last line is 'NaN'"),
        ("pass", "its last line is ''"),
        ('print(\'{"score": "high"}\')', "a number is expected"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
    ],
)
def test_a_gate_that_says_nothing_of_use(script: str, words: str, home: Path) -> None:
    """Nobody is blamed for it: the contribution waits until the gate can be asked."""
    command = gate(home, 4.0)
    folder = plain_stream(home, gate=command)
    with Stream(folder) as stream:
        offer(stream, home, 3.0)
        before = newest(stream)
        (home / "gate.py").write_text(script)
        with pytest.raises(BadStream, match=words):
            offer(stream, home, 4.0)
        assert newest(stream) == before
        assert published(folder)[0] == before[1]
        assert not (folder / "candidate").exists()
    gate(home, 4.0)
    with Stream(folder) as stream:
        assert [each.seq for each in stream.queue.waiting] == [2]
        stream.drain()
        assert head(stream) == 3.5


def judged(home: Path, command: str) -> None:
    with Stream(plain_stream(home, gate=command)) as stream:
        offer(stream, home, 1.0)


def test_a_gate_that_cannot_be(home: Path) -> None:
    for command, words in (
        ("nothing-of-the-kind {checkpoint}", "cannot be started"),
        ("true", "says nowhere"),
        ("true '{checkpoint}", "quotation"),
    ):
        with pytest.raises(BadStream, match=words):
            judged(home / words.replace(" ", "-"), command)


# Files, clocks, neighbours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_sixteen_bits(dtype: torch.dtype, home: Path) -> None:
    save(home / "models" / "base", model(0, dtype))
    for seed in (1, 2):
        save(home / "models" / f"c{seed}", tuned(seed, dtype))
    with Stream(begun(home / "s", home / "models")) as stream:
        offered(stream, [home / "models" / "c1", home / "models" / "c2"])
    found, base = read_head(home / "s"), model(0, dtype)
    for name, origin in base.items():
        if name in (STATISTICS, COUNTER):
            assert torch.equal(found[name], origin)
            continue
        deltas = [tuned(seed, dtype)[name].double() - origin.double() for seed in (1, 2)]
        expected = (origin.double() + (deltas[0] + deltas[1]) / 2).to(dtype)
        assert found[name].dtype == dtype
        assert found[name].shape == origin.shape
        assert torch.equal(found[name], expected)


HOLDER = """
import sys
from pathlib import Path
from weft.node.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes(models: Path, home: Path) -> None:
    folder = begun(home / "s", models)
    with Stream(folder) as stream:
        with pytest.raises(FolderInUse, match=f"pid {os.getpid()}"):
            Stream(folder)
        offered(stream, [models / "c1"])
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"pid {other.pid}"):
            Stream(folder)
        other.kill()
    with Stream(folder) as stream:
        assert stream.queue.generation.members == (1,)


def test_a_clock_that_is_set_back(models: Path, home: Path) -> None:
    """Times are noted and never believed."""
    times = iter([5e9, 4e9, 1e9, 1e9, 0.0, -1e9, *[1e9] * 20])
    with Stream(begun(home / "s", models), clock=lambda: next(times)) as stream:
        offered(stream, [models / "c1", models / "c2"])
        stream.revoke(1)
        found = newest(stream)
        assert stream.queue.generations[0].at == 5e9
    with Stream(home / "s", clock=lambda: -5e9) as stream:
        assert newest(stream) == found
        offered(stream, [models / "c3"])
    with Stream(begun(home / "t", models)) as other:
        offered(other, [models / "c2", models / "c3"])
        assert newest(other) == outcome(home / "s")


def test_a_lost_head_is_made_again(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        offered(stream, [models / "c1", models / "c2"])
        found, digest = read_head(home / "s"), stream.queue.generation.head
    for path in (home / "s" / "head").glob("*model*"):
        path.unlink()
    with Stream(home / "s"):
        assert same(read_head(home / "s"), found)
        assert published(home / "s")[0] == digest


def test_a_rotten_base_is_found_before_it_is_used(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        offered(stream, [models / "c1"])
        base = stream.parts.store.payload_path(stream.identity.base)
    flip_last_byte(base)
    with Stream(home / "s") as stream:
        with pytest.raises(StreamCorrupt, match=r"payload\.safetensors: the base"):
            stream.offer(models / "c2")
        assert len(stream.queue.contributions) == 1


def test_a_head_that_could_not_be_published_is_when_it_can(
    models: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stream(begun(home / "s", models)) as stream:
        stream.offer(models / "c1")
        with monkeypatch.context() as patch:
            patch.setattr(type(stream.parts.heads), "publish", lambda *_: full())
            with pytest.raises(OSError, match="No space"):
                stream.drain()
            assert stream.queue.generation.number == 1
            assert stream.parts.heads.published() == 0
        assert stream.work() is None
        assert stream.parts.heads.published() == 1


def test_where_something_is_no_stream_begins(models: Path, home: Path) -> None:
    begun(home / "s", models)
    with pytest.raises(StreamExists):
        begun(home / "s", models)
    (home / "mine").mkdir()
    (home / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(StreamExists):
        begun(home / "mine", models)


def test_the_head_s_companions_are_the_base_s(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)):
        config = (home / "s" / "head" / "config.json").read_text()
    assert config == (models / "base" / "config.json").read_text()


def test_names(models: Path, home: Path) -> None:
    with Stream(begun(home / "s", models)) as stream:
        one = stream.offer(models / "c1", name="mine").contribution
        assert stream.queue.find("mine") == one
        assert stream.queue.find(one.digest[:12]) == one
        assert replace(one, norm=None).name == "mine"


@pytest.mark.parametrize("form", ["model", "lossless", "raw"])
def test_what_started_from_a_head_is_against_it_however_it_is_sent(form: str, home: Path) -> None:
    folder = plain_stream(home)
    with Stream(folder) as stream:
        offer(stream, home, 1.0)
        path = save(home / "tuned", plain(w=3.0))
        if form != "model":
            with open_checkpoint(home / "models" / "base") as base, open_checkpoint(path) as tuned:
                write_delta(home / "delta", tuned, base, model_digest(base), form)
            path = home / "delta"
        stream.offer(path, started_from=1)
        # Six elements that are two further than the head's.
        assert stream.queue.contribution(2).norm == pytest.approx(2 * 6**0.5)


def test_a_rollback_over_a_replacement_goes_on(home: Path) -> None:
    with Stream(plain_stream(home)) as stream:
        offer(stream, home, 1.0, lineage="run", step=1)
        offer(stream, home, 2.0, lineage="run", step=2)
        stream.rollback(1)
        offer(stream, home, 3.0, lineage="run", step=3)
        assert [each.status for each in stream.queue.contributions] == [
            Status.REPLACED,
            Status.ROLLED_BACK,
            Status.ABSORBED,
        ]


def test_a_rollback_that_is_undone_can_be_gone_on_from(home: Path) -> None:
    folder = plain_stream(home, "opcm")
    with Stream(folder) as stream:
        for value in (1.0, 2.0, 3.0):
            offer(stream, home, value)
        before = stream.queue.generation
        stream.rollback(1)
        stream.rollback(3)
        assert stream.queue.generation.head == before.head
        stream.revoke(1)
        assert stream.queue.generation.members == (2, 3)


def test_there_is_no_way_back_to_what_was_revoked(home: Path) -> None:
    with Stream(plain_stream(home)) as stream:
        offer(stream, home, 1.0)
        offer(stream, home, 2.0)
        stream.revoke(1)
        with pytest.raises(NotKept, match="generation 2 holds contribution 1"):
            stream.rollback(2)
        assert stream.rollback(0).number == 4


def test_a_rollback_asks_no_gate_and_gives_the_head_that_was(home: Path) -> None:
    scores = home / "scores"
    scores.write_text("1 2 3 4 0 4 3 2 1")
    code = (
        f"import pathlib; p = pathlib.Path({str(scores)!r}); w = p.read_text().split();"
        " print(w[0]); p.write_text(' '.join(w[1:]))"
    )
    gate = f'{sys.executable} -c "{code}" {{checkpoint}}'
    with Stream(plain_stream(home, scale="auto", gate=gate, gate_bound=100.0)) as stream:
        offer(stream, home, 1.0)
        first = stream.queue.generation
        offer(stream, home, 2.0)
        assert stream.queue.generation.scale != first.scale
        stream.rollback(1)
        assert (stream.queue.generation.head, stream.queue.generation.scale) == (
            first.head,
            first.scale,
        )


def test_a_rotten_member_is_not_the_newcomers_fault(home: Path) -> None:
    folder = plain_stream(home, "magmax")
    with Stream(folder) as stream:
        offer(stream, home, 1.0)
        offer(stream, home, 2.0, lineage="run", step=1)
        path = stream.parts.store.payload_path(stream.queue.contribution(1).digest)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        save(home / "next", plain(w=3.0))
        stream.offer(home / "next", lineage="run", step=2)
        with pytest.raises(StreamCorrupt, match="contribution 1"):
            stream.drain()
        assert stream.queue.contribution(3).status is Status.WAITING
        assert stream.parts.store.has(stream.queue.contribution(3).digest)
        stream.revoke(1)
        stream.drain()
        assert stream.queue.generation.members == (3,)
