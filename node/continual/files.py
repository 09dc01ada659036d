"""The folder of a stream: how it begins, and what says which stream it is."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weft.checkpoints.artifacts import put_model
from weft.checkpoints.digest import digest_of
from weft.checkpoints.disk import disk_errors, require_space, sync_folder, write_bytes
from weft.checkpoints.inputs import open_input
from weft.checkpoints.objects import PUT_PREFIX
from weft.checkpoints.sidecars import find_sidecars
from weft.checkpoints.store import Store
from weft.node.continual.errors import NoStream, StreamCorrupt, StreamExists
from weft.node.continual.gate import require_command
from weft.node.continual.head import CANDIDATE, HeadFolder
from weft.node.continual.spec import StreamSpec

STREAM: Final = "stream.json"
JOURNAL: Final = "journal.sqlite"
STORE: Final = "store"
HEAD: Final = "head"
BASE: Final = "base"
"""Who pins the base in the store."""

FORMAT: Final = 1
TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
"""What a file is called before it is whole; see `DurableFile`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What `stream.json` says.

    Attributes:
        name: drawn when the stream was begun; the journal bears it too.
        base: digest of the base, which lies in the store.
        spec: what is merged and how.
    """

    name: str
    base: str
    spec: StreamSpec

    @property
    def whose(self) -> Mapping[str, str]:
        """What the journal says of itself."""
        return {"stream": self.name, "base": self.base}


def begin(folder: Path, base: Path, spec: StreamSpec) -> Identity:
    """Begin a stream: the base goes into its store, and its companions beside the head.

    Raises:
        StreamExists: something is there already.
        MissingCheckpoint, Corrupt, UnsupportedFile: the base cannot be read.
        DiskFull: no room.
        BadStream: the gate's command cannot be right.
    """
    require_command(spec.gate)
    if folder.exists() and (not folder.is_dir() or _taken(folder)):
        raise StreamExists(f"{folder}: something is there already; name a new folder")
    with open_input(base) as reader:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        require_space(folder, 2 * reader.schema.size_bytes)
        store = Store(folder / STORE)
        digest = put_model(store, reader)
        store.pin(digest, BASE)
        HeadFolder(folder / HEAD, reader.schema, spec.shard_bytes).begin(find_sidecars(base))
    identity = Identity(secrets.token_hex(8), digest, spec)
    document = {
        "format": FORMAT,
        "name": identity.name,
        "base": digest,
        "spec": spec.document(),
    }
    document["digest"] = _digest(document)
    # Last of all: a folder without it is no stream, and may be begun again.
    write_bytes(folder / STREAM, f"{json.dumps(document, indent=2)}\n".encode())
    sync_folder(folder.parent)
    return identity


def sweep(folder: Path) -> None:
    """Remove what a process that was killed has left half made."""
    for place in (folder, folder / STORE, folder / HEAD):
        for name in os.listdir(place) if place.is_dir() else ():
            if TEMPORARY.fullmatch(name):
                (place / name).unlink(missing_ok=True)
    for left in (*(folder / STORE / "staging").glob(f"{PUT_PREFIX}*"), folder / CANDIDATE):
        shutil.rmtree(left, ignore_errors=True)


def read_identity(folder: Path) -> Identity:
    """What stream lies in a folder.

    Raises:
        NoStream: none.
        StreamCorrupt: `stream.json` is damaged, or of another format.
    """
    path = folder / STREAM
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NoStream(
            f"{folder}: no stream here (no {STREAM}); begin one: weft stream init"
        ) from None
    except (OSError, ValueError) as error:
        raise StreamCorrupt(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StreamCorrupt(f"{path}: another format than {FORMAT}, which this version reads")
    if document.pop("digest", "") != _digest(document):
        raise StreamCorrupt(
            f"{path}: has changed since the stream was begun; what a stream is stays as it is:"
            " restore the file, or begin another stream"
        )
    try:
        spec = StreamSpec.from_document(document["spec"])
        return Identity(document["name"], document["base"], spec)
    except (KeyError, TypeError, ValueError) as error:
        raise StreamCorrupt(f"{path}: {error!r}") from error


def _digest(document: Mapping[str, object]) -> str:
    return digest_of(json.dumps(document, sort_keys=True).encode())


def _taken(folder: Path) -> bool:
    """Whether anything lies there that an interrupted `begin` has not left."""
    names = {name for name in os.listdir(folder) if not TEMPORARY.fullmatch(name)}
    return STREAM in names or bool(names - {STORE, HEAD})
