"""`weft.json`: how the model in a folder was made; written by a merge, read by the next.

    {
      "digest": "...",           the artifact that the tensors are, "" while they are written
      "format": "weft-output-1",
      "metadata": {...},         noted in the header of every shard
      "plan": {...},             the recipe, and the identities of what went in
      "schema": "...",           digest of names, dtypes and shapes
      "shard_bytes": 5000000000,
      "sidecars": {"config.json": "<blake3>", ...}
    }

The same merge writes the same bytes: there is no time, host or user in it. While a
model is written the file stands in its unfinished folder, and a later process goes on
only where all but the digest is equal; in the finished folder it stays.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from weft.checkpoints.disk import open_for_reading, read_exactly
from weft.checkpoints.errors import BadPath, MissingCheckpoint
from weft.checkpoints.header import Json, parse_strict
from weft.checkpoints.schema import Schema

__all__ = ["PROVENANCE_NAME", "Json", "describe_output", "difference", "read_provenance", "written"]

PROVENANCE_NAME: Final = "weft.json"
FORMAT: Final = "weft-output-1"
MAX_BYTES: Final = 16 * 2**20
SHOWN: Final = 60


def describe_output(
    *,
    plan: Mapping[str, Json],
    schema: Schema,
    shard_bytes: int,
    metadata: Mapping[str, str],
    sidecars: Mapping[str, str],
) -> dict[str, Json]:
    """All that decides the bytes of an output; see the head of this module."""
    document = {
        "format": FORMAT,
        "metadata": dict(metadata),
        "plan": dict(plan),
        "schema": schema.digest,
        "shard_bytes": shard_bytes,
        "sidecars": dict(sidecars),
    }
    found = json.loads(json.dumps(document, sort_keys=True, allow_nan=False))
    return dict(found)


def written(document: Mapping[str, Json], digest: str) -> bytes:
    """The one way to write a document, for people to read too."""
    text = json.dumps({**document, "digest": digest}, sort_keys=True, indent=2)
    return f"{text}\n".encode()


def read_provenance(folder: Path) -> tuple[dict[str, Json], str] | None:
    """The document of a folder and its digest; None where it has no such file.

    Raises:
        MalformedFile: it is not JSON.
        BadPath: it cannot be read, or is far too large.
    """
    path = folder / PROVENANCE_NAME
    try:
        descriptor, size = open_for_reading(path, follow=False)
    except MissingCheckpoint:
        return None
    try:
        if size > MAX_BYTES:
            raise BadPath(f"{path}: {size} bytes are beyond the limit of {MAX_BYTES}")
        data = bytearray(size)
        read_exactly(descriptor, memoryview(data), 0, str(path))
    finally:
        os.close(descriptor)
    document = parse_strict(bytes(data), str(path), floats=True)
    digest = document.pop("digest", "")
    return document, digest if isinstance(digest, str) else ""


def difference(there: Json, now: Json) -> str:
    """The first place where two documents differ, in words; empty where they are equal."""
    return next(_differences("", there, now), "")


def _differences(where: str, there: Json, now: Json) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted({*there, *now}):
            inner = f"{where}.{key}" if where else key
            if key in there and key in now:
                yield from _differences(inner, there[key], now[key])
            else:
                yield f"{inner} is given {'there only' if key in there else 'now only'}"
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        for number, (one, other) in enumerate(zip(there, now, strict=True)):
            yield from _differences(f"{where}[{number}]", one, other)
    elif (was := json.dumps(there)) != (new := json.dumps(now)):
        yield f"{where} is {_shown(was)} there and {_shown(new)} now"


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
