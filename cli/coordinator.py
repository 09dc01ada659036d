"""`weft coordinator`: serves runs until it is stopped."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)


@app.command(epilog="Example: weft coordinator --config coordinator.toml")
def coordinator(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The coordinator's configuration, a TOML file.")
    ],
) -> None:
    """Serve runs: who is in them, and their plan.

    Keeps every run in its data folder, and goes on where it was when it is started
    again. Nodes that are training go on while it is away.
    """
    import asyncio

    from weft.coordinator.config import load_config
    from weft.coordinator.daemon import serve
    from weft.protocol.logs import configure_logs

    loaded = load_config(config)
    configure_logs(loaded.log_level)
    asyncio.run(serve(loaded))
