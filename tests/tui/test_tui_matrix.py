"""The Matrix: a sweep as a heat map, its cells' jobs, what runs again, and the export."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tui_double import WALL_S, Dashboard, FakeSource, dashboard

from meshtrain.core.changes import JobRow, SweepRow
from meshtrain.core.job import JobKind, JobState
from meshtrain.results.merge import CellResult
from meshtrain.spec.jobs import ResultsSpec
from meshtrain.wire.messages import Answer, Query, Retry
from meshtrain_tui.grid import (
    CellWords,
    Shape,
    ToldResults,
    default_shape,
    grid_of,
    heat_style,
    sweep_axes,
    to_run_again,
    x_choices,
)
from meshtrain_tui.screens.matrix import CellJobs, Matrix

MEASURED = {
    ("resnet50", "pascal5i", 1): [60.4, 61.0, 61.3, 62.1],
    ("resnet50", "pascal5i", 5): [65.4, 65.9, 66.0, 66.7],
    ("resnet101", "pascal5i", 1): [62.2, 62.9, 63.6, None],
}


def few_shot() -> list[dict[str, Any]]:
    """The cells of the sweep that SCREENS draws: as the master's query `results` gives them."""
    cells = []
    for dataset, backbone, shots, fold in product(
        ["pascal5i", "coco20i"], ["resnet50", "resnet101"], [1, 5], range(4)
    ):
        name = f"few_shot/dataset={dataset},backbone={backbone},shots={shots},fold={fold}"
        values = MEASURED.get((backbone, dataset, shots))
        value = None if values is None else values[fold]
        state, reason = "waiting", ""
        if value is not None:
            state = "succeeded"
        elif values is not None:
            state, reason = "failed", "out of memory: 24 GB were not enough"
        elif (backbone, dataset, shots) == ("resnet50", "coco20i", 1):
            state = "running" if fold < 2 else "waiting"
        cells.append(
            {
                "job_id": f"id{len(cells):02}",
                "name": name,
                "cell": {"dataset": dataset, "backbone": backbone, "shots": shots, "fold": fold},
                "group": "",
                "state": state,
                "metrics": {} if value is None else {"miou": value, "loss": 100 - value},
                "reason": reason,
                "absent": {},
                "index": len(cells),
            }
        )
    return cells


def answered(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "sweep_id": "s1",
        "name": "few_shot",
        "folder": "/srv/results/few_shot",
        "results": {"metric": "miou", "over": ["fold"], "file": None},
        "archived": None,
        "target": None,
        "cells": cells,
    }


def results() -> ToldResults:
    import msgspec

    return msgspec.convert(answered(few_shot()), ToldResults)


class Answers:
    """A master that knows one sweep's results, and gives them in pages."""

    def __init__(self, shown: Dashboard, cells: list[dict[str, Any]]) -> None:
        self.cells = cells
        self.asked = 0
        given = shown.master.ask

        async def ask(message: Any, timeout_s: float | None = None) -> Any:
            if isinstance(message, Query) and message.what == "results":
                self.asked += 1
                end = message.offset + message.limit
                page = answered(self.cells[message.offset : end])
                return Answer(message.request_id, rows=[page], total=len(self.cells))
            return await given(message, timeout_s)

        shown.app._ask = ask


async def open_matrix(shown: Dashboard, cells: list[dict[str, Any]] | None = None) -> Answers:
    answers = Answers(shown, few_shot() if cells is None else cells)
    states = [JobState(cell["state"]) for cell in answers.cells]
    rows = [
        JobRow(cell["job_id"], cell["name"], JobKind.EXPERIMENT, state, "s1")
        for cell, state in zip(answers.cells, states, strict=True)
    ]
    sweep = SweepRow("s1", "few_shot", len(rows), 1, 0, submitted_wall_s=WALL_S)
    shown.source.tell([sweep, *rows], whole=True)
    await shown.press("3")
    screen = shown.app.screen
    assert isinstance(screen, Matrix)
    await shown.until(lambda: screen._grid is not None)
    await shown.settle()
    return answers


# --- the grid --------------------------------------------------------------------------


def test_the_grid_of_the_sketch() -> None:
    sweep = results()
    assert sweep_axes(sweep.cells) == ["dataset", "backbone", "shots", "fold"]
    grid = grid_of(sweep, Shape("backbone", ("shots", "dataset")))
    assert grid.y_labels == ("resnet50", "resnet101")
    assert grid.x_labels == (
        "shots 1 pascal5i",
        "shots 1 coco20i",
        "shots 5 pascal5i",
        "shots 5 coco20i",
    )
    words = CellWords(grid)
    assert [words.of(row) for row in grid.cells[0]] == [
        "61.2 ± 0.7 (4)",
        "·· running 2",
        "66.0 ± 0.5 (4)",
        "– waiting",
    ]
    assert words.of(grid.cells[1][0]) == "62.9 ± 0.7 (3/4) ✗" or (
        words.of(grid.cells[1][0]) == "62.9 ± 0.7 (3) ✗"
    )
    assert grid.best == (0, 2)
    assert grid.expected == 4
    assert grid.share(66.0) == pytest.approx(1.0, abs=0.01)


def test_less_is_better_where_the_metric_says_so() -> None:
    grid = grid_of(results(), Shape("backbone", ("shots",)), metric="loss")
    assert not grid.table.higher_is_better
    assert grid.low is not None and grid.high is not None
    assert grid.share(grid.low) == 1.0
    assert grid.share(grid.high) == 0.0


def test_all_jobs_are_in_exactly_one_cell_whatever_lies_where() -> None:
    sweep = results()
    axes = sweep_axes(sweep.cells)
    for y in axes:
        for x in x_choices(axes, y, ["fold"]):
            grid = grid_of(sweep, Shape(y, x))
            names = [
                cell.name
                for line in grid.cells
                for row in line
                if row is not None
                for cell in (*row.measured, *row.missing)
            ]
            assert sorted(names) == sorted(cell.name for cell in sweep.cells)
            assert set(grid.table.over) == set(axes) - {y, *x}


def test_axes_and_shapes_of_small_sweeps() -> None:
    cells = tuple(
        CellResult(f"j{i}", f"s/fold={i}", {"fold": i}, index=i, state="waiting") for i in range(3)
    )
    assert default_shape(cells, ResultsSpec(over=("fold",))) == Shape("fold")
    assert default_shape((), ResultsSpec()) == Shape()
    alone = ToldResults("s", "s", ResultsSpec(), (CellResult("j", "s/one", {}),))
    grid = grid_of(alone, default_shape(alone.cells, alone.results))
    assert grid.cells[0][0] is not None
    assert grid.y_labels == grid.x_labels == ("all",)
    empty = grid_of(ToldResults("s", "s", ResultsSpec(), ()), Shape())
    assert empty.cells == ()


def test_cells_that_a_sweep_leaves_out_stay_empty() -> None:
    cells = tuple(
        CellResult(f"j{a}{b}", f"s/a={a},b={b}", {"a": a, "b": b}, index=i)
        for i, (a, b) in enumerate([(1, 1), (1, 2), (2, 1)])
    )
    grid = grid_of(ToldResults("s", "s", ResultsSpec(), cells), Shape("a", ("b",)))
    assert grid.cells[1][1] is None
    assert CellWords(grid).of(None) == ""


def test_what_runs_again_is_what_failed_or_was_cancelled() -> None:
    grid = grid_of(results(), Shape("backbone", ("shots", "dataset")))
    rows = [row for line in grid.cells for row in line]
    (name,) = to_run_again(rows)
    assert name.endswith("dataset=pascal5i,backbone=resnet101,shots=1,fold=3")


def test_heat_goes_from_dark_to_light() -> None:
    lights = []
    for step in range(11):
        colour = heat_style(step / 10).rsplit("#", 1)[1]
        red, green, blue = (int(colour[i : i + 2], 16) for i in (0, 2, 4))
        lights.append(0.299 * red + 0.587 * green + 0.114 * blue)
    assert lights == sorted(lights)
    assert heat_style(-5) == heat_style(0)
    assert heat_style(7) == heat_style(1)


# --- the screen ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (120, 36)])
async def test_the_screen_shows_each_cell_in_words(size: tuple[int, int]) -> None:
    async with dashboard(FakeSource(), size=size) as shown:
        await open_matrix(shown)
        assert "few_shot · miou · mean over fold (n of 4)" in shown.text
        for words in ("61.2 ± 0.7 (4)", "66.0 ± 0.5 (4)★", "·· running 2", "– waiting"):
            assert words in shown.text
        assert "✗" in shown.row("62.9 ± 0.7")
        assert "★ best" in shown.text


async def test_the_cursor_tells_all_of_a_cell_and_why_jobs_are_missing() -> None:
    async with dashboard(FakeSource(), size=(120, 30)) as shown:
        await open_matrix(shown)
        screen = shown.app.screen
        assert isinstance(screen, Matrix)
        screen._reshape(Shape("backbone", ("shots", "dataset")))
        await shown.until(lambda: screen._grid.shape.y == "backbone")
        await shown.press("home", "down")
        assert "▸62.9" in shown.text
        assert "3 of 4 measured" in shown.text
        assert "out of memory: 24 GB were not enough" in shown.text
        await shown.press("b")
        assert "▸66.0" in shown.text
        await shown.press("end", "right", "down")
        assert "0 of 4 measured" in shown.text


async def test_enter_opens_the_jobs_of_the_cell() -> None:
    async with dashboard(FakeSource(), size=(120, 30)) as shown:
        await open_matrix(shown)
        await shown.press("b", "enter")
        assert isinstance(shown.app.screen, CellJobs)
        assert shown.text.count("succeeded") == 4
        assert "66.7" in shown.text
        await shown.press("escape")
        assert isinstance(shown.app.screen, Matrix)


async def test_r_asks_and_then_runs_again_what_failed() -> None:
    async with dashboard(FakeSource(), size=(100, 30)) as shown:
        await open_matrix(shown)
        await shown.press("r")
        await shown.until(lambda: "Run again what failed of few_shot" in shown.text)
        assert "meshtrain retry s1" in shown.text
        assert not shown.master.acts()
        await shown.press("y")
        await shown.until(shown.master.acts)
        (act,) = shown.master.acts()
        assert isinstance(act, Retry) and act.names == ("s1",)


async def test_r_of_a_cell_names_its_jobs_alone() -> None:
    async with dashboard(FakeSource(), size=(100, 30)) as shown:
        cells = few_shot()
        for cell in cells:
            if cell["cell"]["dataset"] == "coco20i":
                cell["state"] = "cancelled"
        await open_matrix(shown, cells)
        screen = shown.app.screen
        assert isinstance(screen, Matrix)
        screen._reshape(Shape("backbone", ("dataset",)))
        await shown.until(lambda: screen._grid.shape.x == ("dataset",))
        await shown.press("home", "right", "R")
        await shown.until(lambda: "Run 8 jobs again" in shown.text)
        await shown.press("y")
        await shown.until(shown.master.acts)
        (act,) = shown.master.acts()
        assert isinstance(act, Retry)
        assert set(act.names) == {
            cell["job_id"]
            for cell in cells
            if cell["cell"]["dataset"] == "coco20i" and cell["cell"]["backbone"] == "resnet50"
        }
        await shown.press("home", "R")
        await shown.until(lambda: "Nothing to run again" in shown.said)


async def test_axes_and_metric_are_chosen() -> None:
    async with dashboard(FakeSource(), size=(100, 30)) as shown:
        await open_matrix(shown)
        screen = shown.app.screen
        assert isinstance(screen, Matrix)
        await shown.press("y")
        assert "Downwards" in shown.text
        await shown.press("home", "enter")
        await shown.until(lambda: screen._grid.shape.y == "dataset")
        await shown.settle()
        assert "y: dataset" in shown.text
        await shown.press("x", "end", "enter")
        await shown.until(lambda: screen._grid.shape.x == ())
        await shown.settle()
        assert "mean over backbone, shots, fold" in shown.text
        await shown.press("m", "end", "enter")
        await shown.until(lambda: screen._grid.table.metric == "loss")
        await shown.settle()
        assert "· loss ·" in shown.text
        assert screen.command_line() == "meshtrain results s1 --by dataset --metric loss"


async def test_results_are_asked_for_again_when_jobs_end_and_not_without() -> None:
    async with dashboard(FakeSource(), size=(100, 30)) as shown:
        answers = await open_matrix(shown)
        screen = shown.app.screen
        assert isinstance(screen, Matrix)
        before = answers.asked
        for _ in range(3):
            await shown.settle()
        assert answers.asked == before
        screen._asked_s = float("-inf")
        answers.cells[-1] |= {"state": "succeeded", "metrics": {"miou": 99.5}}
        name = answers.cells[-1]["name"]
        ended = JobRow("id31", name, JobKind.EXPERIMENT, JobState.SUCCEEDED, "s1")
        shown.source.tell([ended])
        await shown.settle()
        await shown.until(lambda: answers.asked > before)
        await shown.until(lambda: "99.5 (1/4)" in shown.text or "99.5 (1)" in shown.text)


async def test_the_export_is_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with dashboard(FakeSource(), size=(100, 30)) as shown:
        await open_matrix(shown)
        await shown.press("e")
        await shown.until(lambda: (tmp_path / "few_shot-miou.csv").exists())
    text = (tmp_path / "few_shot-miou.csv").read_text()
    assert ",reference,metric,mean,std,ci_low,ci_high,n," in text.splitlines()[0]
    assert "66.0" in text


async def test_without_a_sweep_it_says_what_to_do() -> None:
    async with dashboard(FakeSource(), inbox="/srv/inbox") as shown:
        shown.source.tell([], whole=True)
        await shown.press("3")
        assert "drop a file into /srv/inbox" in shown.text
        for key in ("r", "R", "x", "y", "m", "e", "s", "b", "enter", "down"):
            await shown.press(key)
        assert "drop a file into /srv/inbox" in shown.text


async def test_a_master_that_does_not_answer_is_told() -> None:
    async with dashboard(FakeSource()) as shown:
        shown.master.refuses = "the store is being mended"
        shown.source.tell([SweepRow("s1", "few_shot", 3, 1, 0)], whole=True)
        await shown.press("3")
        await shown.until(lambda: "the store is being mended" in shown.text)


async def test_a_click_moves_the_cursor_and_readonly_offers_no_retry() -> None:
    from meshtrain_tui.settings import TopSettings

    async with dashboard(
        FakeSource(), size=(120, 30), settings=TopSettings(readonly=True)
    ) as shown:
        await open_matrix(shown)
        row = next(i for i, text in enumerate(shown.rows) if "66.0" in text)
        column = shown.rows[row].index("66.0")
        await shown.pilot.click(offset=(column, row))
        await shown.settle()
        assert "▸66.0" in shown.text
        await shown.press("r")
        assert not shown.master.acts()
        assert "run missing" not in shown.rows[-1]
