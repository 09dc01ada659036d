"""`weft push`: what it sends, what it says, how it ends."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.folders import save_distributed
from tests.node.continual.streams import begun, save, save_models, tuned
from tests.support.streaming import StreamProcess
from tests.support.wire import Enrolment
from weft.cli.__main__ import main


class Desk:
    """Types `weft push`; the environment says to whom, and as whom."""

    def __init__(
        self, folder: Path, process: StreamProcess, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self.process, self._capsys = folder, process, capsys

    def types(self, *words: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capsys.readouterr()
        code = main(["push", *map(str, words)])
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err

    def reads(self, *words: object, code: int = 0) -> Any:
        """The document of a push with --json."""
        found, out, err = self.types(*words, "--json")
        assert found == code, err
        return json.loads(out)

    def fresh(self, seed: int) -> Path:
        """A model that has not come before."""
        return save(self.folder / f"c{seed}", tuned(seed))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamProcess]:
    folder = tmp_path_factory.mktemp("push")
    save_models(folder / "models", 0)
    served = StreamProcess(begun(folder / "s", folder / "models"), folder)
    served.start()
    yield served
    served.close()


@pytest.fixture
def desk(
    process: StreamProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    monkeypatch.setenv("WEFT_STREAM", process.listen)
    monkeypatch.setenv("WEFT_CREDENTIALS", str(process.operator))
    return Desk(tmp_path, process, capsys)


def test_it_says_what_became_of_it_and_the_second_time_too(desk: Desk) -> None:
    path = desk.fresh(101)
    code, out, _ = desk.types(path)
    assert code == 0
    assert out.startswith("contribution ")
    assert "(c101): absorbed in generation " in out
    code, again, _ = desk.types(path)
    assert (code, again) == (0, out.replace("(c101)", "(c101), known: it had come before"))


def test_the_document(desk: Desk) -> None:
    found = desk.reads(desk.fresh(102), "--weight", 0.5, "--lineage", "r", "--step", 7)
    assert found["status"] == "absorbed"
    assert found["generation"] >= 1
    assert (found["known"], found["reason"]) == (False, "")
    assert found["sent_bytes"] > 0
    assert len(found["digest"]) == 64


def test_without_waiting_it_is_durable_and_no_more_is_said(desk: Desk) -> None:
    found = desk.reads(desk.fresh(103), "--no-wait")
    assert found["status"] in ("waiting", "absorbed")
    code, out, _ = desk.types(desk.folder / "c103", "--no-wait")
    assert code == 0
    assert "known" in out


def test_with_the_base_at_hand_a_delta_is_sent(desk: Desk) -> None:
    base = desk.process.stream.parent / "models" / "base"
    delta = desk.reads(desk.fresh(104), "--base", base)
    whole = desk.reads(desk.fresh(105))
    assert delta["status"] == whole["status"] == "absorbed"
    again = desk.reads(desk.folder / "c104")
    assert (again["known"], again["seq"]) == (True, delta["seq"])
    assert delta["digest"] != again["digest"]


@pytest.mark.parametrize("with_base", [False, True])
def test_a_distributed_checkpoint_whose_tensors_have_a_prefix(desk: Desk, with_base: bool) -> None:
    path, seed = desk.folder / "dcp", 110 + with_base
    save_distributed(path, {"model": tuned(seed), "optimizer": {"step": torch.ones(3)}})
    words = ["--base", desk.process.stream.parent / "models" / "base"] if with_base else []
    code, out, err = desk.types(path, *words)
    assert (code, out) == (2, ""), err
    told = desk.reads(path, "--prefix", "model.", *words)
    assert told["status"] == "absorbed"
    again = desk.reads(desk.fresh(seed), *words)
    assert (again["known"], again["digest"]) == (True, told["digest"]), "it is the same model"


def test_what_is_set_aside_is_said_with_its_reason_and_exit_code(desk: Desk) -> None:
    wrong = tuned(106)
    wrong["embed.weight"][0, 0] = float("nan")
    path = save(desk.folder / "bad", wrong)
    code, out, _ = desk.types(path)
    assert code == 2
    assert "set aside: " in out
    assert "embed.weight" in out
    assert desk.reads(path, code=2)["status"] == "set aside"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gone"], "no such file or folder"),
        (["c107", "--started-from", "99"], "no generation 99"),
        (["c107", "--base", "c107"], "a delta against .*; this stream's base is"),
        (["c107", "--name", "somebody"], "its certificate is for another name"),
        (["c107", "--credentials", "nowhere"], "nowhere"),
        (["c107", "--weight", "nan"], "weight"),
    ],
)
def test_mistakes_are_one_line(
    desk: Desk, words: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.fresh(107)
    monkeypatch.chdir(desk.folder)
    code, out, err = desk.types(*words)
    assert (code, out) == (2, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("weft: ")
    assert re.search(expected, last), last


def test_a_certificate_of_another_authority_gets_nothing(desk: Desk, tmp_path: Path) -> None:
    stranger = Enrolment(tmp_path / "other")("olga").folder
    code, out, err = desk.types(desk.fresh(108), "--credentials", stranger)
    assert (code, out) == (2, "")
    assert "certificate" in err.splitlines()[-1]


def test_nobody_there_is_a_fault_once_patience_is_over(desk: Desk) -> None:
    code, out, err = desk.types(desk.fresh(109), "--to", "127.0.0.1:9", "--patience", 0)
    assert (code, out) == (1, "")
    assert "nobody answers there" in err
