"""What people type to get somewhere in a log: a time, a line, a share of it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import msgspec

from meshtrain.errors import UserError

JUMP_HELP = "14:02, 14:02:09, 2026-05-01 14:02, -10m (before its end), 1200 (a line), 50%"
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AGO = re.compile(r"-\s*(\d+(?:\.\d+)?)\s*([smhd])\w*")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DATED = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")


class Jump(msgspec.Struct, frozen=True):
    """Where to; one of the three is there."""

    wall_s: float | None = None
    line: int | None = None
    """From 0."""
    share: float | None = None


def parse_jump(text: str, span_s: tuple[float, float] | None) -> Jump:
    """What was typed, for a log whose bytes came within `span_s`, in this host's time zone.

    A time without a day means the latest one in the log. Raises UserError for what is
    none of `JUMP_HELP`, and for a time in a log of which none are known.
    """
    text = " ".join(text.replace("T", " ").split())
    if text.endswith("%") and _number(text[:-1]) is not None:
        return Jump(share=min(max((_number(text[:-1]) or 0.0) / 100, 0.0), 1.0))
    digits = text.replace(",", "").replace("_", "")
    if digits.isascii() and digits.isdigit() and len(digits) <= 18:
        return Jump(line=max(int(digits) - 1, 0))
    wall_s = _time(text, span_s)
    if wall_s is None:
        raise UserError(f"{text!r} is no place in a log: write 14:02, -10m, 1200 (a line), 50%")
    if span_s is None:
        raise UserError("the master didn't note when this log came: jump to a line or a share")
    return Jump(wall_s=wall_s)


def _time(text: str, span_s: tuple[float, float] | None) -> float | None:
    first_s, last_s = span_s or (0.0, 0.0)
    if (ago := _AGO.fullmatch(text)) is not None:
        return last_s - float(ago[1]) * _UNITS_S[ago[2]]
    if (clock := _CLOCK.fullmatch(text)) is not None:
        hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
        if hour > 23 or minute > 59 or second > 59:
            return None
        last = datetime.fromtimestamp(last_s)
        there = last.replace(hour=hour, minute=minute, second=second, microsecond=0)
        before = there - timedelta(days=1)
        if there.timestamp() > last_s and before.timestamp() >= first_s - 60:
            there = before
        return there.timestamp()
    for form in _DATED:
        try:
            return datetime.strptime(text, form).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,3}(\.\d+)?", text.strip()) else None
