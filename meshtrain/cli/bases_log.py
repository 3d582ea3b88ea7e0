"""`meshtrain bases log`: what a base is, where it comes from, its generations, who uses it."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from meshtrain.cli import words
from meshtrain.cli.context import ask, cli_of
from meshtrain.cli.output import Column, painted, print_json, print_table, say, text_width
from meshtrain.ids import short
from meshtrain.results.formats import clip
from meshtrain.spec.lineage import PARENT_KEY
from meshtrain.spec.matrix import scalar_text

FACT_WIDTH = 14
FILES_SHOWN_MAX = 6
HOLDERS_SHOWN_MAX = 4
USERS_SHOWN_MAX = 10
_COLUMNS = (
    Column("GEN", right=True),
    Column("STATE"),
    Column("MODEL"),
    Column("TRAINED BY", flexible=True),
    Column("WHEN"),
    Column("TOOK", right=True),
    Column("JOBS", right=True),
    Column("METRICS", flexible=True),
)


def log(
    ctx: typer.Context,
    base: Annotated[
        str, typer.Argument(metavar="HASH", help="A recipe hash, or the first characters of it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with full hashes.")] = False,
) -> None:
    """Show the history of a base: its recipe, what it continues from, each training, its users.

    \b
    Example:
      meshtrain bases log 7f3a
    """
    with cli_of(ctx).link() as link:
        (row,) = ask(link, "base", [base]).rows
    if as_json:
        print_json(row)
        return
    say(painted(f"{words.base_name(row['recipe_hash'])}  {row['label']}", bold=True))
    say()
    for line in (*recipe_lines(row["recipe"]), *_parent_lines(row["parents"])):
        say(line)
    say()
    print_table(_COLUMNS, [_line(each) for each in row["generations"]], state_column=1, indent="  ")
    for each in row["generations"]:
        if each["failure"]:
            say(f"  generation {each['generation']}: {each['failure']}")
    say()
    for line in (*_holder_lines(row), *_user_lines(row)):
        say(line)


def _fact(name: str, text: str) -> Iterator[str]:
    """A line under a name, wrapped as often as it takes."""
    lines = textwrap.wrap(text, text_width() - FACT_WIDTH - 2, break_on_hyphens=False) or [""]
    for place, line in enumerate(lines):
        told = name if place == 0 else ""
        # A long name still stands apart from what it is.
        yield f"  {told:<{FACT_WIDTH - 1}} {line}"


def recipe_lines(recipe: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a recipe that people write, in the order in which they stand there."""
    if recipe.get("kind") == "training":
        for key, value in recipe["base"].items():
            yield from _fact(key, _text(value))
        return
    for key, value in recipe.items():
        if key in ("version", "kind", PARENT_KEY):
            continue
        if key == "code":
            yield from _fact(key, _files_text(value))
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                yield from _fact(f"{key}.{name}", _text(inner))
        else:
            yield from _fact(key, _text(value))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_text(item) for item in value)
    if isinstance(value, str | bool | int | float):
        return scalar_text(value)
    return "none" if value is None else str(value)


def _files_text(files: Mapping[str, str]) -> str:
    if not files:
        return "none"
    return words.listed([f"{name} {short(digest)}" for name, digest in files.items()])


def _parent_lines(parents: list[dict[str, Any]]) -> Iterator[str]:
    """What it continues from, each line the parent of the one above."""
    for depth, parent in enumerate(parents):
        which = f"model {short(parent['artifact_id'])}"
        if parent["generation"] is not None:
            which += f", generation {parent['generation']} of {parent['generations']}"
        arrow = "" if depth == 0 else f"{'  ' * (depth - 1)}└ "
        label = parent["label"] or "not known any more"
        yield from _fact(
            "from" if depth == 0 else "", f"{arrow}{short(parent['recipe_hash'])}  {label}"
        )
        held = "" if parent["holders"] else ": no host that is known holds it"
        yield from _fact("", f"{'  ' * depth}{which}{held}")


def _line(row: Mapping[str, Any]) -> list[str]:
    when = row["ended_wall_s"] or row["started_wall_s"]
    tries = row["attempts"]
    state = row["state"] if tries < 2 else f"{row['state']}, attempt {tries}"
    return [
        str(row["generation"]),
        state,
        short(row["artifact_id"]) if row["artifact_id"] else "",
        row["node_id"] or "",
        "" if when is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(when)),
        "" if row["trained_s"] is None else words.duration(row["trained_s"]),
        f"{row['jobs']:,}" if row["jobs"] else "",
        words.metrics(row["metrics"]),
    ]


def _holder_lines(row: Mapping[str, Any]) -> Iterator[str]:
    if row["artifact_id"]:
        held = words.listed(list(row["holders"]), HOLDERS_SHOWN_MAX) or "nobody that is known"
        yield from _fact("held by", f"{held}   {words.size(row['size_bytes'])}")


def _user_lines(row: Mapping[str, Any]) -> Iterator[str]:
    sweeps, children = row["sweeps"], row["children"]
    name = "used by"
    for sweep in sweeps[:USERS_SHOWN_MAX]:
        yield from _fact(name, f"sweep {sweep['sweep_id']}   {_progress(sweep)}")
        name = ""
    if len(sweeps) > USERS_SHOWN_MAX:
        yield from _fact(name, f"… and {len(sweeps) - USERS_SHOWN_MAX} more sweeps")
    for child in children[:USERS_SHOWN_MAX]:
        told = f"base {short(child['recipe_hash'])}  {child['label']}   {child['state']}"
        yield f"  {name:<{FACT_WIDTH}}{clip(told, text_width() - FACT_WIDTH - 2)}"
        name = ""
    if len(children) > USERS_SHOWN_MAX:
        yield from _fact(name, f"… and {len(children) - USERS_SHOWN_MAX} more bases")
    if not sweeps and not children:
        yield from _fact(name, "nobody")


def _progress(sweep: Mapping[str, Any]) -> str:
    if not sweep["jobs"]:
        return "the base alone"
    told = words.count(sweep["jobs"], "job")
    if sweep["open"]:
        return f"{told}, {sweep['open']:,} to do"
    return f"{told}, {sweep['succeeded']:,} succeeded"
