"""The Range header of HTTP, as far as we serve it (RFC 9110, section 14)."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


class UnsatisfiableRangeError(Exception):
    """Raised when a Range asks for nothing that can be sent; answered with 416."""


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The first byte and the one past the last that a Range asks for; None asks for all.

    Args:
        header: as it came, or None.
        size_bytes: of the file.

    Raises:
        UnsatisfiableRangeError: when it is no single range of bytes, or lies
            outside the file.
    """
    if header is None:
        return None
    match = _RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        raise UnsatisfiableRangeError(
            f"{header[:80]!r} is not a single range of bytes. Write it as bytes=0-1048575"
        )
    first, last = match.groups()
    if not first:
        start, stop = max(0, size_bytes - int(last)), size_bytes
    else:
        start = int(first)
        stop = min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            raise UnsatisfiableRangeError(f"the range ends at {last}, before its start {first}")
    if start >= stop:
        raise UnsatisfiableRangeError(f"the range lies outside the file of {size_bytes} bytes")
    return start, stop
