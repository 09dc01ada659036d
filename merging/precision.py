"""How sums are taken: exactly, or as fast as plain floats go.

>>> Precision("float32").dtype
torch.float32
"""

from collections.abc import Mapping
from enum import StrEnum

import torch

from weft.merging.monoids import Field


class Precision(StrEnum):
    """In what a merge computes.

    Exact sums are free of order and grouping, so they are what nodes use among
    themselves, and the default everywhere. The others are approximate: contributions are
    added as plain floats, in the canonical order of their names, so equal inputs give
    equal bytes all the same, but only on one host; nothing is removable.
    """

    EXACT = "exact"
    FLOAT64 = "float64"
    FLOAT32 = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """Of the blocks that methods see."""
        return torch.float32 if self is Precision.FLOAT32 else torch.float64

    def fields(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The fields of a fold's state in this precision."""
        if self is Precision.EXACT:
            return dict(fields)
        return {name: field.plain(self.dtype) for name, field in fields.items()}
