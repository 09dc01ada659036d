"""What a stream knows, as it travels."""

import os

import pytest

from weft.node.continual.messages import (
    contribution_from,
    contribution_message,
    generation_from,
    generation_message,
)
from weft.node.continual.records import Cause, Contribution, Form, Generation, Status
from weft.protocol.errors import BadMessage

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


@pytest.mark.parametrize(
    "each",
    [
        Contribution(seq=1, name="plain", digest="a"),
        Contribution(
            seq=2,
            name="r/checkpoint-500",
            digest="b",
            form=Form.VECTOR,
            weight=0.1,
            lineage="r",
            step=500,
            started_from=0,
            norm=0.0,
            overlap=-0.0,
            at=1.25,
            status=Status.ROLLED_BACK,
            reason="odd",
            generation=0,
            source="watch:1",
        ),
    ],
)
def test_a_contribution_comes_back_as_it_went(each: Contribution) -> None:
    assert contribution_from(contribution_message(each)) == each


@pytest.mark.parametrize(
    "made",
    [
        Generation(number=0, cause=Cause.BEGUN, head="a"),
        Generation(
            number=9,
            cause=Cause.ROLLED_BACK,
            head="b",
            contribution=4,
            state="c",
            spans=((1, 3), (5, 5)),
            norm=0.1,
            scale=0.3,
            score=0.0,
            warnings=("beware", "of this"),
            at=2.5,
        ),
    ],
)
def test_a_generation_comes_back_as_it_went(made: Generation) -> None:
    assert generation_from(generation_message(made)) == made


def test_what_a_newer_version_says_is_no_message_here() -> None:
    each = contribution_message(Contribution(seq=3, name="c", digest=""))
    each.status = "dreaming"
    with pytest.raises(BadMessage, match="contribution 3: 'dreaming' is not a valid Status"):
        contribution_from(each)
    made = generation_message(Generation(number=2, cause=Cause.BEGUN, head=""))
    made.cause = "luck"
    with pytest.raises(BadMessage, match="generation 2: 'luck'"):
        generation_from(made)
