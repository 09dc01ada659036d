"""Identities and credentials: what a certificate must say, and what a folder must hold."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from tests.support.wire import Enrolment
from weft.protocol.errors import BadCredentials, NotIdentified
from weft.protocol.identity import Credentials, Identity, Role, certificate_expiry, identity_of


class Connection:
    """As much of a servicer's context as `identity_of` looks at."""

    def __init__(self, pem: bytes | None, tls: bytes | None = b"TLSv1.3") -> None:
        self._found: dict[str, Sequence[bytes]] = {}
        if pem is not None:
            self._found["x509_pem_cert"] = [pem]
        if tls is not None:
            self._found["ssl_tls_version"] = [tls]

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return self._found


def seen(credentials: Credentials, **options: Any) -> Identity:
    return identity_of(cast(Any, Connection(credentials.certificate_pem, **options)))


@pytest.mark.parametrize("role", Role)
def test_the_uri_is_the_identity(enrol: Enrolment, role: Role) -> None:
    credentials = enrol("member", role)
    identity = seen(credentials)
    assert identity == credentials.identity
    assert (identity.role, identity.name) == (role, "member")
    assert identity.uri == f"spiffe://test/{role}/member"
    assert identity.serial


@pytest.mark.parametrize(
    ("uris", "told"),
    [
        ([], "exactly one URI, found 0"),
        (["spiffe://test/node/a", "spiffe://test/node/b"], "exactly one URI, found 2"),
        (["spiffe://test/node/a", "https://example.org"], "exactly one URI, found 2"),
        (["https://example.org/node/a"], "expected spiffe://"),
        (["spiffe://test/a"], "expected spiffe://"),
        (["spiffe://test/node/a/b"], "expected spiffe://"),
        (["spiffe://test/root/a"], "known role"),
        (["spiffe://test/node/A"], "known role"),
        (["spiffe://TEST/node/a"], "known role"),
    ],
)
def test_other_certificates_are_nobody(enrol: Enrolment, uris: list[str], told: str) -> None:
    with pytest.raises(NotIdentified, match=told):
        seen(enrol.odd(uris=uris))


def test_a_certificate_without_names_is_nobody(enrol: Enrolment) -> None:
    with pytest.raises(NotIdentified, match="found 0"):
        identity_of(cast(Any, Connection(_root(enrol))))


def _root(enrol: Enrolment) -> bytes:
    return (enrol.authority.folder / "ca.pem").read_bytes()


@pytest.mark.parametrize(
    ("tls", "told"), [(b"TLSv1.2", "speaks TLSv1.2"), (None, "speaks no TLS"), (b"", "TLS 1.3")]
)
def test_older_tls_is_nobody(enrol: Enrolment, tls: bytes | None, told: str) -> None:
    with pytest.raises(NotIdentified, match=told):
        seen(enrol("a"), tls=tls)


def test_no_certificate_is_nobody() -> None:
    with pytest.raises(NotIdentified, match="shows no certificate"):
        identity_of(cast(Any, Connection(None)))


def test_credentials_do_not_show_their_key(enrol: Enrolment) -> None:
    assert "PRIVATE" not in repr(enrol("a"))
    assert "PRIVATE" not in str([enrol("a")])


# -- folders -----------------------------------------------------------------


@pytest.fixture
def folder(enrol: Enrolment) -> Path:
    return enrol("a").folder


def test_a_folder_as_it_was_issued_loads(folder: Path) -> None:
    credentials = Credentials.load(folder)
    assert credentials.identity.name == "a"
    assert certificate_expiry(folder) == credentials.expires_at
    assert credentials.server() is not None
    assert credentials.channel() is not None


@pytest.mark.parametrize("name", ["node.pem", "node.key", "ca.pem"])
def test_every_file_is_needed_and_named(folder: Path, name: str) -> None:
    (folder / name).write_text("nonsense")
    with pytest.raises(BadCredentials, match=f"{name}.*PEM"):
        Credentials.load(folder)
    (folder / name).unlink()
    with pytest.raises(BadCredentials, match=f"{name}: No such file.*weft certs issue"):
        Credentials.load(folder)


def test_key_and_certificate_are_a_pair(enrol: Enrolment, folder: Path) -> None:
    shutil.copy(enrol("b").folder / "node.key", folder)
    with pytest.raises(BadCredentials, match="not the key of"):
        Credentials.load(folder)


def test_the_root_signed_the_certificate(enrol: Enrolment, folder: Path, tmp_path: Path) -> None:
    other = Enrolment(tmp_path / "other")
    shutil.copy(other.authority.folder / "ca.pem", folder)
    with pytest.raises(BadCredentials, match="did not sign"):
        Credentials.load(folder)
    both = (other.authority.folder / "ca.pem").read_bytes() + _root(enrol)
    (folder / "ca.pem").write_bytes(both)  # while the authority's root is rotated
    assert Credentials.load(folder).identity.name == "a"


def test_the_certificate_holds_now(folder: Path) -> None:
    now = datetime.now(UTC)
    with pytest.raises(BadCredentials, match=r"expired on .*--renew"):
        Credentials.load(folder, now=now + timedelta(days=400))
    with pytest.raises(BadCredentials, match="is this machine's clock right"):
        Credentials.load(folder, now=now - timedelta(days=1))


def test_an_odd_certificate_does_not_load(enrol: Enrolment) -> None:
    odd = enrol.odd(uris=["spiffe://test/node/a", "spiffe://test/node/b"])
    with pytest.raises(BadCredentials, match="exactly one URI"):
        Credentials.load(odd.folder)


def test_a_key_that_all_can_read_is_told(folder: Path) -> None:
    (folder / "node.key").chmod(0o644)
    with structlog.testing.capture_logs() as logged:
        Credentials.load(folder)
    assert [entry["log_level"] for entry in logged] == ["warning"]
    (folder / "node.key").chmod(0o640)
    with structlog.testing.capture_logs() as logged:
        Credentials.load(folder)
    assert logged == []
