"""The filter that people type above a list: a regular expression that can't take for ever.

Python's expressions try all ways to match: one that repeats what repeats already
has more ways than anybody can wait for. A master must not hang on a slip of the
keyboard, so such filters are refused; nobody needs them to find a job.
"""

from __future__ import annotations

import re

from meshtrain.errors import UserError

FILTER_CHARS_MAX = 200
REPEATS_MAX = 3
"""Repeats without an end in one filter: the time may grow with a row's length to their power."""
COUNT_MAX = 100
"""The highest number in braces."""
_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL
"""A row's words stand on lines of their own: ^ and $ are the ends of each; .* goes past them."""
_BRACES = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")


def pattern_of(written: str) -> re.Pattern[str] | None:
    """The expression of a filter, without the "!" that inverts it; None for one that is empty.

    Raises UserError when it is too long, is no regular expression, or could take for ever.
    """
    text = written.removeprefix("!")
    if not text:
        return None
    if len(text) > FILTER_CHARS_MAX:
        raise UserError(f"a filter has at most {FILTER_CHARS_MAX} characters, not {len(text)}")
    try:
        re.compile(text, _FLAGS)
        while text.startswith(".*") and text[2:3] not in ("?", "+", "*", "{"):
            # What follows is looked for anywhere in the row all the same, and sooner.
            text = text[2:]
        pattern = re.compile(text, _FLAGS)
        _demand_cheap(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"the filter {text!r} is not a regular expression: {error}; "
            "put a backslash before a character that stands for itself"
        ) from error
    return pattern


def _demand_cheap(text: str) -> None:
    """Raises UserError for a valid expression that may have too many ways to match."""
    repeats = 0
    #: of each open group, and of the whole: whether it repeats something, or has a choice
    branching = [False]
    closed_branching = False
    place = 0
    while place < len(text):
        character = text[place]
        place += 1
        after_group, closed_branching = closed_branching, False
        if character == "\\":
            if text[place : place + 1] in "123456789":
                raise _costly(text, "refers back to what it found")
            place += 1
        elif character == "[":
            place = _end_of_class(text, place)
        elif character == "(":
            if text.startswith("?P=", place) or text.startswith("?(", place):
                raise _costly(text, "refers back to what it found")
            if text.startswith("?", place):
                place += 1  # The question mark of (?:…) repeats nothing.
            branching.append(False)
        elif character == ")":
            inner = branching.pop()
            branching[-1] |= inner
            closed_branching = inner
        elif character == "|":
            branching[-1] = True
        elif character in "*+{":
            most = _most(text, place - 1)
            if most is None:
                continue  # A brace that stands for itself.
            if most > 1 and after_group:
                raise _costly(text, "repeats what repeats or chooses already")
            if most > COUNT_MAX:
                repeats += 1
                branching[-1] = True
            if repeats > REPEATS_MAX:
                raise _costly(text, f"has more than {REPEATS_MAX} repeats")
            if character == "{":
                place = text.index("}", place) + 1
            if text[place : place + 1] in ("?", "+"):
                place += 1


def _most(text: str, place: int) -> float | None:
    """How often at most the quantifier there lets something come; None where there is none."""
    if text[place] in "*+":
        return float("inf")
    found = _BRACES.match(text, place)
    if found is None or not (found[1] or found[2]):
        return None
    if found[2] is None:
        return int(found[1])
    return int(found[3]) if found[3] else float("inf")


def _end_of_class(text: str, place: int) -> int:
    """Past the bracket that closes a class; one that comes first stands for itself."""
    if text.startswith("^", place):
        place += 1
    if text.startswith("]", place):
        place += 1
    while text[place] != "]":
        place += 2 if text[place] == "\\" else 1
    return place + 1


def _costly(text: str, why: str) -> UserError:
    return UserError(f"the filter {text!r} {why}, which could take for ever: write it more simply")
