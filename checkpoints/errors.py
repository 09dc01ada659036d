"""The errors of checkpoints; each derives from a family of `weft.errors`.

One rule for files: what was named and cannot be used, however whole it is, is a mistake
(`UnsupportedFile`, `UnusableFile`); bytes that contradict themselves are damage
(`MalformedFile` and what else is `Corrupt`).
"""

from weft.errors import Corrupt, Exhausted, InvalidInput, NotFound, Refused


class BadSchema(InvalidInput):
    """A name, dtype or shape that no checkpoint of ours may have."""


class SchemaMismatch(Refused):
    """The tensors are not those of the model that was expected."""


class MissingCheckpoint(NotFound):
    """No checkpoint at that path."""


class MissingTensor(NotFound):
    """The checkpoint has no tensor of that name."""


class UnsupportedFile(InvalidInput):
    """A file or folder of another kind: a pickle, an archive, a web page."""


class MalformedFile(Corrupt):
    """A file that claims to be safetensors and breaks its rules."""


class UnusableFile(MalformedFile, InvalidInput):
    """A file that is whole, and not what it was named as, or says what cannot be.

    A mistake of whoever named it. Where it came from somebody else, it is dealt with as
    any other bytes that are not what they claim to be.
    """


class BadTensor(InvalidInput):
    """Tensors that do not fit the schema that they are written under."""


class BadPath(InvalidInput):
    """A path that cannot be read or written."""


class InUse(Refused):
    """Another process is writing there."""


class OtherPlan(Refused):
    """What is there was made, or begun, by another plan."""


class ChangedInput(Refused):
    """A file was written while it was read for a result."""


class DiskFull(Exhausted):
    """No room on the disk, in the quota, or under the limit of a file's size."""


class TooLarge(Exhausted):
    """More tensors, chunks or bytes than a manifest may have."""


class NotEnoughMemory(TooLarge):
    """What must be seen at a time does not fit the memory that is allowed.

    Attributes:
        needed: bytes.
    """

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


class BadManifest(Corrupt):
    """Bytes that are not the canonical manifest of an artifact."""


class BadChunk(Corrupt):
    """A chunk whose length or digest is not what the manifest says."""


class BadEncoding(Corrupt):
    """Encoded bytes that do not decode to the tensor that they stand for."""


class CorruptArtifact(Corrupt):
    """An object of the store whose bytes are not those of its digest."""


class UnknownCodec(InvalidInput):
    """No codec of that name."""


class WrongBase(Refused):
    """A delta was taken against another base than the one at hand."""


class WrongKind(Refused):
    """The artifact is of another kind than the one asked for."""


class BadDigest(InvalidInput):
    """Not the name of an artifact: 64 hexadecimal digits in lower case."""


class MissingArtifact(NotFound):
    """The store does not hold that artifact."""


class IncompleteArtifact(Refused):
    """Chunks are still missing."""


class NotAStore(InvalidInput):
    """A folder that is no store, or one of another format."""
