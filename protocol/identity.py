"""Who the other side is: read from its certificate, never from its messages.

A member's certificate carries exactly one URI, `spiffe://FEDERATION/ROLE/NAME`,
and one DNS name, `NAME.weft.internal`. The caller is known by the URI, the side
that answers by the DNS name: a channel dials an address and insists on a name.

    credentials = Credentials.load(Path("/etc/weft/credentials"))
    identity = identity_of(context)        # inside a servicer

gRPC lets a certificate with two URIs, or none, through the handshake, as well as
TLS 1.2; both are refused here. Stable.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from weft.protocol.errors import BadAuthority, BadCredentials, NotIdentified

log = structlog.get_logger(__name__)

COORDINATOR_NAME: Final = "coordinator"
"""The name that a coordinator has unless told otherwise; no other role may have it."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_FEDERATION = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")
_URI = re.compile(r"spiffe://([^/]+)/([^/]+)/([^/]+)")
_TLS: Final = "TLSv1.3"


class Role(StrEnum):
    """What a certificate lets its holder do; see `weft.protocol.authorize`."""

    NODE = "node"
    COORDINATOR = "coordinator"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A member of a federation, as its certificate says."""

    federation: str
    role: Role
    name: str
    serial: str = ""

    @staticmethod
    def require_federation(federation: str) -> None:
        """Refuse what cannot be a federation's name.

        Raises:
            BadAuthority: not lower-case letters, digits, dots and hyphens.
        """
        if _FEDERATION.fullmatch(federation) is None:
            raise BadAuthority(
                f"federation {federation!r}: expected 1 to 63 lower-case letters, digits, "
                "inner dots and hyphens"
            )

    @staticmethod
    def checked(federation: str, role: Role, name: str) -> "Identity":
        """An identity that a certificate can carry.

        Raises:
            BadAuthority: the name is not a DNS label.
        """
        Identity.require_federation(federation)
        if _LABEL.fullmatch(name) is None:
            raise BadAuthority(
                f"name {name!r}: expected 1 to 63 lower-case letters, digits and inner hyphens"
            )
        return Identity(federation=federation, role=role, name=name)

    @property
    def uri(self) -> str:
        """`spiffe://FEDERATION/ROLE/NAME`."""
        return f"spiffe://{self.federation}/{self.role}/{self.name}"


def dns_name(name: str) -> str:
    """What the certificate of a member of that name answers to."""
    return f"{name}.weft.internal"


def serial_text(serial_number: int) -> str:
    """A certificate's serial number as weft writes it: hexadecimal, lower case."""
    return format(serial_number, "x")


def identity_of(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
    """Who calls, from the certificate of the call's connection.

    Raises:
        NotIdentified: no certificate, TLS below 1.3, or a certificate that does not
            carry exactly one URI of the expected form.
    """
    found: Mapping[str, Any] = context.auth_context()
    versions = list(found.get("ssl_tls_version", ()))
    if versions != [_TLS.encode()]:
        spoken = b", ".join(versions).decode("ascii", "replace") or "no TLS"
        raise NotIdentified(f"TLS 1.3 is required, the caller speaks {spoken}")
    certificates = list(found.get("x509_pem_cert", ()))
    if len(certificates) != 1:
        raise NotIdentified("the caller shows no certificate")
    return _identity_in_pem(certificates[0])


@functools.lru_cache(maxsize=1024)
def _identity_in_pem(pem: bytes) -> Identity:
    return identity_in(x509.load_pem_x509_certificate(pem))


def identity_in(certificate: x509.Certificate) -> Identity:
    """The identity that a certificate carries.

    Raises:
        NotIdentified: not exactly one URI, or not of the form
            `spiffe://FEDERATION/ROLE/NAME` with a known role.
    """
    uris = _uris_in(certificate)
    if len(uris) != 1:
        raise NotIdentified(f"expected a certificate with exactly one URI, found {len(uris)}")
    match = _URI.fullmatch(uris[0])
    if match is None:
        raise NotIdentified(f"expected spiffe://FEDERATION/ROLE/NAME, found {uris[0][:200]!r}")
    federation, role, name = match.groups()
    if role not in set(Role) or not _LABEL.fullmatch(name) or not _FEDERATION.fullmatch(federation):
        raise NotIdentified(f"expected a known role and plain names, found {uris[0][:200]!r}")
    return Identity(
        federation=federation,
        role=Role(role),
        name=name,
        serial=serial_text(certificate.serial_number),
    )


def _uris_in(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    except ValueError as error:
        raise NotIdentified("the certificate's extensions cannot be read") from error
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A member's key, certificate and trusted roots, with who they say it is."""

    folder: Path
    identity: Identity
    expires_at: datetime
    certificate_pem: bytes
    key_pem: bytes
    ca_pem: bytes

    def __repr__(self) -> str:
        """Who, until when; never the key."""
        return f"Credentials({self.identity.uri}, until {self.expires_at:%Y-%m-%d})"

    @staticmethod
    def load(folder: Path, *, now: datetime | None = None) -> "Credentials":
        """Read node.pem, node.key and ca.pem of a folder, and check that they fit.

        Blocks on the disk.

        Args:
            folder: what `weft certs issue` wrote.
            now: the moment at which the certificate must hold; now, where None.

        Raises:
            BadCredentials: a file is missing or cannot be used, key and
                certificate are not a pair, the root did not sign, or the
                certificate does not hold at `now`.
        """
        certificate_pem, key_pem, ca_pem = (
            _read(folder / name) for name in ("node.pem", "node.key", "ca.pem")
        )
        certificate = _parsed_certificate(folder / "node.pem", certificate_pem)
        _require_pair(folder, certificate, key_pem)
        _require_signed(folder, certificate, ca_pem)
        _require_valid(folder, certificate, now or datetime.now(UTC))
        _warn_if_shared(folder / "node.key")
        try:
            identity = identity_in(certificate)
        except NotIdentified as error:
            raise BadCredentials(f"{folder / 'node.pem'}: {error}") from error
        return Credentials(
            folder=folder,
            identity=identity,
            expires_at=certificate.not_valid_after_utc,
            certificate_pem=certificate_pem,
            key_pem=key_pem,
            ca_pem=ca_pem,
        )

    def server(self) -> grpc.ServerCredentials:
        """For a server: a caller without a certificate of this root is not let in."""
        pair = (self.key_pem, self.certificate_pem)
        return grpc.ssl_server_credentials([pair], self.ca_pem, require_client_auth=True)

    def channel(self) -> grpc.ChannelCredentials:
        """For a channel; the name to insist on is an option of the channel."""
        return grpc.ssl_channel_credentials(self.ca_pem, self.key_pem, self.certificate_pem)


def certificate_expiry(folder: Path) -> datetime:
    """When the certificate of a credentials folder stops to hold (for metrics and warnings).

    Raises:
        BadCredentials: there is none, or it cannot be read.
    """
    path = folder / "node.pem"
    return _parsed_certificate(path, _read(path)).not_valid_after_utc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadCredentials(
            f"{path}: {reason}; a credentials folder holds node.pem, node.key and ca.pem "
            "(weft certs issue writes one)"
        ) from error


def _parsed_certificate(path: Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise BadCredentials(f"{path}: not a certificate in PEM form") from error


def _require_pair(folder: Path, certificate: x509.Certificate, key_pem: bytes) -> None:
    try:
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadCredentials(f"{folder / 'node.key'}: not a private key in PEM form") from error
    if key.public_key() != certificate.public_key():
        raise BadCredentials(f"{folder}: node.key is not the key of node.pem; copy both again")


def _require_signed(folder: Path, certificate: x509.Certificate, ca_pem: bytes) -> None:
    try:
        roots = x509.load_pem_x509_certificates(ca_pem)
    except ValueError as error:
        raise BadCredentials(f"{folder / 'ca.pem'}: not certificates in PEM form") from error
    for root in roots:
        try:
            certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return
    raise BadCredentials(f"{folder}: ca.pem did not sign node.pem; they are of two federations")


def _require_valid(folder: Path, certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < first:
        raise BadCredentials(
            f"{folder / 'node.pem'}: holds from {first:%Y-%m-%d %H:%M} UTC only, and it is "
            f"{now:%Y-%m-%d %H:%M}; is this machine's clock right?"
        )
    if now > last:
        raise BadCredentials(
            f"{folder / 'node.pem'}: expired on {last:%Y-%m-%d %H:%M} UTC; "
            "weft certs issue --renew makes another"
        )


def _warn_if_shared(path: Path) -> None:
    mode = path.stat().st_mode & 0o777
    if mode & 0o007:
        log.warning("key can be read by every user; chmod 600 it", path=str(path), mode=f"{mode:o}")
