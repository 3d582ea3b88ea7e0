"""The Overview, from a recorded run and from changes made by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tui_double import WALL_S, FakeSource, dashboard
from tui_rows import job, node

from meshtrain.core.changes import Change, JobRow, Moved, Note, SweepRow, TransferRow
from meshtrain.core.job import JobKind, JobState
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks
from meshtrain_tui.recording import Moment, Replay, read_recording
from meshtrain_tui.screens.overview import Overview

RECORDING = Path(__file__).parent / "batch_composition.jsonl"


def recorded_until(ended: int) -> Replay:
    """A replay that stands where that many jobs of the recorded sweep have ended."""
    replay = Replay(read_recording(RECORDING))
    seen: dict[str, JobState] = {}

    def go_on(moment: Moment) -> bool:
        reached = sum(state.is_terminal for state in seen.values()) >= ended
        for change in moment.batch.changes:
            if isinstance(change, JobRow) and change.kind is JobKind.EXPERIMENT:
                seen[change.job_id] = change.state
        return not reached

    replay.play_while(go_on)
    return replay


async def screen_of(replay: Replay, size: tuple[int, int]) -> list[str]:
    app = Top(
        "127.0.0.1:7470",
        lambda: replay,
        clocks=Clocks(replay.now_s, replay.now_s),
        redraw_min_s=0,
    )
    async with app.run_test(size=size) as pilot:
        await replay.wait_played()
        app.look()
        await pilot.pause()
        return [strip.text for strip in app.screen._compositor.render_strips()]


@pytest.mark.parametrize("size", [(80, 24), (100, 30)])
async def test_a_recorded_run_in_the_middle(size: tuple[int, int]) -> None:
    rows = await screen_of(recorded_until(14), size)
    text = "\n".join(rows)
    assert len(rows) == size[1]
    assert all(len(row) == size[0] for row in rows)
    assert "● live" in rows[0]
    assert "3 nodes" in rows[0]
    for title in ("Nodes", "Saved", "Last events"):
        assert f"─{title}─" in text
    assert "━Sweeps━" in text, "the arrow keys move there"
    assert " 14/24 " in text
    assert "s left" in text
    assert "base 2cc7…21c trained on node-1 in 15.9 s" in text
    assert "base 2cc7…21c trained on node-1" in text
    assert "moved from the master" in text
    assert "121 kB" in next(row for row in rows if "moved between nodes" in row)
    for key in ("⏎ its jobs", "o results", "? help"):
        assert key in rows[-1]


async def test_a_recorded_run_at_its_end() -> None:
    rows = await screen_of(recorded_until(24), (80, 24))
    text = "\n".join(rows)
    assert "24/24         done" in text
    # 21 jobs start from the one base that was trained once; 3 start from scratch.
    assert "base trainings avoided      20" in text
    assert "training time saved      5 min" in text
    assert "0/4 slots used" in rows[0]
    assert text.count("idle") == 3


async def test_while_the_base_trains() -> None:
    rows = await screen_of(recorded_until(3), (80, 24))
    text = "\n".join(rows)
    assert "base 2cc7…21c (21 wait on it)" in text
    assert "21 wait for base 2cc7…21c" in text
    assert "base trainings avoided       0" in text


async def test_before_anything_is_heard_it_says_what_it_waits_for() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        assert "○ connecting" in shown.rows[0]
        assert "Connecting to the master at 127.0.0.1:7470." in shown.text
        source.trouble = (
            "no master answers at 127.0.0.1:7470 within 5 s: start one with "
            "`meshtrain master`, or name another with --master"
        )
        await shown.settle()
        words = " ".join(" ".join(shown.rows[1:4]).split())
        assert "`meshtrain master`, or name another with --master. Trying again." in words
        assert "No jobs yet" not in shown.text, "nobody knows that yet"


async def test_an_empty_mesh_says_what_to_do() -> None:
    source = FakeSource()
    async with dashboard(source, inbox="/srv/mesh/inbox") as shown:
        source.tell([], whole=True)
        await shown.settle()
        words = " ".join(" ".join(row[:47].split()) for row in shown.rows[8:15])
        assert "No jobs yet: drop a file into /srv/mesh/inbox, or `meshtrain submit FILE`" in words
        assert "meshtrain worker --master" in shown.text
        assert "Nothing happened since" in shown.text


async def test_silence_dims_the_screen_and_tells_since_when() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        running = job("a", JobState.RUNNING, node_id="gpu1", started_wall_s=WALL_S + 60)
        source.tell([node(), SweepRow("sweep", "sweep", 1, 1, 0), running], whole=True)
        await shown.settle()
        body = shown.app.screen.query_one("#body")
        assert "● live" in shown.rows[0]
        assert "40 s" in shown.row("sweep/a")
        heard_at = shown.rows[0].split("  ● live")[0][-8:]

        source.now_s += 3.0
        await shown.settle()
        assert "● live" in shown.rows[0]
        assert not body.has_class("stale")

        source.now_s += 0.1
        await shown.settle()
        assert f"○ stale since {heard_at}" in shown.rows[0]
        assert body.has_class("stale")
        assert body.styles.opacity < 1
        assert "40 s" in shown.row("sweep/a"), "what nobody hears of does not go on"

        source.beat()
        await shown.settle()
        assert "● live" in shown.rows[0]
        assert not body.has_class("stale")
        assert "43 s" in shown.row("sweep/a")


@pytest.mark.parametrize("width", [100, 80, 72, 60, 40])
async def test_the_top_line_leaves_words_out_and_breaks_none(width: int) -> None:
    source = FakeSource()
    source.tell([node()], whole=True)
    async with dashboard(source, size=(width, 24)) as shown:
        source.now_s += 4.0
        await shown.settle()
        told = shown.rows[0]
        assert re.search(r"○ stale since \d\d:\d\d:\d\d( |$)", told), told
        assert re.search(r"(used|slots|:\d\d)$", told), told
        assert ("slots used" in told) == (width >= 100)


async def test_a_new_snapshot_forgets_what_is_gone_and_tells_what_happened() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        source.tell(
            [node("gpu1"), node("gpu2"), TransferRow("a", "gpu2", {"gpu1": 7}, 1)], whole=True
        )
        await shown.settle()
        history = [Note(WALL_S, "node gpu2 left"), Moved(WALL_S, 7, 0, 0)]
        source.tell([node("gpu1"), *history], whole=True)
        source.tell([TransferRow("b", "gpu1", {"gpu3": 5, "master": 3}, 1)])
        await shown.settle()
        assert " gpu2 " not in shown.rows[2]
        assert "node gpu2 left" in shown.text
        assert "12 B" in shown.row("moved between nodes")
        assert "3 B" in shown.row("moved from the master")


async def test_failures_are_told_in_words() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        source.tell(
            [
                node(drained=True),
                node("gpu2", connected=False),
                node("gpu3", accepting=False, note="disk full"),
                node("gpu4", gpus=("A100", "A100"), gpus_used=(1,)),
                SweepRow("sweep", "few_shot", 4, 1, 0),
                SweepRow("bases", "warm_up", 0, 2, 0),
                job("a", JobState.FAILED, failure="out of memory: 24 GB were not enough"),
                job("b", JobState.RUNNING, node_id="gpu4"),
                job("c", JobState.ASSIGNED, node_id="gpu4"),
                job("d", JobState.WAITING),
            ],
            whole=True,
        )
        await shown.settle()
        assert "drained" in shown.row(" gpu1 ")
        assert "away" in shown.row(" gpu2 ")
        assert "takes no jobs: disk full" in shown.row(" gpu3 ")
        assert "gpu ■□ " in shown.row(" gpu4 ")
        assert "1 used 1 free" in shown.row(" gpu4 ")
        assert "gets ready" in shown.row("sweep/c")
        assert "1 failed: out of memory · 1 running" in shown.text
        assert "only 2 bases" in shown.row("warm_up")
        assert "3 nodes" in shown.rows[0]


async def test_a_sweep_that_was_cancelled_after_its_end_is_done() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        sweep = SweepRow("sweep", "few_shot", 2, 0, 0, cancelled=True)
        source.tell([sweep, job("a", JobState.SUCCEEDED), job("b", JobState.SUCCEEDED)], whole=True)
        await shown.settle()
        assert "done" in shown.row("few_shot")
        source.tell([job("b", JobState.CANCELLED)])
        await shown.settle()
        assert "cancelled" in shown.row("few_shot")


def crowd() -> Iterator[Change]:
    for index in range(200):
        yield node(f"n{index:03}", cpus_used=2)
        for slot in range(2):
            name = f"{index:03}-{slot}"
            yield job(name, JobState.RUNNING, node_id=f"n{index:03}", started_wall_s=WALL_S)
    for index in range(40):
        yield SweepRow(f"s{index}", f"sweep{index}", 10, 1, 0, submitted_wall_s=float(index))


async def test_more_than_fits_is_summed_up() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        source.tell(list(crowd()), whole=True)
        await shown.settle()
        assert "400/800 slots used" in shown.rows[0]
        assert "more nodes: " in shown.text
        assert "more sweeps" in shown.text
        assert " +1" in shown.row(" n000 ")


async def test_a_burst_is_drawn_once() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        drawn = 0
        screen = shown.app.screen
        assert isinstance(screen, Overview)
        show = screen.show

        def count(picture: object) -> None:
            nonlocal drawn
            drawn += 1
            show(picture)  # type: ignore[arg-type]

        screen.show = count  # type: ignore[method-assign, assignment]
        for _ in range(100):
            shown.app.look()
        await shown.pilot.pause()
        assert 1 <= drawn <= 3


async def test_terminal_sizes_down_to_nothing_do_no_harm() -> None:
    source = FakeSource()
    async with dashboard(source, size=(20, 5)) as shown:
        source.tell(list(crowd()), whole=True)
        await shown.settle()
        assert len(shown.rows) == 5


async def test_the_end_is_as_the_master_estimates_it_and_a_spent_budget_is_told() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        sweep = SweepRow("s", "few_shot", 3, 1, 0, ends_wall_s=WALL_S + 5500)
        jobs = [
            JobRow("a", "s/a", JobKind.EXPERIMENT, JobState.RUNNING, sweep_id="s", node_id="gpu1"),
            JobRow("b", "s/b", JobKind.EXPERIMENT, JobState.WAITING, sweep_id="s"),
        ]
        source.tell([sweep, *jobs], whole=True)
        await shown.settle()
        assert "~1 h 30 min" in shown.row("few_shot")
        source.tell([msgspec.structs.replace(sweep, budget_spent=True)])
        await shown.settle()
        assert "budget spent · 1 running" in shown.text
        source.tell([msgspec.structs.replace(jobs[0], state=JobState.SUCCEEDED)])
        await shown.settle()
        assert shown.row("few_shot").split("Saved")[0].rstrip().count("budget spent") == 1
