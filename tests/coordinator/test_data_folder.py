"""The data folder: one holder, and it remembers its database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wire import Enrolment
from weft.coordinator.config import load_config
from weft.coordinator.data_folder import DataFolder
from weft.coordinator.errors import DatabaseDamaged, DataFolderInUse
from weft.errors import InvalidInput
from weft.protocol.identity import Role
from weft.protocol.revocations import Revocations

HOLD = """
import sys
from pathlib import Path
from weft.coordinator.data_folder import DataFolder
DataFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_living_process_holds_and_of_a_dead_one_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataFolderInUse, match=rf"another coordinator \(pid {holder.pid}\)"):
            DataFolder(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    with DataFolder(tmp_path) as folder:
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
        assert folder.store == tmp_path / "store"
    with DataFolder(tmp_path):
        pass


def test_it_remembers_its_database(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "new") as folder:
        assert folder.identity is None
        folder.remember("00ff")
        folder.remember("00ff")
        assert folder.identity == "00ff"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', "\x00"])
def test_an_identity_that_cannot_be_read_is_no_new_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    with DataFolder(tmp_path) as folder, pytest.raises(DatabaseDamaged, match="restore it"):
        _ = folder.identity


def test_a_folder_of_another_format_names_both(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text('{"format": 2, "database": "00ff"}')
    with DataFolder(tmp_path) as folder, pytest.raises(DatabaseDamaged, match=r"format 2, .* 1"):
        _ = folder.identity


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"data = .* cannot be used"):
        DataFolder(tmp_path / "file" / "data")


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="cannot be used"):
        DataFolder(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_configuration_defaults_and_paths(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('credentials = "ca/c"\ndata = "data"\n')
    config = load_config(file)
    assert config.credentials == tmp_path / "ca" / "c"
    assert config.database_url == f"sqlite:///{tmp_path}/data/runs.sqlite"
    assert (config.listen, config.metrics) == ("0.0.0.0:9300", "127.0.0.1:9400")
    file.write_text('credentials = "c"\ndata = "d"\ndatabase = "postgresql://x"\nmetrics = ""\n')
    config = load_config(file)
    assert (config.database_url, config.metrics) == ("postgresql://x", "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('data = "d"\n', "credentials: missing"),
        ('credentials = "c"\ndata = "d"\ndatbase = "x"\n', "nearest valid key database"),
        ('credentials = "c"\ndata = "d"\nlog_level = "loud"\n', "log_level"),
        ('credentials = "c"\ndata = "d"\nmetrics = "here"\n', "metrics"),
    ],
)
def test_configuration_mistakes(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=complaint):
        load_config(file)


def test_revocations_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    enrol = Enrolment(tmp_path)
    enrol("a", Role.NODE)
    path = tmp_path / "ca" / "revoked.json"
    revocations = Revocations(path)
    assert revocations.serials == frozenset()
    serials = enrol.authority.revoke("a")
    assert revocations.serials == frozenset()
    revocations.refresh()
    assert revocations.serials == serials
    path.write_text("nonsense")
    revocations.refresh()
    assert revocations.serials == serials, "the last word stands"
    path.unlink()
    revocations.refresh()
    assert revocations.serials == serials
    with pytest.raises(InvalidInput, match=r"revoked\.json"):
        Revocations(path)
    nothing = Revocations(None)
    nothing.refresh()
    assert nothing.serials == frozenset()
