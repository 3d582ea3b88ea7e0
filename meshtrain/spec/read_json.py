"""JSON by the letter of RFC 8259, with the place of every value."""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError, JSONDecoder
from typing import Any

from meshtrain.spec.problems import Path, Spot, shown
from meshtrain.spec.reader import DEPTH_MAX, Document, UnreadableError, too_deep

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"-?[A-Za-z_][A-Za-z0-9_]*")
_WORDS = {"true": True, "false": False, "null": None}
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_INT_DIGITS_MAX = 64
_STRINGS = JSONDecoder()
"""Asked only where a string begins."""


def read_json(document: Document) -> None:
    """Fills `document` from its JSON text; raises UnreadableError."""
    _Scanner(document).scan()


class _Scanner:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._text = document.text
        self._at = 0
        self._line_starts = [0, *(m.end() for m in re.finditer("\n", document.text))]

    def scan(self) -> None:
        self._document.tree = self._value((), None, 0)
        if self._peek():
            raise self._unreadable("more text after the end of the value")

    def _spot(self, at: int) -> Spot:
        line = bisect_right(self._line_starts, at)
        return Spot(line, at - self._line_starts[line - 1] + 1)

    def _unreadable(self, what: str) -> UnreadableError:
        return UnreadableError(f"not JSON: {what}", self._spot(self._at))

    def _peek(self) -> str:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> None:
        if self._peek() != expected:
            found = shown(self._text[self._at : self._at + 1]) if self._peek() else "the end"
            raise self._unreadable(f'expected "{expected}", found {found}')
        self._at += 1

    def _value(self, path: Path, key: Spot | None, depth: int) -> Any:
        first = self._peek()
        spot = self._spot(self._at)
        if depth > DEPTH_MAX:
            raise too_deep(spot)
        self._document.place(path, key or spot, spot)
        if first == "{":
            return self._object(path, depth)
        if first == "[":
            return self._array(path, depth)
        if first == '"':
            return self._document.checked(self._string(), path, spot)
        return self._document.checked(self._bare(path, spot), path, spot)

    def _object(self, path: Path, depth: int) -> dict[str, Any]:
        self._at += 1
        entries: dict[str, Any] = {}
        if self._peek() == "}":
            self._at += 1
            return entries
        while True:
            if self._peek() != '"':
                raise self._unreadable("expected a key in double quotes")
            spot = self._spot(self._at)
            key = str(self._document.checked(self._string(), path, spot))
            self._take(":")
            value = self._value((*path, key), spot, depth + 1)
            if key in entries:
                self._document.problem("this key is here twice", (*path, key), spot)
            entries[key] = value
            if self._peek() == ",":
                self._at += 1
                continue
            self._take("}")
            return entries

    def _array(self, path: Path, depth: int) -> list[Any]:
        self._at += 1
        items: list[Any] = []
        if self._peek() == "]":
            self._at += 1
            return items
        while True:
            items.append(self._value((*path, len(items)), None, depth + 1))
            if self._peek() == ",":
                self._at += 1
                continue
            self._take("]")
            return items

    def _string(self) -> str:
        try:
            text, self._at = _STRINGS.raw_decode(self._text, self._at)
        except JSONDecodeError as error:
            self._at = min(error.pos, len(self._text))
            raise self._unreadable(error.msg) from None
        return str(text)

    def _bare(self, path: Path, spot: Spot) -> Any:
        number = _NUMBER.match(self._text, self._at)
        if number:
            self._at = number.end()
            if number[1] or number[2]:
                return float(number[0])
            if len(number[0]) > _INT_DIGITS_MAX:
                self._document.problem("the number has too many digits", path, spot)
                return None
            return int(number[0])
        word = _WORD.match(self._text, self._at)
        if word and word[0] in _WORDS:
            self._at = word.end()
            return _WORDS[word[0]]
        if word and word[0] in _NOT_FINITE:
            self._at = word.end()
            return float("nan")
        raise self._unreadable("expected a value" if self._peek() else "the file ends too early")
