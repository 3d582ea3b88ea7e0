"""A window on a log: what its rows show, and how it moves. It knows no terminal."""

from __future__ import annotations

from typing import NamedTuple

from meshtrain.errors import UserError
from meshtrain_tui.log.ansi import PLAIN, Run, runs_of, text_of
from meshtrain_tui.log.document import Line
from meshtrain_tui.log.jump import Jump
from meshtrain_tui.log.ranks import LogRanks, Place
from meshtrain_tui.log.search import SearchPattern
from meshtrain_tui.log.wrapping import cut, wrapped

HIT_AT_SHARE = 1 / 3
"""Where in the window a line that was found stands: with some of what led to it above."""
COLUMNS_MAX = 1_000_000
COPY_BYTES_MAX = 100_000
"""What most terminals take by OSC 52."""


class Row(NamedTuple):
    """One row of the window."""

    line: Line
    place: Place
    """Before its line."""
    first: bool
    """Whether it is its line's first row."""
    text: str
    runs: tuple[Run, ...]
    hits: tuple[tuple[int, int], ...]
    """Where in `text` the pattern is found."""
    is_found: bool
    """Whether its line is the one that the search stands at."""


class _Shown(NamedTuple):
    line: Line
    place: Place
    text: str
    parts: list[tuple[int, int]]


class LogViewer:
    """A window of `height` rows on the lines of an attempt.

    It stands at a place, and at a row of the line there; or it follows the end.
    Every method reads what it needs, and raises MeshtrainError where it can't; then
    it stands where it stood.
    """

    def __init__(self, ranks: LogRanks) -> None:
        self.ranks = ranks
        self.width = 80
        self.height = 24
        self.wraps = False
        self.follows = True
        self.column = 0
        self.pattern: SearchPattern | None = None
        #: the line that the search stands at
        self.found: Place | None = None
        self._top: Place = ranks.start
        self._sub = 0

    @property
    def top(self) -> Place:
        """The place before the window's first line."""
        return self._top

    async def rows(self) -> list[Row]:
        """The rows to show now."""
        if self.follows:
            await self._stand_at_end()
        self._top = self.ranks.within(self._top)
        rows = await self._rows_from_top()
        if len(rows) < self.height and (any(self._top) or self._sub):
            # It became wider or higher, or the log is shorter: no room stays empty.
            await self._stand_at_end()
            rows = await self._rows_from_top()
        return rows

    async def _rows_from_top(self) -> list[Row]:
        rows: list[Row] = []
        place, sub = self._top, self._sub
        while len(rows) < self.height and (step := await self.ranks.after(place)) is not None:
            shown = self._shown(step[0], place)
            # At another width the line may have fewer rows.
            first = min(sub, len(shown.parts) - 1)
            rows += [self._row(shown, part) for part in range(first, len(shown.parts))]
            place, sub = step[1], 0
        return rows[: self.height]

    async def _stand_at_end(self) -> None:
        """Stand so that the last row of the log is the last one of the window."""
        place, sub, missing = self.ranks.end, 0, self.height
        while missing > 0 and (step := await self.ranks.before(place)) is not None:
            line, place = step
            parts = len(self._shown(line, place).parts)
            sub = max(parts - missing, 0)
            missing -= parts
        self._top, self._sub = place, sub

    # --- moving ------------------------------------------------------------------------------

    async def scroll(self, rows: int) -> None:
        """Move down by so many rows, or up where they are less than 0; it then follows no more."""
        if rows < 0:
            self.follows = False
            await self._up(-rows)
        elif not self.follows:
            await self._down(rows)

    async def _down(self, rows: int) -> None:
        place, sub = self._top, self._sub
        while rows > 0:
            step = await self.ranks.after(place)
            if step is None:
                break
            parts = len(self._shown(step[0], place).parts)
            moved = min(rows, parts - sub)
            rows -= moved
            sub += moved
            if sub >= parts:
                place, sub = step[1], 0
        self._top, self._sub = place, sub
        # The end of the log stays at the lower edge.
        below = 0
        while below < self.height and (step := await self.ranks.after(place)) is not None:
            below += len(self._shown(step[0], place).parts) - sub
            place, sub = step[1], 0
        if below < self.height:
            await self._stand_at_end()

    async def _up(self, rows: int) -> None:
        place, sub = self._top, self._sub
        while rows > 0:
            if sub > 0:
                moved = min(rows, sub)
                rows, sub = rows - moved, sub - moved
                continue
            step = await self.ranks.before(place)
            if step is None:
                break
            line, place = step
            sub = len(self._shown(line, place).parts)
        self._top, self._sub = place, sub

    def to_start(self) -> None:
        """Stand at the first line."""
        self.follows = False
        self._top, self._sub = self.ranks.start, 0

    def follow(self, on: bool) -> None:
        """Follow the end from now on, or stay."""
        self.follows = on

    async def to_place(self, place: Place, at_share: float = 0.0) -> None:
        """Stand so that the line after a place is so far down in the window."""
        self.follows = False
        self._top, self._sub = place, 0
        await self._up(int(self.height * at_share))

    async def to_share(self, share: float) -> None:
        """Stand about so far from the start, from 0 to 1."""
        await self.to_place(await self.ranks.at_share(share))

    async def jump(self, jump: Jump) -> None:
        """Stand where somebody wants to. Raises UserError for a line that isn't there, or isn't
        counted yet."""
        if jump.wall_s is not None:
            await self.to_place(await self.ranks.at_time(jump.wall_s))
        elif jump.share is not None:
            await self.to_share(jump.share)
        elif jump.line is not None:
            place = await self.ranks.at_line(jump.line)
            if place is None:
                raise UserError(await self._why_no_line(jump.line))
            await self.to_place(place)

    async def _why_no_line(self, number: int) -> str:
        if len(self.ranks.documents) > 1:
            return "the lines of several ranks have no numbers: jump to a time"
        lines = await self.ranks.lines()
        if lines is not None:
            return f"there is no line {number + 1:,}: the log has {lines:,}"
        return f"line {number + 1:,} isn't counted yet: try again in a moment, or jump to a share"

    def move_columns(self, columns: int) -> None:
        """Move to the right, where lines aren't wrapped."""
        self.column = min(max(self.column + columns, 0), COLUMNS_MAX)

    def toggle_wrap(self) -> None:
        """Put long lines on several rows, or cut them."""
        self.wraps = not self.wraps
        self.column = self._sub = 0

    # --- searching ---------------------------------------------------------------------------

    async def search_from(self, *, back: bool) -> Place:
        """The place that the search for another line begins at.

        After the line that was found last, or before it, if it is in sight; else after the
        first line of the window, or before it; in a window that follows, before its end.
        """
        rows = await self.rows()
        if self.found is not None and any(row.place == self.found for row in rows):
            step = None if back else await self.ranks.after(self.found)
            return step[1] if step is not None else self.found
        return self.ranks.end if back and self.follows else self._top

    async def stand_at_found(self, found: Place) -> None:
        """Stand at a line that the search has found."""
        self.found = found
        await self.to_place(found, HIT_AT_SHARE)

    def search_for(self, pattern: SearchPattern | None) -> None:
        """Mark what this finds from now on; None: nothing."""
        self.pattern = pattern
        self.found = None

    # --- copying -----------------------------------------------------------------------------

    async def text_between(self, begin: Place, end: Place) -> tuple[str, int, bool]:
        """The lines from one place to another: text, how many, and whether there are more."""
        lines: list[str] = []
        size_bytes = 0
        place = begin
        while sum(place) < sum(end) and (step := await self.ranks.after(place)) is not None:
            text = text_of(step[0].shown)
            size_bytes += len(text.encode()) + 1
            if size_bytes > COPY_BYTES_MAX:
                return "\n".join(lines), len(lines), True
            lines.append(text)
            place = step[1]
        return "\n".join(lines), len(lines), False

    async def place_below(self) -> Place:
        """The place after the window's last line."""
        rows = await self.rows()
        step = await self.ranks.after(rows[-1].place) if rows else None
        return self.ranks.end if step is None else step[1]

    # --- rows --------------------------------------------------------------------------------

    def _shown(self, line: Line, place: Place) -> _Shown:
        text = text_of(line.shown)
        if line.hidden_bytes:
            text += f" … {line.hidden_bytes:,} bytes more"
        parts = wrapped(text, self.width) if self.wraps else [cut(text, self.column, self.width)]
        return _Shown(line, place, text, parts)

    def _row(self, shown: _Shown, part: int) -> Row:
        begin, end = shown.parts[part]
        hits: list[tuple[int, int]] = []
        if self.pattern is not None:
            hits = [
                (max(first - begin, 0), min(after, end) - begin)
                for first, after in self.pattern.spans(shown.text)
                if first < end and after > begin
            ]
        return Row(
            shown.line,
            shown.place,
            part == 0,
            shown.text[begin:end],
            tuple(_looks(shown, begin, end)),
            tuple(hits),
            shown.place == self.found,
        )


def _looks(shown: _Shown, begin: int, end: int) -> list[Run]:
    """The part of a line from one character to another, with its colours."""
    if b"\x1b" not in shown.line.shown:
        return [Run(shown.text[begin:end], PLAIN)] if end > begin else []
    runs: list[Run] = []
    at = 0
    printed = runs_of(shown.line.shown.decode("utf-8", "replace"))
    rest = shown.text[sum(len(run.text) for run in printed) :]
    for run in [*printed, Run(rest, PLAIN)]:
        first, after = max(begin - at, 0), min(end - at, len(run.text))
        if after > first:
            runs.append(Run(run.text[first:after], run.look))
        at += len(run.text)
    return runs
