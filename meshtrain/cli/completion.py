"""`meshtrain completion`: what makes a shell complete commands, options and live names."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from meshtrain.cli.completion_table import LIVE, Place, Value, places
from meshtrain.cli.output import say
from meshtrain.errors import UserError

_ABOUT_CHARS_MAX = 70


class Shell(StrEnum):
    """The shells that there is completion for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def command(
    ctx: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    install: Annotated[
        bool, typer.Option("--install", help="Put it where the shell looks for it, for you alone.")
    ] = False,
) -> None:
    """Print a script that makes a shell complete commands, options and names.

    Names of jobs, sweeps, nodes, bases and data sets come from the master as you
    press Tab; when it is away, none are offered. Make it again after an upgrade.

    \b
    Examples:
      meshtrain completion bash --install
      meshtrain completion zsh > ~/.zfunc/_meshtrain
      meshtrain completion fish | source
    """
    text = script(shell, ctx.find_root())
    if not install:
        say(text.rstrip("\n"))
        return
    path = _place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror or error}. Print the script without "
            "--install, and put it where you may"
        ) from error
    say(f"{path}: open a new {shell} to use it")
    if shell is Shell.ZSH:
        say(f"~/.zshrc needs this line before compinit: fpath+={path.parent}")
    elif shell is Shell.BASH:
        say("it needs the package bash-completion; without it, source that file in ~/.bashrc")


def _place(shell: Shell) -> Path:
    """Where a user's own completions lie, by each shell's manual."""

    def folder(variable: str, default: str) -> Path:
        told = os.environ.get(variable, "")
        return Path(told) if told.startswith("/") else Path.home() / default

    if shell is Shell.BASH:
        return folder("XDG_DATA_HOME", ".local/share") / "bash-completion/completions/meshtrain"
    if shell is Shell.FISH:
        return folder("XDG_CONFIG_HOME", ".config") / "fish/completions/meshtrain.fish"
    return Path.home() / ".zfunc/_meshtrain"


def script(shell: Shell, root: Any) -> str:
    """The script for a shell, with all commands as they are now.

    Args:
        root: the context of the program itself.
    """
    template = (files("meshtrain.cli") / f"completion.{shell}").read_text(encoding="utf-8")
    table = "\n".join(_TABLES[shell](place) for place in places(root.command, root))
    live = (" " if shell is Shell.FISH else "|").join(LIVE)
    return template.replace("@TABLE@", table).replace("@LIVE@", live)


def _bash(place: Place) -> str:
    return _posix(place, [name for name, _ in place.commands], [name for name, _ in place.options])


def _zsh(place: Place) -> str:
    def told(pairs: Iterable[tuple[str, str]]) -> list[str]:
        return [f"{_escaped(name)}:{_short(about)}" for name, about in pairs]

    return _posix(place, told(place.commands), told(place.options))


def _escaped(name: str) -> str:
    return name.replace(":", "\\:")


def _posix(place: Place, commands: list[str], options: list[str]) -> str:
    """A branch of a `case`, for bash and zsh alike."""
    words = [
        _array("commands", commands),
        _array("options", options),
        _array("values", [_value(value) for value in place.values]),
        _array("arguments", _arguments(place)),
        "repeats=1" if place.repeats else "",
    ]
    return f"    {shlex.quote(place.path)}) {' '.join(filter(None, words))} ;;"


def _array(name: str, words: list[str]) -> str:
    return f"{name}=({' '.join(map(shlex.quote, words))})" if words else ""


def _value(value: Value) -> str:
    kind = f"={','.join(value.choices)}" if value.choices else value.kind
    return f"{value.option}|{kind}"


def _arguments(place: Place) -> list[str]:
    return [
        f"={','.join(few)}" if few else kind
        for kind, few in zip(place.arguments, place.arguments_choices, strict=True)
    ]


def _fish(place: Place) -> str:
    def lines(name: str, words: Iterable[str]) -> list[str]:
        told = " ".join(map(_fish_quoted, words))
        return [f"            set __meshtrain_{name} {told}"] if told else []

    def told(pairs: Iterable[tuple[str, str]]) -> list[str]:
        return [f"{name}\t{_short(about)}" for name, about in pairs]

    return "\n".join(
        [
            f"        case {_fish_quoted(place.path)}",
            *lines("commands", told(place.commands)),
            *lines("options", told(place.options)),
            *lines("values", [_value(value) for value in place.values]),
            *lines("arguments", _arguments(place)),
            *(["            set __meshtrain_repeats 1"] if place.repeats else []),
        ]
    )


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _short(about: str) -> str:
    plain = re.sub(r"\s+", " ", about)
    return plain if len(plain) <= _ABOUT_CHARS_MAX else plain[: _ABOUT_CHARS_MAX - 1] + "…"


_TABLES: dict[Shell, Callable[[Place], str]] = {
    Shell.BASH: _bash,
    Shell.ZSH: _zsh,
    Shell.FISH: _fish,
}
