"""What is seen of a line once it is printed.

Progress bars go back to the start of their line by `\\r` and draw over it, thousands
of times. What is left of them in the end is what came after the last `\\r`.
"""

from __future__ import annotations

SHOWN_BYTES_MAX = 16 << 10
"""Of one line; the rest of a longer one is told, not shown."""


def fold(line: bytes) -> bytes:
    """The last state of a line, without its end; `\\r\\n` is one end of a line."""
    line = line.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :]


def shown_of(line: bytes, shown_max: int = SHOWN_BYTES_MAX) -> tuple[bytes, bool]:
    """What is shown of a whole line, and whether that isn't all of its last state."""
    if len(line) <= shown_max:
        return fold(line), False
    return shown_of_ends(line[:shown_max], line[-shown_max:])


def shown_of_ends(first: bytes, last: bytes) -> tuple[bytes, bool]:
    """The same of a line that is longer than what is shown, from its two ends."""
    if b"\r" in last.rstrip(b"\r"):
        return fold(last), False
    # Its last state alone is longer than what is shown, or it has but one: its beginning.
    return fold(first), True
