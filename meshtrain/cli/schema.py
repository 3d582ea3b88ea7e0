"""`meshtrain schema`: what may stand in a job file."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli.output import print_json


def command(
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every key with its meaning, for people.")
    ] = False,
) -> None:
    """Print the JSON Schema of job files, so that editors complete and check them.

    \b
    Examples:
      meshtrain schema > meshtrain.schema.json
      meshtrain schema --explain | less

    In a YAML file, editors find it by the first line
    `# yaml-language-server: $schema=meshtrain.schema.json`.
    """
    from meshtrain.spec import schema

    if explain:
        typer.echo(schema.explain(), nl=False)
    else:
        print_json(schema.json_schema())
