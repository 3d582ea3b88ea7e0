"""What one value of a job file or a settings file may be.

A kind checks a value, words it for people, and gives its JSON Schema, so that
the error, `meshtrain schema --explain` and an editor's completion agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import CoreSchema, core_schema

from meshtrain.spec.problems import hint, shown

TEXT_LEN_MAX = 64 * 1024
COUNT_MAX = 2**31 - 1
SEED_MAX = 2**32 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}\Z")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKMGT]i?)?B?\s*\Z")
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h|d)?\s*\Z")
_BASE_REFERENCE = re.compile(r"[0-9a-f]{4,32}(?:(?:…|\.\.\.?)[0-9a-f]{1,28})?\Z")
_DEVICE = re.compile(r"(?:cuda:)?([0-9]+(?:,[0-9]+)*)\Z")

_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value; put it into `Annotated[..., kind]` of a pydantic field.

    `check` returns the value as the program uses it, or raises ValueError whose
    text says what was expected.
    """

    words: str
    check: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole(words: str, low: int, high: int = COUNT_MAX) -> Kind:
    """A whole number from `low` to `high`; 64.0 is one, "64" and true are not."""

    def check(value: Any) -> int:
        if not is_number(value) or value != int(value):
            raise ValueError(f"{shown(value)} is not a whole number{_quoted_number(value)}")
        if not low <= value <= high:
            limits = f"at least {low}" if high == COUNT_MAX else f"from {low} to {high}"
            raise ValueError(f"{shown(value)} is out of range: a whole number {limits}")
        return int(value)

    return Kind(words, check, {"type": "integer", "minimum": low, "maximum": high})


def number(words: str, low: float, high: float, *, above: bool = False) -> Kind:
    """A number from `low` (`above`: which itself is left out) to `high`."""

    def check(value: Any) -> float:
        if not is_number(value):
            raise ValueError(f"{shown(value)} is not a number{_quoted_number(value)}")
        if value > high or value < low or (above and value == low):
            least = f"above {low:g}" if above else f"at least {low:g}"
            raise ValueError(f"{shown(value)} is out of range: {least}, at most {high:g}")
        return float(value)

    bound = "exclusiveMinimum" if above else "minimum"
    return Kind(words, check, {"type": "number", bound: low, "maximum": high})


def _check_share(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f"{shown(value)} is not a share: a number between 0 and 1")
    if not 0 <= value <= 1:
        raise ValueError(f"{shown(value)} is not a share: between 0 and 1")
    if value == 0:
        raise ValueError("0 leaves the target no samples: a share above 0, at most 1")
    return float(value)


def choice(words: str, choices: Iterable[str]) -> Kind:
    """One of `choices`, with a did-you-mean for anything else."""
    known = tuple(str(word) for word in choices)

    def check(value: Any) -> str:
        if isinstance(value, str) and value in known:
            return value
        offered = ", ".join(known)
        close = hint(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{shown(value)} is not one of {offered}{close}")

    return Kind(words or " | ".join(known), check, {"enum": list(known)})


def text(words: str, *, len_max: int = TEXT_LEN_MAX, blank: bool = False) -> Kind:
    """A string of at most `len_max` characters; not a blank one unless `blank`."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            quotes = f'; write "{value}"' if is_number(value) else ""
            raise ValueError(f"expected text, got {shown(value)}{quotes}")
        if len(value) > len_max:
            raise ValueError(f"the text has {len(value):,} characters; at most {len_max:,}")
        if "\0" in value:
            raise ValueError("the text holds a NUL character; leave it out")
        if not blank and not value.strip():
            raise ValueError("the text is empty")
        return value

    return Kind(words, check, {"type": "string", "minLength": 0 if blank else 1})


def matching(words: str, pattern: re.Pattern[str], rule: str) -> Kind:
    """A string that matches `pattern`, whose `rule` is told when it doesn't."""

    def check(value: Any) -> str:
        if isinstance(value, str) and pattern.match(value):
            return value
        quotes = f'; write "{value}"' if is_number(value) else ""
        raise ValueError(f"{shown(value)} is not {rule}{quotes}")

    schema = {"type": "string", "pattern": "^" + pattern.pattern.replace(r"\Z", "$")}
    return Kind(words, check, schema)


def size_or_none(of: str, size_min: int) -> Kind:
    """A size of at least `size_min`, or 0 for none at all."""

    def check(value: Any) -> int:
        size = _check_size(value)
        if 0 < size < size_min:
            raise ValueError(f"{shown(value)} is too little: at least {size_min:,} {of}, or 0")
        return size

    told = f'size in {of}, {size_min:,} or more, or 0: "12GB", "512MiB" or bytes'
    return Kind(told, check, {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]})


def _check_size(value: Any) -> int:
    match = _SIZE.match(value[:64]) if isinstance(value, str) else None
    if match:
        unit = match[2] or ""
        size = float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1]]
    elif is_number(value) and value >= 0:
        size = value
    else:
        raise ValueError(f'{shown(value)} is not a size: write "12GB", "512MiB" or bytes')
    if size > 2**60:
        raise ValueError(f"{shown(value)} is more than any machine has")
    return int(size)


def _check_duration(value: Any) -> float:
    match = _DURATION.match(value[:64]) if isinstance(value, str) else None
    if match:
        seconds = float(match[1]) * _SECONDS[match[2] or ""]
    elif is_number(value):
        seconds = float(value)
    else:
        raise ValueError(f'{shown(value)} is not a duration: write "90s", "30m", "2h" or seconds')
    if not 0 < seconds <= 10 * 365 * 86400:
        raise ValueError(f"{shown(value)} is out of range: above 0, at most ten years")
    return seconds


def _check_relative_path(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{shown(value)} is not a path")
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError(f"{shown(value)} leads out of its folder: write a path below it")
    return value


def _check_absolute_path(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or not value.startswith("/"):
        raise ValueError(f"{shown(value)} is not an absolute path: it begins with /")
    return value


def _check_device(value: Any) -> str:
    if value == "cpu":
        return "cpu"
    spelled = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _DEVICE.match(spelled) if isinstance(spelled, str) else None
    if not match:
        raise ValueError(f'{shown(value)} is not a device: write 0, "0,1", "cuda:0" or "cpu"')
    return match[1]


def check_scalar(value: Any) -> Any:
    """A string, a finite number or a bool: what a cell of a matrix may hold."""
    if isinstance(value, str):
        return PLAIN_TEXT.check(value)
    if isinstance(value, bool) or is_number(value):
        return value
    raise ValueError(f"expected text, a number or true/false, got {shown(value)}")


def _check_account(value: Any) -> str:
    if not isinstance(value, str) or not _ACCOUNT.match(value):
        raise ValueError(
            f"{shown(value)} is not an account's name: a letter or underscore, then letters, "
            "digits, dot, dash and underscore, at most 32"
        )
    if value == "root":
        raise ValueError("jobs don't run as root: name an account that only owns what they need")
    return value


def _check_one_or_many(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"expected a name or a list of names, got {shown(value)}")
    return tuple(dict.fromkeys(items))


def _quoted_number(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return "; leave the quotes out"
    return ""


SHARE = Kind(
    "share, above 0, at most 1",
    _check_share,
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
)
NAME = matching("name", _NAME, "a name: letters, digits, dot, dash and underscore, at most 64")
VARIABLE = matching("name", _VARIABLE, "a variable's name: letters, digits and underscore")
ACCOUNT = Kind(
    "account of the node, not root",
    _check_account,
    {"type": "string", "pattern": "^(?!root$)" + _ACCOUNT.pattern.replace(r"\Z", "$")},
)
PLAIN_TEXT = text("text", blank=True)
FILLED_TEXT = text("text")
COUNT = whole("whole number", 1)
SIZE = Kind(
    'size: "12GB", "512MiB" or bytes',
    _check_size,
    {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]},
)
DURATION = Kind(
    'duration: "90s", "30m", "2h" or seconds',
    _check_duration,
    {"anyOf": [{"type": "string"}, {"type": "number", "exclusiveMinimum": 0}]},
)
RELATIVE_PATH = Kind("path below the folder", _check_relative_path, {"type": "string"})
ABSOLUTE_PATH = Kind("absolute path", _check_absolute_path, {"type": "string", "pattern": "^/"})
BASE_REFERENCE = matching(
    "recipe hash or artifact id, or its beginning",
    _BASE_REFERENCE,
    "a recipe hash or an artifact id: at least its first 4 digits, as `meshtrain bases` shows them",
)
DEVICE = Kind(
    'GPU index, "0,1", "cuda:0" or "cpu"',
    _check_device,
    {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]},
)
SCALAR = Kind("text, number or true/false", check_scalar, {"type": ["string", "number", "boolean"]})
NAMES = Kind(
    "a name or a list of names",
    _check_one_or_many,
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
)
