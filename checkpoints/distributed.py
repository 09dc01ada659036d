"""Folders that torch.distributed.checkpoint wrote, read as one model.

    with DistributedReader(Path("step-1000"), prefix="model.") as reader:
        reader.read("layers.0.weight")

Every tensor is cut into pieces, one a rank or so; any range of a tensor is put together
from the pieces that it touches, read where they lie. No process group, no unpickling.
"""

import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.disk import open_for_reading, read_exactly, read_whole
from weft.checkpoints.distributed_metadata import (
    MAX_METADATA_BYTES,
    METADATA_NAME,
    Contents,
    Piece,
    parse_metadata,
)
from weft.checkpoints.errors import BadPath, MalformedFile, MissingCheckpoint
from weft.checkpoints.saved_tensors import find_saved_tensor
from weft.checkpoints.schema import DTYPE_BYTES, Schema, TensorSpec

__all__ = ["METADATA_NAME", "DistributedReader"]

MAX_FILES: Final = 512
WORDS: Final = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


class DistributedReader(RangeReader):
    """The tensors of one checkpoint folder.

    Args:
        folder: holds `.metadata` and the files of the ranks.
        prefix: only tensors whose names begin with it are read, and their names are
            taken without it: "model." leaves the optimizer's tensors out.

    Raises:
        MissingCheckpoint: no such folder, a rank's file is missing, or no tensor has
            the prefix.
        UnsupportedFile: the metadata names something that no checkpoint needs, or a
            tensor is of a kind that is not read.
        MalformedFile: the metadata contradicts itself, or the files.
    """

    def __init__(self, folder: Path, *, prefix: str = "") -> None:
        self.path = folder
        self._prefix = prefix
        metadata = folder / METADATA_NAME
        self._contents = parse_metadata(
            read_whole(metadata, MAX_METADATA_BYTES), prefix, str(metadata)
        )
        self._schema = _schema(self._contents, prefix, str(folder))
        self._offsets: dict[Piece, int] = {}
        with ExitStack() as stack:
            self._descriptors = _open_files(self._contents, folder, stack)
            self._open = stack.pop_all()
        self._closed = False

    @property
    def schema(self) -> Schema:
        """The tensors, without the prefix, sorted by name."""
        return self._schema

    @property
    def metadata(self) -> Mapping[str, str]:
        """Such a folder has none."""
        return MappingProxyType({})

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the entries that are no tensors: steps, schedules, random states."""
        return self._contents.others

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.path)

    def fill(self, spec: TensorSpec, into: memoryview, offset: int) -> None:
        """Fill a buffer with a tensor's bytes from an offset that begins an element."""
        if self._closed:
            raise BadPath(f"{self.path}: read after the reader was closed; open it again")
        width = DTYPE_BYTES[spec.dtype]
        first, last = offset // width, (offset + len(into)) // width
        for piece in self._contents.pieces[self._prefix + spec.name]:
            begin, end = (_held_before(piece, spec.shape, at) for at in (first, last))
            if begin < end:
                self._fill_from(piece, spec, into, first, begin, end)

    def _fill_from(
        self, piece: Piece, spec: TensorSpec, into: memoryview, first: int, begin: int, end: int
    ) -> None:
        """Elements `begin` to `end` of a piece, put where they belong in the buffer."""
        width = DTYPE_BYTES[spec.dtype]
        places = _places(piece, spec.shape, begin, end)
        descriptor = self._descriptors[piece.place.file]
        at = self._offset_of(piece, spec) + begin * width
        if isinstance(places, int):
            start = (places - first) * width
            part = into[start : start + (end - begin) * width]
            read_exactly(descriptor, part, at, self.where)
            return
        data = bytearray((end - begin) * width)
        read_exactly(descriptor, memoryview(data), at, self.where)
        target: npt.NDArray[Any] = np.frombuffer(into, WORDS[width])
        target[places - first] = np.frombuffer(data, WORDS[width])

    def _offset_of(self, piece: Piece, spec: TensorSpec) -> int:
        """Where the piece's plain bytes begin; looked up once. Threads may find it twice."""
        if piece not in self._offsets:
            place = piece.place
            where = f"{self.path / place.file}: tensor {spec.name}"
            found = find_saved_tensor(
                self._descriptors[place.file], place.offset, place.length, where
            )
            if found.dtype != spec.dtype or math.prod(found.shape) != math.prod(piece.sizes):
                raise MalformedFile(
                    f"{where}: a piece is {found.dtype}{list(found.shape)}, "
                    f"{spec.dtype}{list(piece.sizes)} expected"
                )
            self._offsets[piece] = found.offset
        return self._offsets[piece]

    def close(self) -> None:
        """Close the files; closing twice is allowed."""
        self._closed = True
        self._open.close()


def _held_before(piece: Piece, shape: tuple[int, ...], element: int) -> int:
    """How many of a piece's elements come before an element of the whole, row by row."""
    if element >= math.prod(shape):
        return math.prod(piece.sizes)
    held, below = 0, math.prod(piece.sizes)
    rest, stride = element, math.prod(shape)
    for start, size, extent in zip(piece.offsets, piece.sizes, shape, strict=True):
        stride, below = stride // extent, below // size
        place, rest = divmod(rest, stride)
        if place < start:
            return held
        if place >= start + size:
            return held + size * below
        held += (place - start) * below
    return held


def _places(
    piece: Piece, shape: tuple[int, ...], begin: int, end: int
) -> "int | npt.NDArray[np.int64]":
    """Where elements `begin` to `end` of a piece lie in the whole; a number where in one run.

    A run ends where the piece is narrower than the whole: behind the last such dimension
    rows are whole and follow each other.
    """
    cut = max((axis for axis, size in enumerate(piece.sizes) if size != shape[axis]), default=0)
    run = math.prod(piece.sizes[cut:])
    rows = np.arange(begin // max(run, 1), (end - 1) // max(run, 1) + 1)
    indices = np.unravel_index(rows, piece.sizes[:cut]) if cut else ()
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    starts = np.full(len(rows), sum(o * s for o, s in zip(piece.offsets, strides, strict=True)))
    for index, stride in zip(indices, strides, strict=False):
        starts += index * stride
    if len(rows) == 1:
        return int(starts[0]) + begin % run
    within = np.arange(begin, end)
    found: npt.NDArray[np.int64] = starts[within // run - rows[0]] + within % run
    return found


def _schema(contents: Contents, prefix: str, where: str) -> Schema:
    if not contents.specs:
        named = f"begins with {prefix[:80]!r}" if prefix else "is in it"
        raise MissingCheckpoint(f"{where}: no tensor {named}")
    return Schema(
        tuple(
            TensorSpec(name.removeprefix(prefix), spec.dtype, spec.shape)
            for name, spec in contents.specs.items()
        )
    )


def _open_files(contents: Contents, folder: Path, stack: ExitStack) -> dict[str, int]:
    """Descriptors of the ranks' files, checked to be as long as their pieces need."""
    places = [piece.place for pieces in contents.pieces.values() for piece in pieces]
    names = sorted({place.file for place in places})
    if len(names) > MAX_FILES:
        raise MalformedFile(f"{folder}: {len(names)} files; at most {MAX_FILES} are read")
    descriptors, sizes = {}, {}
    for name in names:
        descriptors[name], sizes[name] = open_for_reading(folder / name)
        stack.callback(os.close, descriptors[name])
    for place in places:
        if place.offset + place.length > sizes[place.file]:
            raise MalformedFile(
                f"{folder / place.file}: {sizes[place.file]} bytes, a piece ends at "
                f"{place.offset + place.length}; it is cut short"
            )
    return descriptors
