"""`meshtrain publish`: a folder or a file into the mesh, under a name that jobs can read it by."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import Cli, act, ask, cli_of
from meshtrain.cli.output import painted, print_json, say
from meshtrain.cli.sending import Sending
from meshtrain.cli.submission import http_security, near_path
from meshtrain.cli.submit import http_url
from meshtrain.cli.working import working
from meshtrain.errors import UserError
from meshtrain.ids import new_id, short
from meshtrain.spec import kinds
from meshtrain.spec.inputs import variable_of
from meshtrain.wire.messages import PublishInput


def command(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder, or one file.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What job files call it.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a data set into the mesh under a name; jobs read it as an input.

    Publishing again under a name makes a new version; the same bytes stay the
    same version. A sweep uses the version that is the newest when it is
    submitted. Nodes take it from each other, and each only once.

    \b
    Examples:
      meshtrain publish data/pascal5i --name pascal5i
      meshtrain publish masks.zip --name masks
    """
    cli = cli_of(ctx)
    name = name or path.resolve().name
    try:
        kinds.NAME.check(name)
    except ValueError as error:
        raise UserError(f"{error}. Say what it is to be called: --name NAME") from None
    folder, files = _what(path)
    with cli.link() as link:
        url = http_url(cli, link)
        with working(f"hashing {path}") as step:
            artifact_id = asyncio.run(_send(cli, folder, files, url, Sending(step, str(path))))
        done = act(link, PublishInput(new_id("publish"), name, artifact_id))
        (row,) = ask(link, "inputs", done.done[:1]).rows
    if as_json:
        print_json({**row, "notes": list(done.notes)})
        return
    size = f"{words.size(row['size_bytes'])} in {words.count(row['files_count'], 'file')}"
    say(f"data set {painted(row['reference'], bold=True)}  {short(row['artifact_id'])}  {size}")
    for note in done.notes:
        say(f"note     {note}")
    say("")
    say(f"use      inputs: [{name}]   in a job file")
    say(f"         {{inputs.{name}}} in its command, or ${variable_of(name)}, is its folder")
    say("list     meshtrain inputs")


def _what(path: Path) -> tuple[Path, tuple[str, ...] | None]:
    """The folder, and the files of it that are taken; None takes all."""
    try:
        if path.is_dir():
            if not any(path.iterdir()):
                raise UserError(f"{path} is empty: there is nothing to publish")
            return path, None
        if path.is_file():
            return path.absolute().parent, (path.name,)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}. Mend its permissions") from error
    if path.exists():
        raise UserError(f"{path} is neither a folder nor a file. Check the path")
    raise UserError(f"there is no file or folder {path}{near_path(path)}")


async def _send(
    cli: Cli, folder: Path, files: tuple[str, ...] | None, url: str, steps: Sending
) -> str:
    from meshtrain.artifacts.upload import upload_tree

    security = http_security(cli.way.standing, url)
    return await upload_tree(folder, url, files=files, security=security, steps=steps)
