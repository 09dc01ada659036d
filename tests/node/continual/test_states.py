"""States as artifacts: of one size, and worth what a merge of all at once is worth."""

from pathlib import Path

import pytest
import torch

from tests.checkpoints.test_engine import MemorySink
from tests.node.continual.streams import (
    COUNTER,
    SHAPES,
    STATISTICS,
    begun,
    model,
    newest,
    offered,
    outcome,
    read_head,
    same,
    save_models,
)
from weft.checkpoints.contribution import Contribution
from weft.checkpoints.engine import merge
from weft.checkpoints.reader import open_checkpoint
from weft.merging import registry
from weft.merging.errors import CannotMerge
from weft.merging.method import Fold
from weft.merging.precision import Precision
from weft.merging.streaming import require_streaming
from weft.node.continual.records import Status
from weft.node.continual.stream import Stream

COUNT = 4


def streams(name: str) -> bool:
    try:
        require_streaming(registry.create(name))
    except CannotMerge:
        return False
    return True


STREAMING = [name for name in registry.names() if streams(name)]
FOLDS = [name for name in STREAMING if isinstance(registry.create(name), Fold)]


def merged(models: Path, method: str) -> dict[str, torch.Tensor]:
    """What `weft merge` makes of the same contributions."""
    with open_checkpoint(models / "base") as base:
        sink = MemorySink(base.schema)
        paths = [models / f"c{number}" for number in range(1, COUNT + 1)]
        contributions = [
            Contribution(name=path.name, reader=open_checkpoint(path), weight=1.0) for path in paths
        ]
        merge(registry.create(method), base, contributions, base, sink)
        return sink.tensors


@pytest.mark.parametrize("method", FOLDS)
def test_the_head_is_what_a_merge_gives(method: str, models: Path, home: Path) -> None:
    """In any order, and with a stop after each."""
    folder = begun(home / "s", models, method)
    for number in (3, 1, 4, 2):
        with Stream(folder) as stream:
            offered(stream, [models / f"c{number}"])
    assert same(read_head(folder), merged(models, method))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["mean", "ties", "iso_c"])
def test_so_it_is_in_sixteen_bits(method: str, dtype: torch.dtype, home: Path) -> None:
    paths = save_models(home / "models", COUNT, dtype)
    with Stream(begun(home / "s", home / "models", method)) as stream:
        offered(stream, paths)
    assert same(read_head(home / "s"), merged(home / "models", method))


@pytest.mark.parametrize("method", STREAMING)
def test_states_are_of_one_size(method: str, models: Path, home: Path) -> None:
    """The same tensors in the same bytes; a stop after each leaves no trace."""
    paths = [models / f"c{number}" for number in (1, 2, 3)]
    folder, schemas, sizes = begun(home / "s", models, method), set(), set()
    for path in paths:
        with Stream(folder) as stream:
            offered(stream, [path])
            state = stream.queue.generation.state
            schemas.add(stream.parts.store.manifest(state).schema.tensors)
            sizes.add(stream.parts.store.payload_path(state).stat().st_size)
    assert len(schemas) == len(sizes) == 1
    with Stream(begun(home / "t", models, method)) as other:
        offered(other, paths)
        told = stream.parts.spec.state_bytes(stream.parts.base.schema)
        found = newest(other)
    assert outcome(folder) == found
    (size,) = sizes
    assert told < size < 1.5 * told + 2**14


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_leave_no_trace(threads: int, models: Path, home: Path) -> None:
    paths = [models / f"c{number}" for number in (1, 2, 3)]
    for method in ("ties", "opcm"):
        found = set()
        for count in (1, threads):
            folder = begun(home / f"{method}-{count}", models, method)
            with Stream(folder, threads=count) as stream:
                offered(stream, paths)
                found.add(newest(stream))
        assert len(found) == 1


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("method", ["mean", "iso_c", "opcm"])
def test_what_is_no_parameter_is_the_base_s(
    method: str, precision: Precision, models: Path, home: Path
) -> None:
    folder = begun(home / "s", models, method, precision=precision)
    with Stream(folder) as stream:
        offered(stream, [models / "c1", models / "c2"])
    found, base = read_head(folder), model(0)
    assert torch.equal(found[STATISTICS], base[STATISTICS])
    assert torch.equal(found[COUNTER], base[COUNTER])
    for name, shape in SHAPES.items():
        assert tuple(found[name].shape) == shape
        assert not found[name].numel() or not torch.equal(found[name], base[name])


@pytest.mark.parametrize("method", STREAMING)
def test_the_base_itself_moves_nothing(method: str, models: Path, home: Path) -> None:
    """A task vector of zeros is merged as any other: no quotient by its norm."""
    with Stream(begun(home / "s", models, method)) as stream:
        offered(stream, [models / "base"])
        assert same(read_head(home / "s"), model(0))
        offered(stream, [models / "c1"])
        statuses = {each.status for each in stream.queue.contributions}
        assert statuses == {Status.ABSORBED}
