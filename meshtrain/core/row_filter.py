"""The filter that people type above a list: a regular expression that can't take for ever.

Python's expressions try all ways to match: one that repeats what repeats already
has more ways than anybody can wait for. A master must not hang on a slip of the
keyboard, so such filters are refused; nobody needs them to find a job. What is
counted is what Python's own parser made of the filter, so that no spelling,
such as a comment between a group and its star, is seen otherwise here than
there; what is not known here is refused.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

from meshtrain.errors import UserError

FILTER_CHARS_MAX = 200
COUNT_MAX = 100
"""The highest number in braces, and what a repeat without an end counts."""
WAYS_MAX = COUNT_MAX**2
"""Ways to match from one place of a row on, about: those of all repeats and choices multiplied.
Two repeats without an end; the time grows with a row's length to the power of one more."""
_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL
"""A row's words stand on lines of their own: ^ and $ are the ends of each; .* goes past them."""

# Not public; it is where the names and the tree come from that `re` itself compiles.
_parser: Final = importlib.import_module("re._parser")
_END: Final = int(_parser.MAXREPEAT)
_ONE_WAY: Final = frozenset(
    {"LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "FAILURE", "SUCCESS", "CATEGORY", "RANGE"}
)
_REPEATS: Final = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})
_BACK: Final = frozenset({"GROUPREF", "GROUPREF_EXISTS"})


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
        if _Ways(text).of(_parser.parse(text, _FLAGS), at_end=True) > WAYS_MAX:
            raise _costly(text, "has more than 2 repeats, or too many choices")
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            f"the filter {text!r} is not a regular expression: {error}; "
            "put a backslash before a character that stands for itself"
        ) from error
    return pattern


class _Ways:
    """In how many ways an expression may match from one place on, at most about.

    Raises UserError where that can't be bounded.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._repeats = 0

    def of(self, sequence: Any, *, at_end: bool = False) -> int:
        """Of a sequence of parsed parts.

        Args:
            at_end: whether nothing comes after it.
        """
        ways = 1
        for number, (kind, details) in enumerate(sequence, start=1):
            ways *= self._of_part(str(kind), details, at_end and number == len(sequence))
        return ways

    def _of_part(self, kind: str, details: Any, at_end: bool) -> int:
        if kind in _ONE_WAY:
            return 1
        if kind == "SUBPATTERN":
            return self.of(details[-1], at_end=at_end)
        if kind == "BRANCH":
            return sum(self.of(branch, at_end=at_end) for branch in details[1])
        if kind == "ATOMIC_GROUP":
            return self.of(details)
        if kind in ("ASSERT", "ASSERT_NOT"):
            return self.of(details[1])
        if kind in _REPEATS:
            least, most, repeated = details
            ways = self._of_repeat(least, most, repeated)
            # The last one ends as soon as it has come once: there is no second try of it.
            return 1 if at_end and least <= 1 < most else ways
        if kind in _BACK:
            raise _costly(self._text, "refers back to what it found")
        raise _costly(self._text, "has a part that is not known here")

    def _of_repeat(self, least: int, most: int, repeated: Any) -> int:
        before = self._repeats
        ways = self.of(repeated)
        if most <= 1:
            return ways + (least == 0)
        if ways > 1 or self._repeats > before:
            raise _costly(self._text, "repeats what repeats or chooses already")
        if least > COUNT_MAX or COUNT_MAX < most < _END:
            raise _costly(self._text, f"counts to more than {COUNT_MAX}")
        self._repeats += 1
        return COUNT_MAX if most == _END else most - least + 1


def _costly(text: str, why: str) -> UserError:
    return UserError(f"the filter {text!r} {why}, which could take for ever: write it more simply")
