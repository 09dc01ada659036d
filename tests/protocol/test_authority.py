"""The authority's folder: names, roles, files, revocation."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from weft.protocol.authority import Authority, read_revoked
from weft.protocol.errors import BadAuthority
from weft.protocol.identity import Credentials, Role


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init(tmp_path / "ca", "hospitals")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_their_permissions(authority: Authority) -> None:
    folder = authority.issue("node-a", Role.NODE).folder
    assert {path.name for path in folder.iterdir()} == {"node.pem", "node.key", "ca.pem"}
    assert {path.name for path in authority.folder.iterdir()} == {
        "ca.pem",
        "ca.key",
        "issued.json",
        "revoked.json",
        "issued",
    }
    assert mode(authority.folder / "ca.key") == 0o600
    assert mode(folder / "node.key") == 0o600
    assert b"PRIVATE" not in (folder / "node.pem").read_bytes() + (folder / "ca.pem").read_bytes()


def test_a_leaf_says_who_calls_and_who_answers(authority: Authority) -> None:
    issued = authority.issue("node-a", Role.NODE, days=7)
    leaf = x509.load_pem_x509_certificate((issued.folder / "node.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://hospitals/node/node-a"
    ]
    assert names.get_values_for_type(x509.DNSName) == ["node-a.weft.internal"]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in usage] == ["1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"]
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    left = leaf.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    assert leaf.not_valid_before_utc < datetime.now(UTC)
    leaf.verify_directly_issued_by(authority.certificate)


def test_an_authority_is_opened_again(authority: Authority) -> None:
    again = Authority.open(authority.folder)
    assert again.federation == "hospitals"
    assert (
        Credentials.load(again.issue("a", Role.OPERATOR).folder).identity.federation == "hospitals"
    )


def test_a_folder_holds_one_authority(authority: Authority) -> None:
    with pytest.raises(BadAuthority, match="holds a certificate authority already"):
        Authority.init(authority.folder, "others")


def test_a_name_keeps_its_role(authority: Authority) -> None:
    authority.issue("hub", Role.COORDINATOR)
    for renew in (False, True):
        with pytest.raises(BadAuthority, match="issued as coordinator and cannot become node"):
            authority.issue("hub", Role.NODE, renew=renew)
    authority.revoke("hub")
    with pytest.raises(BadAuthority, match="cannot become node"):
        authority.issue("hub", Role.NODE, renew=True)


def test_nobody_else_is_called_coordinator(authority: Authority) -> None:
    with pytest.raises(BadAuthority, match="kept for the role coordinator"):
        authority.issue("coordinator", Role.NODE)
    authority.issue("coordinator", Role.COORDINATOR)


def test_renewal_is_asked_for(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue("a", Role.NODE, out=tmp_path / "elsewhere")
    with pytest.raises(BadAuthority, match="--renew"):
        authority.issue("a", Role.NODE)
    second = authority.issue("a", Role.NODE, renew=True)
    assert first.identity.serial != second.identity.serial
    assert [entry.serial for entry in authority.register()] == [
        first.identity.serial,
        second.identity.serial,
    ]


def test_revocation_covers_every_certificate_of_a_name(authority: Authority) -> None:
    serials = {authority.issue("a", Role.NODE, renew=True).identity.serial for _ in range(3)}
    authority.issue("b", Role.NODE)
    path = authority.folder / "revoked.json"
    assert read_revoked(path) == frozenset()
    assert authority.revoke("a") == serials
    assert read_revoked(path) == serials
    before = path.read_bytes()
    assert authority.revoke("a") == serials
    assert path.read_bytes() == before
    renewed = authority.issue("a", Role.NODE, renew=True).identity.serial
    assert renewed not in read_revoked(path)


def test_the_register_knows_a_certificate_before_it_exists(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    (authority.folder / "issued").write_text("in the way of the leaf's folder")
    with pytest.raises(BadAuthority, match="cannot be written"):
        authority.issue("a", Role.NODE)
    assert [entry.name for entry in authority.register()] == ["a"]


@pytest.mark.parametrize("name", ["", "A", "a_b", "a.b", "-a", "a-", "a" * 64, "a/b", "ä", "a\n"])
def test_names_are_dns_labels(authority: Authority, name: str) -> None:
    with pytest.raises(BadAuthority, match="lower-case letters"):
        authority.issue(name, Role.NODE)


@pytest.mark.parametrize("name", ["", "Fed", "a/b", ".a", "a" * 64])
def test_federations_have_plain_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadAuthority, match="federation"):
        Authority.init(tmp_path / "x", name)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("days", [0, -1, 4000])
def test_days_are_bounded(authority: Authority, days: int) -> None:
    with pytest.raises(BadAuthority, match="expected 1 to 3650"):
        authority.issue("a", Role.NODE, days=days)


def test_unknown_names_are_told_the_known_ones(authority: Authority) -> None:
    with pytest.raises(BadAuthority, match="only to nobody yet"):
        authority.revoke("x")
    authority.issue("a", Role.NODE)
    with pytest.raises(BadAuthority, match=r"only to a$"):
        authority.revoke("x")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ca.pem", "nonsense"),
        ("ca.key", "nonsense"),
        ("revoked.json", "{"),
        ("revoked.json", '[{"serial": 1}]'),
        ("revoked.json", None),
    ],
)
def test_spoilt_files_are_named(authority: Authority, name: str, text: str | None) -> None:
    path = authority.folder / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    reads: dict[str, Callable[[], object]] = {"revoked.json": lambda: read_revoked(path)}
    with pytest.raises(BadAuthority, match=name.replace(".", r"\.")):
        reads.get(name, lambda: Authority.open(authority.folder))()


def test_a_key_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.init(tmp_path / "other", "hospitals")
    (authority.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    with pytest.raises(BadAuthority, match="not the key of"):
        Authority.open(authority.folder)


def test_no_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadAuthority, match="weft certs init"):
        Authority.open(tmp_path)


def test_the_register_is_plain_json(authority: Authority) -> None:
    authority.issue("a", Role.NODE)
    (entry,) = json.loads((authority.folder / "issued.json").read_text())
    assert entry["uri"] == "spiffe://hospitals/node/a"
