"""YAML 1.2, core schema, from the parser's events: no tags, no anchors, one document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml import events as ev
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from meshtrain.spec.problems import Path, Spot, shown
from meshtrain.spec.reader import (
    DEPTH_MAX,
    YAML_VALUES_MAX,
    Document,
    UnreadableError,
    too_deep,
)

INT_DIGITS_MAX = 64

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {
    spelling: value
    for value, word in ((True, "true"), (False, "false"))
    for spelling in (word, word.capitalize(), word.upper())
}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")


def read_yaml(document: Document) -> None:
    """Fills `document` from its YAML text; raises UnreadableError."""
    document.values_max = YAML_VALUES_MAX
    try:
        _Builder(document, _events(document.text)).build()
    except UnreadableError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(error.problem or error.context or "can't be parsed").split())
        raise UnreadableError(f"not YAML: {what}", _spot(mark)) from None
    except YAMLError as error:
        first = (str(error).strip().splitlines() or ["bad input"])[0]
        raise UnreadableError(f"not YAML: {first}") from None


def _events(text: str) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except (YAMLError, GeneratorExit):
        raise
    except Exception as error:
        # The parser has bugs of its own on hostile bytes (a bad \U escape is a
        # ValueError); whatever it raises, it is this file that is wrong.
        raise UnreadableError(f"not YAML: {type(error).__name__} in the parser") from None


def _spot(mark: Any) -> Spot | None:
    return None if mark is None else Spot(mark.line + 1, mark.column + 1)


class _Builder:
    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self._document = document
        self._events = events

    def build(self) -> None:
        documents = 0
        for event in self._events:
            if isinstance(event, ev.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise UnreadableError(
                        "a second document starts here; one file holds one job file",
                        _spot(event.start_mark),
                    )
                if event.version is not None and tuple(event.version) != (1, 2):
                    raise UnreadableError(
                        "job files are YAML 1.2; leave the %YAML line out", _spot(event.start_mark)
                    )
            elif isinstance(event, ev.NodeEvent):
                self._document.tree = self._node(event, (), _known(event), 0)

    def _node(self, event: Any, path: Path, key: Spot, depth: int) -> Any:
        spot = _known(event)
        self._refuse_magic(event, spot, path)
        if depth > DEPTH_MAX:
            raise too_deep(spot)
        self._document.place(path, key, spot)
        if isinstance(event, ev.ScalarEvent):
            return self._scalar(event, path, spot)
        if isinstance(event, ev.SequenceStartEvent):
            return self._sequence(path, depth)
        return self._mapping(path, depth)

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        for event in self._events:
            if isinstance(event, ev.SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items)), _known(event), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for event in self._events:
            if isinstance(event, ev.MappingEndEvent):
                break
            spot = _known(event)
            self._refuse_magic(event, spot, path)
            if not isinstance(event, ev.ScalarEvent):
                raise UnreadableError("a key is one word, not a list or a mapping", spot, path)
            key = str(self._document.checked(event.value, path, spot))
            value = self._node(next(self._events), (*path, key), spot, depth + 1)
            if key in entries:
                self._document.problem("this key is here twice", (*path, key), spot)
            entries[key] = value
        return entries

    def _refuse_magic(self, event: Any, spot: Spot, path: Path) -> None:
        if isinstance(event, ev.AliasEvent) or event.anchor is not None:
            raise UnreadableError(
                "anchors (&) and aliases (*) are not taken; write the value out", spot, path
            )
        if event.tag is not None:
            raise UnreadableError(
                f"tags are not taken, and {shown(str(event.tag))} is one; leave it out", spot, path
            )

    def _scalar(self, event: Any, path: Path, spot: Spot) -> Any:
        text: str = event.value
        if event.style is not None:
            return self._document.checked(text, path, spot)
        if _INT.match(text) and len(text) > INT_DIGITS_MAX:
            self._document.problem("the number has too many digits", path, spot)
            return None
        return self._document.checked(plain_scalar(text), path, spot)


def _known(event: Any) -> Spot:
    return Spot(event.start_mark.line + 1, event.start_mark.column + 1)


def plain_scalar(text: str) -> Any:
    """What an unquoted word means in the YAML 1.2 core schema.

    `1e-3` is a number, `no` and `on` are strings. Source: YAML 1.2.2, 10.3.2.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.match(text):
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    if _FLOAT.match(text):
        return float(text)
    if _NOT_FINITE.match(text):
        return float(text.lower().replace(".", ""))
    return text
