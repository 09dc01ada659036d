"""`weft coordinator`: the command; what it does is in tests/coordinator."""

from pathlib import Path

import pytest

from weft.cli.__main__ import main


def test_without_a_configuration_it_says_which_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coordinator"]) == 2
    assert "--config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "no such configuration file"),
        ("credentials = ", "not TOML"),
        ('credentials = "c"\ndata = "d"\nlissten = "x"\n', "nearest valid key listen"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, complaint: str
) -> None:
    file = tmp_path / "coordinator.toml"
    if text is not None:
        file.write_text(text)
    assert main(["coordinator", "--config", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert complaint in line
    assert "coordinator.toml" in line
