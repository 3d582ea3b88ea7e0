"""`meshtrain`: the commands, each loaded when it is asked for.

A command is a module with a `command`: a function with typer's annotations, or
a typer app where it has commands of its own. Those of the daemons and the
dashboard come through the entry points `meshtrain.commands`.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

import meshtrain
from meshtrain.errors import MeshtrainError, UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "meshtrain.commands"
FAILED = 1
WRONG_USE = 2


class _Entry(NamedTuple):
    panel: str
    summary: str
    module: str | None = None
    """None: it comes through an entry point."""


COMMANDS: dict[str, _Entry] = {
    "demo": _Entry("Try", "Run a whole mesh on this machine, and a sweep on it.", "demo"),
    "chaos": _Entry("Try", "Hurt a mesh on this machine, and see that all holds.", "chaos"),
    "plan": _Entry("Submit", "Show what a job file comes to; start nothing.", "plan"),
    "submit": _Entry("Submit", "Give a job file to the mesh.", "submit"),
    "publish": _Entry("Submit", "Put a data set into the mesh, for jobs to read.", "publish"),
    "inputs": _Entry("Submit", "List the data sets of the mesh.", "inputs"),
    "schema": _Entry("Submit", "Print the JSON Schema of job files.", "schema"),
    "jobs": _Entry("Watch", "List sweeps and their jobs.", "jobs"),
    "logs": _Entry("Watch", "Print what a job wrote.", "logs"),
    "why": _Entry("Watch", "Say why a job waits, and what would start it sooner.", "why"),
    "results": _Entry("Watch", "Merge a sweep's results into a table.", "results"),
    "top": _Entry("Watch", "Watch the mesh in a dashboard."),
    "record": _Entry("Watch", "Record the mesh, to be played back in the dashboard.", "record"),
    "cancel": _Entry("Change", "Cancel jobs or whole sweeps.", "cancel"),
    "retry": _Entry("Change", "Run failed and cancelled jobs again.", "retry"),
    "priority": _Entry("Change", "Let jobs run sooner or later than others.", "priority"),
    "budget": _Entry("Change", "Show or set what a sweep may use of the GPUs.", "budget"),
    "nodes": _Entry("Mesh", "List the nodes.", "nodes"),
    "drain": _Entry("Mesh", "Let a node take no new jobs.", "drain"),
    "bases": _Entry("Mesh", "List the base models, or rebuild one.", "bases"),
    "token": _Entry("Mesh", "Print a word that lets a host or a person join.", "token"),
    "join": _Entry("Mesh", "Join a mesh with a token, to give it commands from here.", "join"),
    "install": _Entry("Mesh", "Put the daemons under systemd on this host.", "install"),
    "doctor": _Entry("Mesh", "Check this host, and say how to mend it.", "doctor"),
    "backup": _Entry("Mesh", "Write the master's store and keys into one file.", "backup"),
    "restore": _Entry("Mesh", "Put a backup in place of the master's store.", "restore"),
    "completion": _Entry("Mesh", "Make a shell complete commands and names.", "completion"),
    "master": _Entry("Run", "Run the master: broker, scheduler, job store and inbox."),
    "worker": _Entry("Run", "Run a node: it takes jobs, runs them and serves artifacts."),
}
"""All commands that are known by name, in the order of the help."""


_PLAINLY = {
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "write a whole number",
    "Input should be a valid number, unable to parse string as a number": "write a number",
}
"""What some versions of typer tell of a wrong value → what people read."""
_AS_JSON = "meshtrain.as_json"
_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""The error of wrong use of typer's own copy of click, or of click: versions differ."""


class PlainGroup(TyperGroup):
    """Lists its commands by their first sentence, none of them cut short."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands, each with its first sentence."""
        rows = []
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            paragraph = (command.help or "").strip().partition("\n\n")[0]
            rows.append((name, " ".join(paragraph.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class MeshGroup(TyperGroup):
    """Finds commands by name, and tells expected failures in one message."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        found = _entry_points()
        own = [name for name, entry in COMMANDS.items() if entry.module or name in found]
        return own + sorted(set(found) - set(COMMANDS))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, loaded; a usage error with a did-you-mean for an unknown name."""
        entry = COMMANDS.get(cmd_name)
        if entry is not None and entry.module:
            loaded = import_module(f"meshtrain.cli.{entry.module}").command
        else:
            found = _entry_points().get(cmd_name)
            if found is None:
                if ctx.resilient_parsing:
                    return None
                return ctx.fail(_unknown(cmd_name, self.list_commands(ctx), entry))
            loaded = found.load()
        return as_command(cmd_name, loaded)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The commands by what they are for; none of them is loaded for it."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            entry = COMMANDS.get(name)
            if entry is None:
                command = self.get_command(ctx, name)
                entry = _Entry("More", command.get_short_help_str(60))
            panels.setdefault(entry.panel, []).append((name, entry.summary))
        width = max((len(name) for rows in panels.values() for name, _ in rows), default=0)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in rows])

    def summary_of(self, name: str) -> str:
        """What a command is for, without loading it; empty for one that isn't known by name."""
        entry = COMMANDS.get(name)
        return entry.summary.removesuffix(".") if entry is not None else ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the group's own options; whether JSON is asked for is noted for its errors."""
        ctx.meta[_AS_JSON] = "--json" in args
        try:
            rest: list[str] = super().parse_args(ctx, args)
            return rest
        except _UsageError as error:
            _print_error(ctx, "usage", error.format_message(), WRONG_USE)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a MeshtrainError becomes its message and an exit code.

        With --json, an error is printed as JSON too: see docs/reference/commands.md.
        """
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except MeshtrainError as error:
            message = f"{error}{_home_text(ctx, error)}"
            _tell(message)
            code = WRONG_USE if isinstance(error, UserError) else FAILED
            _print_error(ctx, kind_of(error), message, code, places_of(error))
            raise typer.Exit(code) from error
        except _UsageError as error:
            for told, plainly in _PLAINLY.items():
                error.message = error.message.replace(told, plainly)
            _print_error(ctx, "usage", error.format_message(), WRONG_USE)
            raise
        except BrokenPipeError:
            # Whoever read the output has read enough: `meshtrain jobs | head`.
            _forget_stdout()
            raise typer.Exit(0) from None


def _tell(message: str) -> None:
    # Only here: help is shown without loading what tables need.
    from meshtrain.cli.output import tell

    tell(message)


def _home_text(ctx: Any, error: MeshtrainError) -> str:
    """Of a master that is away: what the home that was given says of it."""
    home = getattr(ctx.obj, "home", None)
    if kind_of(error) != "master_away" or home is None or (home / "master.json").exists():
        return ""
    if not home.exists():
        return f". {home}, given as the home, is not there: check --home or MESHTRAIN_HOME"
    if (home / "state").is_dir():
        return f". The master of {home} does not run: meshtrain master --home {home}"
    return ""


def kind_of(error: MeshtrainError) -> str:
    """What sort of error it is, for programs: `MasterAwayError` is `master_away`."""
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def places_of(error: MeshtrainError) -> list[dict[str, Any]]:
    """Each problem of a job file, with its place."""
    found = []
    for problem in getattr(error, "problems", ()):
        line, column = problem.spot or (None, None)
        where = ".".join(map(str, problem.path))
        found.append({"line": line, "column": column, "where": where, "text": problem.text})
    return found


def _print_error(
    ctx: Any, kind: str, message: str, exit_code: int, problems: list[dict[str, Any]] | None = None
) -> None:
    """The error as the one JSON document of a command that was to print JSON."""
    if not ctx.meta.get(_AS_JSON):
        return
    document: dict[str, Any] = {"kind": kind, "message": message, "exit_code": exit_code}
    if problems:
        document["problems"] = problems
    typer.echo(json.dumps({"error": document}, indent=2, ensure_ascii=False))


def as_command(name: str, loaded: Any) -> Any:
    """A function or a typer app as a command of the group."""
    if isinstance(loaded, typer.Typer):
        app = loaded
    else:
        app = plain_app()
        app.command(name)(loaded)
    command = typer.main.get_command(app)
    command.name = name
    return command


def plain_app(**options: Any) -> typer.Typer:
    """A typer app in the style of all commands: plain help, errors as they are."""
    options.setdefault("cls", PlainGroup)
    return typer.Typer(
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _unknown(name: str, known: list[str], entry: _Entry | None) -> str:
    if entry is not None:
        return f"{name} is not installed here: install meshtrain whole, see docs/INSTALL.md"
    close = difflib.get_close_matches(name, known, n=1)
    return f'no command is called "{name}"' + (f'; did you mean "{close[0]}"?' if close else ".")


def _forget_stdout() -> None:
    """Lets the interpreter's last flush go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"meshtrain {meshtrain.__version__}")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    master: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="MESHTRAIN_MASTER",
            help="The master to ask; by default the one of --home, else 127.0.0.1:7470.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", envvar="MESHTRAIN_HOME", help="Folder that all state lies in."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Patience with each answer.")
    ] = 5.0,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    """Trains each base model once and runs all experiments on it, across a handful of hosts.

    \b
    See it work:      meshtrain demo
    See a plan:       meshtrain plan sweep.yaml
    Give it work:     meshtrain submit sweep.yaml
    """
    if ctx.invoked_subcommand is None:
        return
    from meshtrain.cli.context import Cli, cli_from

    ctx.obj = cli_from(master, home, timeout, ctx.obj if isinstance(ctx.obj, Cli) else None)


def build() -> typer.Typer:
    """The whole command line as a typer app."""
    app = plain_app(cls=MeshGroup, no_args_is_help=True)
    callback: Callable[..., Any] = app.callback()
    callback(_options)
    return app


def main() -> None:
    """Run the command line, and exit."""
    build()(prog_name="meshtrain")


if __name__ == "__main__":
    main()
