"""Pictures of whatever names there are."""

import warnings

import pytest

pytest.importorskip("matplotlib")

from weft.simulations.canvas import Canvas


def test_letters_that_the_font_lacks_are_nobodys_complaint(
    capfd: pytest.CaptureFixture[str],
) -> None:
    canvas = Canvas(3, 2)
    canvas.axes.set_title("网 \x07")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert canvas.png().startswith(b"\x89PNG")
        assert canvas.svg("网").startswith("<svg")
    assert capfd.readouterr().err == ""
