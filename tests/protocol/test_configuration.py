"""Configuration errors: one line, the file, the key, what is near, what was expected."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from weft.protocol.configuration import FilePath, dotted_keys, load_toml, validated
from weft.protocol.errors import BadConfiguration, MissingFile
from weft.protocol.run import RunSpec


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Train(Section):
    steps: int = Field(ge=1)
    command: str | None = None
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


class Peer(Section):
    address: str


class Local(Section):
    kind: Literal["local"]
    folder: FilePath


class Remote(Section):
    kind: Literal["remote"]
    host: str


class Config(Section):
    listen: str
    train: Train | None = None
    peers: list[Peer] = Field(default_factory=list)
    data: FilePath = Path("data")
    policy: Literal["wait", "deadline"] = "wait"
    size: int | float = 1
    source: Annotated[Local | Remote, Field(discriminator="kind")] | None = None
    plain: Local | Remote | None = None


def complaint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(BadConfiguration) as caught:
        load_toml(path, Config)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return told.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "listen: missing; it has no default"),
        ("listen = 3", "listen: expected a valid string, found 3"),
        (
            'lisen = "a"',
            "listen: missing; it has no default; lisen: unknown key, nearest valid key listen",
        ),
        (
            'listen = "a"\n[train]\nstpes = 3',
            (
                "train.steps: missing; it has no default; "
                "train.stpes: unknown key, nearest valid key train.steps"
            ),
        ),
        ('listen = "a"\nsteps = 3', "steps: unknown key here, nearest valid key train.steps"),
        (
            'listen = "a"\n[[peers]]\naddress = "b"\nport = 1',
            "peers[0].port: unknown key, expected one of address",
        ),
        (
            'listen = "a"\n[[peers]]\naddress = "b"\n[[peers]]\nadress = "c"',
            (
                "peers[1].address: missing; it has no default; "
                "peers[1].adress: unknown key, nearest valid key peers[1].address"
            ),
        ),
        (
            'listen = "a"\n[train]\nsteps = 0',
            "train.steps: expected greater than or equal to 1, found 0",
        ),
        ('listen = "a"\npolicy = "never"', "policy: expected 'wait' or 'deadline', found 'never'"),
        ('listen = "a"\nsize = "b"', "size: expected a valid integer or a valid number, found 'b'"),
        (
            'listen = "a"\n[train]\nsteps = 1\n[train.options]\nx = [1]',
            (
                "train.options.x: expected a valid boolean or a valid integer or a valid number "
                "or a valid string"
            ),
        ),
        (
            'listen = "a"\n[source]\nkind = "local"\nfoldr = "x"',
            (
                "source.folder: missing; it has no default; "
                "source.foldr: unknown key, nearest valid key source.folder"
            ),
        ),
        ('listen = "a"\nqqqq = 1', "qqqq: unknown key, expected one of "),
    ],
)
def test_each_problem_is_told_with_its_key(tmp_path: Path, text: str, told: str) -> None:
    found = complaint(tmp_path, text)
    assert found == told if not told.endswith("of ") else found.startswith(told)


def test_unions_name_the_key_and_not_the_type(tmp_path: Path) -> None:
    found = complaint(tmp_path, 'listen = "a"\n[plain]\nkind = "local"\nfoldr = "x"')
    assert "Local" not in found
    assert "plain.foldr: unknown key, nearest valid key plain.folder" in found


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = complaint(tmp_path, 'listn = "a"\npolicy = 1\n[train]\nsteps = -1')
    assert all(key in found for key in ("listen:", "train.steps:", "policy:", "listn:"))


def test_a_files_own_trouble_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no such configuration file"):
        load_toml(tmp_path / "none.toml", Config)
    with pytest.raises(BadConfiguration, match="cannot be read"):
        load_toml(tmp_path, Config)
    path = tmp_path / "node.toml"
    path.write_text("a = = 1")
    with pytest.raises(BadConfiguration, match=r"not TOML: .*line 1"):
        load_toml(path, Config)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfiguration, match="cannot be read"):
        load_toml(path, Config)


def test_passwords_are_not_repeated(tmp_path: Path) -> None:
    found = complaint(tmp_path, 'listen = "a"\nsize = "postgresql://me:swordfish@db/weft"')
    assert "swordfish" not in found


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('listen = "a"\ndata = "store"')
    assert load_toml(path, Config).data == tmp_path / "store"
    path.write_text('listen = "a"\ndata = "/abs/store"')
    assert load_toml(path, Config).data == Path("/abs/store")


def test_documents_without_a_file() -> None:
    with pytest.raises(BadConfiguration, match=r"^run: merge.polcy: unknown key, nearest"):
        validated(
            {"name": "r", "nodes": 1, "rounds": 1, "base": "b", "merge": {"polcy": "wait"}},
            RunSpec,
            where="run",
        )


def test_a_models_own_complaint_is_kept() -> None:
    with pytest.raises(BadConfiguration, match="a run needs a base, or a schema"):
        validated({"name": "r", "nodes": 1, "rounds": 1}, RunSpec, where="run")


def test_a_key_of_the_whole_document_is_no_key() -> None:
    class Picky(Section):
        a: int = 1

        @model_validator(mode="after")
        def never(self) -> "Picky":
            raise ValueError("Never this")

    with pytest.raises(BadConfiguration, match=r"^x\.toml: never this$"):
        validated({}, Picky, where="x.toml")


def test_every_key_is_known_by_its_dotted_name() -> None:
    assert set(dotted_keys(Config)) >= {
        "listen",
        "train",
        "train.steps",
        "peers.address",
        "source.folder",
        "source.host",
    }
