"""Names made of bytes: blake3 of chunks, of manifests, of small documents. Pure.

Each tensor of an artifact is cut into chunks of 1 MiB, the last one shorter. The
unit that travels is the unit that is verified; so a chunk is as large as a
message may carry it in a few pieces, and no larger.
"""

from typing import Final, TypeAlias

from blake3 import blake3

from weft.checkpoints.errors import BadDigest

Bytes: TypeAlias = bytes | bytearray | memoryview

CHUNK_BYTES: Final = 2**20
DIGEST_BYTES: Final = 32
HEX_DIGITS: Final = frozenset("0123456789abcdef")


def digest_of(data: Bytes) -> str:
    """Blake3 of bytes, 64 hexadecimal digits."""
    return blake3(data).hexdigest()


def chunk_digest(data: Bytes) -> bytes:
    """Blake3 of a chunk, 32 bytes."""
    return blake3(data).digest()


def chunk_count(size_bytes: int) -> int:
    """Number of chunks of a tensor of so many bytes; 0 for an empty one."""
    return -(-size_bytes // CHUNK_BYTES)


def is_digest(text: str) -> bool:
    """Whether a text is 64 hexadecimal digits in lower case."""
    return len(text) == 2 * DIGEST_BYTES and HEX_DIGITS.issuperset(text)


def require_digest(text: str) -> str:
    """The text itself, where it is a digest; so it may become part of a path.

    Raises:
        BadDigest: it is not.
    """
    if not is_digest(text):
        raise BadDigest(
            f"{text[:80]!r} is no artifact's digest; expected {2 * DIGEST_BYTES} hexadecimal digits"
        )
    return text


class ChunkHasher:
    """Cuts a stream of bytes into chunks and keeps the digest of each.

    Parts may have any length; memory does not grow with the chunks' bytes.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._digests: list[bytes] = []
        self._hasher = blake3()

    def update(self, part: Bytes) -> None:
        """Take the next bytes of the stream."""
        view = memoryview(part)
        while len(view):
            room = CHUNK_BYTES - self.size_bytes % CHUNK_BYTES
            piece, view = view[:room], view[room:]
            self._hasher.update(piece)
            self.size_bytes += len(piece)
            if self.size_bytes % CHUNK_BYTES == 0:
                self._close_chunk()

    def _close_chunk(self) -> None:
        self._digests.append(self._hasher.digest())
        self._hasher = blake3()

    def digests(self) -> tuple[bytes, ...]:
        """Digest of each chunk so far; one that is not full counts as the last."""
        if self.size_bytes % CHUNK_BYTES:
            return (*self._digests, self._hasher.digest())
        return tuple(self._digests)
