"""The table of codecs: names to classes."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from weft.checkpoints.codecs.codec import Codec
from weft.checkpoints.codecs.int8 import Int8
from weft.checkpoints.codecs.lossless import Lossless
from weft.checkpoints.codecs.raw import Raw
from weft.checkpoints.errors import UnknownCodec

CODECS: Final[Mapping[str, type[Codec]]] = MappingProxyType(
    {codec.name: codec for codec in (Raw, Lossless, Int8)}
)


def names() -> tuple[str, ...]:
    """All codecs, sorted."""
    return tuple(sorted(CODECS))


def create(name: str) -> Codec:
    """The codec of that name.

    Raises:
        UnknownCodec: there is none; names the nearest.
    """
    if name not in CODECS:
        near = get_close_matches(name, CODECS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownCodec(f"no codec named {name[:40]!r}{hint} (known: {', '.join(names())})")
    return CODECS[name]()
