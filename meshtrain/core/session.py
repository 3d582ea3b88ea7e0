"""The names of a node's sessions with its master.

A session is a numbering of commands, between one life of a daemon and one life
of the master. A daemon asks for the next one whenever the master no longer knows
the last; a hello that was overtaken by a later one of the same life of the daemon
is known by its number. The welcome names the session in full: a master that takes
up a hello that was meant for the one before it must not go on with its numbers.
"""

from __future__ import annotations

NUMBER_DIGITS_MAX = 18


def session_name(life: str, number: int) -> str:
    """What a daemon calls its n-th session; `life` is drawn anew at each start of the daemon."""
    return f"{life}/{number}"


def granted_name(asked: str, master_life: str) -> str:
    """What both call the session that a daemon asked for, once the master has taken it up."""
    return f"{asked}@{master_life}" if master_life else asked


def split_session(session: str) -> tuple[str, int]:
    """The life and the number in what a daemon asks for; a malformed number counts as 0."""
    life, _, number = session.rpartition("/")
    # Python refuses to read numbers of thousands of digits; nobody opens so many sessions.
    sane = number.isdecimal() and len(number) <= NUMBER_DIGITS_MAX
    return life, int(number) if sane else 0
