"""`weft node`: one member of a run, until it is stopped."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog="Example: weft node --config node-a.toml")
def node(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The node's configuration, a TOML file.")
    ],
) -> None:
    """Train, exchange and merge, as one member of a run.

    The name of the node is its certificate's. A node that is stopped or killed
    goes on where it was when it is started again.
    """
    import asyncio

    from weft.node.config import load_node_config
    from weft.node.daemon import serve

    asyncio.run(serve(load_node_config(config)))
