"""TOML 1.0: tomllib reads the values, a small scan of our own finds their places."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Any

from meshtrain.spec.problems import Path, Spot
from meshtrain.spec.reader import DEPTH_MAX, Document, UnreadableError, too_deep

_BARE = r"[A-Za-z0-9_-]"
_PART = rf"(?:{_BARE}+|\"[^\"\n]*\"|'[^'\n]*')"
_LONG_KEY = re.compile(rf"(?<!{_BARE})(?:{_PART}[ \t]*\.[ \t]*){{{DEPTH_MAX + 1}}}")
_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)\Z")


def read_toml(document: Document) -> None:
    """Fills `document` from its TOML text; raises UnreadableError."""
    _refuse_deep_keys(document.text)
    try:
        tree = tomllib.loads(document.text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(str(error)) from None
    except RecursionError:
        raise too_deep(None) from None
    except (ValueError, OverflowError) as error:
        # Out-of-range dates and integers of thousands of digits come as plain ValueErrors.
        raise UnreadableError(f"not TOML: {error}") from None
    # tomllib turns every "\r\n" into "\n"; columns count the same text.
    _Places(document, document.text.replace("\r\n", "\n")).scan()
    document.tree = _checked(document, tree, (), 0)


def _refuse_deep_keys(text: str) -> None:
    # tomllib's time grows with the square of a dotted key's length.
    deep = _LONG_KEY.search(text)
    if deep:
        raise too_deep(Spot(text.count("\n", 0, deep.start()) + 1))


def _unreadable(message: str) -> UnreadableError:
    at = _AT.search(message)
    what = message[: at.start()] if at else message
    spot = Spot(int(at[1]), int(at[2])) if at and at[1] else None
    if at and not at[1]:
        what += ", at the end of the file"
    return UnreadableError(f"not TOML: {what}", spot)


def _checked(document: Document, value: Any, path: Path, depth: int) -> Any:
    known = document.places.get(path)
    spot = known.value if known else Spot(1)
    if depth > DEPTH_MAX:
        raise too_deep(spot)
    if isinstance(value, dict):
        return {
            key: _checked(document, child, (*path, key), depth + 1) for key, child in value.items()
        }
    if isinstance(value, list):
        return [
            _checked(document, child, (*path, index), depth + 1)
            for index, child in enumerate(value)
        ]
    return document.checked(value, path, spot)


class _Places:
    """Walks TOML that is known to be valid, and notes where keys and values stand."""

    _SKIP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
    _BLANK = re.compile(r"[ \t]*")
    _KEY = re.compile(rf"{_BARE}+")
    _STRING = re.compile(
        r'"""(?:\\.|[^\\])*?"""(?:"{1,2})?|'
        r"'''.*?'''(?:'{1,2})?|"
        r'"(?:\\.|[^"\\])*"|'
        r"'[^']*'",
        re.DOTALL,
    )
    _SCALAR = re.compile(r"[^,\]}#\n]+")

    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        self._text = text
        self._at = 0
        self._lines = [0, *(m.end() for m in re.finditer("\n", text))]
        self._arrays: dict[Path, int] = {}

    def scan(self) -> None:
        table: Path = ()
        self._document.place((), Spot(1, 1), Spot(1, 1))
        while True:
            self._skip(self._SKIP)
            if self._at >= len(self._text):
                return
            spot = self._spot()
            if self._text.startswith("[", self._at):
                table = self._header(spot)
                continue
            self._pair(table)

    def _header(self, spot: Spot) -> Path:
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        keys = self._keys()
        self._at += 2 if array else 1
        path = self._resolve(keys[:-1], spot)
        path = (*path, keys[-1])
        if array:
            index = self._arrays.get(path, -1) + 1
            self._arrays[path] = index
            self._place(path, spot)
            path = (*path, index)
        self._place(path, spot)
        return path

    def _resolve(self, keys: Path, spot: Spot) -> Path:
        path: Path = ()
        for key in keys:
            path = (*path, key)
            self._place(path, spot)
            if path in self._arrays:
                path = (*path, self._arrays[path])
        return path

    def _pair(self, table: Path) -> None:
        spot = self._spot()
        path = table
        for key in self._keys():
            path = (*path, key)
            self._place(path, spot)
        self._at += 1
        self._skip(self._BLANK)
        self._value(path, spot)

    def _value(self, path: Path, key: Spot | None) -> None:
        spot = self._spot()
        if len(path) > DEPTH_MAX:
            raise too_deep(spot)
        self._document.place(path, key or spot, spot)
        first = self._text[self._at]
        if first == "[":
            self._at += 1
            index = 0
            while not self._closes("]"):
                self._value((*path, index), None)
                index += 1
        elif first == "{":
            self._at += 1
            while not self._closes("}"):
                self._pair(path)
        else:
            pattern = self._STRING if first in "\"'" else self._SCALAR
            self._skip(pattern)

    def _closes(self, bracket: str) -> bool:
        self._skip(self._SKIP)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(self._SKIP)
        if self._text.startswith(bracket, self._at):
            self._at += 1
            return True
        return False

    def _keys(self) -> tuple[str, ...]:
        keys: list[str] = []
        while True:
            self._skip(self._BLANK)
            start = self._at
            quoted = self._text[start] in "\"'"
            self._skip(self._STRING if quoted else self._KEY)
            word = self._text[start : self._at]
            keys.append(next(iter(tomllib.loads(f"{word} = 0"))) if quoted else word)
            self._skip(self._BLANK)
            if not self._text.startswith(".", self._at):
                return tuple(keys)
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise UnreadableError("not TOML: can't be parsed", self._spot())
        self._at = match.end()

    def _spot(self) -> Spot:
        line = bisect_right(self._lines, self._at)
        return Spot(line, self._at - self._lines[line - 1] + 1)

    def _place(self, path: Path, spot: Spot) -> None:
        if path not in self._document.places:
            self._document.place(path, spot, spot)
