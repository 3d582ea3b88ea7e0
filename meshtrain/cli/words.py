"""How the command line writes times, sizes, counts and digests."""

from __future__ import annotations

import time
from collections.abc import Mapping

from meshtrain.ids import short

METRICS_SHOWN_MAX = 2
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def duration(seconds: float) -> str:
    """A span of time as people say it: `8.1 s`, `1 min 12 s`, `5 h 10 min`, `2 d 3 h`."""
    if seconds < 0.95:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return _two(minutes // 60, "h", minutes % 60, "min")
    hours = round(seconds / 3600)
    return _two(hours // 24, "d", hours % 24, "h")


def whole_seconds(seconds: float) -> str:
    """A span of time that is still running: no finer than a second."""
    return f"{max(round(seconds), 0)} s" if seconds < 9.95 else duration(seconds)


def clock(wall_s: float, now_s: float) -> str:
    """A moment near now, in this host's time: `14:20`, `Sat 14:20`, `28 Nov 14:20`."""
    then, now = time.localtime(wall_s), time.localtime(now_s)
    text = f"{then.tm_hour:02}:{then.tm_min:02}"
    if (then.tm_year, then.tm_yday) == (now.tm_year, now.tm_yday):
        return f"{text}:{then.tm_sec:02}" if abs(wall_s - now_s) < 120 else text
    if abs(wall_s - now_s) < 6 * 86400:
        return f"{_DAYS[then.tm_wday]} {text}"
    return f"{then.tm_mday} {_MONTHS[then.tm_mon - 1]} {text}"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"


def hours(seconds: float) -> str:
    """An amount of compute: in hours, or less where it is less than one."""
    if seconds < 3600:
        return duration(seconds)
    amount = seconds / 3600
    return f"{amount:,.0f} h" if amount >= 100 or amount == int(amount) else f"{amount:.1f} h"


def size(size_bytes: float) -> str:
    """An amount of data: `214 kB`, `1.6 GB`."""
    amount, unit = float(size_bytes), 0
    while amount >= 999.5 and unit < len(_SIZE_UNITS) - 1:
        amount /= 1000
        unit += 1
    digits = 1 if unit and amount < 9.95 else 0
    return f"{amount:.{digits}f} {_SIZE_UNITS[unit]}"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 job`, `12,000 jobs`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: list[str], shown_max: int = 6) -> str:
    """`a, b and c`, or `a, b and 12 more`."""
    if len(words) > shown_max:
        words = [*words[: shown_max - 1], f"{len(words) - shown_max + 1} more"]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def base_name(recipe_hash: str) -> str:
    """A base as people read it."""
    return f"base {short(recipe_hash)}"


def metrics(values: Mapping[str, float], wanted: str | None = None) -> str:
    """Metrics on a line: the one wanted where it is there, else the first ones."""
    names = list(values)
    if wanted:
        names = [n for n in names if n == wanted or n.endswith(f".{wanted}")] or names
    return "  ".join(f"{name} {values[name]:.4g}" for name in names[:METRICS_SHOWN_MAX])
