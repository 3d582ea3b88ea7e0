"""A mesh drawn with dots of Braille: hosts on an ellipse, a line for each exchange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

DOTS_ACROSS, DOTS_DOWN = 2, 4
"""Dots of one character."""
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of a Braille character, by row and column; Unicode's block of Braille patterns."""
_BRAILLE = 0x2800


class Tone(IntEnum):
    """How strongly something is drawn; the stronger one wins where two meet."""

    NOTHING = 0
    FAINT = 1
    STRONG = 2
    LABEL = 3


class Line(NamedTuple):
    """Two hosts that exchange data, and which way."""

    one: str
    other: str
    to_one: bool
    to_other: bool
    strong: bool
    """Something travels now."""


class Spot(NamedTuple):
    """A character of the picture."""

    char: str
    tone: Tone


class Host(NamedTuple):
    """A host, and the words that stand for it."""

    name: str
    label: str


def mesh_picture(
    hosts: Sequence[Host], lines: Sequence[Line], width: int, height: int
) -> list[list[Spot]]:
    """The picture: `height` rows of `width` characters."""
    rows = [[Spot(" ", Tone.NOTHING)] * width for _ in range(height)]
    if width < 12 or height < 3 or not hosts:
        return rows
    widest = max(len(host.label) for host in hosts)
    places = _places([host.name for host in hosts], width, height, widest)
    canvas = _Canvas(width, height)
    for line in sorted(lines, key=lambda line: line.strong):
        if line.one in places and line.other in places:
            tone = Tone.STRONG if line.strong else Tone.FAINT
            canvas.draw(places[line.one], places[line.other], tone)
    for y in range(height):
        for x in range(width):
            rows[y][x] = canvas.spot(x, y)
    taken = _put_labels(rows, hosts, places)
    for line in lines:
        if line.one in places and line.other in places:
            tone = Tone.STRONG if line.strong else Tone.FAINT
            if line.to_other:
                _put_head(rows, taken, places[line.one], places[line.other], tone)
            if line.to_one:
                _put_head(rows, taken, places[line.other], places[line.one], tone)
    return rows


class _Place(NamedTuple):
    """A character's column and row."""

    x: int
    y: int


def _places(names: Sequence[str], width: int, height: int, widest: int) -> dict[str, _Place]:
    """Where each host stands: the first one at the top, the others clockwise."""
    across = max(0.0, (width - widest) / 2 - 0.5)
    down = (height - 1) / 2
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    found: dict[str, _Place] = {}
    for index, name in enumerate(names):
        turn = 2 * math.pi * index / len(names) - math.pi / 2
        found[name] = _Place(
            round(centre_x + across * math.cos(turn)), round(centre_y + down * math.sin(turn))
        )
    return found


class _Canvas:
    """Dots, eight to a character."""

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._bits = [0] * (width * height)
        self._tones = [Tone.NOTHING] * (width * height)

    def draw(self, start: _Place, end: _Place, tone: Tone) -> None:
        """A straight line between the middles of two characters."""
        x0, y0 = start.x * DOTS_ACROSS, start.y * DOTS_DOWN + 1
        x1, y1 = end.x * DOTS_ACROSS, end.y * DOTS_DOWN + 1
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            # Faint lines are dotted: they differ without colours too.
            if tone is Tone.FAINT and step % 3:
                continue
            x = round(x0 + (x1 - x0) * step / steps)
            y = round(y0 + (y1 - y0) * step / steps)
            at = y // DOTS_DOWN * self._width + x // DOTS_ACROSS
            self._bits[at] |= _BITS[y % DOTS_DOWN][x % DOTS_ACROSS]
            self._tones[at] = max(self._tones[at], tone)

    def spot(self, x: int, y: int) -> Spot:
        bits = self._bits[y * self._width + x]
        return Spot(chr(_BRAILLE + bits) if bits else " ", self._tones[y * self._width + x])


def _put_labels(
    rows: list[list[Spot]], hosts: Sequence[Host], places: dict[str, _Place]
) -> set[_Place]:
    """Write the hosts' labels; the characters that they take."""
    taken: set[_Place] = set()
    width = len(rows[0])
    for host in hosts:
        place = places[host.name]
        start = min(max(0, place.x - len(host.label) // 2), max(0, width - len(host.label)))
        for offset, char in enumerate(host.label[:width]):
            spot = _Place(start + offset, place.y)
            if spot not in taken:
                rows[spot.y][spot.x] = Spot(char, Tone.LABEL)
                taken.add(spot)
    return taken


def _put_head(
    rows: list[list[Spot]], taken: set[_Place], start: _Place, end: _Place, tone: Tone
) -> None:
    """An arrow's head on the line from `start`, at the last free character before `end`."""
    steps = max(abs(end.x - start.x), abs(end.y - start.y))
    for step in range(steps, steps // 2, -1):
        x = round(start.x + (end.x - start.x) * step / steps)
        y = round(start.y + (end.y - start.y) * step / steps)
        if _Place(x, y) not in taken:
            rows[y][x] = Spot(_head(end.x - start.x, end.y - start.y), tone)
            taken.add(_Place(x, y))
            return


def _head(right: int, down: int) -> str:
    # A character is about twice as high as it is wide.
    if abs(right) >= 2 * abs(down):
        return "▸" if right >= 0 else "◂"
    return "▾" if down >= 0 else "▴"
