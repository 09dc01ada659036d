"""What can go wrong in a merge.

InvalidInput
  BadOption          a hyperparameter, a weight or an option that cannot be
  CannotMerge        these contributions do not make a merge (none, no base, shapes)
  OutOfBound         a value that the exact grid does not hold
  NonFinite          a NaN or an infinity
NotFound
  UnknownMethod      no method of that name
Refused
  NotRemovable       this fold cannot take a contribution back
Exhausted
  FoldFull           one contribution more could overflow an exact sum
Corrupt
  CorruptState       tensors that are not the state that they claim to be
"""

from weft.errors import Corrupt, Exhausted, InvalidInput, NotFound, Refused


class BadOption(InvalidInput):
    """A hyperparameter, a weight or an option that cannot be."""


class CannotMerge(InvalidInput):
    """These contributions do not make a merge with this method."""


class CannotAlign(InvalidInput):
    """A model whose units cannot be told, or two models that have not the same units."""


class OutOfBound(InvalidInput):
    """A value beyond what the grid of an exact sum holds."""


class NonFinite(InvalidInput):
    """A NaN or an infinity where a number is needed."""


class UnknownMethod(NotFound):
    """No method of that name is registered."""


class NotRemovable(Refused):
    """What was folded in cannot be taken out again."""


class FoldFull(Exhausted):
    """One contribution more could overflow an exact sum."""


class CorruptState(Corrupt):
    """Tensors that are not the state of the fold that they claim to be."""
