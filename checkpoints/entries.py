"""The lines of a manifest: a tensor with its chunks, and where a chunk belongs. Pure."""

from dataclasses import dataclass
from typing import Final

from weft.checkpoints.digest import DIGEST_BYTES, chunk_count
from weft.checkpoints.errors import BadManifest, BadSchema
from weft.checkpoints.schema import TensorSpec

PLAIN: Final = "plain"
"""The codec of tensors that are stored as a safetensors file holds them."""

SIZE_FACTOR: Final = 8
SIZE_ALLOWANCE: Final = 4096


def size_cap(spec: TensorSpec) -> int:
    """The most bytes that any codec makes of a tensor; more is refused unread."""
    return SIZE_FACTOR * spec.elements + SIZE_ALLOWANCE * spec.blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor: what it is in a model, and its bytes as they are stored.

    Attributes:
        name, dtype, shape: of the decoded tensor.
        size_bytes: of the stored bytes.
        chunks: blake3 of each chunk of the stored bytes, 32 bytes each.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    chunks: tuple[bytes, ...]

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape."""
        return TensorSpec(self.name, self.dtype, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRef:
    """Where one chunk belongs.

    Attributes:
        index: of all chunks of the artifact, tensor after tensor.
        name: the tensor.
        offset_in_tensor: of the chunk in the tensor's stored bytes.
        offset_in_payload: of the chunk behind the header of the payload.
        length: in bytes; at most `CHUNK_BYTES`.
        digest: blake3, 32 bytes.
    """

    index: int
    name: str
    offset_in_tensor: int
    offset_in_payload: int
    length: int
    digest: bytes


def check_entry(entry: TensorEntry, codec: str) -> None:
    """Check that the parts of an entry fit each other.

    Raises:
        BadManifest: a name, shape, size or chunk list that cannot be.
    """
    try:
        spec = entry.spec
    except BadSchema as error:
        raise BadManifest(f"manifest: {error}") from error
    if not 0 <= entry.size_bytes <= size_cap(spec):
        raise BadManifest(
            f"manifest: tensor {entry.name}: {entry.size_bytes} stored bytes; "
            f"{spec.describe()} takes at most {size_cap(spec)}"
        )
    if codec == PLAIN and entry.size_bytes != spec.size_bytes:
        raise BadManifest(
            f"manifest: tensor {entry.name}: {entry.size_bytes} bytes; "
            f"{spec.describe()} takes {spec.size_bytes}"
        )
    if len(entry.chunks) != chunk_count(entry.size_bytes):
        raise BadManifest(
            f"manifest: tensor {entry.name}: {len(entry.chunks)} chunk digests for "
            f"{entry.size_bytes} bytes; {chunk_count(entry.size_bytes)} expected"
        )
    if any(len(digest) != DIGEST_BYTES for digest in entry.chunks):
        raise BadManifest(
            f"manifest: tensor {entry.name}: a chunk digest is not {DIGEST_BYTES} bytes"
        )
