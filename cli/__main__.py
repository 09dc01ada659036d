"""The entry point of `weft` and of `python -m weft.cli`."""

import os
import sys
from collections.abc import Sequence

from weft import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    `--version` is answered before anything else is imported, and `--debug` is
    taken wherever it stands: both belong to every command.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        sys.stdout.write(f"weft {__version__}\n")
        return 0
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    if debug:
        given.remove("--debug")

    # grpc reads it as it is imported: what it logs by itself is not for people.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from weft.cli.app import call
    from weft.cli.exits import run_command

    return run_command(lambda: call(given), debug=debug)


if __name__ == "__main__":
    sys.exit(main())
