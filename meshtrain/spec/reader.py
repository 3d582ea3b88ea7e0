"""Bytes of a job file to a plain tree, with the place of every value.

What comes out holds dicts, lists, strings, ints, finite floats, bools and None
alone, at most DEPTH_MAX deep. Everything that could surprise (objects, anchors,
duplicate keys, several documents, NaN) is refused here, with its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from meshtrain.spec.problems import JobFileError, Path, Place, Places, Problem, Spot, shown

FILE_SIZE_MAX_BYTES = 1024 * 1024
DEPTH_MAX = 32
INT_MAX = 2**63 - 1
VALUES_MAX = 100_000
"""How many values a file may hold; more is a table, and belongs in a matrix."""

YAML_VALUES_MAX = 25_000
"""The same for YAML, whose parser takes about 60 µs a value."""

SUFFIXES = (".yaml", ".yml", ".json", ".toml")


class UnreadableError(Exception):
    """Raised inside a reader when the rest of the file can't be made sense of."""

    def __init__(self, text: str, spot: Spot | None = None, path: Path = ()) -> None:
        super().__init__(text)
        self.problem = Problem(text, path, spot)


@dataclass(slots=True)
class Document:
    """A file that was read: its tree, where everything stands, what is wrong so far."""

    text: str
    tree: Any = None
    places: Places = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values_max: int = VALUES_MAX

    def place(self, path: Path, key: Spot, value: Spot) -> None:
        """Notes where the value at `path` stands."""
        if len(self.places) >= self.values_max:
            more = "" if self.values_max == VALUES_MAX else f"; JSON may hold {VALUES_MAX:,}"
            raise UnreadableError(f"more than {self.values_max:,} values in one file{more}", value)
        self.places[path] = Place(key, value)

    def problem(self, text: str, path: Path, spot: Spot) -> None:
        """Notes a problem that leaves the rest of the file readable."""
        self.problems.append(Problem(text, path, spot))

    def checked(self, value: Any, path: Path, spot: Spot) -> Any:
        """`value` when it is a scalar that a job file may hold; else None, and a problem."""
        wrong = scalar_problem(value)
        if wrong is None:
            return value
        self.problem(wrong, path, spot)
        return None


def scalar_problem(value: Any) -> str | None:
    """Why `value` can't stand in a job file, or None when it can."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if abs(value) <= INT_MAX else "the number has too many digits"
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        return "expected a finite number, not NaN or infinity"
    if isinstance(value, str):
        return None if _encodable(value) else "half of a surrogate pair is no character"
    return f"{shown(value)} is a date or a time; write it in quotes"


def too_deep(spot: Spot | None) -> UnreadableError:
    """The error for a file that nests deeper than any job file needs."""
    return UnreadableError(f"nested deeper than {DEPTH_MAX} levels", spot)


def read(data: bytes, file_name: str) -> Document:
    """Reads YAML 1.2, JSON or TOML, by the file name's suffix.

    Raises JobFileError when nothing can be read. Problems that leave the rest
    readable are in `Document.problems`, so that they are told with all others.
    """
    try:
        text = _decode(data, file_name)
        document = Document(text)
        _reader(file_name)(document)
    except UnreadableError as unreadable:
        raise JobFileError(file_name, [unreadable.problem]) from None
    return document


def _reader(file_name: str) -> Any:
    suffix = file_name[file_name.rfind(".") :].lower() if "." in file_name else ""
    if suffix in (".yaml", ".yml"):
        from meshtrain.spec.read_yaml import read_yaml

        return read_yaml
    if suffix == ".json":
        from meshtrain.spec.read_json import read_json

        return read_json
    if suffix == ".toml":
        from meshtrain.spec.read_toml import read_toml

        return read_toml
    raise UnreadableError(
        f"{shown(suffix)} is no suffix of a job file; name it .yaml, .json or .toml"
    )


def _decode(data: bytes, file_name: str) -> str:
    if len(data) > FILE_SIZE_MAX_BYTES:
        raise UnreadableError(
            f"the file has {len(data):,} bytes; a job file has at most {FILE_SIZE_MAX_BYTES:,}"
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableError("the file is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8", Spot(line)
        ) from None
    nul = text.find("\0")
    if nul >= 0:
        raise UnreadableError(
            "a NUL byte: this is no text file", Spot(text.count("\n", 0, nul) + 1)
        )
    if not text.strip():
        raise UnreadableError("the file is empty")
    return text


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
