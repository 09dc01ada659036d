"""One way in for everything that can be merged, whatever its format on disk.

    with open_input("base") as base, open_input("adapter", base) as finetuned:
        finetuned.ranges("fc.weight", 0, 1000, 100)

A safetensors file; a folder with one, or with shards and their index; a folder that
torch.distributed.checkpoint wrote; a PEFT adapter; a delta folder (`weft diff`). The last
two need a base. Everything else is refused.
"""

from enum import StrEnum
from pathlib import Path

from weft.checkpoints.adapter_config import CONFIG_NAME
from weft.checkpoints.adapters import TENSORS_NAME, AdapterReader
from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.delta_folders import DeltaFolderReader, read_manifest
from weft.checkpoints.disk import reading_errors
from weft.checkpoints.distributed import METADATA_NAME, DistributedReader
from weft.checkpoints.errors import MissingCheckpoint, WrongBase
from weft.checkpoints.model_digest import model_digest
from weft.checkpoints.objects import MANIFEST_NAME, PAYLOAD_NAME
from weft.checkpoints.reader import SUFFIX, ShardedReader, open_checkpoint

__all__ = ["Format", "describe", "format_of", "model_digest", "open_input"]


class Format(StrEnum):
    """What lies on disk."""

    SAFETENSORS = "safetensors"
    """One file, by itself or alone in a folder; or shards with their index."""

    DISTRIBUTED = "distributed"
    """A folder that torch.distributed.checkpoint wrote."""

    ADAPTER = "adapter"
    """A PEFT adapter; needs a base."""

    DELTA = "delta"
    """A delta folder; needs a base."""

    @property
    def needs_base(self) -> bool:
        """Whether it is a model only together with a base."""
        return self in (Format.ADAPTER, Format.DELTA)


def format_of(path: Path | str) -> Format:
    """What lies at a path, by the names of its files; nothing is opened.

    Raises:
        MissingCheckpoint: nothing is there, or an adapter without its configuration.
        BadPath: a path that leads nowhere: a loop of links, a name too long.
    """
    path = Path(path)
    if "\0" in str(path):
        raise MissingCheckpoint(f"{str(path)!r}: no such file or folder")
    with reading_errors(path):
        path.stat()
    if not path.is_dir():
        return Format.SAFETENSORS
    if (path / CONFIG_NAME).exists():
        return Format.ADAPTER
    if (path / METADATA_NAME).exists():
        return Format.DISTRIBUTED
    if (path / MANIFEST_NAME).exists() and (path / PAYLOAD_NAME).exists():
        return Format.DELTA
    _require_no_half_adapter(path)
    return Format.SAFETENSORS


def _require_no_half_adapter(folder: Path) -> None:
    found = {each.name for each in folder.glob(f"*{SUFFIX}*")}
    if found == {TENSORS_NAME}:
        raise MissingCheckpoint(
            f"{folder}: holds {TENSORS_NAME} and no {CONFIG_NAME}: an adapter needs both; copy"
            f" {CONFIG_NAME} beside it"
        )


def open_input(
    path: Path | str,
    base: RangeReader | None = None,
    *,
    base_digest: str | None = None,
    prefix: str = "",
) -> RangeReader:
    """Open a model for reading, whatever its format.

    Args:
        path: a file or a folder; see the head of this module.
        base: what an adapter or a delta is applied to; stays open while they are read.
        base_digest: of the base, where it is known; a delta asks for it, and to find it
            all of the base is read.
        prefix: of a distributed checkpoint only tensors with this prefix, without it.

    Raises:
        MissingCheckpoint: nothing is there, or part of it is missing.
        UnsupportedFile: something else is there: a pickle, an archive, another kind of
            adapter.
        WrongBase: an adapter or a delta and no base, or a delta against another base.
        SchemaMismatch: an adapter for another base.
        Corrupt: bytes that are not what they claim to be.
    """
    path = Path(path)
    found = format_of(path)
    if found is Format.DISTRIBUTED:
        return DistributedReader(path, prefix=prefix)
    if found is Format.SAFETENSORS:
        return open_checkpoint(path)
    if base is None:
        what = "an adapter" if found is Format.ADAPTER else "a delta"
        raise WrongBase(f"{path}: {what} is a model only together with its base; give one (--base)")
    if found is Format.ADAPTER:
        return AdapterReader(path, base)
    if base_digest is None:
        against = read_manifest(path).against
        base_digest = "" if against is None else model_digest(base)
    return DeltaFolderReader(path, base, base_digest)


def describe(reader: RangeReader) -> str:
    """What a reader reads, in a word or two, for people."""
    words: dict[type[RangeReader], str] = {
        ShardedReader: "safetensors, sharded",
        DistributedReader: "torch.distributed.checkpoint",
        AdapterReader: "PEFT adapter",
        DeltaFolderReader: "delta",
    }
    return words.get(type(reader), "safetensors")
