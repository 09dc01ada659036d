"""What a stream is made of, opened: for whoever takes contributions in and makes generations."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from weft.checkpoints.blocks import RangeReader
from weft.checkpoints.parallel import Workers
from weft.checkpoints.reader import FileReader
from weft.checkpoints.store import Store
from weft.merging.method import Method
from weft.node.continual.files import HEAD, STORE, Identity
from weft.node.continual.head import HeadFolder
from weft.node.continual.kept import KeptContributions
from weft.node.continual.queue import Queue
from weft.node.continual.spec import StreamSpec
from weft.node.continual.states import States


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of a stream; see the modules that they come from."""

    folder: Path
    spec: StreamSpec
    method: Method
    store: Store
    base: RangeReader
    kept: KeptContributions
    states: States
    heads: HeadFolder
    queue: Queue
    workers: Workers


def open_parts(
    folder: Path, identity: Identity, queue: Queue, workers: Workers, stack: ExitStack
) -> Parts:
    """Open the parts; the stack closes them."""
    spec, method = identity.spec, identity.spec.create()
    store = Store(folder / STORE, create=False)
    base = stack.enter_context(FileReader(store.payload_path(identity.base)))
    return Parts(
        folder=folder,
        spec=spec,
        method=method,
        store=store,
        base=base,
        kept=KeptContributions(store, base, identity.base, spec.keep),
        states=States(store, base, method, spec.precision, workers),
        heads=HeadFolder(folder / HEAD, base.schema, spec.shard_bytes),
        queue=queue,
        workers=workers,
    )
