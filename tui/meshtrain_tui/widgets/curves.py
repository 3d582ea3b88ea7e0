"""What a job measures, as it measures it: one chart for each metric."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget
from textual.widgets import Static

from meshtrain.errors import MeshtrainError
from meshtrain_tui.log.stream import LogStream
from meshtrain_tui.metrics.chart import chart, number
from meshtrain_tui.metrics.series import MetricSeries, Series
from meshtrain_tui.words import head, plural

LOOK_EVERY_S = 1.0
ROUND_BYTES = 8 << 20
"""Of a stream that is read in one go; then the screen is drawn, and it goes on."""
CHART_ROWS_MIN, CHART_ROWS_MAX = 7, 14
CHART_COLUMNS_MIN = 38


class Curves(Vertical):
    """The curves of an attempt's metrics, live."""

    DEFAULT_CSS = """
    Curves {
        height: 1fr;
        & .curves-status { height: 1; padding: 0 1; background: $panel; }
        & CurveField { height: 1fr; }
        &.-stale CurveField { opacity: 45%; }
    }
    """

    def __init__(self, *, look_every_s: float = LOOK_EVERY_S, id: str | None = None) -> None:
        super().__init__(id=id)
        self._look_every_s = look_every_s
        self._stream: LogStream | None = None
        self._read_bytes = 0
        self._empty = ""
        self._trouble = ""
        self._looks = False
        self._is_done = False

    def compose(self) -> ComposeResult:
        yield CurveField()
        yield Static(classes="curves-status")

    def on_mount(self) -> None:
        self.set_interval(self._look_every_s, self.look)

    @property
    def field(self) -> CurveField:
        return self.query_one(CurveField)

    async def show_stream(self, stream: LogStream | None, empty: str = "") -> None:
        """Show the metrics of this stream from now on; where there is none, `empty` says why."""
        self._stream = stream
        self._read_bytes = 0
        self._trouble = ""
        self._is_done = False
        self.field.metrics = MetricSeries()
        self.field.first = 0
        self.tell_empty(empty)

    def tell_empty(self, empty: str) -> None:
        """What stands there instead of metrics that there aren't."""
        self._empty = empty
        self._show()

    async def look(self) -> None:
        """Read what is new, if the curves are in sight."""
        stream = self._stream
        if stream is None or self._looks or self._is_done or not self.is_on_screen:
            return
        self._looks = True
        try:
            await self._read(stream)
            self._trouble = ""
        except MeshtrainError as error:
            self._trouble = str(error)
        finally:
            self._looks = False
        if stream is self._stream:
            self._show()

    async def _read(self, stream: LogStream) -> None:
        await stream.refresh()
        if stream.size_bytes < self._read_bytes:
            # A master that was restored has less of it.
            self.field.metrics, self._read_bytes = MetricSeries(), 0
        until = min(stream.size_bytes, self._read_bytes + ROUND_BYTES)
        while self._read_bytes < until and stream is self._stream:
            end = min(until, self._read_bytes + (256 << 10))
            data = await stream.fetch(self._read_bytes, end)
            if stream is self._stream:
                self.field.metrics.feed(data)
                self._read_bytes = end
        self._is_done = stream.ended and self._read_bytes >= stream.size_bytes

    def _show(self) -> None:
        if not self.is_mounted:
            return
        self.set_class(bool(self._trouble), "-stale")
        self.field.empty = self._empty
        self.field.refresh()
        self.query_one(".curves-status", Static).update(self._status())

    def _status(self) -> Content:
        if self._trouble:
            return Content.styled(f"○ stale: {self._trouble}", "$text-warning")
        metrics, stream = self.field.metrics, self._stream
        if stream is None:
            return Content("")
        parts = [plural(len(metrics.series), "metric"), plural(metrics.lines, "record")]
        if self._read_bytes < stream.size_bytes:
            parts.append(f"reading, at {self._read_bytes / stream.size_bytes:.0%}")
        else:
            parts.append("■ ended" if stream.ended else "● live")
        if metrics.bad_lines:
            parts.append(f"{plural(metrics.bad_lines, 'line')} no JSON object")
        if metrics.left_out:
            parts.append(f"{len(metrics.left_out)} more not shown")
        return Content("  ".join(parts))


class CurveField(Widget, can_focus=True):
    """As many charts as there is room for; the others are a key away."""

    DEFAULT_CSS = """
    CurveField {
        padding: 0 1;
        background: $surface;
    }
    """
    BINDINGS = [  # noqa: RUF012
        Binding("up,k", "turn(-1)", "up", show=False, id="curves.up"),
        Binding("down,j", "turn(1)", "down", show=False, id="curves.down"),
        Binding("pageup", "turn(-4)", "page up", show=False, id="curves.page_up"),
        Binding("pagedown,space", "turn(4)", "page down", show=False, id="curves.page_down"),
        Binding("y", "log_y", "log y", id="curves.log_y"),
        Binding("x", "log_x", "log x", id="curves.log_x"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricSeries()
        self.first = 0
        self.empty = ""
        self._log_x = False
        self._log_y = False

    def action_turn(self, by: int) -> None:
        """Begin with another metric."""
        self.first = min(max(self.first + by, 0), max(len(self.metrics.series) - 1, 0))
        self.refresh()

    def action_log_y(self) -> None:
        self._log_y = not self._log_y
        self.refresh()

    def action_log_x(self) -> None:
        self._log_x = not self._log_x
        self.refresh()

    def on_mouse_scroll_down(self) -> None:
        self.action_turn(1)

    def on_mouse_scroll_up(self) -> None:
        self.action_turn(-1)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return container.height

    def render(self) -> Content:
        width, height = self.content_size
        shown = list(self.metrics.series.values())[self.first :]
        if not shown or width < 12 or height < 3:
            words = self.empty or "No metrics yet: a job appends JSON lines to $MESHTRAIN_METRICS"
            return Content.styled(words if not shown else "", "$foreground-muted")
        columns = min(max(width // CHART_COLUMNS_MIN, 1), len(shown))
        rows = -(-len(shown) // columns)
        chart_rows = min(max(height // rows, CHART_ROWS_MIN), CHART_ROWS_MAX, height)
        fit = max(height // chart_rows, 1)
        chart_rows = min(height // fit, CHART_ROWS_MAX) if fit < rows else chart_rows
        chart_width = (width - (columns - 1) * 2) // columns
        lines: list[Content] = []
        for row in range(min(fit, rows)):
            beside = [
                self._chart(series, chart_width, chart_rows)
                for series in shown[row * columns : (row + 1) * columns]
            ]
            lines += [Content("  ").join(cells) for cells in zip(*beside, strict=True)]
        return Content("\n").join(lines[:height])

    def _chart(self, series: Series, width: int, height: int) -> list[Content]:
        """A title, and below it the curve, each line of the same width."""
        points = list(series.points())
        drawn = chart(points, width, height - 1, log_x=self._log_x, log_y=self._log_y)
        details = f" {number(series.last)}" if points else ""
        notes = []
        if self._log_y or self._log_x:
            axes = "".join(name for name, on in (("x", self._log_x), ("y", self._log_y)) if on)
            notes.append(f"log {axes}")
        if drawn.left_out:
            notes.append(f"{plural(drawn.left_out, 'point')} ≤ 0 left out")
        if series.odd:
            notes.append(f"{series.odd} not finite")
        if self.metrics.x_name:
            notes.append(f"over {self.metrics.x_name}")
        if points:
            low, high = min(p.low for p in points), max(p.high for p in points)
            notes.append(f"{number(low)} to {number(high)}")
        name = head(series.name, max(width - len(details) - 1, 4))
        rest = head("  " + " · ".join(notes), max(width - len(name) - len(details), 1))
        title = Content.assemble(
            (name, "bold $text-primary"), (details, "bold"), (rest, "$foreground-muted")
        )
        rows = [title, *(Content.styled(row, "$text-accent") for row in drawn.rows)]
        return [row.truncate(width, ellipsis=True, pad=True) for row in rows]
