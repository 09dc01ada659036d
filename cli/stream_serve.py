"""`weft stream serve`: a stream that takes checkpoints until it is stopped."""

from pathlib import Path
from typing import Annotated

import typer

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The stream's folder.")]
Watch = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Take what training jobs write there.")
]
Listen = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Take what `weft push` sends; port 0: a free one.")
]
Credentials = Annotated[
    Path | None,
    typer.Option(
        envvar="WEFT_CREDENTIALS", metavar="FOLDER", help="With --listen: its certificate."
    ),
]
Revoked = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The authority's revoked.json; read again on change."),
]
Metrics = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Figures for Prometheus, without any login.")
]
Settle = Annotated[
    float, typer.Option(min=0, help="Seconds for which a watched checkpoint is unchanged.")
]
Rescan = Annotated[
    float, typer.Option(min=0.1, help="Seconds between looks at all of the watched folder.")
]
Prefix = Annotated[
    str,
    typer.Option(help="Of watched torch.distributed checkpoints: only tensors that begin with it."),
]
Threads = Annotated[int, typer.Option(min=0, help="Workers; 0: one a core.")]
Memory = Annotated[
    str | None, typer.Option(help="The most that work under way may take; a quarter of it all.")
]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]

LEVELS = ("debug", "info", "warning", "error")


def serve_command(
    folder: Dir,
    watch: Watch = None,
    listen: Listen = "",
    credentials: Credentials = None,
    revoked: Revoked = None,
    metrics: Metrics = "",
    settle: Settle = 3.0,
    rescan: Rescan = 10.0,
    prefix: Prefix = "",
    threads: Threads = 0,
    memory: Memory = None,
    log_level: LogLevel = "info",
) -> None:
    """Take checkpoints into a stream until it is stopped, and absorb them one by one.

    Give a folder that training jobs write to, an address for `weft push`, or both. The
    merged model is DIR/head all the time. Ctrl-C ends it within five seconds; the next start
    goes on where it was.
    """
    import asyncio
    import os

    from weft.cli.merge import memory_allowed
    from weft.errors import InvalidInput
    from weft.node.continual.daemon import StreamServerConfig, serve
    from weft.protocol.logs import configure_logs

    if log_level not in LEVELS:
        raise InvalidInput(f"--log-level: found {log_level!r}, expected one of {', '.join(LEVELS)}")
    config = StreamServerConfig(
        folder=folder,
        watch=watch,
        listen=listen,
        credentials=credentials if listen else None,
        revoked=revoked,
        metrics=metrics,
        threads=threads or os.cpu_count() or 1,
        memory_bytes=memory_allowed(memory),
        settle_s=settle,
        rescan_s=rescan,
        prefix=prefix,
    )
    configure_logs(log_level, stream=folder.resolve().name)
    asyncio.run(serve(config))


def register(app: typer.Typer) -> None:
    """Add the command to `weft stream`."""
    app.command("serve", epilog="Example: weft stream serve merged --watch runs")(serve_command)
