"""The canonical list of what an artifact holds; its digest is the artifact's name.

Pure: no disk, no torch. A manifest says of each tensor its name, dtype and shape
as a model has it, and the size and chunk digests of its bytes as they are stored
and sent (encoded by the codec). There is one way to write a manifest as bytes,
and no other is read. Where the bytes lie on a disk is not part of it.

Stable within FORMAT.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Final, Literal, NoReturn, TypeAlias

from weft.checkpoints.digest import CHUNK_BYTES, DIGEST_BYTES, digest_of, is_digest
from weft.checkpoints.entries import PLAIN, ChunkRef, TensorEntry, check_entry
from weft.checkpoints.errors import BadManifest, MissingTensor, TooLarge
from weft.checkpoints.header import layout_offsets
from weft.checkpoints.schema import Schema, TensorSpec

Kind: TypeAlias = Literal["model", "delta", "moments", "share", "index", "adapter", "state"]
Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"

FORMAT: Final = "weft-artifact-1"
MAX_MANIFEST_BYTES: Final = 64 * 2**20
MAX_TENSORS: Final = 2**17
MAX_CHUNKS: Final = 2**20
MAX_METADATA_BYTES: Final = 2**20
MAX_COMMAS: Final = 24 * MAX_TENSORS
"""Bounds what parsing may allocate: no manifest of ours has more values."""

__all__ = ["ChunkRef", "Kind", "Manifest", "TensorEntry"]

KINDS: Final[tuple[Kind, ...]] = (
    *("model", "delta", "moments", "share", "index", "adapter", "state"),
)
FIELDS: Final = frozenset({"against", "codec", "format", "kind", "metadata", "tensors"})
TENSOR_FIELDS: Final = frozenset({"chunks", "dtype", "name", "shape", "size"})
CODEC_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact holds; valid and in canonical order by construction.

    Attributes:
        kind: what it is for.
        tensors: sorted by name.
        against: digest of the base that a delta was taken against, or None.
        codec: name of the codec that made the stored bytes; `PLAIN` for none.
        metadata: notes of the writer; part of the digest.

    Raises:
        BadManifest: parts that contradict each other.
        TooLarge: more tensors, chunks or bytes of metadata than allowed.
    """

    kind: Kind
    tensors: tuple[TensorEntry, ...]
    against: str | None = None
    codec: str = PLAIN
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_document(self)
        object.__setattr__(self, "metadata", MappingProxyType(dict(sorted(self.metadata.items()))))
        ordered = tuple(sorted(self.tensors, key=lambda entry: entry.name))
        object.__setattr__(self, "tensors", ordered)
        for before, after in pairwise(ordered):
            if before.name == after.name:
                raise BadManifest(f"manifest: tensor {after.name!r} occurs twice")
        for entry in ordered:
            check_entry(entry, self.codec)
        if self.chunk_count > MAX_CHUNKS:
            raise TooLarge(f"manifest: {self.chunk_count} chunks are beyond {MAX_CHUNKS}")

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, chunk digests in one text a tensor."""
        document: dict[str, Json] = {
            "format": FORMAT,
            "kind": self.kind,
            "against": self.against,
            "codec": self.codec,
            "metadata": dict(self.metadata),
            "tensors": [
                {
                    "name": entry.name,
                    "dtype": entry.dtype,
                    "shape": list(entry.shape),
                    "size": entry.size_bytes,
                    "chunks": b"".join(entry.chunks).hex(),
                }
                for entry in self.tensors
            ],
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def from_bytes(data: bytes) -> "Manifest":
        """Parse what `to_bytes` wrote, and nothing else.

        Raises:
            TooLarge: beyond the limits; found before anything is allocated.
            BadManifest: not a manifest, or not the canonical bytes of one.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise TooLarge(f"manifest: {len(data)} bytes are beyond {MAX_MANIFEST_BYTES}")
        if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_COMMAS:
            raise TooLarge(f"manifest: more values than {MAX_TENSORS} tensors need")
        manifest = _manifest(_document(data))
        if manifest.to_bytes() != data:
            raise BadManifest(
                "manifest: not in canonical form (spaces, order, or fields told twice)"
            )
        return manifest

    @cached_property
    def digest(self) -> str:
        """The artifact's name: blake3 of the canonical bytes, hexadecimal."""
        return digest_of(self.to_bytes())

    @cached_property
    def schema(self) -> Schema:
        """The tensors as a model has them, decoded."""
        return Schema(tuple(entry.spec for entry in self.tensors))

    @cached_property
    def stored_schema(self) -> Schema:
        """The tensors as the payload has them: encoded ones are plain bytes."""
        if self.codec == PLAIN:
            return self.schema
        return Schema(
            tuple(TensorSpec(entry.name, "U8", (entry.size_bytes,)) for entry in self.tensors)
        )

    @cached_property
    def total_bytes(self) -> int:
        """Stored bytes of all tensors."""
        return sum(entry.size_bytes for entry in self.tensors)

    @cached_property
    def _first_chunks(self) -> tuple[int, ...]:
        """Index of the first chunk of each tensor, and at the end their number."""
        return tuple(accumulate((len(entry.chunks) for entry in self.tensors), initial=0))

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Offset of each tensor behind the header of the payload."""
        return MappingProxyType(layout_offsets(self.stored_schema))

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {entry.name: position for position, entry in enumerate(self.tensors)}

    @property
    def chunk_count(self) -> int:
        """Number of chunks of all tensors."""
        return self._first_chunks[-1]

    def entry(self, name: str) -> TensorEntry:
        """The tensor of that name.

        Raises:
            MissingTensor: there is none.
        """
        return self.tensors[self._position(name)]

    def chunk(self, index: int) -> ChunkRef:
        """The chunk of that index, in time that grows with the logarithm of the tensors.

        Raises:
            BadManifest: no chunk has this index.
        """
        if not 0 <= index < self.chunk_count:
            raise BadManifest(f"chunk {index} asked for; the artifact has {self.chunk_count}")
        position = bisect_right(self._first_chunks, index) - 1
        return self._chunk_of(position, index - self._first_chunks[position])

    def chunks_of(self, name: str) -> Iterator[ChunkRef]:
        """The chunks of one tensor, in order."""
        position = self._position(name)
        for number in range(len(self.tensors[position].chunks)):
            yield self._chunk_of(position, number)

    def _position(self, name: str) -> int:
        if name not in self._positions:
            raise MissingTensor(f"artifact {self.digest}: no tensor named {name!r}")
        return self._positions[name]

    def _chunk_of(self, position: int, number: int) -> ChunkRef:
        entry = self.tensors[position]
        offset = number * CHUNK_BYTES
        return ChunkRef(
            index=self._first_chunks[position] + number,
            name=entry.name,
            offset_in_tensor=offset,
            offset_in_payload=self.offsets[entry.name] + offset,
            length=min(CHUNK_BYTES, entry.size_bytes - offset),
            digest=entry.chunks[number],
        )


def _check_document(manifest: Manifest) -> None:
    if manifest.kind not in KINDS:
        raise BadManifest(f"manifest: kind {manifest.kind!r}; expected one of {', '.join(KINDS)}")
    if CODEC_NAME.fullmatch(manifest.codec) is None:
        raise BadManifest(f"manifest: codec {manifest.codec[:40]!r} is no name of a codec")
    if manifest.against is not None and not is_digest(manifest.against):
        raise BadManifest(f"manifest: against {manifest.against[:80]!r}, which is no digest")
    if manifest.codec == PLAIN and manifest.against is not None:
        raise BadManifest("manifest: plain tensors are against nothing; a codec is missing")
    if len(manifest.tensors) > MAX_TENSORS:
        raise TooLarge(f"manifest: {len(manifest.tensors)} tensors are beyond {MAX_TENSORS}")
    try:
        size = sum(len(text.encode()) for pair in manifest.metadata.items() for text in pair)
    except UnicodeEncodeError:
        raise BadManifest("manifest: metadata holds half a character") from None
    if size > MAX_METADATA_BYTES:
        raise TooLarge(f"manifest: {size} bytes of metadata are beyond {MAX_METADATA_BYTES}")


def _document(data: bytes) -> dict[str, Json]:
    def refuse(text: str) -> NoReturn:
        raise BadManifest(f"manifest: number {text[:40]}; expected whole numbers only")

    try:
        document = json.loads(data.decode(), parse_float=refuse, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"manifest: not JSON ({error})") from error
    if not isinstance(document, dict) or document.keys() != FIELDS:
        raise BadManifest(f"manifest: expected an object of {', '.join(sorted(FIELDS))}")
    if document["format"] != FORMAT:
        raise BadManifest(
            f"manifest: format {str(document['format'])[:40]!r}; this version reads {FORMAT}"
        )
    return document


def _manifest(document: Mapping[str, Json]) -> Manifest:
    kind, against, codec = document["kind"], document["against"], document["codec"]
    metadata, tensors = document["metadata"], document["tensors"]
    if not isinstance(codec, str) or not (against is None or isinstance(against, str)):
        raise BadManifest("manifest: codec and against must be texts")
    if not isinstance(metadata, dict) or not isinstance(tensors, list):
        raise BadManifest("manifest: metadata must be an object, tensors a list")
    if len(tensors) > MAX_TENSORS:
        raise TooLarge(f"manifest: {len(tensors)} tensors are beyond {MAX_TENSORS}")
    return Manifest(
        kind=_kind(kind),
        against=against,
        codec=codec,
        metadata={key: _text(value, f"metadata {key[:40]!r}") for key, value in metadata.items()},
        tensors=tuple(_entry(value) for value in tensors),
    )


def _kind(value: Json) -> Kind:
    for kind in KINDS:
        if value == kind:
            return kind
    raise BadManifest(f"manifest: kind {str(value)[:40]!r}; expected one of {', '.join(KINDS)}")


def _entry(value: Json) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != TENSOR_FIELDS:
        raise BadManifest(f"manifest: a tensor lacks one of {', '.join(sorted(TENSOR_FIELDS))}")
    name = _text(value["name"], "a tensor's name")
    shape, size = value["shape"], value["size"]
    if not isinstance(shape, list) or type(size) is not int:
        raise BadManifest(f"manifest: tensor {name[:80]!r}: shape or size is no whole number")
    dimensions = tuple(extent for extent in shape if type(extent) is int)
    if len(dimensions) != len(shape):
        raise BadManifest(f"manifest: tensor {name[:80]!r}: shape {str(shape)[:80]}")
    return TensorEntry(
        name=name,
        dtype=_text(value["dtype"], "a dtype"),
        shape=dimensions,
        size_bytes=size,
        chunks=_digests(_text(value["chunks"], "chunks"), name),
    )


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise BadManifest(f"manifest: {what} is not a text")
    return value


def _digests(text: str, name: str) -> tuple[bytes, ...]:
    try:
        joined = bytes.fromhex(text)
    except ValueError:
        raise BadManifest(f"manifest: tensor {name[:80]!r}: chunks are not hexadecimal") from None
    if len(joined) % DIGEST_BYTES:
        raise BadManifest(f"manifest: tensor {name[:80]!r}: half a chunk digest")
    return tuple(
        joined[start : start + DIGEST_BYTES] for start in range(0, len(joined), DIGEST_BYTES)
    )
