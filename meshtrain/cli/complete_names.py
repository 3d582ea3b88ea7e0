"""Answers a shell that completes a name: one question to the master, a line for each name.

    meshtrain __names KIND BEGINNING [--master HOST:PORT] [--home FOLDER]

Whatever goes wrong, nothing is printed and the exit code is 0: a person who types
must not be told that a master is away. It loads neither typer nor what the commands
need, so that an answer takes no longer than people notice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

WITHIN_S = 0.5
"""The patience with the master: a shell stands still meanwhile."""
_CONTROL = dict.fromkeys((*range(32), 127), " ")


def main(arguments: Sequence[str]) -> None:
    """Print the names, each with what it is after a tab."""
    try:
        for name, about in names_of(arguments):
            sys.stdout.write(f"{name}\t{about}\n" if about else f"{name}\n")
        sys.stdout.flush()
    except Exception:
        # A bug here shows as no names; the same question asked by a command shows why.
        return


def names_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The names that a shell asks for, and what each is.

    Raises MeshtrainError when the master can't be asked or refuses.
    """
    from meshtrain.net.quick_question import ask_quickly
    from meshtrain.security.curve_keys import load_curve_keys
    from meshtrain.security.where import where

    kind, beginning, *options = arguments
    given = dict(zip(options[::2], options[1::2], strict=False))
    master = given.get("--master") or os.environ.get("MESHTRAIN_MASTER") or None
    address, keys = where(master, _home(given.get("--home")), load_curve_keys)
    rows = ask_quickly(address, "names", (kind, beginning), within_s=WITHIN_S, keys=keys)
    # The names are others' words: none may drive the terminal or break the lines.
    return [(str(name).translate(_CONTROL), str(about).translate(_CONTROL)) for name, about in rows]


def _home(given: str | None) -> Path:
    told = given or os.environ.get("MESHTRAIN_HOME")
    if told:
        return Path(told).expanduser().absolute()
    from meshtrain.spec.home import default_home

    return default_home()
