"""Errors and status codes: one table, the same both ways, nothing internal on the wire."""

import inspect

import grpc
import pytest
import structlog

import weft.errors
from weft.errors import Refused, Stalled, Unavailable, WeftError
from weft.protocol import errors as protocol_errors
from weft.protocol.status import FAMILIES, error_of, family_of, public, status_of, translated

ROOTS = [
    found
    for _, found in inspect.getmembers(weft.errors, inspect.isclass)
    if issubclass(found, WeftError)
]


def test_the_table_is_a_bijection_on_families() -> None:
    assert set(FAMILIES) == set(ROOTS)
    assert len(set(FAMILIES.values())) == len(FAMILIES)
    for family, code in FAMILIES.items():
        assert status_of(family("said")) == (code, "said")
        back = error_of(code, "said")
        assert type(back) is family
        assert str(back) == "said"


def test_ok_is_no_error() -> None:
    assert grpc.StatusCode.OK not in FAMILIES.values()


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.value[0] != 0])
def test_every_code_is_some_error_of_ours(code: grpc.StatusCode) -> None:
    assert isinstance(error_of(code, "said"), WeftError)


@pytest.mark.parametrize(
    "kind",
    [
        found
        for _, found in inspect.getmembers(protocol_errors, inspect.isclass)
        if found.__module__ == protocol_errors.__name__
    ],
)
def test_errors_of_the_protocol_travel_as_their_family(kind: type[WeftError]) -> None:
    code, _ = status_of(kind("said"))
    assert type(error_of(code, "said")) is family_of(kind("said"))
    assert isinstance(kind("said"), family_of(kind("said")))


def test_the_nearest_family_counts() -> None:
    assert family_of(Stalled("x")) is Stalled
    assert issubclass(Stalled, Unavailable)
    assert family_of(ValueError("x")) is WeftError


def test_internals_stay_at_home() -> None:
    with structlog.testing.capture_logs() as logged:
        code, message = status_of(ValueError("the password is swordfish, see /etc/weft/secret.key"))
    assert code is grpc.StatusCode.INTERNAL
    assert "swordfish" not in message
    assert "secret" not in message
    (entry,) = logged
    assert str(entry["reference"]) in message
    assert "swordfish" in str(entry["exc_info"])


@pytest.mark.parametrize(
    ("told", "travels"),
    [
        ("store /var/lib/weft/objects/aa is full", "store aa is full"),
        ("'/home/me/ca/ca.key': not readable", "'ca.key': not readable"),
        ("spiffe://f/node/a may not call Fetch", "spiffe://f/node/a may not call Fetch"),
        ("two\nlines", "two lines"),
        ("x" * 5000, "x" * 1000),
    ],
)
def test_messages_travel_on_one_bounded_line_without_paths(told: str, travels: str) -> None:
    assert public(told) == travels
    assert status_of(Refused(told))[1] == travels


def test_a_block_can_be_translated() -> None:
    failed = grpc.aio.AioRpcError(
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        "paused",
        None,
    )
    with pytest.raises(Refused, match=r"^node-b: paused$"), translated(peer="node-b"):
        raise failed
