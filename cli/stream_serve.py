"""`weft stream serve`: a stream that takes checkpoints until it is stopped."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `weft stream`."""
