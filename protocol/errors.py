"""Errors that the wire and its configuration raise, by family.

Each class derives from a family of `weft.errors`; the family says what a caller
can do, the class says which part found it. Stable.
"""

from weft.errors import (
    Corrupt,
    Denied,
    Exhausted,
    InvalidInput,
    NotFound,
    Refused,
    Stalled,
    Unavailable,
)


class BadConfiguration(InvalidInput):
    """A configuration file is not what its program expects."""


class MissingFile(NotFound):
    """A file or folder that was named does not exist."""


class BadAuthority(InvalidInput):
    """A federation's certificate folder, or what was asked of it, is wrong."""


class BadCredentials(InvalidInput):
    """A node's certificate folder cannot be used."""


class BadAddress(InvalidInput):
    """An address that is not host:port, or cannot be listened on."""


class MissingDeadline(InvalidInput):
    """A call was made without a deadline."""


class BadMessage(InvalidInput):
    """A message that lacks what it must say, or says what it cannot."""


class ProtocolMismatch(Refused):
    """The two sides speak different versions of the protocol."""


class NotIdentified(Denied):
    """The certificate does not say who calls, in the one way that counts."""


class HandshakeFailed(Denied):
    """The two sides could not agree on who they are; trying again will not help."""


class TooManyStreams(Exhausted):
    """One identity holds as many open calls as it may."""


class TransferFailed(Unavailable):
    """No holder could give the artifact; names what each of them said."""


class TransferStalled(Stalled):
    """Every holder stood still for longer than the progress deadline."""


class CorruptTransfer(Corrupt):
    """Bytes from a holder that do not match the manifest's digests."""


class ArtifactNotFound(NotFound):
    """Nobody who was asked has the artifact."""


class ArtifactDenied(Denied):
    """Who has the artifact does not give it to this identity."""
