"""Errors that a node raises, by family.

Each class derives from a family of `weft.errors`; the family says what a caller
can do, the class says which part found it. Stable.
"""

from weft.errors import Corrupt, Exhausted, InvalidInput, Refused, TrainingFailed, Unavailable


class BadTrainer(InvalidInput):
    """The trainer that the configuration names cannot be loaded or used."""


class BadMetricsAddress(InvalidInput):
    """The address for metrics is no address, or cannot be listened on."""


class BadScore(InvalidInput):
    """The score gate names a metric that the trainer does not measure."""


class BadEntry(InvalidInput):
    """A journal entry that JSON cannot hold."""


class FolderInUse(Refused):
    """Another node works in this data folder."""


class OtherJournal(Refused):
    """The journal belongs to another run, node or format."""


class NoBaseForStream(Refused):
    """The run's base is missing, or is not what a stream would begin on."""


class JournalClosed(Refused):
    """The journal was closed; it takes and gives no entries."""


class NoInitialModel(Refused):
    """This kind of trainer has no model of its own to start from."""


class NoModule(Refused):
    """This kind of trainer has no module whose units could be told."""


class NoCalibration(InvalidInput):
    """The run aligns units, and the trainer gives no batches to do it with."""


class JournalCorrupt(Corrupt):
    """The journal is missing or damaged; nothing of it may be trusted."""


class StateCorrupt(Corrupt):
    """A trainer's saved state cannot be read."""


class JournalFull(Exhausted):
    """The disk has no room for a journal entry."""


class JournalBusy(Unavailable):
    """Another process held the journal's file for too long; nothing was read or added."""


class BadBatch(TrainingFailed):
    """The trainer's calibration data cannot be used."""


class TrainerStopped(Unavailable):
    """The training process was stopped while it worked."""


class TrainerDied(TrainingFailed):
    """The training process or command ended on its own."""


class TrainerSilent(TrainingFailed):
    """The training process gave no sign of life for too long."""


class ModelChanged(TrainingFailed):
    """Training gave back a model of another shape than it was handed."""


class NotFinite(TrainingFailed):
    """Training gave back a NaN or an infinity."""


class NotAContribution(Refused):
    """An artifact that is not what its sender was asked for."""
