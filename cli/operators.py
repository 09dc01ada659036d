"""How `weft run` and `weft status` reach the coordinator: address, credentials, calls.

Where the options are not given, the environment says it (WEFT_COORDINATOR,
WEFT_CREDENTIALS), and else a file weft.toml in the working folder:

    [operator]
    coordinator = "10.0.0.1:9300"
    credentials = "ca/issued/operator"
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from weft.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from weft.cli.output import Json
    from weft.protocol.channel import ChannelPool
    from weft.protocol.run import Plan
    from weft.protocol.v1.coordinator_pb2 import RunStatus
    from weft.protocol.v1.coordinator_pb2_grpc import CoordinatorStub

FILE = "weft.toml"
CALL_S = 10.0
T = TypeVar("T")

CoordinatorOption = Annotated[
    str | None,
    typer.Option(
        "--coordinator",
        envvar="WEFT_COORDINATOR",
        metavar="HOST:PORT",
        help="The coordinator's address; else weft.toml says it.",
    ),
]
CredentialsOption = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        envvar="WEFT_CREDENTIALS",
        metavar="FOLDER",
        help="An operator's credentials; else weft.toml says it.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Whom to ask, and as whom."""

    coordinator: str
    credentials: Path
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Open channels to the coordinator."""

    operator: Operator
    pool: "ChannelPool"
    stub: "CoordinatorStub"

    async def call(self, method: Any, request: Any) -> Any:
        """Call a method, and again while the coordinator is away for a moment.

        Raises:
            WeftError: what the coordinator answered, or that it cannot be reached.
        """
        from weft.protocol.channel import call, retrying

        return await retrying(lambda: call(method, request, timeout_s=CALL_S), attempts=3)


def operator(coordinator: str | None, credentials: Path | None) -> Operator:
    """Put together options, environment and file.

    Raises:
        InvalidInput: something is still missing, or the file has a wrong key.
    """
    found = _from_file() if coordinator is None or credentials is None else None
    address = coordinator or (found.coordinator if found else None)
    folder = credentials or (found.credentials if found else None)
    for value, option, key in (
        (address, "--coordinator HOST:PORT", "WEFT_COORDINATOR"),
        (folder, "--credentials FOLDER", "WEFT_CREDENTIALS"),
    ):
        if value is None:
            raise InvalidInput(
                f"which coordinator, and as whom? give {option}, set {key}, or write both into "
                f"[operator] of {FILE} here"
            )
    name = found.coordinator_name if found else "coordinator"
    return Operator(coordinator=str(address), credentials=Path(str(folder)), name=name)


def asked(work: Callable[[Session], Coroutine[Any, Any, T]], who: Operator) -> T:
    """Run work with a session, and close it."""
    import asyncio

    async def run() -> T:
        async with _session(who) as session:
            return await work(session)

    return asyncio.run(run())


@asynccontextmanager
async def _session(who: Operator) -> AsyncIterator[Session]:
    from weft.protocol.channel import ChannelPool, coordinator_stub
    from weft.protocol.identity import Credentials

    pool = ChannelPool(Credentials.load(who.credentials))
    try:
        stub = coordinator_stub(pool.to(who.coordinator, who.name))
        yield Session(operator=who, pool=pool, stub=stub)
    finally:
        await pool.close()


async def run_status(session: Session, run: str) -> "RunStatus":
    """One run, as the coordinator sees it."""
    from weft.protocol.v1.coordinator_pb2 import GetRunRequest

    status: RunStatus = await session.call(session.stub.GetRun, GetRunRequest(run=run))
    return status


async def summaries(session: Session) -> "list[dict[str, Json]]":
    """All runs, a few figures each."""
    from weft.protocol.v1.coordinator_pb2 import ListRunsRequest

    reply = await session.call(session.stub.ListRuns, ListRunsRequest())
    return [
        {
            "run": run.run,
            "state": run.state,
            "members": run.members,
            "round": run.round,
            "rounds": run.rounds,
            "created_at": run.created_at,
        }
        for run in reply.runs
    ]


def plan_document(plan: "Plan") -> "Json":
    """A plan as JSON, sets with their digests."""
    from weft.cli.output import plain

    document = plain(plan)
    if isinstance(document, dict):
        for key in ("proposed", "committed"):
            chosen = getattr(plan, key)
            document[key] = [
                {
                    "phase": one.phase.value,
                    "digest": one.digest,
                    "contributors": dict(one.contributors),
                }
                for one in chosen
            ]
    return document


def _from_file() -> Any:
    """The section [operator] of weft.toml; None where there is no file."""
    from pydantic import BaseModel, ConfigDict

    from weft.protocol.configuration import FilePath, load_toml

    class Section(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        coordinator: str | None = None
        credentials: FilePath | None = None
        coordinator_name: str = "coordinator"

    class File(BaseModel):
        model_config = ConfigDict(frozen=True, extra="ignore")

        operator: Section = Section()

    try:
        return load_toml(Path(FILE), File).operator
    except NotFound:
        return None
