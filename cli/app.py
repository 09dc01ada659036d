"""The tree of commands: one table, each module imported when its command is called.

Importing this module loads typer and nothing of weft but the errors; `weft
--help` shows the table without opening a single command's module. A command's
module `weft.cli.<name>` exposes `app`, a `typer.Typer`, and imports what it
needs inside its functions.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from weft import __version__
from weft.cli.exits import INTERRUPTED, MISTAKE
from weft.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEntry:
    """One line of the table of commands."""

    name: str
    help: str
    panel: str

    @property
    def module(self) -> str:
        """The module that holds the command."""
        return f"weft.cli.{self.name}"


START, DAEMONS, RUNS, FILES = "Start here", "Daemons", "Runs", "Files and studies"

COMMANDS: tuple[CommandEntry, ...] = (
    CommandEntry(
        name="demo", panel=START, help="Four nodes learn together on this machine; a report."
    ),
    CommandEntry(
        name="init", panel=START, help="Write a run of your own: trainer, configs, certificates."
    ),
    CommandEntry(name="doctor", panel=START, help="Check this machine before it joins a run."),
    CommandEntry(
        name="coordinator", panel=DAEMONS, help="Serve runs: who is in them, and their plan."
    ),
    CommandEntry(name="node", panel=DAEMONS, help="Train, exchange and merge, as one member."),
    CommandEntry(name="run", panel=RUNS, help="Create, list, show, plan, pause, resume, stop."),
    CommandEntry(name="status", panel=RUNS, help="What the members of a run are doing."),
    CommandEntry(name="certs", panel=RUNS, help="The federation's certificates."),
    CommandEntry(name="apply", panel=FILES, help="A base and a delta or an adapter: the model."),
    CommandEntry(name="diff", panel=FILES, help="What a model changes of its base, as a delta."),
    CommandEntry(
        name="inspect", panel=FILES, help="A model in figures: tensors, norms, digest, faults."
    ),
    CommandEntry(
        name="methods", panel=FILES, help="The merge methods: what they do, need and take."
    ),
    CommandEntry(name="merge", panel=FILES, help="Merge models into one folder: any method."),
    CommandEntry(name="push", panel=FILES, help="A checkpoint into a stream on another machine."),
    CommandEntry(
        name="simulate", panel=FILES, help="Virtual nodes learn: topologies, schedules, rules."
    ),
    CommandEntry(name="store", panel=FILES, help="A store of artifacts: size, garbage, verify."),
    CommandEntry(
        name="stream", panel=FILES, help="Checkpoints stream in, one merged model is always there."
    ),
    CommandEntry(
        name="topology", panel=FILES, help="A graph in figures: gap, degrees, bytes a round."
    ),
)


def load(entry: CommandEntry) -> Any:
    """The command itself: imports its module."""
    command = get_command(importlib.import_module(entry.module).app)
    command.name = entry.name
    # Completion is the root's; typer adds its options to every app that does not object.
    completion = {"install_completion", "show_completion"}
    command.params = [option for option in command.params if option.name not in completion]
    return command


class LazyGroup(TyperGroup):
    """The root: knows every command's name and help, imports the one that is called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for entry in COMMANDS:
            self.commands[entry.name] = TyperCommand(
                name=entry.name, help=entry.help, rich_help_panel=entry.panel
            )
        self._entries = {entry.name: entry for entry in COMMANDS}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the arguments name, imported now; a typo names the nearest."""
        entry = self._entries.get(args[0])
        if entry is None:
            return super().resolve_command(ctx, args)
        return entry.name, load(entry), args[1:]


app = typer.Typer(
    cls=LazyGroup,
    name="weft",
    help="Merges models continually across nodes that never share data.",
    epilog="Example: weft demo",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; any command takes it.")
    ] = False,
) -> None:
    """Options of every command; `--debug` is taken off the arguments before this is called."""
    del debug
    if version:
        typer.echo(f"weft {__version__}")
        raise typer.Exit


def call(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name.

    Args:
        arguments: what stands after `weft`.

    Returns:
        The exit code: a command's own, or 0.

    Raises:
        InvalidInput: the arguments cannot be parsed; says which help to read.
    """
    command = get_command(app)
    try:
        result = command.main(
            args=list(arguments) or ["--help"], prog_name="weft", standalone_mode=False
        )
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a private class; its help is shown
            return MISTAKE
        context = getattr(error, "ctx", None)
        asked = context.command_path if context else "weft"
        message = error.format_message().rstrip(".")
        raise InvalidInput(f"{message}; see '{asked} --help'") from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    if result == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0
