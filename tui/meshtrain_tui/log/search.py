"""A regular expression over lines as they are shown: folded, and without colours."""

from __future__ import annotations

import re
from collections.abc import Callable

from meshtrain.errors import UserError
from meshtrain_tui.log.ansi import text_of
from meshtrain_tui.log.folding import SHOWN_BYTES_MAX, shown_of

PATTERN_CHARS_MAX = 500
_ENDS = frozenset(".^$+")
"""What ends a run of plain letters, and takes none of it away."""
_OPTIONAL = frozenset("*?{")
"""What makes the letter before it one that needn't be there."""
_UNCLEAR = frozenset("|()")
"""What makes a whole part one that needn't be there, or changes how the rest is read."""


class SearchPattern:
    """What is searched for. One without capital letters finds both.

    Raises UserError for what is no regular expression.
    """

    def __init__(self, text: str) -> None:
        if len(text) > PATTERN_CHARS_MAX:
            raise UserError(
                f"a search may have {PATTERN_CHARS_MAX} characters, this one has {len(text)}: "
                "search for a part of it"
            )
        self.text = text
        letters = re.sub(r"\\.", "", text)
        ignore_case = letters == letters.lower()
        try:
            self._search = re.compile(text, re.IGNORECASE if ignore_case else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(
                f"{text!r} is no regular expression: {error}; put a \\ before signs that are meant "
                "as they are"
            ) from error
        self._ignore_case = ignore_case
        #: bytes that a line must have; most lines haven't, and needn't be looked at further
        self._needle = _required(text).encode()

    def is_in(self, line: bytes) -> bool:
        """Whether it is found in what is shown of a line; the line comes without its end."""
        return self._search.search(text_of(shown_of(line)[0])) is not None

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where it is found in a line's plain text: first and after last character."""
        return [
            found.span() for found in self._search.finditer(text) if found.end() > found.start()
        ]

    def first_in(self, lines: bytes) -> int | None:
        """The offset of the first line that it is found in; `lines` are whole ones."""
        if self._can_skip(lines):
            haystack = lines.lower() if self._ignore_case else lines
            at = haystack.find(self._needle)
            while at >= 0:
                begin = lines.rfind(b"\n", 0, at) + 1
                end = _end(lines, at)
                if self.is_in(lines[begin:end]):
                    return begin
                at = haystack.find(self._needle, end)
            return None
        begin = 0
        is_in = self._way_to_look(lines)
        for line in _split(lines):
            if is_in(line):
                return begin
            begin += len(line) + 1
        return None

    def last_in(self, lines: bytes) -> int | None:
        """The offset of the last line that it is found in."""
        if self._can_skip(lines):
            haystack = lines.lower() if self._ignore_case else lines
            at = haystack.rfind(self._needle)
            while at >= 0:
                begin = lines.rfind(b"\n", 0, at) + 1
                if self.is_in(lines[begin : _end(lines, at)]):
                    return begin
                at = haystack.rfind(self._needle, 0, begin)
            return None
        begin = len(lines) if lines.endswith(b"\n") else len(lines) + 1
        is_in = self._way_to_look(lines)
        for line in reversed(_split(lines)):
            begin -= len(line) + 1
            if is_in(line):
                return begin
        return None

    def _can_skip(self, lines: bytes) -> bool:
        """Whether a line without the needle's bytes can't have it in its plain text.

        Not where colours may cut it, nor beyond ASCII: there other letters are
        alike but for their case, such as the sign of Kelvin and k.
        """
        return bool(self._needle) and _is_plain(lines)

    def _way_to_look(self, lines: bytes) -> Callable[[bytes], bool]:
        """`is_in`, or what comes to the same where lines are shown as they are, but faster."""
        return self._is_in_plain if _is_plain(lines) and b"\r" not in lines else self.is_in

    def _is_in_plain(self, line: bytes) -> bool:
        if len(line) > SHOWN_BYTES_MAX:
            return self.is_in(line)
        return self._search.search(line.decode("ascii")) is not None


def _required(text: str) -> str:
    """The longest run of plain letters that all that a pattern finds must have; "" for none."""
    if _UNCLEAR & set(text):
        return ""
    runs = [""]
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "\\":
            # What it stands for may take more letters, as in \x41: they are no run.
            at += 1
            while at < len(text) and text[at].isalnum():
                at += 1
            runs.append("")
        elif character == "[":
            # A ] that comes first belongs to the set.
            at += text[at : at + 1] == "^"
            at += text[at : at + 1] == "]"
            while at < len(text) and text[at] != "]":
                at += 2 if text[at] == "\\" else 1
            at += 1
            runs.append("")
        elif character in _OPTIONAL:
            runs[-1] = runs[-1][:-1]
            if character == "{":
                at = text.find("}", at) + 1 or len(text)
            runs.append("")
        elif character in _ENDS or not (character.isascii() and character.isprintable()):
            runs.append("")
        else:
            runs[-1] += character
    return max(runs, key=len)


#: what may stand between the letters of a needle, and isn't shown, or is shown as spaces
_HIDING = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\n\r")


def _is_plain(lines: bytes) -> bool:
    """Whether all of it is ASCII that is shown as it is, but for line ends and \\r."""
    return lines.isascii() and len(lines.translate(None, _HIDING)) == len(lines)


def _end(lines: bytes, at: int) -> int:
    end = lines.find(b"\n", at)
    return len(lines) if end < 0 else end


def _split(lines: bytes) -> list[bytes]:
    split = lines.split(b"\n")
    return split[:-1] if lines.endswith(b"\n") or not lines else split
