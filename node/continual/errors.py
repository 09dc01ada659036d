"""Errors of a continual merge, by family."""

from weft.errors import Corrupt, Exhausted, InvalidInput, NotFound, Refused, Unavailable


class BadStream(InvalidInput):
    """A stream cannot be what it is asked to be."""


class NoStream(NotFound):
    """The folder holds no stream."""


class NoSuchContribution(NotFound):
    """No contribution of that number, name or digest."""


class NoSuchGeneration(NotFound):
    """No generation of that number."""


class StreamExists(Refused):
    """The folder holds a stream, or something else, already."""


class NotKept(Refused):
    """What a change needs was not kept; nothing has changed."""


class Unfit(Refused):
    """A contribution that the stream does not take; it goes on without it."""


class StreamCorrupt(Corrupt):
    """Files of the stream are not what its journal says."""


class TooManyUploads(Exhausted):
    """As many uploads are under way as the server keeps open."""


class StillChanging(Unavailable):
    """A watched file changed while it was read; it is read again later."""
