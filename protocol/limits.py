"""The numbers of the wire, in one place.

Nothing is decided here; the modules that open channels and servers read these.
Sizes are bytes, times are seconds. Stable within a protocol version.
"""

from typing import Final

PROTOCOL_VERSION: Final = 1
"""Version of the protocol; both sides must speak the same."""

MESSAGE_BYTES: Final = 4 * 2**20
"""Largest message either side accepts."""

PIECE_BYTES: Final = 256 * 2**10
"""Largest piece of a chunk or manifest in one message.

A chunk is what is verified, a piece is what shows progress: a stream that moves less
than a piece within the progress deadline (26 kB/s by default) stands still. Four
pieces a chunk are also faster than one, because one is made while another is sent.
"""

LEAST_PIECE_BYTES: Final = 64 * 2**10
"""Smallest piece that does not end its chunk: drops of a few bytes are no progress."""

MANIFEST_BYTES: Final = 64 * 2**20
"""Largest manifest that is accepted: far above one of a 10^12-byte model."""

RANGES: Final = 1024
"""Most ranges of chunks that one request may name."""

METADATA_BYTES: Final = 8 * 2**10
"""Most metadata a call may carry."""

PROGRESS_S: Final = 10.0
"""A transfer from which nothing arrives for this long stands still."""

SERVER_PROGRESS_S: Final = 2 * PROGRESS_S
"""The same, as a server sees its callers: longer, so that who waits is not punished."""

KEEPALIVE_S: Final = 20.0
KEEPALIVE_TIMEOUT_S: Final = 10.0
PING_TIMEOUT_S: Final = 10.0
"""All three are needed: without the last, a stopped peer is noticed after a minute."""

HANDSHAKE_S: Final = 5.0
"""A connection that has not shown its certificate by then is closed."""

RECONNECT_FIRST_S: Final = 0.2
RECONNECT_LONGEST_S: Final = 5.0

STREAMS_PER_IDENTITY: Final = 32
CALLS_PER_IDENTITY: Final = 256
CALLS: Final = 4096
"""Open calls: streams and others of one identity, and of everybody together."""
