"""A demo from certificates to stopped processes; whoever watches is told how it goes."""

import asyncio
import time
from collections.abc import Callable

from weft.errors import Refused, Unavailable
from weft.protocol.identity import COORDINATOR_NAME
from weft.protocol.run import RunState
from weft.simulations.demo.daemons import Fleet, free_port
from weft.simulations.demo.operator import ASK_EVERY_S, Operator, Progress
from weft.simulations.demo.outcome import Traffic
from weft.simulations.demo.settings import DemoFolder, DemoSettings
from weft.simulations.demo.stage import set_stage, write_inputs

LEAVE_S = 15.0


def perform(
    settings: DemoSettings,
    folder: DemoFolder,
    daemons: Fleet,
    *,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[Progress], None] = lambda _: None,
) -> tuple[Traffic, float]:
    """Start a coordinator and the nodes, and wait until the run is over and all have ended.

    Args:
        settings: the demo.
        folder: empty, see `stage.clear`.
        daemons: none yet; the caller stops them if this fails.
        say: told of what begins.
        show: told how the run goes.

    Returns:
        Bytes on the wire, and seconds from the first process to the last result.

    Raises:
        DaemonDied: a daemon ended before its time.
        Refused: somebody stopped the run.
    """
    began = time.monotonic()
    address = f"127.0.0.1:{free_port()}"
    set_stage(folder, settings, coordinator=address)
    config = str(folder.config(COORDINATOR_NAME))
    daemons.start(
        COORDINATOR_NAME, ["coordinator", "--config", config], folder.log(COORDINATOR_NAME)
    )
    write_inputs(folder, settings)
    say(f"{settings.nodes} nodes and a coordinator at {address}; logs in {folder.path}/logs")
    traffic = asyncio.run(_played(settings, folder, daemons, show, address))
    seconds = time.monotonic() - began
    daemons.wait(settings.names, LEAVE_S)
    daemons.stop()
    return traffic, seconds


async def _played(
    settings: DemoSettings,
    folder: DemoFolder,
    daemons: Fleet,
    show: Callable[[Progress], None],
    address: str,
) -> Traffic:
    """Create the run, start the nodes, show how it goes until it is over."""
    operator = Operator(folder, address)
    try:
        await operator.wait_until_reached(daemons.require_alive)
        await operator.create_run(settings)
        for name in settings.names:
            daemons.start(name, ["node", "--config", str(folder.config(name))], folder.log(name))
        while True:
            try:
                progress = await operator.progress()
            except Unavailable:
                daemons.require_alive()  # the coordinator's last words say more
                raise
            show(progress)
            if progress.is_over:
                break
            daemons.require_alive()
            await asyncio.sleep(ASK_EVERY_S)
    finally:
        await operator.close()
    if progress.state is RunState.STOPPED:
        raise Refused("the run was stopped before it was finished")
    return Traffic(
        sent={name: report.bytes_sent for name, report in progress.reports.items()},
        received={name: report.bytes_received for name, report in progress.reports.items()},
    )
