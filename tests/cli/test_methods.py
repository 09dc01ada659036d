"""`weft methods`: the list without torch, one method in full, for people and as JSON."""

import json

import pytest

from tests.cli.test_app import imported_by
from weft.cli.__main__ import main
from weft.cli.methods import NEEDS, ROLES
from weft.merging.facts import Need
from weft.merging.hyperparameters import options_of
from weft.merging.registry import TABLE, Entry, Kind


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["methods", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_list_has_every_method_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    rows = out.splitlines()[1:]
    assert [row.split()[0] for row in rows if not row.startswith(" ")] == [e.name for e in TABLE]
    for entry in TABLE:
        assert entry.kind.value in out
        assert entry.paper in out
    assert out.count("(experimental)") == sum(entry.experimental for entry in TABLE)


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--json")
    assert code == 0
    found = json.loads(out)["methods"]
    assert [line["name"] for line in found] == [entry.name for entry in TABLE]
    mean = next(line for line in found if line["name"] == "mean")
    assert mean == {
        "name": "mean",
        "kind": "fold",
        "experimental": False,
        "about": "the weighted mean: model soups",
        "paper": "arXiv:2203.05482",
    }


@pytest.mark.parametrize("arguments", [("methods",), ("methods", "--json")], ids=" ".join)
def test_the_list_is_quick(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments).isdisjoint({"torch", "numpy", "grpc", "networkx", "sqlalchemy"})


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_one_method_says_all_that_its_class_says(
    entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, entry.name, "--json")
    assert code == 0
    found = json.loads(out)
    method = entry.load()
    said = list(options_of(method))
    assert [option["name"] for option in found["options"]] == [name for name, *_ in said]
    assert [option["default"] for option in found["options"]] == [row[2] for row in said]
    assert found["documentation"].count("Source:") == 1
    needs = method().needs
    assert [NEEDS[need.value] in found["needs"] for need in sorted(needs)] == [True] * len(needs)
    assert ("--base BASE" in found["example"]) >= (Need.BASE in needs)
    assert entry.name in found["example"].split()


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_one_method_for_a_person(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, entry.name)
    assert (code, err) == (0, "")
    assert out.startswith(f"{entry.name}: {entry.about}")
    assert f"\n{entry.kind.value}: " in out
    assert "\nSource: " in out
    for name, type_, default, said in options_of(entry.load()):
        assert f"  {name:<16} {type_}, default {default}" in out
        assert said.about in out
        assert said.range in out
    assert f"\nExample: weft merge --method {entry.name} " in out or (
        f" {entry.name} --base BASE A B -o OUT" in out
    )


def test_what_can_be_taken_out_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a contribution can be taken out again" in run(capsys, "mean")[1]
    assert "a contribution cannot be taken out again" in run(capsys, "magmax")[1]
    assert "their order matters" in run(capsys, "ema")[1]


def test_how_many_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "takes at most 2 contributions" in run(capsys, "slerp")[1]
    assert "at most" not in run(capsys, "mean")[1]


def test_hyperparameters_of_ema(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "ema", "--json")[1])["options"] == [
        {
            "name": "rate",
            "type": "float",
            "default": 0.1,
            "range": "a number above 0 and at most 1",
            "about": "share of a new contribution",
        }
    ]


def test_a_typo_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "magmaxx")
    assert (code, out) == (2, "")
    assert err.startswith("weft: no merge method is called 'magmaxx'; did you mean 'magmax'?")
    assert err.count("\n") == 1


def test_words_for_every_need_and_kind() -> None:
    assert set(NEEDS) == {need.value for need in Need}
    assert set(ROLES) == {kind.value for kind in Kind} - {"fold"}
