"""How times, sizes and shares read on a screen."""

from __future__ import annotations

from datetime import datetime

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_EIGHTHS = " ▏▎▍▌▋▊▉"


def clock(wall_s: float) -> str:
    """A moment of the day, in this host's time zone: `14:02:09`."""
    return f"{datetime.fromtimestamp(wall_s):%H:%M:%S}"


def near_clock(wall_s: float, now_wall_s: float) -> str:
    """A moment to come: `14:02`, and with its day where that is another one: `Sat 14:02`."""
    then = datetime.fromtimestamp(wall_s)
    same_day = then.date() == datetime.fromtimestamp(now_wall_s).date()
    return f"{then:%H:%M}" if same_day else f"{DAYS[then.weekday()]} {then:%H:%M}"


def duration(seconds: float) -> str:
    """`42 s`, `6 min`, `1 h 12 min`, `2 d 3 h`: never more than two units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"


def size(size_bytes: int) -> str:
    """`0 B`, `214 kB`, `1.6 MB`, `41 GB`: powers of 1000, two digits at least."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def bar(share: float, width: int) -> str:
    """A bar of `width` cells, filled to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (_EIGHTHS[rest] if rest else "")
    return drawn + "░" * (width - len(drawn))


def tail(text: str, width: int) -> str:
    """The end of `text` where it is too long: the end of a job's name tells it apart."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def head(text: str, width: int) -> str:
    """The beginning of `text` where it is too long."""
    return text if len(text) <= width else text[: width - 1] + "…"


def plural(count: int, noun: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
