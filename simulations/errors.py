"""What can be wrong with a study: its data, its split, its options, its daemons."""

from weft.errors import InvalidInput, Refused, Unavailable


class BadData(InvalidInput):
    """Arrays that are not a classification task."""


class BadSplit(InvalidInput):
    """A way of dealing examples out that does not exist or cannot be done."""


class BadOption(InvalidInput):
    """An option of a task or of a demo that is out of range."""


class BadModel(InvalidInput):
    """A model that virtual nodes cannot hold."""


class Diverged(InvalidInput):
    """Training left what is not finite; says which node, in which round."""


class MissingExtra(InvalidInput):
    """A library of an optional part is not installed; says which extra brings it."""


class RankLost(Unavailable):
    """A rank of a distributed study ended, failed or fell silent; names it."""


class DaemonDied(Unavailable):
    """A daemon of a demo ended before its time; says how, and where its log is."""


class BadExperiment(InvalidInput):
    """An experiment's file, or a cell of it, that cannot be run; says which, and why."""


class OtherExperiment(Refused):
    """The folder for an experiment's results holds those of another one, or other files."""


class WorkerDied(Unavailable):
    """A worker process of a study ended before its time; says how, and whose nodes it had."""
