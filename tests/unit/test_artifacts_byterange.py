"""Ranges at their edges."""

from __future__ import annotations

import pytest

from meshtrain.artifacts.byterange import UnsatisfiableRangeError, parse_range


@pytest.mark.parametrize(
    ("header", "size_bytes", "expected"),
    [
        (None, 10, None),
        (None, 0, None),
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=0-9", 10, (0, 10)),
        ("bytes=0-10", 10, (0, 10)),
        ("bytes=9-999999999999999999", 10, (9, 10)),
        ("bytes=9-", 10, (9, 10)),
        ("bytes=0-", 10, (0, 10)),
        ("bytes=-1", 10, (9, 10)),
        ("bytes=-10", 10, (0, 10)),
        ("bytes=-99", 10, (0, 10)),
        ("Bytes= 2-3 ", 10, (2, 4)),
    ],
)
def test_ranges_that_can_be_sent(
    header: str | None, size_bytes: int, expected: tuple[int, int] | None
) -> None:
    assert parse_range(header, size_bytes) == expected


@pytest.mark.parametrize(
    ("header", "size_bytes"),
    [
        ("bytes=10-", 10),
        ("bytes=10-20", 10),
        ("bytes=5-4", 10),
        ("bytes=-0", 10),
        ("bytes=-", 10),
        ("bytes=", 10),
        ("bytes=0-1,3-4", 10),
        ("bytes=a-b", 10),
        ("bytes=--1", 10),
        ("bytes=0x1-2", 10),
        ("bytes=٣-٤", 10),
        ("items=0-1", 10),
        ("bytes=0-0", 0),
        ("bytes=-1", 0),
        ("bytes=" + "9" * 5000 + "-", 10),
        ("", 10),
    ],
)
def test_ranges_that_cannot(header: str, size_bytes: int) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range(header, size_bytes)
