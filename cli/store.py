"""`weft store`: what a store of artifacts takes, what may go, what has rotted."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.output import JsonFlag, emit, progress, size

if TYPE_CHECKING:
    from weft.checkpoints.store import Store
    from weft.checkpoints.upkeep import Collected, Usage, Verdict

app = typer.Typer(
    help="A store of artifacts: its size, its garbage, its health.",
    epilog="Example: weft store du /var/lib/weft/store",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

StoreDir = Annotated[Path, typer.Argument(metavar="STORE_DIR", help="The store's folder.")]


@app.command(epilog="Example: weft store du /var/lib/weft/store --json")
def du(store_dir: StoreDir, as_json: JsonFlag = False) -> None:
    """What a store takes of its disk."""
    emit(_open(store_dir).du(), as_json, _usage)


@app.command(epilog="Example: weft store gc /var/lib/weft/store --keep-staging-hours 1")
def gc(
    store_dir: StoreDir,
    keep_staging_hours: Annotated[
        float, typer.Option(min=0, help="Keep transfers that moved within so many hours.")
    ] = 24.0,
    keep_unpinned_hours: Annotated[
        float, typer.Option(min=0, help="Keep artifacts that came within so many hours.")
    ] = 1.0,
    as_json: JsonFlag = False,
) -> None:
    """Remove artifacts that nobody has pinned, and transfers that were abandoned.

    What a pinned artifact is against stays as well. May run beside the daemon
    that uses the store.
    """
    collected = _open(store_dir).gc(
        keep_staging_s=keep_staging_hours * 3600, keep_unpinned_s=keep_unpinned_hours * 3600
    )
    emit(collected, as_json, _collected)


@app.command(epilog="Example: weft store verify /var/lib/weft/store --remove")
def verify(
    store_dir: StoreDir,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is corrupt, to be fetched again.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Hash every byte of every artifact and name those that have changed.

    Exits 1 where corrupt artifacts are left in the store.
    """
    from weft.checkpoints.errors import CorruptArtifact

    store = _open(store_dir)
    verdicts = _verdicts(store)
    bad = [verdict for verdict in verdicts if verdict.fault]
    for verdict in bad if remove else []:
        store.remove(verdict.digest)
    document = {
        "artifacts": len(verdicts),
        "bytes": sum(verdict.size_bytes for verdict in verdicts),
        "corrupt": [{"digest": verdict.digest, "fault": verdict.fault} for verdict in bad],
        "removed": len(bad) if remove else 0,
    }
    emit(document, as_json, lambda _: _checked(verdicts, bad))
    if bad and not remove:
        raise CorruptArtifact(
            f"{store_dir}: {len(bad)} of {len(verdicts)} artifacts are corrupt, "
            f"{bad[0].digest} the first; --remove takes them out, to be fetched again"
        )


def _open(store_dir: Path) -> "Store":
    from weft.checkpoints.store import Store

    return Store(store_dir, create=False)


def _verdicts(store: "Store") -> "list[Verdict]":
    digests = store.digests()
    verdicts = []
    with progress("verifying artifacts", len(digests)) as advance:
        for verdict in store.verify(digests):
            verdicts.append(verdict)
            advance(1)
    return verdicts


def _usage(found: "Usage") -> str:
    return (
        f"{found.objects} artifacts, {size(found.object_bytes)}; {found.pins} pins\n"
        f"{found.staged} in staging, {size(found.staged_bytes)}\n"
        f"{size(found.free_bytes)} free on this disk"
    )


def _collected(found: "Collected") -> str:
    return (
        f"removed {found.objects} artifacts and {found.staged} abandoned transfers, "
        f"{size(found.freed_bytes)} freed"
    )


def _checked(verdicts: "list[Verdict]", bad: "list[Verdict]") -> str:
    total = size(sum(verdict.size_bytes for verdict in verdicts))
    lines = [f"{len(verdicts)} artifacts, {total}: {len(bad)} corrupt"]
    return "\n".join([*lines, *(verdict.fault for verdict in bad)])
