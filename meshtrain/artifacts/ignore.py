"""`.meshtrainignore`: what of a folder is no code, in the words of a `.gitignore`.

    *.ckpt          any file or folder of that name, at any depth
    /runs           only beside the file itself; so is any pattern with a / in it
    data/           folders only, with all that is in them
    logs/**/raw     ** stands for any number of folders
    !keep.ckpt      not left out after all, unless its folder is

The last pattern that fits decides. https://git-scm.com/docs/gitignore
"""

from __future__ import annotations

import re
from typing import NamedTuple

PATTERNS_MAX = 10_000
PATTERN_LEN_MAX = 4096
_NEVER = "(?!)"


class _Rule(NamedTuple):
    expression: re.Pattern[str]
    folders_only: bool
    takes_back: bool


class Ignore:
    """The patterns of one file, for paths below the folder that it lies in.

    Args:
        text: of the file; what comes after PATTERNS_MAX lines is not looked at.
    """

    def __init__(self, text: str) -> None:
        self._rules: list[_Rule] = []
        for line in text.splitlines()[:PATTERNS_MAX]:
            rule = _rule(line) if len(line) <= PATTERN_LEN_MAX else None
            if rule is not None:
                self._rules.append(rule)
        self._folders: dict[str, bool] = {"": False}

    def leaves_out(self, relpath: str) -> bool:
        """Whether a file is left out: by its own path, or with a folder above it."""
        folder = relpath.rpartition("/")[0]
        return self.leaves_out_folder(folder) or self._says(relpath, is_folder=False)

    def leaves_out_folder(self, relpath: str) -> bool:
        """Whether a folder is left out, with all that is in it."""
        known = self._folders.get(relpath)
        if known is None:
            above = relpath.rpartition("/")[0]
            known = self.leaves_out_folder(above) or self._says(relpath, is_folder=True)
            self._folders[relpath] = known
        return known

    def _says(self, relpath: str, *, is_folder: bool) -> bool:
        for rule in reversed(self._rules):
            if (is_folder or not rule.folders_only) and rule.expression.fullmatch(relpath):
                return not rule.takes_back
        return False


def _rule(line: str) -> _Rule | None:
    pattern = _without_trailing_spaces(line)
    if not pattern or pattern.startswith("#"):
        return None
    takes_back = pattern.startswith("!")
    pattern = pattern[takes_back:]
    folders_only = pattern.endswith("/")
    pattern = pattern[: len(pattern) - folders_only]
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    if not pattern:
        return None
    steps = _steps(pattern)
    parts = [] if anchored else ["(?:.*/)?"]
    for index, step in enumerate(steps):
        is_last = index == len(steps) - 1
        if step == "**" and len(steps) > 1:
            parts.append(".+" if is_last else "(?:.*/)?")
        else:
            parts.append(_step(step) + ("" if is_last else "/"))
    return _Rule(re.compile("".join(parts), re.DOTALL), folders_only, takes_back)


def _steps(pattern: str) -> list[str]:
    """The names of a pattern: what stands between those `/` that are not in a set, nor escaped."""
    steps = [""]
    place = 0
    while place < len(pattern):
        stop = place + 1
        if pattern[place] == "/":
            steps.append("")
        else:
            if pattern[place] == "\\":
                stop += 1
            elif pattern[place] == "[" and (found := _set(pattern, stop)) is not None:
                stop = found[1]
            steps[-1] += pattern[place:stop]
        place = stop
    return steps


def _without_trailing_spaces(line: str) -> str:
    kept = line.rstrip(" ")
    backslashes = len(kept) - len(kept.rstrip("\\"))
    # An escaped one is part of the name.
    return kept + " " if backslashes % 2 and len(kept) < len(line) else kept


def _step(step: str) -> str:
    """One name of a pattern, as an expression that fits no `/`."""
    parts = []
    place = 0
    while place < len(step):
        letter = step[place]
        place += 1
        if letter == "*":
            parts.append("[^/]*")
        elif letter == "?":
            parts.append("[^/]")
        elif letter == "[":
            found = _set(step, place)
            if found is None:
                return _NEVER
            expression, place = found
            parts.append(expression)
        elif letter == "\\":
            if place == len(step):
                return _NEVER
            parts.append(re.escape(step[place]))
            place += 1
        else:
            parts.append(re.escape(letter))
    return "".join(parts)


def _set(step: str, place: int) -> tuple[str, int] | None:
    """The expression of a set whose [ is before `place`, and where it ends; None without a ]."""
    negated = step[place : place + 1] in ("!", "^")
    place += negated
    first = place
    letters: list[str] = []
    ranges: list[str] = []
    while place < len(step) and (step[place] != "]" or place == first):
        if step[place] == "\\":
            place += 1
        if place + 2 < len(step) and step[place + 1] == "-" and step[place + 2] != "]":
            low, high = step[place], step[place + 2]
            if low <= high:
                ranges.append(f"{re.escape(low)}-{re.escape(high)}")
            place += 3
        elif place < len(step):
            letters.append(re.escape(step[place]))
            place += 1
    if place >= len(step):
        return None
    inside = "".join(letters + ranges)
    if negated:
        return f"[^/{inside}]", place + 1
    return (f"(?!/)[{inside}]" if inside else _NEVER), place + 1
