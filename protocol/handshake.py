"""Why a connection failed: not there, or there and not accepting us.

gRPC answers UNAVAILABLE to both, and a caller that retries would ask a server
that refuses its certificate for ever. The peer's own certificate is judged by
gRPC, whose details say why it failed; that ours was refused shows in one way
only: the peer closes the connection right after it has seen it. Internal.
"""

import asyncio
import ssl
from typing import Final

from weft.protocol.errors import HandshakeFailed
from weft.protocol.identity import Credentials, dns_name
from weft.protocol.peer_channel import Endpoint

_PROBE_S: Final = 3.0
_REASONS: Final = (
    ("Hostname Verification Check failed", "its certificate is for another name"),
    ("certificate has expired", "its certificate has expired"),
    ("certificate is not yet valid", "its certificate does not hold yet; are the clocks right?"),
    ("unable to get local issuer", "its certificate is of another federation"),
    ("self signed certificate", "its certificate is of another federation"),
    ("self-signed certificate", "its certificate is of another federation"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate cannot be verified"),
)
_CLOSED: Final = ("Socket closed", "Connection reset", "Broken pipe", "handshake failed")


async def require_welcome(endpoint: Endpoint, details: str, timeout_s: float) -> None:
    """Tell a refused handshake from a peer that is merely away.

    Args:
        endpoint: who was dialled.
        details: gRPC's, of the failed call.
        timeout_s: the call's own; the probe takes no longer, and at most 3 s.

    Raises:
        HandshakeFailed: one of the two does not accept the other's certificate.
    """
    for sign, reason in _REASONS:
        if sign in details:
            raise HandshakeFailed(f"{endpoint}: refused, {reason}; expected {endpoint.name}")
    if "failed to connect" not in details or not any(sign in details for sign in _CLOSED):
        return
    if await _is_shown_the_door(endpoint, min(timeout_s, _PROBE_S)):
        identity = endpoint.credentials.identity
        raise HandshakeFailed(
            f"{endpoint}: closes the connection when it sees the certificate of {identity.uri}; "
            "was it issued by the same authority, and has it not expired "
            f"(until {endpoint.credentials.expires_at:%Y-%m-%d %H:%M} UTC)?"
        )


async def _is_shown_the_door(endpoint: Endpoint, timeout_s: float) -> bool:
    """Whether TLS succeeds as we see it, and the peer then closes without a byte.

    A server of gRPC that accepts us speaks first.
    """
    host, _, port = endpoint.address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            context = await asyncio.to_thread(_client_context, endpoint.credentials)
            reader, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=dns_name(endpoint.name)
            )
            try:
                return await reader.read(1) == b""
            finally:
                writer.transport.abort()
    except ssl.SSLError as error:
        return "ALERT" in str(error).upper()
    except (OSError, TimeoutError, ValueError):
        return False


def _client_context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=credentials.ca_pem.decode("ascii"))
    context.load_cert_chain(credentials.folder / "node.pem", credentials.folder / "node.key")
    context.set_alpn_protocols(["h2"])
    return context
