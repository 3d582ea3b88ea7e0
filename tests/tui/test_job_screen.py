"""The screen of a job, with a master in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from log_double import OUT_OF_MEMORY, WALL_S, LogMaster, attempt_row, job_row
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.screen import Screen

from meshtrain_tui.log.stream import Ask
from meshtrain_tui.widgets.curves import Curves
from meshtrain_tui.widgets.job_body import Explain, JobBody
from meshtrain_tui.widgets.log_pane import LogPane
from meshtrain_tui.words import clock

NEVER_S = 3600.0


class Plain(Screen[None]):
    """A job alone, without the dashboard around it."""

    def __init__(self, ask: Ask, explain: Explain | None) -> None:
        super().__init__()
        self._body = JobBody(
            "j", ask, explain=explain, look_every_s=NEVER_S, wall_now_s=lambda: WALL_S
        )

    def compose(self) -> ComposeResult:
        yield self._body


class JobApp(App[None]):
    def __init__(self, master: LogMaster, explain: Explain | None = None) -> None:
        super().__init__()
        self._master = master
        self._explain = explain
        self.copied: list[str] = []

    def on_mount(self) -> None:
        self.push_screen(Plain(self._master.ask, self._explain))

    def copy_to_clipboard(self, text: str) -> None:
        self.copied.append(text)


@dataclass
class Shown:
    master: LogMaster
    app: JobApp
    pilot: Pilot[None]

    async def settle(self) -> None:
        """Until all that the master has is drawn."""
        await self.app.screen.query_one(JobBody).look()
        await self.app.screen.query_one(LogPane).look()
        await self.app.screen.query_one(Curves).look()
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.app.workers.wait_for_complete()
        await self.pilot.pause()

    @property
    def rows(self) -> list[str]:
        return [strip.text.rstrip() for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)


@asynccontextmanager
async def shown(master: LogMaster, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Shown]:
    app = JobApp(master)
    async with app.run_test(size=size) as pilot:
        screen = Shown(master, app, pilot)
        await screen.settle()
        yield screen


def a_master(lines: int = 100, **changed: Any) -> LogMaster:
    master = LogMaster(jobs={"j": job_row(**changed)})
    for number in range(lines):
        master.print("a2", b"epoch %d of the run\n" % number, WALL_S - 600 + number)
    master.print("a1", b"the first attempt\nCUDA out of memory\n", WALL_S - 1000)
    master.end("a1")
    return master


async def test_it_opens_at_the_end_of_the_log_of_the_last_attempt() -> None:
    async with shown(a_master()) as screen:
        text = screen.text
        assert "few_shot/shots=5,fold=2" in screen.rows[0]
        assert "▶ running  gpu2 GPU 0  attempt 2 of 2  12 min" in screen.rows[0]
        assert "before: out of memory" not in text
        assert "epoch 99 of the run" in text
        assert "epoch 50 of" not in text
        assert "● following" in text
        assert "of 100" in text
        assert len(screen.rows) == 24
        assert all(len(row) <= 80 for row in screen.rows)


async def test_new_lines_come_by_themselves_until_it_is_paused() -> None:
    async with shown(a_master()) as screen:
        screen.master.print("a2", b"epoch 100 of the run\n")
        await screen.settle()
        assert "epoch 100" in screen.text
        await screen.press("f")
        assert "‖ paused" in screen.text
        screen.master.print("a2", b"epoch 101 of the run\n")
        await screen.settle()
        assert "epoch 101" not in screen.text
        assert "of 102" in screen.text
        await screen.press("G")
        assert "epoch 101" in screen.text
        screen.master.end("a2")
        await screen.settle()
        assert "■ ended" in screen.text
        asked = screen.master.asked["log"]
        await screen.settle()
        assert screen.master.asked["log"] == asked, "what has ended is asked for no more"


async def test_keys_and_the_wheel_move_the_window() -> None:
    async with shown(a_master()) as screen:
        await screen.press("g")
        assert "epoch 0 of" in screen.text
        assert "line 1 of 100" in screen.text
        await screen.press("j", "down")
        assert "epoch 0 of" not in screen.text
        assert "line 3 of 100" in screen.text
        await screen.press("pagedown", "pageup", "k", "up")
        assert "line 1 of 100" in screen.text
        await screen.press("end")
        assert "● following" in screen.text
        await screen.press("up")
        assert "‖ paused" in screen.text


async def test_search_marks_what_it_finds_and_goes_both_ways() -> None:
    async with shown(a_master()) as screen:
        await screen.press("slash", *"epoch .?5 ", "enter")
        assert any(row.startswith("›epoch 95") for row in screen.rows)
        await screen.press("N")
        assert any(row.startswith("›epoch 85") for row in screen.rows)
        await screen.press("n")
        assert any(row.startswith("›epoch 95") for row in screen.rows)
        await screen.press("n")
        assert "is not found below; N looks the other way" in screen.text
        await screen.press("escape")
        assert "not found" not in screen.text
        assert not any(row.startswith("›") for row in screen.rows)
        await screen.press("slash", "(", "enter")
        assert "no regular expression" in screen.text
        await screen.press("slash", "up")
        assert any("epoch .?5" in row for row in screen.rows)
        await screen.press("escape")
        await screen.press("n")
        assert "epoch" in screen.text


async def test_jumps_by_time_line_and_share() -> None:
    async with shown(a_master()) as screen:
        await screen.press("at", *clock(WALL_S - 600 + 40), "enter")
        assert "line 41 of 100" in screen.text
        assert clock(WALL_S - 560) in screen.text
        await screen.press("at", *"7", "enter")
        assert "line 7 of 100" in screen.text
        await screen.press("at", *"50%", "enter")
        assert "line 51 of 100" in screen.text or "line 50 of 100" in screen.text
        await screen.press("at", *"soon", "enter")
        assert "is no place in a log" in screen.text
        await screen.press("at", *"900", "enter")
        assert "there is no line 900" in screen.text


async def test_times_and_wrapping_are_toggled() -> None:
    master = a_master(5)
    master.print("a2", b"w" * 200 + b"end\n", WALL_S)
    async with shown(master) as screen:
        assert "wend" not in screen.text
        await screen.press("t")
        assert any(row.startswith(f" {clock(WALL_S - 596)} epoch 4") for row in screen.rows)
        await screen.press("w")
        assert "wend" in screen.text
        assert sum("www" in row for row in screen.rows) == 3
        await screen.press("w", "right", "right")
        assert not any("epoch 4" in row for row in screen.rows)
        await screen.press("left", "left")
        assert "epoch 4" in screen.text


async def test_a_flood_of_a_progress_bar_is_one_line() -> None:
    master = a_master(3)
    bar = b"".join(b"\r%3d%%|#####     |" % (step % 101) for step in range(50_000))
    master.print("a2", bar + b"\rdone in 3 s\nafter it\n" + bar, WALL_S)
    async with shown(master) as screen:
        assert "done in 3 s" in screen.text
        assert "after it" in screen.text
        assert sum("%|#####" in row for row in screen.rows) == 1
        assert screen.master.sent_bytes < len(bar)


async def test_the_attempt_before_and_back() -> None:
    async with shown(a_master()) as screen:
        await screen.press("left_square_bracket")
        assert "CUDA out of memory" in screen.text
        assert "attempt 1 of 2" in screen.rows[0]
        assert "■ ended" in screen.text
        await screen.press("left_square_bracket")
        assert "attempt 1 of 2" in screen.rows[0]
        await screen.press("right_square_bracket")
        assert "epoch 99" in screen.text


async def test_it_follows_the_job_into_its_next_attempt_unless_another_is_looked_at() -> None:
    async with shown(a_master()) as screen:
        row = screen.master.jobs["j"]
        screen.master.print("a3", b"third time lucky\n")
        row["attempts"] = [*row["attempts"], attempt_row("a3")]
        await screen.settle()
        assert "third time lucky" in screen.text
        assert "attempt 3 of 3" in screen.rows[0]
        await screen.press("left_square_bracket")
        row["attempts"] = [*row["attempts"], attempt_row("a4")]
        await screen.settle()
        assert "attempt 2 of 4" in screen.rows[0]
        assert "epoch 99" in screen.text


async def test_the_ranks_of_a_gang_are_one_log() -> None:
    gang = attempt_row("g", placements=[attempt_row("x")["placements"][0]] * 2)
    master = LogMaster(jobs={"j": job_row(attempts=[gang])})
    master.print("g", b"zero says a\n", WALL_S)
    master.print("g", b"one says b\n", WALL_S + 1, "log.1")
    master.print("g", b"zero says c\n", WALL_S + 2)
    async with shown(master) as screen:
        lines = [row.strip(" │") for row in screen.rows if "says" in row]
        assert lines == ["0│ zero says a", "1│ one says b", "0│ zero says c"]
        assert "3 lines" in screen.text


async def test_lines_are_copied_to_the_terminals_clipboard() -> None:
    async with shown(a_master()) as screen:
        await screen.press("at", *"10", "enter")
        await screen.press("v", "j", "j", "y")
        (text,) = screen.app.copied
        lines = text.splitlines()
        assert lines[0] == "epoch 9 of the run"
        assert len(lines) > 10
        await screen.press("y")
        assert screen.app.copied[-1].splitlines() == lines[2:]


async def test_copying_is_osc_52(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown(a_master(1)) as screen:
        monkeypatch.setattr(JobApp, "copy_to_clipboard", App.copy_to_clipboard)
        written: list[str] = []
        assert screen.app._driver is not None
        monkeypatch.setattr(screen.app._driver, "write", written.append)
        await screen.press("y")
        wanted = base64.b64encode(b"epoch 0 of the run").decode()
        assert f"\x1b]52;c;{wanted}\a" in written


async def test_the_mouse_selects_text_and_the_bar_jumps() -> None:
    async with shown(a_master()) as screen:
        view = screen.app.screen.query_one("LogView")
        await screen.pilot.click("LogView", offset=(view.size.width - 1, 0))
        await screen.pilot.pause()
        assert "epoch 0 of" in screen.text
        await screen.pilot.mouse_down("LogView", offset=(1, 1))
        await screen.pilot.hover("LogView", offset=(8, 2))
        await screen.pilot.mouse_up("LogView", offset=(8, 2))
        await screen.pilot.pause()
        selected = screen.app.screen.get_selected_text()
        assert selected is not None
        assert selected.startswith("epoch 1 of the run\n epoch 2")


async def test_colours_are_kept_and_escapes_are_not() -> None:
    master = a_master(0)
    master.print("a2", b"\x1b[31mred\x1b[0m \x1b[2Kplain\x07\n", WALL_S)
    async with shown(master) as screen:
        assert "red plain" in screen.text
        assert "\x1b" not in screen.text


async def test_metrics_are_drawn_live_each_in_its_chart() -> None:
    master = a_master(1)

    def measure(steps: range) -> None:
        for step in steps:
            record = {"step": step, "loss": 1 / (step + 1), "accuracy": step / 200}
            master.print("a2", json.dumps(record).encode() + b"\n", stream="metrics")

    measure(range(100))
    async with shown(master, (100, 30)) as screen:
        await screen.press("m")
        await screen.settle()
        title = next(row for row in screen.rows if "loss" in row)
        assert "loss 0.01" in title
        assert "accuracy 0.495" in title
        assert "over step" in title
        assert any("⠀" < cell <= "⣿" for row in screen.rows for cell in row)
        assert "100 records" in screen.text
        assert "● live" in screen.text
        measure(range(100, 150))
        await screen.settle()
        assert "150 records" in screen.text
        assert "accuracy 0.745" in screen.text
        await screen.press("y")
        assert "log y" in screen.text
        assert "1 point ≤ 0 left out" in screen.text
        await screen.press("x", "down")
        assert "accuracy" in screen.text
        assert "loss 0." not in screen.text


async def test_the_facts() -> None:
    async with shown(a_master(), (80, 50)) as screen:
        await screen.press("a")
        text = screen.text
        for part in (
            "Attempts (2)",
            "  1  failed  gpu2 GPU 0",
            "out of memory: CUDA out of memory: 24 GB were not enough",
            "shots            5",
            "fold             2",
            "GPU memory       12 GB each",
            "base             7f3a…c21 resnet50: committed, held by gpu1, gpu2",
            "command          python src/replicate.py --shots 5 --folds 2",
            "timeout          1 h 0 min",
            "priority         3",
            "retries          1 of 2",
        ):
            assert part in text, part


async def test_wide_screens_show_the_facts_beside_the_log() -> None:
    async with shown(a_master(), (160, 40)) as screen:
        await screen.settle()
        assert "epoch 99" in screen.text
        assert "Parameters" in screen.text


async def test_a_job_that_waits_says_why() -> None:
    row = job_row(state="waiting", attempts=[], reason="waits for base 7f3a…c21", node_id=None)
    async with shown(LogMaster(jobs={"j": row})) as screen:
        assert "· waiting" in screen.rows[0]
        assert "It has not started: waits for base 7f3a…c21." in screen.text
        await screen.press("a")
        assert "Why it waits" in screen.text
        assert "none yet" in screen.text
        await screen.press("m")
        assert "It has not started" in screen.text
        await screen.press("slash", "a", "enter", "n", "y", "left_square_bracket", "l")
        row["attempts"] = [attempt_row("a2")]
        row |= {"state": "running", "reason": ""}
        screen.master.print("a2", b"hello\n")
        await screen.settle()
        assert "hello" in screen.text


async def test_a_job_that_waits_is_explained_at_length_where_somebody_looks() -> None:
    row = job_row(state="waiting", attempts=[], reason="waits for a free slot")
    asked: list[tuple[str, int]] = []

    async def explain(job_id: str, width: int) -> list[str]:
        asked.append((job_id, width))
        return ["waiting 12 min: no node has 12 GB of free GPU memory", "gpu1  frees about 14:20"]

    master = LogMaster(jobs={"j": row})
    app = JobApp(master, explain)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = Shown(master, app, pilot)
        await screen.settle()
        assert asked == [], "it costs the master something"
        await screen.press("a")
        await screen.settle()
        assert "  gpu1  frees about 14:20" in screen.text
        await screen.settle()
        assert asked == [("j", asked[0][1])]
        assert 20 <= asked[0][1] < 80
        row |= {"state": "running", "reason": ""}
        await screen.settle()
        assert "gpu1  frees" not in screen.text


async def test_how_it_failed_is_told_at_the_top() -> None:
    row = job_row(state="failed", last_failure=OUT_OF_MEMORY)
    async with shown(LogMaster(jobs={"j": row})) as screen:
        assert "✗ failed" in screen.rows[0]
        assert "out of memory on gpu1: CUDA out of memory" in screen.rows[1]
        assert "Nothing yet." in screen.text


async def test_a_master_that_is_away_is_told_and_the_log_stays_dimmed() -> None:
    async with shown(a_master()) as screen:
        screen.master.away = True
        await screen.settle()
        assert f"stale since {clock(WALL_S)}" in screen.text
        assert "no master answers" in screen.text
        assert "epoch 99" in screen.text
        pane = screen.app.screen.query_one(LogPane)
        assert pane.has_class("-stale")
        await screen.press("g")
        screen.master.away = False
        await screen.settle()
        assert "stale" not in screen.text
        assert not pane.has_class("-stale")


async def test_a_job_that_is_none_says_so() -> None:
    async with shown(LogMaster()) as screen:
        assert "no job is called j" in screen.text


@pytest.mark.parametrize("size", [(20, 5), (80, 24), (200, 60)])
async def test_terminals_of_any_size(size: tuple[int, int]) -> None:
    async with shown(a_master(), size) as screen:
        for key in ("m", "a", "l", "w", "t", "g", "G"):
            await screen.press(key)
        assert len(screen.rows) == size[1]
