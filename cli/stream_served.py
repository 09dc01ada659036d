"""A stream that another process serves, from the command line: which one, and what it says."""

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from weft.cli.output import note
from weft.errors import InvalidInput

if TYPE_CHECKING:
    from weft.node.continual.records import Contribution, Generation
    from weft.protocol.push import Patience, Target
    from weft.protocol.v1.continual_pb2 import HeadReply

Answer = TypeVar("Answer")

LOOK_S = 2.0
"""How long a look tries again."""

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="HOST:PORT",
        help="Of a served stream instead of DIR; without both, the variable WEFT_STREAM.",
    ),
]
Credentials = Annotated[
    Path | None,
    typer.Option(envvar="WEFT_CREDENTIALS", metavar="FOLDER", help="With --to: as whom."),
]


@dataclass(frozen=True, slots=True)
class Told:
    """What a server tells of its stream.

    Attributes:
        contributions: all, by their numbers.
        generations: all, by their numbers.
    """

    contributions: "Sequence[Contribution]"
    generations: "Sequence[Generation]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A stream's server.

    Attributes:
        address: host:port.
        name: in its certificate.
        credentials: folder of the caller's.
    """

    address: str
    name: str
    credentials: Path

    def head(self) -> dict[str, object]:
        """The document about the head; what keeps the stream from going on is noted.

        Raises:
            Unavailable: it cannot be reached.
            Denied: who asks may not.
        """
        from weft.protocol import take_back

        reply = self._asked(take_back.head, LOOK_S)
        if reply.message:
            note(f"the stream cannot go on: {reply.message}")
        return _head(reply)

    def history(self) -> Told:
        """Every contribution and every generation; raises as `head`."""
        from weft.node.continual.messages import contribution_from, generation_from
        from weft.protocol import take_back

        entries = self._asked(take_back.history, LOOK_S)
        came = [each.contribution for each in entries if each.HasField("contribution")]
        made = [each.generation for each in entries if each.HasField("generation")]
        return Told([*map(contribution_from, came)], [*map(generation_from, made)])

    def revoke(self, which: str, patience_s: float) -> dict[str, object]:
        """Take a contribution out; returns the document about the head after it.

        Raises:
            NoSuchContribution: none of that number, name or digest, or several.
            Refused: what is needed for it was not kept; nothing has changed.
            WeftError: as `head`.
        """
        from weft.node.continual.messages import contribution_from
        from weft.node.continual.queue import named
        from weft.protocol import take_back

        async def work(target: "Target", patience: "Patience") -> "HeadReply":
            came = await take_back.contributions(target, patience)
            seq = named([*map(contribution_from, came)], which).seq
            await take_back.revoked(target, seq, patience=patience, say=note)
            return await take_back.head(target, patience)

        return _head(self._asked(work, patience_s))

    def rollback(self, number: int, patience_s: float) -> dict[str, object]:
        """Go back to a generation; returns the document about the head after it.

        Raises:
            NotFound: there is no such generation.
            Refused: there is no way back to it; nothing has changed.
            WeftError: as `head`.
        """
        from weft.protocol import take_back

        async def work(target: "Target", patience: "Patience") -> "HeadReply":
            seen = (await take_back.head(target, patience)).generation.number
            await take_back.rolled_back(target, number, seen=seen, patience=patience, say=note)
            return await take_back.head(target, patience)

        return _head(self._asked(work, patience_s))

    def _asked(
        self,
        work: "Callable[[Target, Patience], Coroutine[Any, Any, Answer]]",
        patience_s: float,
    ) -> Answer:
        import asyncio

        from weft.protocol.channel import ChannelPool
        from weft.protocol.identity import Credentials
        from weft.protocol.push import Patience, Target

        async def run() -> Answer:
            pool = ChannelPool(Credentials.load(self.credentials))
            try:
                target = Target(pool=pool, address=self.address, name=self.name)
                return await work(target, Patience(patience_s, say=note))
            finally:
                await pool.close()

        return asyncio.run(run())


def place_of(
    folders: Sequence[Path], to: str | None, credentials: Path | None, name: str
) -> Path | Served:
    """Which stream a command is about: one in a folder, or one that is served.

    Raises:
        InvalidInput: both or neither are given, or nobody to be there.
    """
    if folders and to is not None:
        raise InvalidInput(f"{folders[0]} and --to {to}: a stream's folder or its server, not both")
    if len(folders) > 1:
        raise InvalidInput(f"one stream at a time; found {', '.join(map(str, folders))}")
    if folders:
        return folders[0]
    address = to or os.environ.get("WEFT_STREAM")
    if not address:
        raise InvalidInput("which stream? give its folder, or --to HOST:PORT of its server")
    if credentials is None:
        raise InvalidInput(f"--to {address}: as whom? give --credentials FOLDER")
    return Served(address=address, name=name, credentials=credentials)


def _head(reply: "HeadReply") -> dict[str, object]:
    """The same document as of a folder; the path is one of the server's machine."""
    newest = reply.generation
    return {
        "path": reply.path,
        "digest": newest.head,
        "generation": newest.number,
        "contributions": newest.members,
        "waiting": reply.waiting,
        "scale": newest.scale,
        "norm": newest.norm,
        "score": newest.score if newest.HasField("score") else None,
        "warnings": list(newest.warnings),
    }
