"""The checkpoints in a watched folder: what training jobs leave there.

    FOLDER/model.safetensors             a checkpoint by itself
    FOLDER/adapter/                      a folder with one: model, shards, PEFT, DCP, delta
    FOLDER/run/checkpoint-500/           of the run `run`, step 500
    FOLDER/checkpoint-500/               of the run `.`, the folder itself

Of one run, a later step replaces an earlier one. A run's own model, beside its
checkpoints, is its last. Hidden names and those of programs that write are passed over.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from weft.checkpoints.adapter_config import CONFIG_NAME, MAX_CONFIG_BYTES, parse_config
from weft.checkpoints.adapters import PICKLE_NAME, TENSORS_NAME
from weft.checkpoints.delta_folders import read_manifest
from weft.checkpoints.disk import read_whole
from weft.checkpoints.distributed import METADATA_NAME, DistributedReader
from weft.checkpoints.errors import UnsupportedFile
from weft.checkpoints.inputs import Format, format_of
from weft.checkpoints.objects import MANIFEST_NAME, PAYLOAD_NAME
from weft.checkpoints.payload import Payload
from weft.checkpoints.reader import SUFFIX, FileReader, open_checkpoint
from weft.errors import WeftError
from weft.node.continual.watch import Found, Stamp

STEP: Final = re.compile(r"(?:checkpoint|global_step|step|epoch)[-_]?([0-9]{1,15})")
SHARD: Final = re.compile(r".+-[0-9]+-of-[0-9]+\.safetensors")
UNFINISHED: Final = (".tmp", ".temp", ".partial", ".part", ".incomplete", ".lock")


def checkpoints_in(folder: Path) -> list[Found]:
    """All that looks like a checkpoint, whole or not; what vanishes meanwhile is left out."""
    found: list[Found] = []
    for entry in _entries(folder):
        path = folder / entry.name
        if not entry.is_dir():
            if entry.name.endswith(SUFFIX) and not SHARD.fullmatch(entry.name):
                found += _found(path, folder)
            continue
        step = STEP.fullmatch(entry.name)
        if step:
            found += _found(path, folder, ".", int(step[1]))
        else:
            found += _of_a_run(path, folder)
    return found


def unwhole(path: Path, prefix: str = "") -> str:
    """Why a checkpoint cannot be read yet; empty: its headers say that all is there.

    Args:
        path: of the checkpoint.
        prefix: of a torch.distributed checkpoint only tensors that begin with it.

    Raises:
        UnsupportedFile: it is of another kind, however long one waits.
    """
    try:
        _open_and_close(path, prefix)
    except UnsupportedFile:
        raise
    except (WeftError, OSError) as error:
        return str(error) or type(error).__name__
    return ""


def stamp_of(path: Path) -> Stamp:
    """Names, sizes and times of the files that a checkpoint consists of; empty: it is gone."""
    try:
        if not path.is_dir():
            return (_line(path.stat(), path.name),)
        return tuple(sorted(_line(e.stat(), e.name) for e in _entries(path) if not e.is_dir()))
    except OSError:
        return ()


def _of_a_run(path: Path, folder: Path) -> Iterator[Found]:
    """A folder: a checkpoint, or a run with some in it, or both."""
    lineage, steps = path.name, []
    for entry in _entries(path):
        step = STEP.fullmatch(entry.name) if entry.is_dir() else None
        if step:
            steps.append(int(step[1]))
            yield from _found(path / entry.name, folder, lineage, int(step[1]))
    yield from _found(path, folder, lineage if steps else "", max(steps, default=0))


def _found(path: Path, folder: Path, lineage: str = "", step: int = 0) -> Iterator[Found]:
    stamp = stamp_of(path)
    if stamp and (path.name.endswith(SUFFIX) or _looks_like_one({name for name, _, _ in stamp})):
        below = path.relative_to(folder).as_posix()
        yield Found(path=below, stamp=stamp, lineage=lineage, step=step)


def _looks_like_one(names: set[str]) -> bool:
    if names & {CONFIG_NAME, METADATA_NAME, TENSORS_NAME}:
        return True
    if {MANIFEST_NAME, PAYLOAD_NAME} & names:
        return {MANIFEST_NAME, PAYLOAD_NAME} <= names
    return any(name.endswith((SUFFIX, f"{SUFFIX}.index.json")) for name in names)


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in listed:
        hidden = entry.name.startswith((".", "tmp-")) and entry.name != METADATA_NAME
        if not hidden and not entry.name.endswith(UNFINISHED):
            yield entry


def _line(found: os.stat_result, name: str) -> tuple[str, int, int]:
    return (name, found.st_size, found.st_mtime_ns)


def _open_and_close(path: Path, prefix: str) -> None:
    """Read the headers of all its files."""
    kind = format_of(path)
    if kind is Format.DISTRIBUTED:
        DistributedReader(path, prefix=prefix).close()
    elif kind is Format.DELTA:
        Payload(path / PAYLOAD_NAME, read_manifest(path)).close()
    elif kind is Format.ADAPTER:
        if (path / PICKLE_NAME).exists() and not (path / TENSORS_NAME).exists():
            raise UnsupportedFile(f"{path / PICKLE_NAME}: a pickle; save as safetensors")
        parse_config(read_whole(path / CONFIG_NAME, MAX_CONFIG_BYTES), str(path / CONFIG_NAME))
        FileReader(path / TENSORS_NAME).close()
    else:
        open_checkpoint(path).close()
