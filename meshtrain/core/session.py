"""The names of a node's sessions with its master.

A session is a numbering of commands. A daemon opens the next one whenever the
master no longer knows the last; a hello that was overtaken by a later one of
the same life of the daemon is known by its number.
"""

from __future__ import annotations

NUMBER_DIGITS_MAX = 18


def session_name(life: str, number: int) -> str:
    """The name of a daemon's n-th session; `life` is drawn anew at each start of the daemon."""
    return f"{life}/{number}"


def split_session(session: str) -> tuple[str, int]:
    """The life and the number in a session's name; a malformed number counts as 0."""
    life, _, number = session.rpartition("/")
    # Python refuses to read numbers of thousands of digits; nobody opens so many sessions.
    sane = number.isdecimal() and len(number) <= NUMBER_DIGITS_MAX
    return life, int(number) if sane else 0
