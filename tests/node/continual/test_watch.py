"""Which files are taken, and when: the decision by itself, then on real folders."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.checkpoints.folders import save_distributed
from tests.node.continual.serving import Silent, kept
from tests.node.continual.streams import begun, model, save, save_models, tuned
from weft.checkpoints.delta_folders import write_delta
from weft.checkpoints.errors import DiskFull, UnsupportedFile
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.reader import open_checkpoint
from weft.node.continual import watching
from weft.node.continual.keeper import Keeper
from weft.node.continual.records import Contribution, Status
from weft.node.continual.stream import Stream
from weft.node.continual.watch import Found, Verdict, Watch
from weft.node.continual.watch_folder import checkpoints_in, stamp_of, unwhole
from weft.node.continual.watching import Watching
from weft.node.errors import JournalBusy
from weft.node.journal import Journal

# -- the decision ---------------------------------------------------------------


def found(path: str, size: int = 10, at: int = 0, lineage: str = "", step: int = 0) -> Found:
    return Found(path=path, stamp=(("model", size, at),), lineage=lineage, step=step)


def paths(due: Sequence[Found]) -> list[str]:
    return [each.path for each in due]


def test_nothing_is_due_before_it_has_settled() -> None:
    watch = Watch(settle_s=3.0)
    assert [paths(watch.due([found("a")], now)) for now in (0, 1, 2.9, 3)] == [[], [], [], ["a"]]


def test_a_change_begins_everything_again() -> None:
    watch = Watch(settle_s=3.0)
    watch.due([found("a")], 0)
    assert watch.due([found("a", size=11)], 2.9) == []
    assert watch.due([found("a", size=11)], 5.8) == []
    assert paths(watch.due([found("a", size=11)], 5.9)) == ["a"]


def test_what_was_taken_is_not_due_until_it_changes() -> None:
    watch = Watch(settle_s=1.0)
    watch.due([found("a")], 0)
    (each,) = watch.due([found("a")], 1)
    watch.judged(each, Verdict.TAKEN, 1)
    assert watch.due([found("a")], 1000) == []
    assert not watch.waits_for_any
    watch.due([found("a", at=7)], 1001)
    assert paths(watch.due([found("a", at=7)], 1002)) == ["a"]


@pytest.mark.parametrize("verdict", [Verdict.NOT_WHOLE, Verdict.LATER])
def test_what_could_not_be_taken_is_looked_at_again_ever_more_seldom(verdict: Verdict) -> None:
    watch, looks = Watch(settle_s=0.0), []
    for second in range(200):
        for each in watch.due([found("a")], second):
            looks.append(second)
            watch.judged(each, verdict, second)
    pauses = [after - before for before, after in pairwise(looks)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert set(pauses[5:]) == {30}


def test_of_a_run_the_steps_come_in_their_order_whenever_they_were_written() -> None:
    watch = Watch(settle_s=0.0)
    late_first = [
        found("r/checkpoint-1000", at=1, lineage="r", step=1000),
        found("r/checkpoint-500", at=9, lineage="r", step=500),
        found("b", at=4),
        found("a", at=5),
    ]
    assert paths(watch.due(late_first, 0)) == ["b", "a", "r/checkpoint-500", "r/checkpoint-1000"]


def test_what_vanished_is_forgotten_and_a_late_verdict_on_it_is_none() -> None:
    watch = Watch(settle_s=1.0)
    watch.due([found("a")], 0)
    (each,) = watch.due([found("a")], 1)
    assert watch.due([], 2) == []
    watch.judged(each, Verdict.TAKEN, 2)
    watch.due([found("a")], 3)
    assert paths(watch.due([found("a")], 4)) == ["a"]


def test_stale_is_what_has_not_changed_for_long() -> None:
    watch, each = Watch(settle_s=1.0, stale_s=60.0), found("a")
    watch.due([each], 0)
    assert [watch.is_stale(each, now) for now in (0, 59.9, 60)] == [False, False, True]
    assert not watch.is_stale(found("never seen"), 1000)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0.1, 5)), min_size=1, max_size=40
    )
)
def test_nothing_is_ever_due_within_the_time_to_settle(steps: list[tuple[int, int, float]]) -> None:
    watch, now, since = Watch(settle_s=3.0), 0.0, dict[tuple[str, int], float]()
    for which, size, passed in steps:
        now += passed
        each = found(f"p{which}", size=size)
        since = {(each.path, size): since.get((each.path, size), now)}
        for due in watch.due([each], now):
            assert now - since[due.path, size] >= 3.0
            watch.judged(due, Verdict.TAKEN, now)


def test_the_source_says_path_size_and_time() -> None:
    base = found("a")
    others = [found("b"), found("a", size=11), found("a", at=1)]
    assert len({each.source for each in [base, *others]}) == 4
    assert found("a", lineage="x", step=3).source == base.source


# -- what is found in a folder ----------------------------------------------------


def seen(folder: Path) -> dict[str, tuple[str, int]]:
    return {each.path: (each.lineage, each.step) for each in checkpoints_in(folder)}


def test_every_kind_and_the_lineage_of_each(tmp_path: Path) -> None:
    for path in ("plain", "run/checkpoint-500", "run/checkpoint-1000", "checkpoint-7"):
        save(tmp_path / path, model(0))
    save_file(model(0), tmp_path / "alone.safetensors")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(b"x")
    assert seen(tmp_path) == {
        "alone.safetensors": ("", 0),
        "checkpoint-7": (".", 7),
        "dcp": ("", 0),
        "peft": ("", 0),
        "plain": ("", 0),
        "run/checkpoint-500": ("run", 500),
        "run/checkpoint-1000": ("run", 1000),
    }


def test_the_model_that_a_run_ends_with_is_its_last(tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoint-500", model(0))
    save_file(model(1), tmp_path / "run" / "model.safetensors")
    assert seen(tmp_path) == {"run": ("run", 500), "run/checkpoint-500": ("run", 500)}


def test_what_is_hidden_unfinished_or_something_else_is_passed_over(tmp_path: Path) -> None:
    for path in (".hidden", "tmp-checkpoint-5", "later.partial", "run/tmp-checkpoint-500"):
        save(tmp_path / path, model(0))
    for name in ("a.safetensors.tmp", ".b.safetensors", "log.txt", "x-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("x")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokenizer.json").write_text("{}")
    (tmp_path / "dangling.safetensors").symlink_to("nowhere")
    assert seen(tmp_path) == {}
    assert checkpoints_in(tmp_path / "gone") == []


def test_a_stamp_is_of_every_file_in_the_folder_itself(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", model(0))
    before = stamp_of(folder)
    (folder / "optimizer.pt").write_bytes(b"1")
    assert stamp_of(folder) != before
    assert stamp_of(tmp_path / "gone") == ()


# -- whether it is whole ------------------------------------------------------------


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def empty(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 0)


def zeros(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))


def a_shard_is_missing(folder: Path) -> None:
    names = sorted(model(0))
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{at}-of-00002.safetensors" for at in (1, 2)]
    save_file({name: model(0)[name] for name in names[:4]}, folder / shards[0])
    weights = {name: shards[at >= 4] for at, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def half_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_ty')


@pytest.mark.parametrize("harm", [cut_short, empty, zeros, a_shard_is_missing, half_an_adapter])
def test_what_is_still_being_written_is_not_whole(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = save(tmp_path / "a", model(0))
    assert unwhole(folder) == ""
    harm(folder)
    assert unwhole(folder)


def test_a_delta_is_whole_with_all_its_bytes(tmp_path: Path) -> None:
    save_models(tmp_path, 1)
    with open_checkpoint(tmp_path / "base") as base, open_checkpoint(tmp_path / "c1") as tuned_one:
        write_delta(tmp_path / "d", tuned_one, base, model_digest(base), "lossless")
    assert unwhole(tmp_path / "d") == ""
    payload = tmp_path / "d" / "payload.safetensors"
    payload.chmod(0o644)
    os.truncate(payload, payload.stat().st_size - 1)
    assert unwhole(tmp_path / "d")


def test_a_pickle_is_never_whole_and_that_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UnsupportedFile):
        unwhole(tmp_path / "a.safetensors")


# -- a folder and a stream ------------------------------------------------------------


class Shelf:
    """A watched folder, its stream, and a clock that a test moves."""

    def __init__(self, folder: Path, keeper: Keeper, prefix: str = "") -> None:
        self.folder, self.keeper, self.now, self.prefix = folder, keeper, 0.0, prefix
        self.watching = self.fresh()

    def fresh(self) -> Watching:
        return Watching(self.folder, self.keeper, clock=lambda: self.now, prefix=self.prefix)

    async def settles(self, seconds: float = 10.0) -> list[Contribution]:
        """Look, let time pass, look again; and let the stream absorb."""
        await self.watching.look()
        self.now += seconds
        await self.watching.look()
        await self.keeper.ask(Stream.drain)
        return list(self.keeper.view.contributions)


def drop(models: Path, name: str, into: Path) -> Path:
    into.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(models / name, into)
    return into


async def test_a_run_is_one_contribution_and_each_step_replaces_the_one_before(
    tmp_path: Path, models: Path
) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        drop(models, "c2", shelf.folder / "run" / "checkpoint-1000")
        drop(models, "c1", shelf.folder / "run" / "checkpoint-500")
        drop(models, "c3", shelf.folder / "other")
        told = await shelf.settles()
        assert [(each.name, each.lineage, each.step) for each in told] == [
            ("other", "", 0),
            ("run/checkpoint-500", "run", 500),
            ("run/checkpoint-1000", "run", 1000),
        ]
        assert [each.status for each in told] == [
            Status.ABSORBED,
            Status.REPLACED,
            Status.ABSORBED,
        ]


async def test_what_has_come_is_not_read_again_in_this_process_or_the_next(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path / "s", models)
    async with kept(folder) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        drop(models, "c1", shelf.folder / "a")
        (shelf.folder / "bad.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
        before = await shelf.settles()
        assert len(before) == 2
        monkeypatch.setattr(watching, "unwhole", None)  # nothing may be opened from here on
        assert await shelf.settles() == before
    async with kept(folder) as keeper:
        again = Shelf(tmp_path / "w", keeper)
        assert await again.settles() == before


async def test_the_same_content_elsewhere_is_known(tmp_path: Path, models: Path) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        drop(models, "c1", shelf.folder / "a")
        await shelf.settles()
        drop(models, "c1", shelf.folder / "b")
        assert len(await shelf.settles()) == 1


def another_model(folder: Path) -> None:
    save_file({"x": torch.zeros(3)}, folder / "model.safetensors")


def not_a_number(folder: Path) -> None:
    wrong = tuned(1)
    wrong["embed.weight"][0, 0] = float("nan")
    save_file(wrong, folder / "model.safetensors")


def a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize("harm", [another_model, not_a_number, a_pickle])
async def test_what_is_not_fit_is_set_aside_and_the_watch_goes_on(
    tmp_path: Path, models: Path, harm: Callable[[Path], None]
) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        harm(drop(models, "c1", shelf.folder / "bad"))
        drop(models, "c2", shelf.folder / "good")
        told = {each.name: each for each in await shelf.settles()}
        assert told["bad"].status is Status.SET_ASIDE
        assert told["bad"].reason
        assert told["good"].status is Status.ABSORBED
        assert len(await shelf.settles()) == 2


async def test_a_full_disk_is_said_and_it_is_taken_once_there_is_room(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Stream, *given: object, **named: object) -> None:
        raise DiskFull("no room")

    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        drop(models, "c1", shelf.folder / "a")
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "offer", full)
            assert await shelf.settles() == []
            assert keeper.trouble == "no room"
        (told,) = await shelf.settles()
        assert (told.status, keeper.trouble) == (Status.ABSORBED, "")


async def test_of_a_distributed_checkpoint_what_has_the_prefix_is_taken(
    tmp_path: Path, models: Path
) -> None:
    state: dict[str, object] = {"model": tuned(1), "optimizer": {"step": torch.ones(3)}}
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper, prefix="model.")
        save_distributed(shelf.folder / "dcp", state)
        drop(models, "c2", shelf.folder / "plain")
        told = await shelf.settles()
        assert [each.status for each in told] == [Status.ABSORBED] * 2
        with Stream(begun(tmp_path / "t", models)) as other:
            other.offer(models / "c1")
            expected = other.queue.contribution(1).digest
        assert expected in [each.digest for each in told]


@pytest.mark.parametrize("harm", [None, not_a_number, a_pickle])
async def test_a_busy_journal_is_said_and_it_is_judged_once_it_is_free(
    tmp_path: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None] | None,
) -> None:
    def busy(self: Journal, kind: str, entry: object) -> int:
        raise JournalBusy("busy")

    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        dropped = drop(models, "c1", shelf.folder / "a")
        if harm is not None:
            harm(dropped)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", busy)
            assert await shelf.settles() == []
            assert keeper.trouble == "busy"
        (told,) = await shelf.settles()
        assert told.status is (Status.ABSORBED if harm is None else Status.SET_ASIDE)
        assert keeper.trouble == ""


@pytest.mark.parametrize("where", ["unwhole", "offer"])
async def test_a_mistake_of_ours_stops_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def odd(*given: object, **named: object) -> None:
        raise RuntimeError("odd")

    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        drop(models, "c1", shelf.folder / "a")
        monkeypatch.setattr(watching if where == "unwhole" else Stream, where, odd)
        (told,) = await shelf.settles()
        assert (told.status, told.reason) == (Status.SET_ASIDE, "RuntimeError: odd")


async def test_what_is_never_whole_is_set_aside_once_nobody_writes_it(
    tmp_path: Path, models: Path
) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        cut_short(drop(models, "c1", shelf.folder / "a"))
        assert await shelf.settles() == []
        assert await shelf.settles(200) == []
        (told,) = await shelf.settles(200)
        assert told.status is Status.SET_ASIDE
        assert "nobody writes it" in told.reason
        shutil.copy(models / "c1" / "model.safetensors", shelf.folder / "a")
        assert [each.status for each in await shelf.settles()] == [
            Status.SET_ASIDE,
            Status.ABSORBED,
        ]


async def test_what_changes_while_it_is_read_is_not_taken_and_read_again(
    tmp_path: Path, models: Path
) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        folder = drop(models, "c1", shelf.folder / "a")
        await shelf.watching.look()
        shelf.now += 10

        def meddle(stream: Stream) -> None:
            stored = stream._intake.stored

            def touching(offered: Contribution, path: Path, prefix: str = "") -> Contribution:
                answer = stored(offered, path, prefix)
                shutil.copy(models / "c2" / "model.safetensors", folder)
                stream._intake.stored = stored  # type: ignore[method-assign]
                return answer

            stream._intake.stored = touching  # type: ignore[method-assign]

        await keeper.ask(meddle)
        await shelf.watching.look()
        assert keeper.view.contributions == ()
        (told,) = await shelf.settles()
        assert told.status is Status.ABSORBED


@pytest.mark.parametrize("harm", ["deleted", "truncated"])
async def test_what_is_lost_while_it_is_read_stops_nothing(
    tmp_path: Path, models: Path, harm: str
) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        shelf = Shelf(tmp_path / "w", keeper)
        folder = drop(models, "c1", shelf.folder / "a")
        drop(models, "c2", shelf.folder / "b")
        await shelf.watching.look()
        shelf.now += 10

        def meddle(stream: Stream) -> None:
            stored = stream._intake.stored

            def harming(offered: Contribution, path: Path, prefix: str = "") -> Contribution:
                if path == folder and harm == "deleted":
                    shutil.rmtree(folder)
                elif path == folder:
                    os.truncate(folder / "model.safetensors", 100)
                return stored(offered, path, prefix)

            stream._intake.stored = harming  # type: ignore[method-assign]

        await keeper.ask(meddle)
        await shelf.watching.look()
        await keeper.ask(Stream.drain)
        told = {each.name: each.status for each in keeper.view.contributions}
        assert told["b"] is Status.ABSORBED
        assert told.get("a", Status.SET_ASIDE) is Status.SET_ASIDE


async def test_it_runs_by_itself_and_is_told_of_changes(tmp_path: Path, models: Path) -> None:
    async with kept(begun(tmp_path / "s", models)) as keeper:
        folder = tmp_path / "w"
        folder.mkdir()
        watching_it = Watching(folder, keeper, settle_s=0.1, rescan_s=60)
        async with Silent(watching_it.run(), keeper.work()):
            drop(models, "c1", folder / "a")
            settled = await keeper.board.wait_for(lambda: keeper.view.newest.number or None, 10)
            assert settled == 1
