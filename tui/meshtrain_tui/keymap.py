"""Which key does what, as the settings change it: checked whole before the screen is taken.

Each binding that can be changed has an id, SCREEN.WHAT: `jobs.cancel`. Those that
begin with `app.`, `screen.` or `table.` work on every screen; so no other may share
a key with them once somebody chose one of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from textual.binding import Binding, BindingType
from textual.keys import Keys, key_to_character

from meshtrain.errors import SettingsError
from meshtrain.spec.problems import hint, shown

EVERYWHERE = frozenset({"app", "screen", "table"})
TOGETHER = (frozenset({"job", "log", "curves"}), frozenset({"overview", "sweeps"}))
"""Parts that are on one screen."""
_MODIFIERS = frozenset({"alt", "ctrl", "hyper", "meta", "shift", "super"})
_NAMED = frozenset(key.value for key in Keys if not key.value.startswith("<"))


class KeyAction(NamedTuple):
    """Something that a key does."""

    name: str
    """The id of its binding."""
    keys: tuple[str, ...]
    """In Textual's spelling: `question_mark`."""
    words: str

    @property
    def scope(self) -> str:
        """Where it works: the part before the dot."""
        return self.name.partition(".")[0]


def key_actions(bindings: Iterable[BindingType]) -> dict[str, KeyAction]:
    """What of these can be changed, by name."""
    found: dict[str, KeyAction] = {}
    for binding in Binding.make_bindings(bindings):
        if binding.id is None:
            continue
        before = found.get(binding.id)
        keys = (*before.keys, binding.key) if before else (binding.key,)
        words = before.words if before else binding.description or binding.action
        found[binding.id] = KeyAction(binding.id, keys, words)
    return found


def keymap(
    wanted: Mapping[str, str], known: Mapping[str, KeyAction], file: Path | None = None
) -> dict[str, str]:
    """What Textual's `set_keymap` takes.

    Args:
        wanted: action → keys, with commas, as they were written.
        known: all actions that can be changed.
        file: where it was written, for the message.

    Raises SettingsError with every wrong action, wrong key and key that would do two things.
    """
    problems: list[str] = []
    chosen: dict[str, tuple[str, ...]] = {}
    for name, written in wanted.items():
        if name not in known:
            close = hint(name, known) or f"; known: {', '.join(sorted(known))}"
            problems.append(f"keys: no action is called {shown(name)}{close}")
            continue
        keys = tuple(_spelled(key) for key in _separate(written))
        problems += [
            f"keys: {name}: {shown(key)} is no key: write a character, or a name such "
            "as ctrl+k, f5, space, enter, pageup"
            for key in keys
            if not is_key(key)
        ]
        chosen[name] = keys
    if not problems:
        problems = _clashes(chosen, known)
    if problems:
        where = f"{file}: " if file else ""
        lines = [f"{where}{problem}" for problem in problems]
        raise SettingsError("\n".join([*lines, "Mend it and start again."]))
    return {name: ",".join(keys) for name, keys in chosen.items()}


def _separate(written: str) -> list[str]:
    """The keys of a list; a comma alone is a key too."""
    if written.strip() == ",":
        return ["comma"]
    return [key.strip() for key in written.split(",")]


def _spelled(key: str) -> str:
    if len(key) != 1:
        return key.lower() if "+" in key or key.lower() in _NAMED else key
    (binding,) = Binding.make_bindings([Binding("comma" if key == "," else key, "no")])
    return binding.key


def is_key(key: str) -> bool:
    """Whether a terminal may send such a key, in Textual's spelling."""
    *modifiers, last = key.split("+")
    if not last or not _MODIFIERS.issuperset(modifiers):
        return False
    if key in _NAMED or last in _NAMED:
        return True
    character = key_to_character(last)
    return character is not None and character.isprintable()


def _clashes(chosen: Mapping[str, tuple[str, ...]], known: Mapping[str, KeyAction]) -> list[str]:
    """Keys that would do two things on one screen; those of the defaults are meant so."""
    problems = []
    names = sorted(known)
    for name, keys in sorted(chosen.items()):
        for other in names:
            if other == name or (other in chosen and other < name):
                continue
            scopes = {known[name].scope, known[other].scope}
            apart = len(scopes) == 2 and not any(scopes <= part for part in TOGETHER)
            if apart and not scopes & EVERYWHERE:
                continue
            there = chosen.get(other, known[other].keys)
            problems += [
                f"keys: {key} would do both {name} ({known[name].words}) and {other} "
                f"({known[other].words}): give one of them another key"
                for key in keys
                if key in there
            ]
    return problems
