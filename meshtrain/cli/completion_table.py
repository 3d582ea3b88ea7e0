"""What may stand after each command: subcommands, options, and what kind of words they take.

It is read off the commands themselves, by the metavars of their arguments and
options: JOB is a job, NODE a node. So a new command is completed by what its help
says already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_args

from meshtrain.core.job import JobState

ARGUMENT_KINDS = {
    "JOB": "job",
    "NAME": "any",
    "SWEEP": "sweep",
    "NODE": "node",
    "HASH": "base",
    "A": "base",
    "B": "base",
    "NAME[@VERSION]": "input",
    "FILE": "file",
    "PATH": "file",
    "FOLDER": "folder",
    "DIR": "folder",
}
"""The metavar of an argument → what its words are."""
OPTION_KINDS = {
    "FILE": "file",
    "PATH": "file",
    "FOLDER": "folder",
    "DIR": "folder",
    "NODE": "node",
    "JOB": "job",
    "SWEEP": "sweep",
}
"""The same for the value of an option."""
NAMED_OPTIONS = {"node": "node"}
"""Options without a metavar whose name says it."""
CHOSEN = {"state": tuple(map(str, JobState))}
"""Options whose values are a few words that their type doesn't tell."""
LIVE = ("any", "job", "sweep", "node", "base", "input")
"""Kinds that the master is asked for."""
NOTHING = "none"


class Value(NamedTuple):
    """What an option takes."""

    option: str
    kind: str
    choices: tuple[str, ...] = ()


class Place(NamedTuple):
    """One command, and what may follow it."""

    path: str
    """Its words below `meshtrain`, such as `bases log`; empty for meshtrain itself."""
    commands: tuple[tuple[str, str], ...]
    """Commands below it, and what each is for."""
    options: tuple[tuple[str, str], ...]
    """All its options, and what each is for."""
    values: tuple[Value, ...]
    """Those that take a value."""
    arguments: tuple[str, ...]
    """The kind of each argument; the last one is of all that follow where it repeats."""
    repeats: bool
    arguments_choices: tuple[tuple[str, ...], ...] = ()
    """For each argument, the words that it may be, where they are few."""


def places(command: Any, context: Any, path: str = "") -> Iterator[Place]:
    """All commands from `command` on down, those above first.

    Args:
        command: a command of click's, as typer makes it.
        context: a context of it.
    """
    options: list[tuple[str, str]] = []
    values: list[Value] = []
    arguments: list[str] = []
    choices: list[tuple[str, ...]] = []
    repeats = False
    for parameter in command.get_params(context):
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            arguments.append(_argument_kind(parameter))
            choices.append(_choices(parameter))
            repeats = parameter.nargs == -1
            continue
        about = _first_sentence(getattr(parameter, "help", "") or "")
        names = [*parameter.opts, *parameter.secondary_opts]
        options += [(name, about) for name in names]
        if not parameter.is_flag and not getattr(parameter, "count", False):
            kind, few = _option_kind(parameter), _choices(parameter)
            values += [Value(name, kind, few) for name in names]
    below = [] if not hasattr(command, "list_commands") else _below(command, context)
    told = tuple((name, _about(command, name, child)) for name, child in below)
    yield Place(
        path, told, tuple(options), tuple(values), tuple(arguments), repeats, tuple(choices)
    )
    for name, child in below:
        inner = type(context)(child, info_name=name, parent=context, resilient_parsing=True)
        yield from places(child, inner, f"{path} {name}".strip())


def _below(command: Any, context: Any) -> list[tuple[str, Any]]:
    found = ((name, command.get_command(context, name)) for name in command.list_commands(context))
    return [(name, child) for name, child in found if child is not None and not child.hidden]


def _about(command: Any, name: str, child: Any) -> str:
    told = getattr(command, "summary_of", None)
    text = told(name) if told is not None else ""
    return text or _first_sentence(child.help or "")


def _first_sentence(text: str) -> str:
    """The first line of a help text, without its full stop."""
    return text.strip().split("\n")[0].strip().removesuffix(".")


def _argument_kind(parameter: Any) -> str:
    metavar = _metavar(parameter)
    return ARGUMENT_KINDS.get(metavar) or _kind_of_type(parameter)


def _option_kind(parameter: Any) -> str:
    metavar = _metavar(parameter)
    known = OPTION_KINDS.get(metavar) or NAMED_OPTIONS.get(parameter.name)
    return known or _kind_of_type(parameter)


def _metavar(parameter: Any) -> str:
    """`[NAME]...` → `NAME`."""
    told = (parameter.metavar or "").removesuffix("...")
    bare = re.fullmatch(r"\[(.*)\](\.\.\.)?", told)
    return bare[1] if bare else told


def _kind_of_type(parameter: Any) -> str:
    return "file" if _type_of(parameter) is Path else NOTHING


def _choices(parameter: Any) -> tuple[str, ...]:
    kind = _type_of(parameter)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(word.value) for word in kind)
    return CHOSEN.get(parameter.name, ()) if parameter.param_type_name == "option" else ()


def _type_of(parameter: Any) -> Any:
    """What a word becomes; `Path` of `list[Path] | None`."""
    told = parameter.type_descriptor.annotation
    while inner := [kind for kind in get_args(told) if kind is not type(None)]:
        told = inner[0]
    return told
