"""What order-free sums cost: python benchmarks/exact_sums.py.

Sums w (theta - base) over models in three ways, on one thread, in the pieces in which
the engine works: with plain float32 additions, with plain float64 additions, and with
the exact Sum of a fold. The first table is the bare addition, the second the whole
path (difference, weight, addition), the third `merge` of the engine from memory to
memory beside the same work in a plain loop.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from weft.checkpoints.engine import PIECE_ELEMENTS, Contribution, merge
from weft.checkpoints.reader import MemoryReader
from weft.checkpoints.schema import Schema
from weft.merging.folding import FoldState
from weft.merging.method import Facts
from weft.merging.methods.mean import Mean
from weft.merging.methods.task_arithmetic import TaskArithmetic
from weft.merging.sums import Sum

Work = Callable[[], None]


class Discard:
    """Takes blocks and forgets them."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def write(self, name: str, data: Tensor | Iterable[Tensor]) -> None:
        """Make every block, keep none."""
        for _ in data:
            pass


def pieces(elements: int) -> Iterator[slice]:
    for start in range(0, elements, PIECE_ELEMENTS):
        yield slice(start, min(start + PIECE_ELEMENTS, elements))


def bare_plain(models: list[Tensor], dtype: torch.dtype) -> Work:
    def work() -> None:
        for piece in pieces(models[0].numel()):
            total = torch.zeros(PIECE_ELEMENTS, dtype=dtype)
            for model in models:
                total.add_(model[piece])

    return work


def bare_exact(models: list[Tensor]) -> Work:
    def work() -> None:
        field = Sum()
        for piece in pieces(models[0].numel()):
            cell = field.zero((PIECE_ELEMENTS,))
            for model in models:
                field.combine(cell, field.element(model[piece], ""), "")
            field.value(cell)

    return work


def whole_plain(models: list[Tensor], base: Tensor, dtype: torch.dtype) -> Work:
    def work() -> None:
        for piece in pieces(base.numel()):
            start = base[piece].to(dtype)
            total = torch.zeros(PIECE_ELEMENTS, dtype=dtype)
            for model in models:
                total.add_((model[piece].to(dtype) - start).mul_(0.25))
            (total.mul_(0.3) + start).to(base.dtype)

    return work


def whole_exact(models: list[Tensor], base: Tensor) -> Work:
    method = TaskArithmetic()
    facts = Facts(contribution="", weight=0.25)

    def work() -> None:
        for piece in pieces(base.numel()):
            start = base[piece].to(torch.float64)
            state = FoldState.zero(method, "", (PIECE_ELEMENTS,))
            for model in models:
                state.add(model[piece].to(torch.float64).sub_(start), facts)
            (state.finish(start) + start).to(base.dtype)

    return work


def engine(models: list[Tensor], base: Tensor) -> Work:
    origin = MemoryReader({"w": base})
    readers = [MemoryReader({"w": model}) for model in models]
    contributions = [
        Contribution(name=str(index), reader=reader, weight=1.0)
        for index, reader in enumerate(readers)
    ]
    sink = Discard(origin.schema)
    return lambda: merge(Mean(), origin, contributions, own=readers[0], sink=sink)


def nanoseconds(works: Mapping[str, Work], units: int, repeats: int) -> dict[str, float]:
    """Median nanoseconds of processor time a unit; the candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            before = time.process_time()
            work()
            if repeat > 0:
                times[name].append(time.process_time() - before)
    return {name: statistics.median(values) / units * 1e9 for name, values in times.items()}


def show(title: str, found: Mapping[str, float]) -> None:
    print(f"{title}\n{'':24}{'ns':>8}{'x float32':>12}{'x float64':>12}")
    for name, value in found.items():
        ratios = f"{value / found['float32']:12.2f}{value / found['float64']:12.2f}"
        print(f"  {name:22}{value:8.2f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--elements", type=int, default=2**22, help="a multiple of 65536")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(given.elements, generator=generator) * 0.02
    models = [
        base + torch.randn(given.elements, generator=generator) * 0.001 for _ in range(given.models)
    ]
    units = given.models * given.elements
    bare: dict[str, Work] = {
        "float32": bare_plain(models, torch.float32),
        "float64": bare_plain(models, torch.float64),
        "exact": bare_exact(models),
    }
    whole: dict[str, Work] = {
        "float32": whole_plain(models, base, torch.float32),
        "float64": whole_plain(models, base, torch.float64),
        "exact": whole_exact(models, base),
        "exact, engine": engine(models, base),
    }
    print(f"{given.models} models, {given.elements} elements; ns per element and model, medians")
    show("addition alone", nanoseconds(bare, units, given.repeats))
    show("sum of w (theta - base)", nanoseconds(whole, units, given.repeats))


if __name__ == "__main__":
    main()
