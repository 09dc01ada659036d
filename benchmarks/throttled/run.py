"""The demo's daemons, each behind a proxy that bounds what it sends."""

import asyncio
import contextlib
from pathlib import Path
from statistics import mean

import numpy as np

from throttled.phases import Phases
from throttled.proxy import ThrottledProxy
from weft.checkpoints.store import Store
from weft.protocol.identity import COORDINATOR_NAME
from weft.simulations.demo.daemons import Fleet, fleet, free_port
from weft.simulations.demo.operator import ASK_EVERY_S, Operator
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.demo.stage import clear, set_stage, write_inputs
from weft.simulations.tasks.arrays import save_npz
from weft.simulations.tasks.digits import digits_arrays

LEAVE_S = 15.0


def enlarged_digits(path: Path, times: int) -> None:
    """The digits with each pixel many times as wide and high: a larger model for the demo."""
    arrays = digits_arrays()
    square = np.ones((times, times), dtype=np.float32)
    larger = {name: np.kron(arrays[name], square) for name in ("x_train", "x_test")}
    save_npz(path, {**arrays, **larger})


def run_daemons(settings: DemoSettings, folder: Path, bytes_s: float | None) -> Phases:
    """Run a demo to its end; the times of its journals.

    Args:
        settings: the demo.
        folder: to work in; made anew.
        bytes_s: what each node may send a second; None: all it can.
    """
    place = DemoFolder(path=folder)
    clear(place)
    with fleet() as daemons:
        asyncio.run(_play(settings, place, daemons, bytes_s))
        daemons.wait(settings.names, LEAVE_S)
    return Phases.read([place.log(name) for name in settings.names])


def contribution_bytes(folder: Path, settings: DemoSettings) -> float:
    """The mean size of the contributions to rounds, as they travelled."""
    sizes = []
    for name in settings.names:
        store = Store(DemoFolder(path=folder).data(name) / "store")
        manifests = [store.manifest(digest) for digest in store.digests()]
        sizes += [
            manifest.total_bytes
            for manifest in manifests
            if manifest.kind == "delta" and manifest.metadata.get("node") == name
        ]
    return mean(sizes)


async def _play(
    settings: DemoSettings, place: DemoFolder, daemons: Fleet, bytes_s: float | None
) -> None:
    address = f"127.0.0.1:{free_port()}"
    set_stage(place, settings, coordinator=address)
    daemons.start(
        COORDINATOR_NAME,
        ["coordinator", "--config", str(place.config(COORDINATOR_NAME))],
        place.log(COORDINATOR_NAME),
    )
    write_inputs(place, settings)
    async with contextlib.AsyncExitStack() as stack:
        for name in settings.names:
            port = free_port()
            proxy = await stack.enter_async_context(ThrottledProxy(port, bytes_s))
            _reach_through(place.config(name), port, proxy.port)
        operator = Operator(place, address)
        stack.push_async_callback(operator.close)
        await operator.wait_until_reached(daemons.require_alive)
        await operator.create_run(settings)
        for name in settings.names:
            daemons.start(name, ["node", "--config", str(place.config(name))], place.log(name))
        while not (await operator.progress()).is_over:
            daemons.require_alive()
            await asyncio.sleep(ASK_EVERY_S)


def _reach_through(config: Path, listen: int, advertised: int) -> None:
    """Let a node listen on one port and be reached at another; its log has every entry."""
    text = config.read_text()
    mine = (
        f'listen = "127.0.0.1:{listen}"\nadvertise = "127.0.0.1:{advertised}"\n'
        'log_level = "debug"\n'
    )
    config.write_text(text.replace('listen = "127.0.0.1:0"\n', mine))
