"""The one root of weft's errors, and the families that callers tell apart.

A family says what a caller can do about an error; packages derive their own
classes from a family. Two tables read the families and nothing else:
``weft.protocol.status`` (error <-> gRPC status) and ``weft.cli.exits``
(error -> exit code).

    WeftError
      InvalidInput      the request itself is wrong; mend it and ask again
        NotFound        what it names does not exist
      Refused           well formed, but not in this state (other base, closed run)
      Denied            who asks may not
      Exhausted         a limit: disk, quota, message size
      Unavailable       the other side cannot answer now; trying again may help
        Stalled         a transfer or a call stopped making progress
      Corrupt           bytes that do not match what they claim to be
      TrainingFailed    the user's training code failed
"""


class WeftError(Exception):
    """Root of every error that weft raises on purpose.

    The message is one line for a person: what was found, where, what was
    expected, what to do.
    """


class InvalidInput(WeftError):
    """The request itself is wrong; mend it and ask again."""


class NotFound(InvalidInput):
    """What the request names does not exist."""


class Refused(WeftError):
    """Well formed, but not possible in this state."""


class Denied(WeftError):
    """Who asks may not."""


class Exhausted(WeftError):
    """A limit was met: disk space, quota, message size."""


class Unavailable(WeftError):
    """The other side cannot answer now; trying again may help."""


class Stalled(Unavailable):
    """A transfer or a call stopped making progress."""


class Corrupt(WeftError):
    """Bytes that do not match what they claim to be."""


class TrainingFailed(WeftError):
    """The user's training code failed; the message ends with its own error."""
