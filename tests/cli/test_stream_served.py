"""`weft stream head|history|rollback|revoke` of a stream that is served, beside one in a folder."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.folders import save_distributed
from tests.node.continual.streams import begun, save, save_models, tuned
from tests.support.streaming import StreamProcess
from weft.cli.__main__ import main
from weft.node.continual.history import seen


class Desk:
    """Types `weft stream`, with the server's address and an operator's certificate at hand."""

    def __init__(self, process: StreamProcess, capsys: pytest.CaptureFixture[str]) -> None:
        self.process, self._capsys = process, capsys
        self.there = ["--to", process.listen, "--credentials", str(process.operator)]

    def types(self, *words: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main([*map(str, words)])
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err

    def reads(self, *words: object) -> Any:
        """The document of `weft stream` with --json."""
        code, out, err = self.types("stream", *words, "--json")
        assert code == 0, err
        return json.loads(out)

    def mistakes(self, *words: object) -> str:
        """The one line of `weft stream` that a user's mistake ends with."""
        code, out, err = self.types("stream", *words)
        assert (code, out) == (2, ""), err
        return err.splitlines()[-1]

    def pushed(self, folder: Path, seed: int, **changes: torch.Tensor) -> int:
        """A model that has not come before; its number."""
        path = save(folder / f"c{seed}", tuned(seed) | changes)
        code, out, err = self.types("push", path, *self.there, "--json")
        assert code == (2 if changes else 0), err
        return int(json.loads(out)["seq"])


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamProcess]:
    folder = tmp_path_factory.mktemp("served")
    save_models(folder / "models", 0)
    served = StreamProcess(begun(folder / "s", folder / "models"), folder)
    served.start()
    yield served
    served.close()


@pytest.fixture
def desk(
    process: StreamProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    for name in ("WEFT_STREAM", "WEFT_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    return Desk(process, capsys)


def test_the_documents_are_those_of_the_folder(desk: Desk, tmp_path: Path) -> None:
    desk.pushed(tmp_path, 1)
    desk.pushed(tmp_path, 2, **{"embed.weight": torch.full((7, 5), torch.nan)})
    folder = desk.process.stream
    for command in ("head", "history"):
        assert desk.reads(command, *desk.there) == desk.reads(command, folder)
        assert desk.types("stream", command, *desk.there) == desk.types("stream", command, folder)


def test_a_picture_of_a_served_stream(desk: Desk, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, err = desk.types("stream", "history", *desk.there, "--plot", tmp_path / "h.png")
    assert (code, "drawn" in err) == (0, True)
    assert (tmp_path / "h.png").stat().st_size > 1000


def test_revoke_by_name_by_number_and_again(desk: Desk, tmp_path: Path) -> None:
    before = desk.reads("head", *desk.there)
    first, second = desk.pushed(tmp_path, 11), desk.pushed(tmp_path, 12)
    without = desk.reads("revoke", "c11", *desk.there)
    assert without["contributions"] == before["contributions"] + 1
    assert desk.reads("revoke", first, *desk.there) == without, "again it changes nothing"
    assert desk.reads("revoke", second, *desk.there)["digest"] == before["digest"]
    status = {each.seq: each.status.value for each in seen(desk.process.stream).contributions}
    assert (status[first], status[second]) == ("revoked", "revoked")


def test_rollback(desk: Desk, tmp_path: Path) -> None:
    before = desk.reads("head", *desk.there)
    for seed in (21, 22):
        desk.pushed(tmp_path, seed)
    back = desk.reads("rollback", before["generation"], *desk.there)
    assert back == before | {"generation": before["generation"] + 3}
    code, out, err = desk.types("stream", "rollback", before["generation"], *desk.there)
    assert (code, err) == (0, "")
    assert f"generation {before['generation'] + 4}, " in out


def test_the_environment_says_which_and_a_folder_goes_first(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_STREAM", desk.process.listen)
    monkeypatch.setenv("WEFT_CREDENTIALS", str(desk.process.operator))
    assert desk.reads("head") == desk.reads("head", *desk.there)
    seq = desk.pushed(tmp_path, 31)
    assert desk.reads("revoke", seq)["waiting"] == 0
    other = begun(tmp_path / "other", desk.process.stream.parent / "models")
    assert "its beginning was interrupted" in desk.mistakes("head", other)
    assert desk.reads("rollback", other, 0)["path"] == str(other / "head")
    assert desk.reads("head", other)["generation"] == 1


def test_mistakes_are_one_line(desk: Desk, tmp_path: Path) -> None:
    there, folder = desk.there, desk.process.stream
    bad = desk.pushed(tmp_path, 41, **{"embed.weight": torch.full((7, 5), torch.inf)})
    node = [*there[:3], desk.process.enrol("node-a").folder]
    mistakes: list[tuple[list[object], str]] = [
        (["head"], "which stream[?] give its folder, or --to HOST:PORT"),
        (["revoke", "3"], "which stream[?] give its folder, or --to HOST:PORT"),
        (["rollback", "3", *there[:2]], "as whom[?] give --credentials FOLDER"),
        (["head", folder, *there], "a stream's folder or its server, not both"),
        (["revoke", folder, folder, "1"], "one stream at a time"),
        (["revoke", "1", *there, "--threads", 2], "a server has its own"),
        (["revoke", "nobody", *there], "'nobody' names no contribution; give its number"),
        (["revoke", bad, *there], "is set aside; only what is in the head goes out"),
        (["rollback", 999, *there], "no generation 999; there are 0 to"),
        (["revoke", "1", *node], "the role node may not call Continual/Revoke"),
        (["rollback", "0", *node], "the role node may not call Continual/Rollback"),
        (["head", *there, "--name", "somebody"], "its certificate is for another name"),
        (["head", *there[:3], tmp_path / "gone"], "gone"),
    ]
    for words, expected in mistakes:
        found = desk.mistakes(*words)
        assert found.startswith("weft: ")
        assert re.search(expected, found), found


def test_nobody_there_is_a_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.cli.stream_served.LOOK_S", 0.0)
    nobody = ["--to", "127.0.0.1:9", *desk.there[2:]]
    for words in (["head"], ["history"], ["revoke", "1", "--patience", 0]):
        code, out, err = desk.types("stream", *words, *nobody)
        assert (code, out) == (1, "")
        assert "nobody answers there" in err


def test_a_folder_that_a_server_holds_says_how_the_server_is_asked(
    desk: Desk, tmp_path: Path
) -> None:
    folder = desk.process.stream
    served = f"{folder}; stop it, or name another folder; if that serves the stream, ask it: weft"
    for words, command in [
        (["revoke", folder, "my run"], "stream revoke 'my run'"),
        (["rollback", folder, 1], "stream rollback 1"),
        (["add", folder, tmp_path], f"push {tmp_path}"),
    ]:
        found = desk.mistakes(*words)
        assert found.endswith(f"{served} {command} --to HOST:PORT --credentials FOLDER"), found


def test_what_keeps_a_served_stream_from_going_on_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_models(tmp_path / "models", 0)
    gate = "false {checkpoint}"
    process = StreamProcess(begun(tmp_path / "s", tmp_path / "models", gate=gate), tmp_path)
    process.start()
    try:
        desk = Desk(process, capsys)
        desk.types("push", save(tmp_path / "c1", tuned(1)), *desk.there, "--no-wait")
        deadline = time.monotonic() + 60
        while not process.events("cannot go on; tried again"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        code, out, err = desk.types("stream", "head", *desk.there)
        assert (code, "1 waiting" in out) == (0, True)
        assert err.startswith("the stream cannot go on: ")
    finally:
        process.close()


def test_by_hand_with_a_prefix(desk: Desk, tmp_path: Path) -> None:
    models = desk.process.stream.parent / "models"
    state: dict[str, object] = {"model": tuned(1), "optimizer": {"step": torch.ones(3)}}
    save_distributed(tmp_path / "dcp", state)
    save(tmp_path / "plain", tuned(1))
    for name in ("dcp", "plain"):
        begun(tmp_path / f"s-{name}", models)
    with_it = desk.reads("add", tmp_path / "s-dcp", tmp_path / "dcp", "--prefix", "model.")
    plain = desk.reads("add", tmp_path / "s-plain", tmp_path / "plain")
    assert with_it["digest"] == plain["digest"]
    desk.mistakes("add", tmp_path / "s-plain", tmp_path / "dcp")
