"""Finding a user's trainer, and saying in one line why it cannot be used."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training import MODULE, TRAINERS
from weft.node.errors import BadTrainer
from weft.node.trainer import (
    Calibrates,
    Evaluates,
    Scalar,
    Stateful,
    data_size_of,
    load_trainer,
)


def test_a_trainer_is_built_with_its_options() -> None:
    trainer = load_trainer(f"{MODULE}:Tiny", {"steps": 9}, TRAINERS)
    assert vars(trainer)["steps"] == 9
    assert sys.path[0] == str(TRAINERS)
    assert isinstance(trainer, Evaluates)
    assert isinstance(trainer, Stateful)
    assert not isinstance(trainer, Calibrates)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("digits", {}, r"'digits' is not of the form module:Class; write for example"),
        ("digits:", {}, "is not of the form module:Class"),
        ("digits:a.b", {}, "is not of the form module:Class"),
        ("digitz:Digits", {}, r"no module 'digitz' in .* put digitz\.py there"),
        ("weft_test_trainers.sub:X", {}, "no module 'weft_test_trainers.sub'"),
        ("weft_test_broken:X", {}, "needs the module 'weft_test_no_such_module', which is not"),
        ("weft_test_exploding:X", {}, "failed: OSError: the data server is down"),
        (f"{MODULE}:Tinny", {}, "has no class 'Tinny'; did you mean 'Tiny'"),
        (f"{MODULE}:time", {}, "has no class 'time'"),
        (f"{MODULE}:NoTrain", {}, r"lacks train\(\); a trainer has model\(\) and train"),
        (f"{MODULE}:HalfState", {}, r"has only one of state\(\) and load_state"),
        (f"{MODULE}:Picky", {}, "missing a required argument: 'path'"),
        (f"{MODULE}:Picky", {"path": "x", "batchsize": 4}, "did you mean 'batch_size'"),
        (f"{MODULE}:Forgetful", {"path": "x"}, "has no option 'path'; it takes: none"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    target: str, options: dict[str, Scalar], message: str
) -> None:
    with pytest.raises(BadTrainer, match=message) as refused:
        load_trainer(target, options, TRAINERS)
    assert "\n" not in str(refused.value)


BODY = """
class T:
    place = {0!r}
    def model(self): ...
    def train(self, model, round): ...
"""


@pytest.mark.parametrize("name", ["weft_namesake", "weft_names.inner", "weft_pack"])
def test_a_module_of_the_same_name_from_another_folder_is_not_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder in ("one", "two"):
        place = tmp_path.joinpath(folder, *name.split("."))
        file = place / "__init__.py" if name == "weft_pack" else place.with_name(f"{place.name}.py")
        file.parent.mkdir(parents=True)
        if "." in name:
            (file.parent / "__init__.py").touch()
        file.write_text(BODY.format(folder))

    def found(folder: str) -> object:
        return type(load_trainer(f"{name}:T", {}, tmp_path / folder))

    try:
        first = found("one")
        assert vars(first)["place"] == "one"
        assert vars(found("two"))["place"] == "two"
        assert vars(found("one"))["place"] == "one"
        (tmp_path / "empty").mkdir()
        assert found("empty") is found("one")
    finally:
        for module in [key for key in sys.modules if key.startswith("weft_nam")]:
            del sys.modules[module]
        sys.modules.pop("weft_pack", None)


def test_a_trainer_may_say_how_much_data_it_has() -> None:
    class Says:
        data_size = 12

    class Counts:
        def data_size(self) -> int:
            return 0

    assert [data_size_of(trainer) for trainer in (Says(), Counts(), object())] == [12, 0, None]


@pytest.mark.parametrize("said", [-1, 2.5, "many", True])
def test_a_size_that_is_no_count_is_refused(said: object) -> None:
    with pytest.raises(BadTrainer, match="expected a whole number of samples"):
        data_size_of(type("T", (), {"data_size": said})())


def test_the_daemons_side_imports_no_torch() -> None:
    modules = "trainer training command_trainer folder_trainer journal ledger guards metrics lock"
    imports = "; ".join(f"import weft.node.{name}" for name in modules.split())
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
