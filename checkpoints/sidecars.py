"""The small files beside a model's tensors: what its own library needs to open it.

    for sidecar in find_sidecars(Path("base")):
        sidecar.copy_to(folder)

Taken are configuration, tokenizer and preprocessor files (`PATTERNS`), and Python files
that the configuration names under `auto_map`, with those that they import from beside
themselves. Not taken: weights, whatever they are called; READMEs and other texts about
the model that was; folders. Files are copied byte for byte.

Links are followed inside the folder, and to the `blobs` of a Hugging Face cache, whose
snapshots are made of links. A link to anywhere else is refused: a model that was
downloaded must not carry a file of this machine into a model that is published.
"""

import ast
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from blake3 import blake3

from weft.checkpoints.disk import DurableFile, open_for_reading
from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.errors import BadPath, MalformedFile
from weft.checkpoints.reader import PICKLES, SUFFIX
from weft.checkpoints.schema import FLOATING, Schema

__all__ = ["Sidecar", "find_sidecars", "with_dtype"]

CONFIG_NAME: Final = "config.json"
PATTERNS: Final = (
    CONFIG_NAME,
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "normalizer.json",
    "chat_template.*",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "spiece.model",
    "sentencepiece*",
    "*.spm",
    "*.tiktoken",
)
NAMES_CODE: Final = (
    CONFIG_NAME,
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Where an `auto_map` may stand."""

NOT_COPIED: Final = frozenset({SUFFIX, ".py", *PICKLES})
DTYPE_KEYS: Final = frozenset({"torch_dtype", "dtype"})
DTYPE_VALUE: Final = re.compile(r'(\s*:\s*")(torch\.)?([a-z0-9_]+)(")')
JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
TORCH_NAMES: Final = {
    name: str(dtype).removeprefix("torch.") for name, dtype in TORCH_DTYPES.items()
}
PART_BYTES: Final = 2**20
MAX_PARSED_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One file to be copied beside a model.

    Attributes:
        name: of the copy; a plain name.
        source: what is copied.
        edited: what is written in place of the source's bytes; None: those themselves.
    """

    name: str
    source: Path
    edited: bytes | None = None

    def parts(self) -> Iterator[bytes]:
        """The bytes, in parts.

        Raises:
            MissingCheckpoint, BadPath: the source is gone or cannot be read.
        """
        if self.edited is not None:
            yield self.edited
            return
        descriptor, _ = open_for_reading(self.source)
        try:
            offset = 0
            while part := os.pread(descriptor, PART_BYTES, offset):
                yield part
                offset += len(part)
        finally:
            os.close(descriptor)

    @property
    def size_bytes(self) -> int:
        """How many bytes the copy has."""
        if self.edited is not None:
            return len(self.edited)
        descriptor, size = open_for_reading(self.source)
        os.close(descriptor)
        return size

    def digest(self) -> str:
        """Blake3 of the bytes, hexadecimal."""
        hasher = blake3()
        for part in self.parts():
            hasher.update(part)
        return str(hasher.hexdigest())

    def copy_to(self, folder: Path, digest: str) -> int:
        """Write the copy durably; returns its size in bytes.

        Raises:
            MalformedFile: the source has other bytes by now than those of the digest.
            DiskFull, BadPath: it cannot be written.
        """
        hasher, size = blake3(), 0
        with DurableFile(folder / self.name) as file:
            for part in self.parts():
                file.write_at(part, size)
                hasher.update(part)
                size += len(part)
            if hasher.hexdigest() != digest:
                raise MalformedFile(f"{self.source}: was changed while it was needed; begin again")
        return size


def find_sidecars(folder: Path) -> tuple[Sidecar, ...]:
    """The files to take over from a model's folder, sorted by name.

    Args:
        folder: a checkpoint's folder; anything else has no companions.

    Raises:
        BadPath: a link that leads out of the folder, to nothing, or to no regular file.
    """
    if not folder.is_dir():
        return ()
    names = {name for name in os.listdir(folder) if not os.path.isdir(folder / name)}
    taken = {name for name in names if _is_companion(name)}
    taken |= _code(folder, taken, names)
    for name in sorted(taken):
        _require_inside(folder, name)
    return tuple(Sidecar(name, folder / name) for name in sorted(taken))


def with_dtype(sidecars: Sequence[Sidecar], source: Schema, output: Schema) -> tuple[Sidecar, ...]:
    """The same files for a model whose tensors have another dtype.

    In `config.json` the value of `torch_dtype` or `dtype` at the top becomes the dtype
    that most of the output's floating elements have; no other byte changes. Nothing
    changes where source and output agree in that dtype, or where the configuration says
    nothing that is a dtype. (So a quantised model keeps the dtype that it computes in.)
    """
    dtype = _main_dtype(output)
    if dtype is None or dtype == _main_dtype(source):
        return tuple(sidecars)
    return tuple(
        _edited(item, TORCH_NAMES[dtype]) if item.name == CONFIG_NAME else item for item in sidecars
    )


def _main_dtype(schema: Schema) -> str | None:
    """The floating dtype of most elements; None where no tensor is floating."""
    elements = {
        dtype: sum(spec.elements for spec in schema if spec.dtype == dtype)
        for dtype in sorted(FLOATING)
    }
    most = max(elements, key=lambda dtype: elements[dtype])
    return most if elements[most] else None


def _edited(sidecar: Sidecar, dtype: str) -> Sidecar:
    before = b"".join(sidecar.parts())
    try:
        text = before.decode()
    except UnicodeDecodeError:
        return sidecar
    after = _replace_dtype(text, dtype).encode()
    return sidecar if after == before else replace(sidecar, edited=after)


def _replace_dtype(text: str, dtype: str) -> str:
    """Put a dtype in place of the one that a JSON object names at its top."""
    depth, pieces, copied = 0, [], 0
    for token in JSON_TOKEN.finditer(text):
        match token[0]:
            case "{" | "[":
                depth += 1
            case "}" | "]":
                depth -= 1
            case string if depth == 1 and string[1:-1] in DTYPE_KEYS:
                value = DTYPE_VALUE.match(text, token.end())
                if value is not None and value[3] in TORCH_NAMES.values():
                    pieces += [text[copied : value.start(3)], dtype]
                    copied = value.end(3)
    return "".join([*pieces, text[copied:]])


def _is_companion(name: str) -> bool:
    matches = any(fnmatchcase(name, pattern) for pattern in PATTERNS)
    return matches and Path(name).suffix not in NOT_COPIED


def _code(folder: Path, taken: Collection[str], there: Collection[str]) -> set[str]:
    """The Python files that the configuration names, and those that they import."""
    waiting = [
        f"{module}.py"
        for name in NAMES_CODE
        if name in taken
        for module in _modules(_read(folder, name))
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in there and name not in found:
            found.add(name)
            waiting += [f"{module}.py" for module in _imported(_read(folder, name))]
    return found


def _modules(data: bytes) -> Iterator[str]:
    """The modules of an `auto_map`; those of other repositories are not here."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    classes = document.get("auto_map") if isinstance(document, dict) else None
    for value in classes.values() if isinstance(classes, dict) else ():
        for reference in value if isinstance(value, list) else [value]:
            if isinstance(reference, str) and "--" not in reference:
                yield reference.partition(".")[0]


def _imported(source: bytes) -> Iterator[str]:
    """The modules that a Python file imports from beside itself; it is not run."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            if node.module is not None:
                yield node.module.partition(".")[0]
            else:
                yield from (alias.name for alias in node.names)


def _read(folder: Path, name: str) -> bytes:
    """A small file, to look into it."""
    _require_inside(folder, name)
    sidecar = Sidecar(name, folder / name)
    return b"".join(sidecar.parts()) if sidecar.size_bytes <= MAX_PARSED_BYTES else b""


def _require_inside(folder: Path, name: str) -> None:
    path = folder / name
    real, root = (Path(os.path.realpath(place)) for place in (path, folder))
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(Path(os.path.realpath(root.parent.parent / "blobs")))
    if not any(real.is_relative_to(place) for place in allowed):
        raise BadPath(
            f"{path}: a link to {real}, outside of the model's folder; "
            "put the file itself in its place"
        )
    if not real.is_file():
        raise BadPath(f"{path}: leads to no regular file; remove it, or put the file there")
