"""`meshtrain bases restore`: a base that all nodes lost, back from the archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from meshtrain.cli import words
from meshtrain.cli.context import Link, act, ask, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.cli.working import working
from meshtrain.errors import MeshtrainError
from meshtrain.ids import new_id
from meshtrain.wire.messages import RestoreBase

POLL_S = 0.5


class RestoreError(MeshtrainError):
    """Raised when the archive didn't give the base back."""


def restore(
    ctx: typer.Context,
    base: Annotated[
        str, typer.Argument(metavar="HASH", help="A recipe hash, or the first characters of it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring a lost base back from the archive into the master's store, instead of training it.

    \b
    Example:
      meshtrain bases restore 7f3a
    """
    cli = cli_of(ctx)
    restored: list[dict[str, Any]] = []
    with cli.link() as link:
        done = act(link, RestoreBase(new_id("restore"), base))
        for recipe_hash in done.done:
            name = words.base_name(recipe_hash)
            with working(f"{name} comes back from the archive") as step:
                size_bytes = wait_restored(link, recipe_hash, cli.sleep, step.reached)
            restored.append({"recipe_hash": recipe_hash, "size_bytes": size_bytes})
            if not as_json:
                say(f"{name} came back from the archive ({words.size(size_bytes)}), verified")
    if as_json:
        print_json({"restored": restored, "notes": done.notes})


def wait_restored(
    link: Link,
    recipe_hash: str,
    pause: Callable[[float], None],
    reached: Callable[[int, int], None] = lambda done_bytes, total_bytes: None,
) -> int:
    """Wait until a base is back; its size in bytes.

    Args:
        reached: told how many bytes of how many are there.

    Raises RestoreError with the master's words when it can't be brought back.
    """
    while True:
        progress = _progress(link, recipe_hash)
        reached(progress["bytes_done"], progress["bytes_total"])
        if progress["error"]:
            raise RestoreError(progress["error"])
        if progress["done"]:
            return int(progress["bytes_total"])
        pause(POLL_S)


def _progress(link: Link, recipe_hash: str) -> dict[str, Any]:
    for row in ask(link, "archive").rows:
        progress = row["restores"].get(recipe_hash)
        if progress is not None:
            return dict(progress)
    raise RestoreError(
        f"{words.base_name(recipe_hash)}: the master was restarted meanwhile, and brings nothing "
        "back now. Ask again: what came already is kept"
    )
