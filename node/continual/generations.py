"""Making generations: the next state of a stream, and the head that it stands for.

Nothing here is in effect before the journal says so: a state that nobody pins and shards
that no index names are swept away by the next process.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from weft.checkpoints.dtypes import TORCH_DTYPES
from weft.checkpoints.schema import TensorSpec
from weft.checkpoints.task_vectors import all_finite
from weft.merging.errors import NonFinite
from weft.merging.mean_norm import factor_to, mean_norm
from weft.merging.method import Sequential
from weft.merging.streaming import removes_exactly
from weft.node.continual.arrival import Arrival, norm_and_overlap
from weft.node.continual.errors import NotKept, StreamCorrupt, Unfit
from weft.node.continual.gate import score
from weft.node.continual.parts import Parts
from weft.node.continual.queue import Advance
from weft.node.continual.records import Cause, Contribution, Generation, beyond, spans_of
from weft.node.continual.scales import TRIED, warnings_of
from weft.node.continual.states import MergedState, Step

AT_ONCE: Final = 32
"""Contributions that a replay has open at a time."""

Move = tuple[int, bool]
"""The number of a contribution, and whether it comes in (or goes out)."""


class Generations:
    """Makes the next generation of a stream from the newest one."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._queue = parts.queue

    def make(self, due: Advance, at: float) -> Generation:
        """The generation that is due: its state and its shards are durable, and not in effect.

        Raises:
            Unfit: the gate does not let it pass, or a contribution's bytes have rotted.
            NonFinite, OutOfBound, FoldFull: the method refuses a contribution.
            NotKept: what is needed again is gone.
            DiskFull: no room.
        """
        made = Generation(
            number=self._queue.generation.number + 1,
            cause=due.cause,
            contribution=due.contribution,
            state=self._next_state(due),
            head="",
            spans=spans_of(due.members),
            at=at,
        )
        if due.back_to is not None:
            past = self._queue.past(due.back_to)
            return replace(self._with_head(made, past.scale), score=past.score)
        if self._parts.spec.gate and due.cause is not Cause.REVOKED:
            return self._past_the_gate(made, due)
        scale = self._parts.spec.scale
        if scale == "auto":
            # Chosen by the gate when something came in last; without one there is no choice.
            scale = self._queue.generation.scale
        return self._with_head(made, float(scale))

    def moves(self, members: Sequence[int]) -> list[Move]:
        """Who goes out of the newest state and who comes in; everybody, for a replay."""
        before, after = self._queue.generation.spans, spans_of(members)
        gone = list(beyond(before, after))
        if gone and not removes_exactly(self._parts.method, self._parts.spec.precision):
            return [(seq, True) for seq in members]
        return [
            *((seq, False) for seq in gone),
            *((seq, True) for seq in beyond(after, before)),
        ]

    def require_kept(self, moves: Sequence[Move], what: str) -> None:
        """Check that all who move can be read.

        Raises:
            NotKept: some cannot; names them.
        """
        store = self._parts.store
        lost = [seq for seq, _ in moves if not store.has(self._queue.contribution(seq).digest)]
        if lost:
            shown = ", ".join(str(seq) for seq in lost[:5])
            raise NotKept(
                f"{what}: contributions {shown} are needed again and were not kept"
                f" (--keep {self._parts.spec.keep}); nothing has changed"
            )

    def overlap(self, due: Advance) -> float | None:
        """Cosine of who comes in to what was merged before; None where nobody does."""
        if due.cause not in (Cause.ABSORBED, Cause.REPLACED) or due.contribution is None:
            return None
        each, newest = self._queue.contribution(due.contribution), self._queue.generation
        parts = self._parts
        with parts.kept.open(each) as reader, parts.heads.open(newest.number) as head:
            specs = parts.base.schema.parameters
            return norm_and_overlap(reader, parts.base, head, specs, each.name)[1]

    def write_head(self, made: Generation) -> tuple[str, float]:
        """Write the shards of a generation; returns their digest, and the norm of the change."""
        base, heads = self._parts.base, self._parts.heads
        if not made.state:
            return heads.write(made.number, lambda spec: base.blocks(spec.name)), 0.0
        squares: list[float] = []
        with self._parts.states.merged(made.state) as merged:
            factor = made.scale * self._factor(merged, made.members)

            def blocks_of(spec: TensorSpec) -> Iterator[Tensor]:
                if spec.kind != "parameter":
                    yield from base.blocks(spec.name)
                    return
                change = merged.task_vector(spec).mul_(factor)
                squares.append(float(torch.dot(change, change)))
                yield self._moved(spec, change)

            digest = heads.write(made.number, blocks_of)
        return digest, math.sqrt(math.fsum(squares))

    def _next_state(self, due: Advance) -> str:
        """Digest of the state of what will be in the merge."""
        if due.back_to is not None and self._has_state(due.back_to):
            return self._queue.past(due.back_to).state
        if not due.members:
            return ""
        moves = self.moves(due.members)
        self.require_kept(moves, f"generation {self._queue.generation.number + 1}")
        replays = len(moves) == len(due.members) and all(comes for _, comes in moves)
        state = "" if replays else self._queue.generation.state
        norms = math.fsum(self._norms(due.members))
        for start in range(0, len(moves), AT_ONCE):
            with ExitStack() as stack:
                steps: list[Step] = [
                    (self._arrival(self._queue.contribution(seq), due, stack), comes)
                    for seq, comes in moves[start : start + AT_ONCE]
                ]
                before, state = state, self._parts.states.advance(state, steps, norms)
            if start and before != state:
                self._parts.store.remove(before)  # only a stage on the way; nobody pins it
        return state

    def _has_state(self, number: int) -> bool:
        state = self._queue.past(number).state
        return not state or self._parts.store.has(state)

    def _arrival(self, each: Contribution, due: Advance, stack: ExitStack) -> Arrival:
        for verdict in self._parts.store.verify([each.digest]):
            if verdict.fault:
                # A newcomer is not set aside for what has become of another one.
                comes_in = due.cause in (Cause.ABSORBED, Cause.REPLACED)
                others = comes_in and each.seq != due.contribution
                raise (StreamCorrupt if others else Unfit)(
                    f"contribution {each.seq}, {each.name}: {verdict.fault}"
                    + ("; it is needed again: revoke it, or restore the store" if others else "")
                )
        return Arrival(
            name=f"{each.seq:09}",
            reader=stack.enter_context(self._parts.kept.open(each)),
            base=self._parts.base,
            weight=each.weight,
            key=bytes.fromhex(each.digest),
            method=self._parts.method,
            precision=self._parts.spec.precision,
            workers=self._parts.workers,
        )

    def _norms(self, members: Sequence[int]) -> list[float]:
        found = (self._queue.contribution(seq) for seq in members)
        return [abs(each.weight) * (each.norm or 0.0) for each in found]

    def _factor(self, merged: MergedState, members: Sequence[int]) -> float:
        """What a method that keeps the mean norm leaves to whoever merges."""
        method = self._parts.method
        if not (isinstance(method, Sequential) and method.keeps_mean_norm):
            return 1.0
        vectors = map(merged.task_vector, self._parts.base.schema.parameters)
        squares = math.fsum(float(torch.dot(vector, vector)) for vector in vectors)
        weighted = [
            norm
            for norm, seq in zip(self._norms(members), members, strict=True)
            if self._queue.contribution(seq).weight != 0
        ]
        return factor_to(mean_norm(weighted), math.sqrt(squares), "the merged model")

    def _moved(self, spec: TensorSpec, change: Tensor) -> Tensor:
        """The base's tensor plus a change, which is used up; rounded once."""
        start = 0
        for block in self._parts.base.blocks(spec.name):
            change[start : start + block.numel()] += block.to(torch.float64)
            start += block.numel()
        moved = change.to(TORCH_DTYPES[spec.dtype])
        if not all_finite(moved):
            raise NonFinite(f"tensor {spec.name!r}: the merged model is not finite in {spec.dtype}")
        return moved

    def _with_head(self, made: Generation, scale: float) -> Generation:
        made = replace(made, scale=scale)
        head, norm = self.write_head(made)
        return replace(made, head=head, norm=norm)

    def _past_the_gate(self, made: Generation, due: Advance) -> Generation:
        scale = self._parts.spec.scale
        scales = TRIED if scale == "auto" else (float(scale),)
        best = max((self._judged(made, each) for each in scales), key=lambda each: each.score or 0)
        self._require_score(best, due)
        if scale == "auto":
            spec, method = self._parts.spec, self._parts.method
            best = replace(best, warnings=warnings_of(spec.method, method, best.scale))
        # Where several were tried, another one was written last.
        return best if best.scale == scales[-1] else self._with_head(best, best.scale)

    def _judged(self, made: Generation, scale: float) -> Generation:
        made = self._with_head(made, scale)
        with self._parts.heads.candidate(made.number) as folder:
            return replace(made, score=score(self._parts.spec.gate, folder))

    def _require_score(self, made: Generation, due: Advance) -> None:
        """A contribution must not lower the score by more than the bound."""
        if due.cause not in (Cause.ABSORBED, Cause.REPLACED) or made.score is None:
            return
        before = self._score_now()
        if made.score < before - self._parts.spec.gate_bound:
            raise Unfit(
                f"the gate scores {made.score:.6g} with it and {before:.6g} without; the bound"
                f" is {self._parts.spec.gate_bound:g}"
            )

    def _score_now(self) -> float:
        newest = self._queue.generation
        if newest.score is not None:
            return newest.score
        with self._parts.heads.candidate(newest.number) as folder:
            return score(self._parts.spec.gate, folder)
