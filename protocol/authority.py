"""A federation's certificate authority: a folder with a key that signs leaves.

    DIR/ca.pem            the root that every member trusts
    DIR/ca.key            its key; stays on the operator's machine
    DIR/issued.json       every certificate that was ever issued
    DIR/revoked.json      those that no longer count; a coordinator reads it
    DIR/issued/NAME/      node.pem, node.key, ca.pem: what a member needs, to copy there

A leaf carries one URI, `spiffe://FEDERATION/ROLE/NAME` (who calls), and one DNS
name, `NAME.weft.internal` (who answers). A name belongs to one role for ever, so
that no node can answer for the coordinator. Everything here blocks on the disk.

    authority = Authority.init(Path("ca"), "hospitals")
    authority.issue("node-a", Role.NODE)

Stable.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from weft.protocol import certificates
from weft.protocol.errors import BadAuthority
from weft.protocol.identity import COORDINATOR_NAME, Identity, Role, dns_name, identity_in

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365


class Entry(BaseModel):
    """A line of `issued.json` and `revoked.json`; `at` is when it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: str
    uri: str
    name: str
    role: Role
    at: datetime


_ENTRIES: Final = TypeAdapter(tuple[Entry, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What became of one request for a certificate."""

    identity: Identity
    folder: Path
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The authority of one federation; its folder holds certificate and key."""

    folder: Path
    federation: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @staticmethod
    def init(folder: Path, federation: str, *, days: int = CA_DAYS) -> "Authority":
        """Make a new authority in a folder that holds none.

        Raises:
            BadAuthority: the folder holds one already, or the name is not one.
        """
        Identity.require_federation(federation)
        _require_days(days)
        if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
            raise BadAuthority(
                f"{folder}: holds a certificate authority already; choose another folder"
            )
        key = certificates.new_key()
        valid = certificates.validity(datetime.now(UTC), days)
        root = certificates.root_certificate(federation, key, valid)
        _write(folder / "ca.key", certificates.key_pem(key), mode=0o600)
        _write_entries(folder / "issued.json", [])
        _write_entries(folder / "revoked.json", [])
        _write(folder / "ca.pem", certificates.certificate_pem(root))
        return Authority(folder=folder, federation=federation, certificate=root, key=key)

    @staticmethod
    def open(folder: Path) -> "Authority":
        """The authority that a folder holds.

        Raises:
            BadAuthority: there is none, or its files cannot be used.
        """
        if not (folder / "ca.key").exists():
            raise BadAuthority(
                f"{folder}: no certificate authority here (no ca.key); weft certs init makes one"
            )
        try:
            root = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadAuthority(f"{folder}: ca.pem or ca.key cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
            raise BadAuthority(f"{folder}: ca.key is not the key of ca.pem")
        federation = certificates.federation_of(root)
        Identity.require_federation(federation)
        return Authority(folder=folder, federation=federation, certificate=root, key=key)

    def issue(
        self,
        name: str,
        role: Role,
        *,
        out: Path | None = None,
        days: int = LEAF_DAYS,
        renew: bool = False,
    ) -> Issued:
        """Make a key and a certificate for a name.

        Args:
            name: a DNS label; unique in the federation, whatever the role.
            role: what the name may do.
            out: the folder to write instead of `issued/NAME`.
            days: how long the certificate holds.
            renew: the name has a certificate already; make another. The old one
                holds until it expires or is revoked.

        Raises:
            BadAuthority: the name is taken, reserved or malformed, `days` is out of
                bounds, or a folder cannot be written.
        """
        wanted = Identity.checked(self.federation, role, name)
        _require_days(days)
        register = _read_entries(self.folder / "issued.json")
        _require_free(wanted, register, renew)
        key, now = certificates.new_key(), datetime.now(UTC)
        leaf = certificates.leaf_certificate(
            self.certificate,
            self.key,
            key.public_key(),
            uris=[wanted.uri],
            dns_names=[dns_name(name)],
            valid=certificates.validity(now, days),
        )
        identity = identity_in(leaf)
        # The register first: no certificate may exist that could not be revoked.
        _write_entries(self.folder / "issued.json", [*register, _entry(identity, now)])
        folder = out or self.folder / "issued" / name
        _write(folder / "node.key", certificates.key_pem(key), mode=0o600)
        _write(folder / "node.pem", certificates.certificate_pem(leaf))
        _write(folder / "ca.pem", certificates.certificate_pem(self.certificate))
        return Issued(identity=identity, folder=folder, expires_at=leaf.not_valid_after_utc)

    def revoke(self, name: str) -> frozenset[str]:
        """Revoke every certificate that was issued to a name; returns their serials.

        It takes effect where `revoked.json` is read. The name keeps its role, and
        may be issued again with `renew`.

        Raises:
            BadAuthority: nothing was issued to that name.
        """
        register = _read_entries(self.folder / "issued.json")
        mine = [entry for entry in register if entry.name == name]
        if not mine:
            known = ", ".join(sorted({entry.name for entry in register})) or "nobody yet"
            raise BadAuthority(f"{self.folder}: nothing was issued to {name!r}, only to {known}")
        revoked = _read_entries(self.folder / "revoked.json")
        already = {entry.serial for entry in revoked}
        now = datetime.now(UTC)
        new = [
            entry.model_copy(update={"at": now}) for entry in mine if entry.serial not in already
        ]
        _write_entries(self.folder / "revoked.json", [*revoked, *new])
        return frozenset(entry.serial for entry in mine)

    def register(self) -> tuple[Entry, ...]:
        """Every certificate that was ever issued, oldest first."""
        return _read_entries(self.folder / "issued.json")


def read_revoked(path: Path) -> frozenset[str]:
    """The serial numbers (hexadecimal) in an authority's `revoked.json`.

    Raises:
        BadAuthority: the file is missing or not what `weft certs` writes.
    """
    return frozenset(entry.serial for entry in _read_entries(path))


def _require_free(wanted: Identity, register: Iterable[Entry], renew: bool) -> None:
    if wanted.name == COORDINATOR_NAME and wanted.role is not Role.COORDINATOR:
        raise BadAuthority(
            f"the name {wanted.name!r} is kept for the role coordinator, not {wanted.role}; "
            "choose another name"
        )
    held = [entry for entry in register if entry.name == wanted.name]
    if held and held[-1].role is not wanted.role:
        raise BadAuthority(
            f"{wanted.name!r} was issued as {held[-1].role} and cannot become {wanted.role}; "
            "choose another name"
        )
    if held and not renew:
        raise BadAuthority(
            f"{wanted.name!r} has a certificate already (serial {held[-1].serial}); "
            "renew it with --renew, or choose another name"
        )


def _require_days(days: int) -> None:
    if not 1 <= days <= CA_DAYS:
        raise BadAuthority(f"days {days}: expected 1 to {CA_DAYS}")


def _entry(identity: Identity, at: datetime) -> Entry:
    return Entry(
        serial=identity.serial,
        uri=identity.uri,
        name=identity.name,
        role=identity.role,
        at=at.replace(microsecond=0),
    )


def _read_entries(path: Path) -> tuple[Entry, ...]:
    try:
        return _ENTRIES.validate_json(path.read_bytes())
    except OSError as error:
        raise BadAuthority(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadAuthority(f"{path}: not what weft certs writes: {first['msg']}") from error


def _write_entries(path: Path, entries: Sequence[Entry]) -> None:
    document = [entry.model_dump(mode="json") for entry in entries]
    _write(path, json.dumps(document, indent=1).encode() + b"\n")


def _write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file durably; a key never exists with wider permissions than its own."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise BadAuthority(f"{path}: cannot be written: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
