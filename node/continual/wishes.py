"""Whether a revocation or a rollback can be done; looked at before anything is written."""

from weft.node.continual.errors import NotKept
from weft.node.continual.generations import Generations
from weft.node.continual.parts import Parts
from weft.node.continual.records import Status


def require_revocable(parts: Parts, generations: Generations, seq: int) -> None:
    """Check that a contribution can be taken out of the head.

    Raises:
        NoSuchContribution: there is none.
        NotKept: it is not in the head, or what the method needs for it was not kept.
    """
    each = parts.queue.contribution(seq)
    if each.status is not Status.ABSORBED:
        raise NotKept(f"contribution {seq} is {each.status}; only what is in the head goes out")
    kept = tuple(other for other in parts.queue.generation.members if other != seq)
    generations.require_kept(generations.moves(kept), f"contribution {seq} cannot be revoked")


def require_reachable(parts: Parts, generations: Generations, number: int) -> None:
    """Check that the stream can go back to a generation.

    Raises:
        NoSuchGeneration: there is none.
        NotKept: it holds what was revoked since; or its state is gone, and what is needed to
            make it again was not kept.
    """
    past = parts.queue.past(number)
    for seq in past.members:
        if parts.queue.contribution(seq).status is Status.REVOKED:
            raise NotKept(
                f"generation {number} holds contribution {seq}, which was revoked since;"
                " nothing has changed"
            )
    if past.state and not parts.store.has(past.state):
        moves = generations.moves(past.members)
        generations.require_kept(moves, f"generation {number} cannot be made again")
