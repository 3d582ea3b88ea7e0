"""A sweep as a heat map of its metric, and the jobs of one of its cells."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from meshtrain.core.changes import SweepRow
from meshtrain.errors import MeshtrainError, NotFoundError
from meshtrain.ids import new_id
from meshtrain.results.folder import folder_name
from meshtrain.results.merge import CellResult, CellState
from meshtrain.results.table import table_csv
from meshtrain.wire.messages import Done, Retry
from meshtrain_tui.feed import Picture
from meshtrain_tui.grid import (
    AGAIN,
    CellWords,
    Grid,
    Shape,
    ToldResults,
    default_shape,
    grid_of,
    sweep_axes,
    to_run_again,
    x_choices,
)
from meshtrain_tui.pace import Pace
from meshtrain_tui.questions import RESULTS, whole_answer
from meshtrain_tui.screens.choose import Choice, Choose, Options
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.steering.action import NAMES_MAX, Action, command_of, retry_sweep
from meshtrain_tui.widgets.heat import ALL_TOGETHER, HeatMap
from meshtrain_tui.widgets.key_line import KeyLine
from meshtrain_tui.words import clock, plural

ASK_MIN_S = 1.0
"""Between two questions for the results of a sweep that goes on."""
BUSY_SHARE_MAX = 0.1
"""Of the time, that the master may spend on them."""


class Matrix(MeshScreen):
    """One sweep, over two of its axes."""

    TITLE_WORDS = "Matrix"
    HELP = """\
A sweep's metric over two of its axes: mean ± std, and in brackets how many jobs were
measured. What has no value says why: ✗ failed, ⊘ cancelled, ·· running, – waiting.
Light is better, dark is worse; ★ is the best mean. The line below the map tells all of
the cell under the cursor ▸, and why jobs of it are missing.

x, y and m choose what lies across, downwards, and which metric; all other axes are
averaged over. r runs again what failed or was cancelled of the whole sweep, R of the
cell. e writes the table as CSV."""
    CHANGES = frozenset({"retry_sweep", "retry_cell"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sweep", "sweep", id="matrix.sweep"),
        Binding("x", "across", "x axis", id="matrix.across"),
        Binding("y", "down", "y axis", id="matrix.downwards"),
        Binding("m", "metric", "metric", id="matrix.metric"),
        Binding("r", "retry_sweep", "run missing again", id="matrix.retry"),
        Binding("R", "retry_cell", "run the cell again", show=False, id="matrix.retry_cell"),
        Binding("e", "export", "export", id="matrix.export"),
    ]

    def __init__(self, sweep_id: str = "") -> None:
        super().__init__()
        self._sweep_id = sweep_id
        self._results: ToldResults | None = None
        self._grid: Grid | None = None
        self._shape: Shape | None = None
        self._metric: str | None = None
        self._trouble = ""
        #: what the answer that is here depends on, and when it was asked for
        self._stand: object = None
        self._asked_s = float("-inf")
        self._pace = Pace(ASK_MIN_S, BUSY_SHARE_MAX)
        self._asking = False

    @classmethod
    def of_sweep(cls, sweep_id: str) -> Matrix:
        """The matrix of one sweep."""
        return cls(sweep_id)

    def compose_body(self) -> ComposeResult:
        yield HeatMap()

    def crumb(self) -> str:
        name = self._results.name if self._results is not None else ""
        return f"{self.TITLE_WORDS} {name}".strip()

    def note(self, picture: Picture) -> str:
        sweep = self._sweep(picture)
        if sweep is None:
            return ""
        ended = picture.view.progress(sweep.sweep_id).ended
        return f"{ended}/{sweep.jobs} jobs ended"

    def command_line(self) -> str:
        results, grid = self._results, self._grid
        if results is None or grid is None:
            return command_of("results")
        words = ["results", results.sweep_id]
        if grid.shape.by:
            words += ["--by", ",".join(grid.shape.by)]
        if self._metric is not None:
            words += ["--metric", self._metric]
        return command_of(*words)

    # --- the results -----------------------------------------------------------------------

    def draw(self, picture: Picture) -> None:
        sweep = self._sweep(picture)
        if sweep is None:
            self._results = self._grid = self._stand = None
            self._tell()
            return
        if self._results is not None and self._results.sweep_id != sweep.sweep_id:
            self._results = self._grid = self._shape = self._metric = None
            self._tell()
        states = tuple(sorted(picture.view.progress(sweep.sweep_id).states.items()))
        # Another view: what came before doesn't count, as after a jump of a recording.
        stand = (sweep, states, id(picture.view))
        now_s = time.monotonic()
        due = self._results is None or now_s - self._asked_s >= self._pace.pause_s
        if stand != self._stand and not self._asking and due:
            self._asking = True
            self._asked_s = now_s
            self.run_worker(self._ask(sweep.sweep_id, stand), exclusive=True, group="results")

    def _sweep(self, picture: Picture) -> SweepRow | None:
        """The one that was chosen, or else the newest that has jobs."""
        sweeps = picture.view.sweeps
        if self._sweep_id in sweeps:
            return sweeps[self._sweep_id]
        with_jobs = [sweep for sweep in sweeps.values() if sweep.jobs]
        return max(with_jobs, key=lambda sweep: sweep.submitted_wall_s, default=None)

    async def _ask(self, sweep_id: str, stand: object) -> None:
        began_s = time.monotonic()
        try:
            answered = await whole_answer(self.desk.ask, RESULTS, (sweep_id,))
            if not answered.rows:
                raise NotFoundError(f"the master knows no results of {sweep_id}")
            results = msgspec.convert(answered.rows[0], ToldResults)
            await self._take(results)
            self._pace.answered(time.monotonic() - began_s)
            self._stand, self._trouble = stand, ""
        except (MeshtrainError, msgspec.ValidationError) as error:
            self._trouble = str(error)
            self._tell()
        finally:
            self._asking = False

    async def _take(self, results: ToldResults) -> None:
        """Merge, in a thread: a large sweep takes a second."""
        shape = self._shape or default_shape(results.cells, results.results)
        if not set(shape.by) <= set(sweep_axes(results.cells)):
            shape = default_shape(results.cells, results.results)
        grid = await asyncio.to_thread(grid_of, results, shape, self._metric)
        self._results, self._grid, self._shape = results, grid, shape
        self._tell()
        self.show_crumbs()

    def _tell(self) -> None:
        name = self._results.name if self._results is not None else ""
        self.query_one(HeatMap).tell(self._grid, name, self._why_empty())

    def _why_empty(self) -> str:
        if self._trouble:
            return f"The results can't be had: {self._trouble}"
        picture = self.desk.picture
        if picture is None or picture.link.heard_wall_s is None:
            return ""
        if self._sweep(picture) is None:
            folder = picture.link.inbox or "the master's inbox"
            return f"No sweep yet: drop a file into {folder}, or `meshtrain submit FILE`"
        return "Asking the master for the results."

    # --- keys ------------------------------------------------------------------------------

    def action_sweep(self) -> None:
        picture = self.desk.picture
        if picture is None or not picture.view.sweeps:
            return
        sweeps = sorted(picture.view.sweeps.values(), key=lambda row: -row.submitted_wall_s)
        choices = [
            Choice(
                row.sweep_id,
                f"{row.name}  {plural(row.jobs, 'job')}  {clock(row.submitted_wall_s)}",
            )
            for row in sweeps
            if row.jobs
        ]
        shown = self._sweep(picture)

        def take(sweep_id: str | None) -> None:
            if sweep_id is not None:
                self._sweep_id = sweep_id
                self._stand = None
                self.show(picture)

        self.app.push_screen(Choose("Sweep", choices, shown.sweep_id if shown else ""), take)

    def action_across(self) -> None:
        results, shape = self._results, self._shape
        if results is None or shape is None:
            return
        options = x_choices(sweep_axes(results.cells), shape.y, results.results.over)
        choices = [Choice(ALL_TOGETHER.join(x), ALL_TOGETHER.join(x) or "nothing") for x in options]
        by_words = {ALL_TOGETHER.join(x): x for x in options}

        def take(words: str | None) -> None:
            if words is not None:
                self._reshape(Shape(shape.y, by_words[words]))

        self.app.push_screen(Choose("Across", choices, ALL_TOGETHER.join(shape.x)), take)

    def action_down(self) -> None:
        results, shape = self._results, self._shape
        if results is None or shape is None:
            return
        axes = sweep_axes(results.cells)
        choices = [Choice(axis, axis) for axis in axes]

        def take(axis: str | None) -> None:
            if axis is None or axis == shape.y:
                return
            # What lay downwards takes the place of what goes there now.
            x = tuple(shape.y if other == axis else other for other in shape.x)
            self._reshape(Shape(axis, tuple(other for other in x if other)))

        self.app.push_screen(Choose("Downwards", choices, shape.y), take)

    def action_metric(self) -> None:
        grid = self._grid
        if grid is None:
            return
        choices = [Choice(name, name) for name in grid.table.metrics]
        if not choices:
            self.desk.say("No metric yet: no job of this sweep has written one.")
            return

        def take(name: str | None) -> None:
            if name is not None:
                self._metric = name
                self._remerge()

        self.app.push_screen(Choose("Metric", choices, grid.table.metric), take)

    def _reshape(self, shape: Shape) -> None:
        self._shape = shape
        self._remerge()

    def _remerge(self) -> None:
        if self._results is not None:
            self.run_worker(self._take(self._results), exclusive=True, group="merge")

    def action_retry_sweep(self) -> None:
        picture = self.desk.picture
        sweep = self._sweep(picture) if picture is not None else None
        grid = self._grid
        if sweep is None or grid is None:
            return
        rows = [row for line in grid.cells for row in line]
        count = len(to_run_again([*rows, *grid.table.references]))
        if not count:
            self.desk.say("Nothing to run again: no job of this sweep failed or was cancelled.")
            return
        self.desk.steer(retry_sweep(sweep))

    def action_retry_cell(self) -> None:
        names = to_run_again([self.query_one(HeatMap).row])
        if not names:
            self.desk.say("Nothing to run again: no job of this cell failed or was cancelled.")
            return
        self.desk.steer(self._retry(names[:NAMES_MAX]))

    def _retry(self, names: Sequence[str]) -> Action:
        """Run jobs of the sweep again, by their names."""
        assert self._results is not None
        ids = {cell.name: cell.job_id for cell in self._results.cells}

        def told(answers: Sequence[Done]) -> str:
            count = sum(len(answer.done) for answer in answers)
            return f"{plural(count, 'job')} again in the queue"

        return Action(
            f"Run {names[0] if len(names) == 1 else plural(len(names), 'job')} again",
            "A job takes its base with it. Jobs that succeeded are left alone.",
            command_of("retry", *names),
            (Retry(new_id("retry"), tuple(ids[name] for name in names)),),
            told,
        )

    def action_export(self) -> None:
        results, grid = self._results, self._grid
        if results is None or grid is None:
            return
        metric = f"-{grid.table.metric}" if grid.table.metric else ""
        name = folder_name(f"{results.name}{metric}")
        self.app.deliver_text(
            io.StringIO(table_csv(grid.table)), save_directory=".", save_filename=f"{name}.csv"
        )
        self.desk.say(f"the table goes to {name}.csv")

    def on_heat_map_opened(self, event: HeatMap.Opened) -> None:
        assert self._results is not None and self._grid is not None
        names = {cell.name for cell in event.row.measured}
        names |= {cell.name for cell in event.row.missing}
        cells = [cell for cell in self._results.cells if cell.name in names]
        place = ", ".join(f"{axis}={value}" for axis, value in event.row.axes.items())
        words = CellWords(self._grid)
        title = f"{self._results.name} {place}: {words.of(event.row)}"

        def take(job_id: str | None) -> None:
            if job_id is not None and self.desk.can_open("job"):
                self.desk.open("job", job_id)

        self.app.push_screen(CellJobs(title, cells, self._grid.table.metric, words), take)


class CellJobs(ModalScreen[str | None]):
    """The jobs of one cell of the matrix; gives the id of the one that is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "back", id="cell.leave"),
    ]

    def __init__(
        self, title: str, cells: Sequence[CellResult], metric: str, words: CellWords
    ) -> None:
        super().__init__()
        self._title = title
        self._cells = tuple(cells)
        self._metric = metric
        self._words = words

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._title, classes="box-title", markup=False)
            lines = (Option(self._line(cell)) for cell in self._cells)
            yield Options(*lines, compact=True, markup=False)
        yield KeyLine()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._cells[event.option_index].job_id)

    def action_leave(self) -> None:
        self.dismiss(None)

    def _line(self, cell: CellResult) -> Content:
        value = cell.metrics.get(self._metric)
        told = self._words.number(value) if value is not None else cell.reason
        style = "$text-error" if cell.state in AGAIN else ""
        if cell.state == CellState.SUCCEEDED:
            style = "$text-success"
        name = cell.name.split("/", 1)[-1]
        return Content.assemble(f"{name}  ", (f"{cell.state:<9}", style), f"  {told}")
