"""The folder of a demo: whole, private where it must be, and never somebody else's."""

import stat
from pathlib import Path

import numpy as np
import pytest

from weft.checkpoints.reader import open_checkpoint
from weft.cli.run_file import load_run_file, prepared
from weft.coordinator.config import load_config
from weft.node.config import load_node_config
from weft.protocol.identity import COORDINATOR_NAME, Credentials
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.demo.stage import clear, set_stage, tidy, write_inputs
from weft.simulations.errors import BadOption
from weft.simulations.references import TaskOptions, initial_model
from weft.simulations.tasks.arrays import load_npz
from weft.simulations.tasks.classification import ClassificationTrainer
from weft.simulations.tasks.digits import load_digits

SETTINGS = DemoSettings(
    nodes=2,
    rounds=3,
    schedule_options=(("k", 2),),
    task=TaskOptions(nodes=2, seed=5, alpha=0.5),
)


@pytest.fixture
def folder(tmp_path: Path) -> DemoFolder:
    made = DemoFolder(path=tmp_path / "demo")
    clear(made)
    set_stage(made, SETTINGS, coordinator="127.0.0.1:9999")
    write_inputs(made, SETTINGS)
    return made


def test_configurations_are_what_the_daemons_read(folder: DemoFolder) -> None:
    coordinator = load_config(folder.config(COORDINATOR_NAME))
    assert coordinator.listen == "127.0.0.1:9999"
    assert Credentials.load(coordinator.credentials).identity.role == "coordinator"
    for place, name in enumerate(SETTINGS.names):
        node = load_node_config(folder.config(name))
        assert node.coordinator == coordinator.listen
        assert Credentials.load(node.credentials).identity.name == name
        assert node.data == folder.data(name)
        assert node.train.options["node"] == place


def test_nodes_train_the_settings_task(folder: DemoFolder) -> None:
    node = load_node_config(folder.config(SETTINGS.names[1]))
    trainer = ClassificationTrainer(**node.train.options)  # type: ignore[arg-type]
    assert trainer.class_counts == SETTINGS.task.trainer(1).class_counts


def test_digits_in_the_folder_are_the_digits(folder: DemoFolder) -> None:
    written, loaded = load_npz(folder.path / "digits.npz"), load_digits()
    assert np.array_equal(written.x_train, loaded.x_train)
    assert np.array_equal(written.y_test, loaded.y_test)


def test_base_is_the_seed_s_model(folder: DemoFolder) -> None:
    model = initial_model(SETTINGS.task.trainer(0), seed=5)
    with open_checkpoint(folder.base) as reader:
        for name, tensor in model.state_dict().items():
            assert reader.read(name).equal(tensor)


def test_run_file_is_the_run_that_is_created(folder: DemoFolder) -> None:
    with prepared(load_run_file(folder.run_file), folder.path) as (spec, reader):
        assert reader is not None
        known_later = {"base", "schema_digest"}
        expected = SETTINGS.spec("0" * 64).model_dump(exclude=known_later)
        assert spec.model_dump(exclude=known_later) == expected


def test_keys_are_private(folder: DemoFolder) -> None:
    for key in folder.authority.rglob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_demo_s_folder_is_made_anew(folder: DemoFolder) -> None:
    clear(folder)
    assert {path.name for path in folder.path.iterdir()} == {folder.marker.name, "logs"}


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    with pytest.raises(BadOption, match="holds files that no demo wrote"):
        clear(DemoFolder(path=tmp_path))
    assert precious.read_text() == "years of work"
    with pytest.raises(BadOption, match="is a file"):
        clear(DemoFolder(path=precious))


def test_tidy_leaves_what_people_want(folder: DemoFolder) -> None:
    folder.report.write_text("report")
    tidy(folder)
    left = {path.name for path in folder.path.iterdir()}
    assert left == {"report.html", "logs", "base.safetensors", folder.marker.name}
    clear(folder)  # and the next demo may use it
