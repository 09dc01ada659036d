"""What a stream knows, as it travels."""

import os

import pytest

from weft.node.continual.messages import contribution_message, generation_message
from weft.node.continual.records import Cause, Contribution, Generation

NAME = os.fsdecode(b"bad\xff.safetensors")
ESCAPED = r"bad\udcff.safetensors"


@pytest.mark.parametrize("where", ["name", "lineage", "reason"])
def test_a_name_that_is_no_text_travels_escaped(where: str) -> None:
    told = {"name": "c", "lineage": "", "reason": ""} | {where: NAME}
    sent = contribution_message(Contribution(seq=1, digest="", **told))  # type: ignore[arg-type]
    assert getattr(sent, where) == ESCAPED
    assert type(sent).FromString(sent.SerializeToString()) == sent


def test_a_warning_that_names_one_travels_too() -> None:
    made = Generation(number=0, cause=Cause.BEGUN, head="", warnings=(f"{NAME}: odd", "plain"))
    assert list(generation_message(made).warnings) == [f"{ESCAPED}: odd", "plain"]


@pytest.mark.parametrize("text", ["plain", "größer", "日本", r"\udcff"])
def test_what_is_text_travels_as_it_is(text: str) -> None:
    assert contribution_message(Contribution(seq=1, name=text, digest="")).name == text
