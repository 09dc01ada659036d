"""What a stream keeps in its store, and whether what it keeps is whole."""

from weft.node.continual.errors import StreamCorrupt
from weft.node.continual.files import BASE
from weft.node.continual.parts import Parts
from weft.node.continual.records import Contribution, Status
from weft.node.continual.spec import Keep


def tidy(parts: Parts, base: str) -> None:
    """Keep what may be needed, and nothing else.

    Args:
        parts: of the stream.
        base: digest of its base.
    """
    store, queue = parts.store, parts.queue
    kept = queue.generations[-parts.spec.retain - 1 :]
    wanted = {(each.state, "state") for each in kept if each.state}
    wanted |= {(c.digest, owner_of(c)) for c in queue.contributions if _keeps(parts.spec.keep, c)}
    if parts.spec.keep is not Keep.NONE:
        # Whoever goes back to one of these generations must be able to go on from there.
        within = map(queue.contribution, {seq for each in kept for seq in each.members})
        wanted |= {(c.digest, owner_of(c)) for c in within if c.status is not Status.REVOKED}
    wanted.add((base, BASE))
    held = set(store.pins())
    for digest, owner in wanted - held:
        store.pin(digest, owner)
    for digest, owner in held - wanted:
        store.unpin(digest, owner)
    store.gc(keep_unpinned_s=0)
    parts.heads.keep_only(each.number for each in kept)


def owner_of(each: Contribution) -> str:
    """Who pins a contribution's artifact."""
    return f"contribution:{each.seq}"


def require_whole(parts: Parts, base: str) -> None:
    """Hash the base.

    Raises:
        StreamCorrupt: its bytes have changed; names the file.
    """
    for verdict in parts.store.verify([base]):
        if verdict.fault:
            path = parts.store.payload_path(base)
            raise StreamCorrupt(f"{path}: the base of the stream: {verdict.fault}")


def _keeps(keep: Keep, each: Contribution) -> bool:
    if each.status is Status.WAITING:
        return True
    # A checkpoint of a run can only be replaced while it is kept.
    return each.status is Status.ABSORBED and (keep is not Keep.NONE or bool(each.lineage))
