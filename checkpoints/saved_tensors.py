"""One tensor as `torch.save` writes it, found inside a file: where its plain bytes lie.

`torch.save` makes a zip archive of stored members: `data.pkl` says how the tensor looks,
`data/0` holds its storage. Only the directory of the archive and `data.pkl` are read here;
the bytes of the storage are then read where they lie, any part of them.
"""

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import Final

from weft.checkpoints.disk import read_exactly
from weft.checkpoints.dtypes import DTYPE_NAMES
from weft.checkpoints.errors import MalformedFile, UnsupportedFile
from weft.checkpoints.inert_pickles import PERSISTENT, Record, load_inert
from weft.checkpoints.schema import DTYPE_BYTES

SIGNATURE: Final = b"PK\x03\x04"
LOCAL_HEADER: Final = struct.Struct("<26xHH")
MAX_PICKLE_BYTES: Final = 2**16
MAX_MEMBERS: Final = 64

STORAGES: Final = {
    "torch.BoolStorage": "BOOL",
    "torch.ByteStorage": "U8",
    "torch.CharStorage": "I8",
    "torch.ShortStorage": "I16",
    "torch.IntStorage": "I32",
    "torch.LongStorage": "I64",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.FloatStorage": "F32",
    "torch.DoubleStorage": "F64",
}
UNTYPED: Final = "torch.storage.UntypedStorage"
DTYPES: Final = {str(dtype): name for dtype, name in DTYPE_NAMES.items()}
REBUILD_TYPED: Final = "torch._utils._rebuild_tensor_v2"
REBUILD: Final = "torch._utils._rebuild_tensor_v3"
ALLOWED: Final = frozenset(
    {REBUILD_TYPED, REBUILD, UNTYPED, "collections.OrderedDict", *STORAGES, *DTYPES}
)
BROKEN: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    KeyError,
    OverflowError,
    EOFError,
    OSError,
    struct.error,
)
"""What the zip library raises on archives that it cannot read."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """Where a saved tensor's bytes lie: row by row, without a gap.

    Attributes:
        dtype: as safetensors names it.
        shape: of the tensor.
        offset: of its first byte in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """What `data.pkl` says."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    first: int
    key: str

    @property
    def width(self) -> int:
        return DTYPE_BYTES[self.dtype]


class _Window(io.RawIOBase):
    """Some bytes of an open file as a file of their own, for the zip library."""

    def __init__(self, descriptor: int, offset: int, length: int, where: str) -> None:
        self._where = where
        self._descriptor = descriptor
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError("a place before the begin")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), max(self._length - self._position, 0))
        view = memoryview(buffer)[:count]
        read_exactly(self._descriptor, view, self._offset + self._position, self._where)
        self._position += count
        return count


def find_saved_tensor(descriptor: int, offset: int, length: int, where: str) -> SavedTensor:
    """Find the tensor that `torch.save` wrote at a place of an open file.

    Reads some kilobytes, whatever the size of the tensor.

    Args:
        descriptor: of the file.
        offset: where the saved tensor begins.
        length: how many bytes it takes, all in all.
        where: what is read, for messages.

    Raises:
        UnsupportedFile: no archive of torch, a tensor of a kind that has no place in a
            model's file, or one that does not lie row by row.
        MalformedFile: an archive that is broken or contradicts itself.
    """
    start = bytearray(min(len(SIGNATURE), length))
    read_exactly(descriptor, memoryview(start), offset, where)
    if start != SIGNATURE:
        raise UnsupportedFile(
            f"{where}: does not begin like an archive of torch.save; save the checkpoint "
            "without transforms"
        )
    try:
        with zipfile.ZipFile(_Window(descriptor, offset, length, where)) as archive:
            layout = _layout(_pickle(archive, where), where)
            member = _member(archive, f"data/{layout.key}", where)
    except BROKEN as error:
        raise MalformedFile(f"{where}: a broken archive ({str(error)[:120]})") from error
    begin = _data_offset(descriptor, offset, member.header_offset, where)
    _check_extent(layout, member.file_size, where)
    if begin + member.file_size > offset + length:
        raise MalformedFile(f"{where}: its storage ends beyond the end of its archive")
    return SavedTensor(layout.dtype, layout.shape, begin + layout.first * layout.width)


def _pickle(archive: zipfile.ZipFile, where: str) -> bytes:
    if len(archive.infolist()) > MAX_MEMBERS:
        raise MalformedFile(f"{where}: an archive of {len(archive.infolist())} members")
    for info in archive.infolist():
        if info.filename.endswith("/byteorder") and info.file_size == len("big"):
            raise UnsupportedFile(f"{where}: was saved on a big-endian machine")
    found = _member(archive, "data.pkl", where)
    if found.file_size > MAX_PICKLE_BYTES:
        raise MalformedFile(f"{where}: its data.pkl has {found.file_size} bytes")
    return archive.read(found)


def _member(archive: zipfile.ZipFile, name: str, where: str) -> zipfile.ZipInfo:
    """The one member of that name, in the archive's one folder; stored, not compressed."""
    found = [info for info in archive.infolist() if info.filename.partition("/")[2] == name]
    if len(found) != 1:
        raise MalformedFile(f"{where}: {len(found)} members called {name[:40]!r}, one expected")
    info = found[0]
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not stored or info.flag_bits & 1:
        raise UnsupportedFile(f"{where}: {name[:40]} is compressed or encrypted")
    return info


def _data_offset(descriptor: int, offset: int, header_offset: int, where: str) -> int:
    """Behind the member's own header, whose length only it knows."""
    header = bytearray(LOCAL_HEADER.size)
    read_exactly(descriptor, memoryview(header), offset + header_offset, where)
    if not header.startswith(SIGNATURE):
        raise MalformedFile(f"{where}: no header where its storage should begin")
    name, extra = LOCAL_HEADER.unpack(header)
    return offset + header_offset + LOCAL_HEADER.size + int(name) + int(extra)


def _layout(pickle: bytes, where: str) -> _Layout:
    found = load_inert(pickle, ALLOWED, where)
    if not isinstance(found, Record) or found.kind not in {REBUILD, REBUILD_TYPED}:
        raise UnsupportedFile(f"{where}: holds something else than a plain tensor")
    wanted = 6 if found.kind == REBUILD_TYPED else 7
    if len(found.args) < wanted:
        raise MalformedFile(f"{where}: its data.pkl describes no tensor")
    storage, first, shape, stride = found.args[:4]
    typed, key = _storage(storage, where)
    dtype = _dtype(typed, found.args[6] if found.kind == REBUILD else None, where)
    sizes = (_whole_numbers(shape), _whole_numbers(stride))
    if sizes[0] is None or sizes[1] is None or not isinstance(first, int) or first < 0:
        raise MalformedFile(f"{where}: a shape, a stride or an offset that is no whole number")
    return _Layout(dtype, sizes[0], sizes[1], first, key)


def _storage(storage: object, where: str) -> tuple[str, str]:
    """Kind and key of a storage: ("storage", class, key, device, elements) by reference."""
    if isinstance(storage, Record) and storage.kind == PERSISTENT:
        match storage.args[0]:
            case ("storage", Record(kind=kind), str(key), str(), int()) if key.isdecimal():
                return kind, key
    raise MalformedFile(f"{where}: its data.pkl names no storage")


def _dtype(storage: str, declared: object, where: str) -> str:
    if declared is None and storage in STORAGES:
        return STORAGES[storage]
    if storage == UNTYPED and isinstance(declared, Record) and declared.kind in DTYPES:
        return DTYPES[declared.kind]
    raise MalformedFile(f"{where}: its data.pkl names no dtype that is read here")


def _whole_numbers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, tuple):
        return None
    numbers = tuple(item for item in value if type(item) is int and item >= 0)
    return numbers if len(numbers) == len(value) else None


def _check_extent(layout: _Layout, storage_bytes: int, where: str) -> None:
    """The elements lie row by row, all of them inside the storage."""
    expected = 1
    for extent, stride in zip(layout.shape[::-1], layout.stride[::-1], strict=False):
        if extent > 1 and stride != expected and 0 not in layout.shape:
            raise UnsupportedFile(
                f"{where}: a tensor of strides {layout.stride} for shape {layout.shape}; only "
                "tensors that lie row by row are read: call contiguous() before saving"
            )
        expected *= extent
    if len(layout.shape) != len(layout.stride):
        raise MalformedFile(f"{where}: {len(layout.stride)} strides, {len(layout.shape)} expected")
    if (layout.first + expected) * layout.width > storage_bytes:
        raise MalformedFile(
            f"{where}: {expected} elements of {layout.dtype} from {layout.first}; its storage has "
            f"{storage_bytes} bytes"
        )
