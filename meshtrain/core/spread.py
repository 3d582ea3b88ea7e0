"""Some out of many, others for each: so that who hears of a few hears not of the same few."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TypeVar
from zlib import crc32

_T = TypeVar("_T")


def spread(items: Sequence[_T], key: str, count_max: int) -> list[_T]:
    """At most so many of the items: all of a few, else different ones for different keys.

    In even steps around the items, whose length the key decides as well as the
    place of the first one: neighbours of one key are not those of another.
    """
    count = len(items)
    if count <= count_max:
        return list(items)
    if count_max <= 0:
        return []
    drawn = crc32(key.encode())
    step = 1 + (drawn >> 16) % (count - 1)
    while gcd(step, count) > 1:
        step = step % (count - 1) + 1
    return [items[(drawn + i * step) % count] for i in range(count_max)]
