"""What a check of a host comes to: how it is, and how to mend it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, but not as well or as safely as it could."""
    FAIL = "FAIL"
    """It doesn't work, or soon won't."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    check: str
    level: Level
    told: str
    mend: str = ""


def ok(check: str, told: str) -> Finding:
    return Finding(check, Level.OK, told)


def warn(check: str, told: str, mend: str) -> Finding:
    return Finding(check, Level.WARN, told, mend)


def fail(check: str, told: str, mend: str) -> Finding:
    return Finding(check, Level.FAIL, told, mend)
