"""Which tensors count as linear weights: matrices that map one space to another.

A file does not say which module owned a tensor. So one rule: a matrix, both of whose
sides are longer than one, and whose name is not that of a table of embeddings or of the
layer that reads them out again. Those are indexed by tokens or positions, their rows are
seen one at a time, and the published recipes of the spectral methods leave them out. What
lies within a module of that name, such as the layers that embed a time step, is none.

The released codes of ACE, Iso-C, Iso-CTS, TSV-M and DC-Merge average CLIP's
`text_projection` as well, and that of SVC leaves it as it is; here it is a linear weight
like others. A user who wants it as there adds it to `tables`.
"""

import re
from typing import Any, Final

from weft.merging.hyperparameters import option
from weft.merging.method import Scope
from weft.merging.monoids import Shape

_EMBEDDED: Final = r"embeds?_\w+([.]\d+)?|embed\w*|\w*embeddings?|wte|wpe|shared"
"""The last module of a name, or several that are numbered, as in `embed_tokens.0`."""

EMBEDDINGS: Final = rf"(^|[._])({_EMBEDDED})([.]weight)?$"
"""Names of tables of embeddings, as a regular expression searched for in a tensor's name."""

TABLES: Final = rf"(^|[._])({_EMBEDDED}|lm_head([.]decoder)?|position_ids)([.]weight)?$"
"""The same with the layers that read them out."""


def tables_option() -> Any:
    """The hyperparameter by which a user overrides the rule; checked when a method is built."""
    about = "regular expression: tensors that are tables, not linear weights"
    return option(TABLES, about, pattern=True)


def is_linear(name: str, shape: Shape, tables: str = TABLES) -> bool:
    """Whether a tensor is a linear weight, (out, in)."""
    return len(shape) == 2 and min(shape) > 1 and not re.search(tables, name)


def linear_scope(name: str, shape: Shape, tables: str = TABLES) -> Scope:
    """Whole for linear weights, any block for all others."""
    return Scope.MATRIX if is_linear(name, shape, tables) else Scope.ELEMENT
