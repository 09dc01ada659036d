"""The header of a safetensors file: parsed strictly, built one way; no I/O.

A file is eight bytes (length of the header, little-endian), the header (JSON,
padded with spaces), and the tensors' bytes, which its offsets tile exactly. What
the reference parser lets pass and we do not: a header beyond 4 MiB, duplicate
keys, unknown fields, unprintable names, spaces in front.

Format: safetensors, README, section "Format"; the limits above are ours.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NoReturn, TypeAlias

from weft.checkpoints.errors import BadSchema, MalformedFile, UnsupportedFile, UnusableFile
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 4 * 2**20
"""Room for about 40,000 tensors in one file; parsing it takes a fraction of a second."""

ALIGNMENT: Final = 8
FIELDS: Final = frozenset({"dtype", "shape", "data_offsets"})

SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes it (a pickle inside)"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy file"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a git-lfs pointer: the file itself was not fetched"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML document"),
)
SIGNATURE_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A parsed header: what the file holds, and where.

    Attributes:
        schema: the tensors, sorted by name.
        offsets: offset of each tensor in the file, in bytes.
        metadata: what stood under `__metadata__`.
    """

    schema: Schema
    offsets: Mapping[str, int]
    metadata: Mapping[str, str]


def header_length(first: bytes, file_bytes: int, where: str) -> int:
    """Length of the header, from the first bytes of a file.

    Args:
        first: the first `SIGNATURE_BYTES` of the file, fewer where it is shorter.
        file_bytes: size of the file.
        where: the file, for messages.

    Raises:
        UnsupportedFile: it begins like a file of another kind.
        UnusableFile: it does not begin as a safetensors file does.
        MalformedFile: it is too short, or empty of all but zeros.
    """
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    room = file_bytes - LENGTH_BYTES
    begins = first[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    if begins and 2 <= length <= min(room, MAX_HEADER_BYTES):
        return length
    _refuse_other_kinds(first, where)
    if room < 2:
        kind = UnusableFile if any(first) else MalformedFile
        raise kind(f"{where}: {file_bytes} bytes are too few for a safetensors file")
    if not any(first):
        raise MalformedFile(
            f"{where}: begins with zeros: it was not written to its end, or is damaged; copy it"
            " again"
        )
    if not begins:
        raise UnusableFile(
            f"{where}: not a safetensors file: such a file has its header's length in the first"
            " eight bytes, and '{' after them; name the file of the tensors, or their folder"
        )
    if length > MAX_HEADER_BYTES:
        raise UnusableFile(
            f"{where}: its header of {length} bytes is beyond the limit of {MAX_HEADER_BYTES}, or"
            " it is not a safetensors file"
        )
    raise MalformedFile(
        f"{where}: its header claims {length} bytes and {room} follow; it is cut short"
    )


def parse_header(data: bytes, file_bytes: int, where: str) -> Header:
    """Parse a header and check it against the size of its file.

    Args:
        data: the header's bytes, without the eight of its length.
        file_bytes: size of the file.
        where: the file, for messages.

    Raises:
        MalformedFile: any rule of the format is broken; names the first.
    """
    text = data.rstrip(b" ")
    if not text.endswith(b"}"):
        raise MalformedFile(f"{where}: header: does not end with '}}' and spaces only")
    document = parse_strict(text, f"{where}: header")
    metadata = _metadata(document.pop("__metadata__", {}), where)
    entries = {name: _entry(name, value, where) for name, value in document.items()}
    data_start = LENGTH_BYTES + len(data)
    _check_tiling(
        {name: span for name, (_, span) in entries.items()}, file_bytes, data_start, where
    )
    return Header(
        schema=Schema(tuple(spec for spec, _ in entries.values())),
        offsets=MappingProxyType(
            {name: data_start + begin for name, (_, (begin, _)) in entries.items()}
        ),
        metadata=metadata,
    )


def layout(schema: Schema) -> tuple[TensorSpec, ...]:
    """The order of the tensors in a file: widest dtype first, then by name.

    As in the reference writer; with it every tensor is aligned to its dtype.
    """
    return tuple(sorted(schema, key=lambda spec: (-DTYPE_BYTES[spec.dtype], spec.name)))


def layout_offsets(schema: Schema) -> dict[str, int]:
    """Offset of each tensor behind the header, in bytes, in the order of the layout."""
    offsets, cursor = {}, 0
    for spec in layout(schema):
        offsets[spec.name] = cursor
        cursor += spec.size_bytes
    return offsets


def build_header(schema: Schema, metadata: Mapping[str, str], *, reserved: int = 0) -> bytes:
    """The header of a file with these tensors, its length in front.

    Args:
        schema: the tensors.
        metadata: stored under `__metadata__`; left out where empty.
        reserved: pad to so many bytes, length included; 0 pads to a multiple of eight.
    """
    offsets = layout_offsets(schema)
    document: dict[str, Json] = {}
    if metadata:
        document["__metadata__"] = dict(sorted(metadata.items()))
    for spec in layout(schema):
        begin = offsets[spec.name]
        document[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [begin, begin + spec.size_bytes],
        }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    padded = max(reserved - LENGTH_BYTES, -(-len(text) // ALIGNMENT) * ALIGNMENT)
    return padded.to_bytes(LENGTH_BYTES, "little") + text.ljust(padded, b" ")


def parse_strict(data: bytes, where: str, *, floats: bool = False) -> dict[str, Json]:
    """Parse one JSON object; no duplicate keys, no NaN, and no floats unless allowed.

    Raises:
        MalformedFile: not such an object; `UnusableFile` where a number is not finite.
    """

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for name, value in pairs:
            if name in found:
                raise MalformedFile(f"{where}: {name[:80]!r} occurs twice")
            found[name] = value
        return found

    def refuse_number(text: str) -> NoReturn:
        raise MalformedFile(f"{where}: number {text[:40]}; expected whole numbers only")

    def refuse_constant(text: str) -> NoReturn:
        raise UnusableFile(f"{where}: holds {text}, expected finite numbers")

    try:
        document = json.loads(
            data.decode(),
            object_pairs_hook=unique,
            parse_float=float if floats else refuse_number,
            parse_constant=refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{where}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise MalformedFile(f"{where}: not a JSON object")
    return document


def _metadata(value: Json, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedFile(f"{where}: __metadata__ must map strings to strings")
    texts = {name: str(text) for name, text in value.items()}
    try:
        "".join([*texts, *texts.values()]).encode()
    except UnicodeEncodeError:
        raise MalformedFile(f"{where}: __metadata__ holds half a character") from None
    return MappingProxyType(texts)


def _entry(name: str, value: Json, where: str) -> tuple[TensorSpec, tuple[int, int]]:
    """One tensor's line: its spec and its range behind the header."""
    shown = f"{where}: tensor {name[:80]!r}"
    if not isinstance(value, dict) or value.keys() != FIELDS:
        raise MalformedFile(f"{shown}: expected exactly {', '.join(sorted(FIELDS))}")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise MalformedFile(f"{shown}: dtype is not a string")
    if dtype not in DTYPE_BYTES:
        raise UnusableFile(
            f"{shown}: dtype {dtype[:20]!r} is not one of {', '.join(DTYPE_BYTES)}; convert it"
        )
    dimensions = _whole_numbers(shape, f"{shown}: shape")
    offsets = _whole_numbers(span, f"{shown}: data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MalformedFile(f"{shown}: data_offsets {offsets} are not a begin and an end")
    try:
        spec = TensorSpec(name, dtype, dimensions)
    except BadSchema as error:
        raise MalformedFile(f"{where}: {error}") from error
    if spec.size_bytes != offsets[1] - offsets[0]:
        raise MalformedFile(
            f"{shown}: {spec.describe()} takes {spec.size_bytes} bytes, "
            f"its range holds {offsets[1] - offsets[0]}"
        )
    return spec, (offsets[0], offsets[1])


def _whole_numbers(value: Json, shown: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise MalformedFile(f"{shown} is not a list")
    numbers = tuple(number for number in value if type(number) is int and number >= 0)
    if len(numbers) != len(value):
        raise MalformedFile(f"{shown} holds something else than whole numbers from 0")
    return numbers


def _check_tiling(
    spans: Mapping[str, tuple[int, int]], file_bytes: int, data_start: int, where: str
) -> None:
    """The ranges follow each other without hole or overlap, up to the end of the file."""
    cursor = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != cursor:
            fault = "overlaps the one before it" if begin < cursor else "leaves a hole"
            raise MalformedFile(
                f"{where}: tensor {name!r} begins at {begin}, {cursor} expected: {fault}"
            )
        cursor = end
    if data_start + cursor != file_bytes:
        raise MalformedFile(
            f"{where}: the tensors end at byte {data_start + cursor}, the file at {file_bytes}; "
            "it is cut short or has bytes that belong to nothing"
        )


def _refuse_other_kinds(first: bytes, where: str) -> None:
    folded = first.lstrip().lower()
    for signature, word in SIGNATURES:
        if first.startswith(signature) or folded.startswith(signature.lower()):
            raise UnsupportedFile(
                f"{where}: this is {word}, not a safetensors file; weft never opens pickles "
                "or archives: save the model with safetensors"
            )
