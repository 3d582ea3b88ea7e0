"""The heat map of a sweep: numbers on colours, and a cursor; as much as there is room for."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message

from meshtrain.results.formats import clip, clip_middle, pad
from meshtrain.results.merge import MergedRow
from meshtrain_tui.feed import Picture
from meshtrain_tui.grid import CellWords, Grid, heat_style, legend
from meshtrain_tui.widgets.panel import Panel, wrapped

LABEL_WIDTH_MAX = 24
CELL_WIDTH_MIN = 9
ALL_TOGETHER = " × "
HEAD_LINES = 2
"""What lies across and downwards, and the labels of the columns."""


class HeatMap(Panel, can_focus=True):
    """A grid, the references below it, and what the signs mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "up", show=False, id="matrix.up"),
        Binding("down,j", "move(1, 0)", "down", show=False, id="matrix.down"),
        Binding("left,h", "move(0, -1)", "left", show=False, id="matrix.left"),
        Binding("right,l", "move(0, 1)", "right", show=False, id="matrix.right"),
        Binding("pageup", "page(-1)", "a page up", show=False, id="matrix.page_up"),
        Binding("pagedown", "page(1)", "a page down", show=False, id="matrix.page_down"),
        Binding("home", "first", "first", show=False, id="matrix.first"),
        Binding("end", "last", "last", show=False, id="matrix.last"),
        Binding("b", "best", "best cell", id="matrix.best"),
        Binding("enter", "open", "jobs of the cell", id="matrix.open"),
    ]

    class Opened(Message):
        """Somebody wants to see the jobs of a cell."""

        def __init__(self, row: MergedRow) -> None:
            super().__init__()
            self.row = row

    class Moved(Message):
        """The cursor stands on another cell."""

    def __init__(self) -> None:
        super().__init__(id="heat")
        self._grid: Grid | None = None
        self._words: CellWords | None = None
        self._why_empty = ""
        self._y = self._x = 0
        self._top = self._left = 0
        #: What was drawn where: the first line and column of the cells, and a cell's width.
        self._drawn = (HEAD_LINES, 0, CELL_WIDTH_MIN, 0)

    def tell(self, grid: Grid | None, title: str, why_empty: str = "") -> None:
        """What to show from now on; `why_empty` says what to do where there is no grid."""
        self._grid, self._why_empty = grid, why_empty
        self.border_title = None if grid is None else Content(_heading(grid, title))
        self._words = CellWords(grid) if grid is not None else None
        self._go(self._y, self._x)
        self.refresh()

    @property
    def row(self) -> MergedRow | None:
        """The cell under the cursor; None where the sweep has none."""
        grid = self._grid
        if grid is None or not grid.cells or not grid.cells[0]:
            return None
        return grid.cells[self._y][self._x]

    # --- drawing --------------------------------------------------------------------------

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        grid, words = self._grid, self._words
        if grid is None or words is None or not grid.cells:
            return wrapped(self._why_empty, width, "$foreground-muted")
        below = self._below(grid, words, width)
        room = max(1, height - HEAD_LINES - len(below))
        label_width = min(LABEL_WIDTH_MAX, max(cell_len(label) for label in grid.y_labels))
        cell_width = self._cell_width(grid, words, width - label_width - 1)
        columns = max(1, (width - label_width - 1) // cell_width)
        self._scroll(room, columns)
        xs = range(self._left, min(len(grid.x_labels), self._left + columns))
        ys = range(self._top, min(len(grid.y_labels), self._top + room))
        self._drawn = (HEAD_LINES, label_width + 1, cell_width, columns)
        lines = [_axes_line(grid, width, len(xs), len(ys))]
        heads = "".join(
            pad(f" {clip_middle(grid.x_labels[x], cell_width - 2)}", cell_width) for x in xs
        )
        lines.append(Content.assemble(" " * (label_width + 1), (heads, "bold")))
        for y in ys:
            label = pad(clip_middle(grid.y_labels[y], label_width), label_width)
            parts = [Content.assemble((label, "bold"), " ")]
            parts += [self._cell(grid, words, y, x, cell_width) for x in xs]
            lines.append(Content("").join(parts))
        return [*lines, *below]

    def _cell_width(self, grid: Grid, words: CellWords, room: int) -> int:
        """As wide as the widest cell, and its label as far as that leaves no column out."""
        texts = max(cell_len(words.of(row)) for line in grid.cells for row in line)
        labels = max(cell_len(label) for label in grid.x_labels)
        # The cursor's sign, the star of the best, and a gap.
        needed = max(CELL_WIDTH_MIN, texts + 3)
        spare = room // max(1, len(grid.x_labels))
        return max(1, min(max(needed, min(labels + 2, spare)), room))

    def _cell(self, grid: Grid, words: CellWords, y: int, x: int, width: int) -> Content:
        row = grid.cells[y][x]
        here = (y, x) == (self._y, self._x)
        star = "★" if grid.best == (y, x) else ""
        # The cursor is a sign too, for who sees no colours.
        text = pad(clip(f"{'▸' if here else ' '}{words.of(row)}{star}", width - 1), width - 1)
        style = "$foreground-muted"
        if row is not None and row.mean is not None:
            style = heat_style(grid.share(row.mean))
        elif row is not None and any(cell.state == "failed" for cell in row.missing):
            style = "$text-error"
        if here:
            style = f"{style} bold underline"
        return Content.assemble((text, style), " ")

    def _below(self, grid: Grid, words: CellWords, width: int) -> list[Content]:
        lines = []
        if grid.table.references:
            told = [f"{row.group} {words.of(row)}" for row in grid.table.references]
            lines.append(Content.assemble(("references  ", "$foreground-muted"), " · ".join(told)))
        scale = ""
        if grid.low is not None and grid.high is not None and grid.high > grid.low:
            worst, best = grid.low, grid.high
            if not grid.table.higher_is_better:
                worst, best = best, worst
            scale = f"   dark {words.number(worst)} to light {words.number(best)}"
        lines.append(Content.styled(legend(grid) + scale, "$foreground-muted"))
        lines += wrapped(self._here(words), width)[:2]
        return lines

    def _here(self, words: CellWords) -> str:
        """All that is known of the cell under the cursor."""
        row = self.row
        if row is None:
            return "The sweep has no such cell."
        place = ", ".join(f"{axis}={value}" for axis, value in row.axes.items()) or "all"
        told = f"{place}: {words.of(row)}, {row.n} of {row.expected} measured"
        reasons = [
            f"{cell.name.split('/', 1)[-1]} {cell.reason or cell.state}" for cell in row.missing[:3]
        ]
        return " · ".join([told, *reasons])

    def _scroll(self, rows: int, columns: int) -> None:
        """See that the cursor is in the part that is drawn."""
        self._top = min(max(self._top, self._y - rows + 1), self._y)
        self._left = min(max(self._left, self._x - columns + 1), self._x)

    # --- the cursor -----------------------------------------------------------------------

    def _go(self, y: int, x: int) -> None:
        grid = self._grid
        if grid is None or not grid.cells:
            self._y = self._x = 0
            return
        before = self._y, self._x
        self._y = min(max(y, 0), len(grid.y_labels) - 1)
        self._x = min(max(x, 0), len(grid.x_labels) - 1)
        if before != (self._y, self._x):
            self.refresh()
            self.post_message(self.Moved())

    def action_move(self, down: int, right: int) -> None:
        self._go(self._y + down, self._x + right)

    def action_page(self, by: int) -> None:
        self._go(self._y + by * max(1, self.content_size.height - HEAD_LINES - 3), self._x)

    def action_first(self) -> None:
        self._go(0, 0)

    def action_last(self) -> None:
        if self._grid is not None:
            self._go(len(self._grid.y_labels), len(self._grid.x_labels))

    def action_best(self) -> None:
        if self._grid is not None and self._grid.best is not None:
            self._go(*self._grid.best)

    def action_open(self) -> None:
        if self.row is not None:
            self.post_message(self.Opened(self.row))

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None or self._grid is None:
            return
        first_line, first_column, cell_width, columns = self._drawn
        y, x = at.y - first_line, (at.x - first_column) // cell_width
        if at.x < first_column or not 0 <= x < columns or y < 0:
            return
        y, x = y + self._top, x + self._left
        if y >= len(self._grid.y_labels) or x >= len(self._grid.x_labels):
            return
        if event.chain >= 2:
            self.action_open()
        else:
            self._go(y, x)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self._go(self._y + 1, self._x)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self._go(self._y - 1, self._x)


def _heading(grid: Grid, sweep: str) -> str:
    over = ", ".join(grid.table.over)
    mean = f"mean over {over} (n of {grid.expected})" if over else "one job a cell"
    return f"{sweep} · {grid.table.metric or 'no metric yet'} · {mean}"


def _axes_line(grid: Grid, width: int, columns: int, rows: int) -> Content:
    """What lies across, above the columns; what lies downwards, above the rows."""
    down = grid.shape.y + _of(rows, len(grid.y_labels)) if grid.shape.y else ""
    across = ALL_TOGETHER.join(grid.shape.x)
    told = f"y: {down}   " if down else ""
    if across:
        told += f"x: {across}{_of(columns, len(grid.x_labels))}"
    return Content.styled(clip(told, width), "$foreground-muted")


def _of(shown: int, there: int) -> str:
    """How many of them are shown, where that isn't all."""
    return f" ({shown} of {there} shown)" if shown < there else ""
