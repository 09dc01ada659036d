"""The file `.metadata` of a torch.distributed.checkpoint: which tensor lies where.

It is a pickle of a few dataclasses of torch. Nothing of it is run and nothing of torch is
imported for it: `inert_pickles.py` takes down what it says, and this module checks that it
makes sense.

Format: torch 2.0 to 2.13, `torch/distributed/checkpoint/{metadata,filesystem}.py`.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from weft.checkpoints.errors import BadSchema, MalformedFile, UnsupportedFile
from weft.checkpoints.inert_pickles import Record, load_inert
from weft.checkpoints.saved_tensors import DTYPES
from weft.checkpoints.schema import DTYPE_BYTES, TensorSpec

METADATA_NAME: Final = ".metadata"
SUFFIX: Final = ".distcp"
MAX_METADATA_BYTES: Final = 64 * 2**20
MAX_CHUNKS_OF_TENSOR: Final = 4096

_HOME: Final = "torch.distributed.checkpoint.metadata."
_OLD_HOME: Final = "torch.distributed._shard.sharded_tensor.metadata."
METADATA: Final = f"{_HOME}Metadata"
TENSOR: Final = f"{_HOME}TensorStorageMetadata"
BYTES: Final = f"{_HOME}BytesStorageMetadata"
CHUNK: Final = f"{_HOME}ChunkStorageMetadata"
INDEX: Final = f"{_HOME}MetadataIndex"
STORAGE_INFO: Final = "torch.distributed.checkpoint.filesystem._StorageInfo"
SIZE: Final = "torch.Size"
PROPERTIES: Final = frozenset({f"{_HOME}TensorProperties", f"{_OLD_HOME}TensorProperties"})
OTHER_DTYPES: Final = frozenset(
    {"torch.complex32", "torch.complex64", "torch.complex128"}
    | {"torch.quint8", "torch.qint8", "torch.qint32"}
    | {"torch.float8_e4m3fnuz", "torch.float8_e5m2fnuz", "torch.float8_e8m0fnu"}
    | {"torch.float4_e2m1fn_x2"}
)
"""Named without harm; such a tensor is refused when it is asked for."""

ALLOWED: Final = frozenset(
    {METADATA, TENSOR, BYTES, CHUNK, INDEX, STORAGE_INFO, SIZE}
    | {f"{_HOME}StorageMeta", f"{_HOME}_MEM_FORMAT_ENCODING", f"{_OLD_HOME}MEM_FORMAT_ENCODING"}
    | {"torch.distributed.checkpoint.filesystem._StoragePrefix"}
    | {"torch.serialization._get_layout", "builtins.getattr", "collections.OrderedDict"}
    | {f"pathlib{part}.{name}Path" for part in ("", "._local") for name in ("Posix", "Windows")}
    | PROPERTIES
    | frozenset(DTYPES)
    | OTHER_DTYPES
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one piece of a tensor lies.

    Attributes:
        file: the plain name of a file in the checkpoint's folder.
        offset: of the piece in that file, in bytes.
        length: in bytes, with all that torch.save puts around it.
    """

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor's elements, and where it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Contents:
    """What a distributed checkpoint holds.

    Attributes:
        specs: its tensors, by their names as saved.
        pieces: of each tensor; they cover it, none twice.
        others: names of the entries that are no tensors, sorted.
    """

    specs: Mapping[str, TensorSpec]
    pieces: Mapping[str, tuple[Piece, ...]]
    others: tuple[str, ...]


def parse_metadata(data: bytes, prefix: str, where: str) -> Contents:
    """Parse `.metadata` and check it.

    Args:
        data: the file.
        prefix: tensors whose names do not begin with it are passed over.
        where: the file, for messages.

    Raises:
        UnsupportedFile: it names or needs something that no such file needs, or holds a
            tensor of a dtype, a layout or a transform that is not read.
        MalformedFile: it is none, or contradicts itself.
    """
    state = _state(load_inert(data, ALLOWED, where), METADATA, where)
    entries, stored = state.get("state_dict_metadata"), state.get("storage_data")
    if not isinstance(entries, dict) or not isinstance(stored, dict):
        raise MalformedFile(f"{where}: no list of tensors and of where they lie")
    places = _places(stored, where)
    specs, pieces, others = {}, {}, []
    for name, entry in entries.items():
        if not isinstance(name, str) or not isinstance(entry, Record):
            raise MalformedFile(f"{where}: an entry that has no name, or is none")
        if entry.kind == BYTES:
            others.append(name)
        elif name.startswith(prefix):
            specs[name] = _spec(name, entry, where)
            pieces[name] = _pieces(specs[name], entry, places, where)
    return Contents(specs, pieces, tuple(sorted(others)))


def _state(record: object, kind: str, where: str) -> Mapping[object, object]:
    """The attributes of a record of that kind."""
    if not isinstance(record, Record) or record.kind != kind or not isinstance(record.state, dict):
        raise MalformedFile(f"{where}: no {kind.rpartition('.')[2]} where one belongs")
    return record.state


def _size(value: object) -> tuple[int, ...] | None:
    """A `torch.Size`, or None."""
    match value:
        case Record(kind="torch.Size", args=(tuple() | list() as numbers,)):
            found = tuple(number for number in numbers if type(number) is int and number >= 0)
            return found if len(found) == len(numbers) else None
    return None


def _places(
    stored: Mapping[object, object], where: str
) -> dict[tuple[str, tuple[int, ...]], Place]:
    """Where the pieces of tensors lie, by name and offsets."""
    places = {}
    for key, value in stored.items():
        index = _state(key, INDEX, where)
        info = _state(value, STORAGE_INFO, where)
        name, offsets = index.get("fqn"), _size(index.get("offset"))
        if not isinstance(name, str):
            raise MalformedFile(f"{where}: a piece of a tensor without a name")
        if offsets is not None:
            places[name, offsets] = _place(info, f"{where}: tensor {name[:80]!r}")
    return places


def _place(info: Mapping[object, object], shown: str) -> Place:
    if info.get("transform_descriptors"):
        raise UnsupportedFile(
            f"{shown}: was saved through a transform (compression, encryption); save without"
        )
    file, offset, length = (info.get(key) for key in ("relative_path", "offset", "length"))
    plain = isinstance(file, str) and file.isprintable() and file == os.path.basename(file)
    if not isinstance(file, str) or not plain or not file.endswith(SUFFIX):
        raise MalformedFile(f"{shown}: lies in something else than a {SUFFIX} file beside it")
    if type(offset) is not int or type(length) is not int or not 0 <= offset <= offset + length:
        raise MalformedFile(f"{shown}: no place in {file}")
    return Place(file, offset, length)


def _spec(name: str, entry: Record, where: str) -> TensorSpec:
    shown = f"{where}: tensor {name[:80]!r}"
    state = _state(entry, TENSOR, shown)
    shape, properties = _size(state.get("size")), state.get("properties")
    if not isinstance(properties, Record) or properties.kind not in PROPERTIES or shape is None:
        raise MalformedFile(f"{shown}: no shape or no properties")
    match properties.state:
        case (Record(kind=dtype), Record(args=("torch.strided",)), *_) if dtype in DTYPES:
            pass
        case (Record(kind=dtype), *_):
            raise UnsupportedFile(f"{shown}: dtype {dtype}, or a layout, that is not read")
        case _:
            raise MalformedFile(f"{shown}: no dtype")
    try:
        return TensorSpec(name, DTYPES[dtype], shape)
    except BadSchema as error:
        raise MalformedFile(f"{where}: {error}") from error


def _pieces(
    spec: TensorSpec,
    entry: Record,
    places: Mapping[tuple[str, tuple[int, ...]], Place],
    where: str,
) -> tuple[Piece, ...]:
    shown = f"{where}: tensor {spec.name!r}"
    chunks = _state(entry, TENSOR, shown).get("chunks")
    if not isinstance(chunks, list) or len(chunks) > MAX_CHUNKS_OF_TENSOR:
        raise MalformedFile(f"{shown}: no list of at most {MAX_CHUNKS_OF_TENSOR} pieces")
    found = []
    for chunk in chunks:
        state = _state(chunk, CHUNK, shown)
        offsets, sizes = _size(state.get("offsets")), _size(state.get("sizes"))
        if offsets is None or sizes is None or not _inside(offsets, sizes, spec.shape):
            raise MalformedFile(f"{shown}: a piece that is not inside its shape {spec.shape}")
        if (spec.name, offsets) not in places:
            raise MalformedFile(f"{shown}: nothing says where its piece at {offsets} lies")
        piece = Piece(offsets, sizes, places[spec.name, offsets])
        if math.prod(sizes) * DTYPE_BYTES[spec.dtype] > piece.place.length:
            raise MalformedFile(f"{shown}: a piece of shape {sizes} in {piece.place.length} bytes")
        if math.prod(sizes):
            found.append(piece)
    _check_cover(spec, found, shown)
    return tuple(found)


def _inside(offsets: tuple[int, ...], sizes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    if not len(offsets) == len(sizes) == len(shape):
        return False
    return all(o + s <= n for o, s, n in zip(offsets, sizes, shape, strict=True))


def _check_cover(spec: TensorSpec, pieces: list[Piece], shown: str) -> None:
    """Boxes inside a shape that do not overlap and have all its elements cover it."""
    held = sum(math.prod(piece.sizes) for piece in pieces)
    if held != spec.elements:
        raise MalformedFile(
            f"{shown}: its pieces hold {held} elements, {spec.elements} expected; a rank's file "
            "is missing, or some are saved twice"
        )
    if len(pieces) < 2:
        return
    starts = np.array([piece.offsets for piece in pieces], dtype=np.int64)
    ends = starts + np.array([piece.sizes for piece in pieces], dtype=np.int64)
    for number in range(len(pieces) - 1):
        apart = (starts[number + 1 :] >= ends[number]) | (ends[number + 1 :] <= starts[number])
        if not bool(apart.any(axis=1).all()):
            raise MalformedFile(f"{shown}: two of its pieces overlap")
