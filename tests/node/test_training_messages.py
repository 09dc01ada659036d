"""What daemon and training process say to each other: frames, values, errors."""

from pathlib import Path

import pytest

from tests.support.training import request_in
from weft import errors
from weft.checkpoints.errors import SchemaMismatch
from weft.errors import Refused, TrainingFailed, WeftError
from weft.node.training_messages import (
    LENGTH,
    LIMIT_BYTES,
    REQUEST,
    SETTINGS,
    ProcessSettings,
    body_length,
    error_message,
    error_of,
    fields_of,
    frame,
    message_of,
    one_line,
)


def test_a_frame_is_a_length_and_a_json_object() -> None:
    data = frame({"do": "stop"})
    assert data == b"\x00\x00\x00\x0e" + b'{"do": "stop"}'
    assert body_length(data[:4]) == 14
    assert message_of(data[4:]) == {"do": "stop"}


def test_paths_travel_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert message_of(frame({"model": Path("m")})[4:]) == {"model": str(tmp_path / "m")}
    with pytest.raises(TypeError, match="cannot hold a set"):
        frame({"model": {1}})


def test_a_stream_that_is_out_of_step_is_not_read() -> None:
    assert body_length(LENGTH.pack(LIMIT_BYTES)) == LIMIT_BYTES
    with pytest.raises(TrainingFailed, match="out of step"):
        body_length(b"HTTP")


def test_requests_and_settings_survive_the_way(tmp_path: Path) -> None:
    request = request_in(tmp_path, 3)
    assert REQUEST.validate_python(message_of(frame(fields_of(request))[4:])) == request
    settings = ProcessSettings(
        target="a:B", folder=tmp_path, options={"flag": True, "n": 1, "x": 1.5, "s": "1"}
    )
    again = SETTINGS.validate_json(SETTINGS.dump_json(settings))
    assert again == settings
    assert [type(value) for value in again.options.values()] == [bool, int, float, str]


@pytest.mark.parametrize(
    "family",
    [kind for kind in vars(errors).values() if isinstance(kind, type)],
    ids=lambda kind: kind.__name__,
)
def test_every_family_arrives_as_itself(family: type[WeftError]) -> None:
    message = error_message(family("one line"), "Traceback ...")
    said = message["error"]
    assert isinstance(said, dict)
    assert said["details"] == "Traceback ..."
    arrived = error_of(said)
    assert type(arrived) is family
    assert str(arrived) == "one line"


def test_a_part_s_own_error_arrives_as_its_family() -> None:
    said = error_message(SchemaMismatch("other model"))["error"]
    assert isinstance(said, dict)
    assert type(error_of(said)) is Refused
    assert type(error_of({"family": "unheard of", "text": "x"})) is TrainingFailed


def test_an_exception_in_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(one_line(ValueError("x" * 9999))) < 600
