"""The coordinator's own errors, each of one of the families in `weft.errors`."""

from weft.errors import (
    Corrupt,
    Exhausted,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
    WeftError,
)


class RunNotFound(NotFound):
    """No run of that name."""


class NotAMember(NotFound):
    """The node has not joined the run."""


class BaseMissing(NotFound):
    """The base of a new run is not in the coordinator's store."""


class BadSpecification(InvalidInput):
    """A run that could never go as it is asked for."""


class BadReport(InvalidInput):
    """A report that is too large to be kept."""


class RunExists(Refused):
    """Another run has that name already."""


class WrongBase(Refused):
    """The node holds another base, or another schema, than the run."""


class RunClosed(Refused):
    """Not in the state that the run is in."""


class RunHalted(Unavailable):
    """The coordinator's database is older than the run; it touches nothing.

    For nodes that is a coordinator that is away: they go on by the plan that they
    hold, and try again, because the newer database may be put back.
    """


class NotANode(Refused):
    """The coordinator is asked what only a member of a run can say."""


class Contradiction(Refused):
    """A node says something else than it said before; the first word holds."""


class WrongRole(InvalidInput):
    """The coordinator's credentials are those of something else."""


class BadMetricsAddress(InvalidInput):
    """The status page cannot be listened on there."""


class DataFolderInUse(Refused):
    """Another coordinator holds the lock of the data folder."""


class WrongDatabase(Refused):
    """The database is not the one that the data folder belongs to."""


class Superseded(Refused):
    """Another coordinator wrote to the same database; this one must stop."""


class NotYet(Unavailable):
    """The coordinator first waits to hear from members: it does not know their rounds."""


class Stopping(Unavailable):
    """The coordinator is going down; nodes go on and come back later."""


class DatabaseFull(Exhausted):
    """No space for a change; nothing was changed."""


class DatabaseDamaged(Corrupt):
    """The database is missing, truncated, or its rows are not what was written."""


class StorageFailed(WeftError):
    """The database failed in a way that leaves open what is on the disk."""
