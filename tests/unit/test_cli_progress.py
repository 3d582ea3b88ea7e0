"""What the progress picture shows, and when a watch is over."""

from __future__ import annotations

import asyncio
import io

import pytest
from cli_double import FeedDouble, view_of
from hypothesis import given
from hypothesis import strategies as st
from master_double import WALL_S, MasterDouble, small_sweep, user_error
from rich.console import Console

from meshtrain.cli import words
from meshtrain.cli.progress import MeshProgress, bar, transfer_text
from meshtrain.cli.watch import outcome_of, watch
from meshtrain.core.changes import TransferRow
from meshtrain.core.view import MeshView


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    return master


def drawn(master: MasterDouble, *sweep_ids: str, width: int = 100) -> str:
    progress = MeshProgress(view_of(master), sweep_ids or None, now_s=lambda: WALL_S + master.now_s)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(progress)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_from_the_training_of_the_base_to_the_end(master: MasterDouble) -> None:
    master.submit(small_sweep())
    text = drawn(master)
    assert "mix  ░░░░░░░░░░░░░░░░░░░░  0/4" in text
    assert "starts on node-1" in text
    master.start_all()
    master.wait(72)
    assert "training  on node-1  for 1 min 12 s     4 jobs wait on it" in drawn(master)
    master.run_once()
    master.start_all()
    master.wait(10)
    text = drawn(master)
    assert "there     trained on node-1 in 1 min     held by node-1" in text
    assert "0/4  2 running" in text
    assert "node-1        mix/share=0.1,fold=0  10 s" in text
    assert "left" not in text
    master.run_once()
    master.start_all()
    text = drawn(master)
    assert "██████████░░░░░░░░░░  2/4  2 running  about" in text
    master.run_all()
    assert "████████████████████  4/4\n" in drawn(master)


def test_only_the_sweeps_that_were_asked_for(master: MasterDouble) -> None:
    master.submit(small_sweep("one"))
    master.submit(small_sweep("two"))
    text = drawn(master, "two-00000001")
    assert "two " in text
    assert "one" not in text.replace("node", "")


def test_failures_are_counted_and_bases_tell_why(master: MasterDouble) -> None:
    master.outcome = lambda job: user_error()
    master.submit(small_sweep())
    master.run_all()
    assert "4/4  4 failed" in drawn(master)


def test_it_fits_narrow_terminals(master: MasterDouble) -> None:
    master.submit(small_sweep("a_sweep_with_a_name_that_never_seems_to_end"))
    master.run_once()
    master.start_all()
    for width in (20, 40, 80):
        assert all(len(line) <= width for line in drawn(master, width=width).splitlines())


def test_transfers_say_from_whom() -> None:
    row = TransferRow("a", "node-3", {"node-1": 3_000_000, "node-2": 9_000_000}, 4.1)
    assert transfer_text(row, "base 7f3a…c21") == (
        "base 7f3a…c21 came to node-3 in 4.1 s from node-2 and node-1 (12 MB)"
    )


def test_done_waits_for_rows_that_are_still_to_come(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    whole = view_of(master)
    assert MeshProgress(whole, [sweep.sweep_id]).is_done()
    assert not MeshProgress(MeshView(), [sweep.sweep_id]).is_done()
    partial = view_of(master)
    del partial.jobs[sweep.jobs[0].job_id]
    assert not MeshProgress(partial, [sweep.sweep_id]).is_done()
    assert not MeshProgress(whole, [sweep.sweep_id], recipe_hashes=["f" * 32]).is_done()


async def test_a_watch_ends_with_the_sweep_and_closes_its_feed(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.outcome = lambda job: user_error() if job.spec.cell["fold"] else {"accuracy": 1.0}
    master.submit(sweep)
    feed = FeedDouble(master)
    lines: list[str] = []
    outcome = await watch(feed, sweep.sweep_id, say=lines.append, live=False)
    assert feed.closed
    assert (outcome.succeeded, outcome.failed, outcome.is_good) == (2, 2, False)
    assert outcome.words() == "2 of 4 jobs failed"
    assert len(lines) == 5
    assert lines[0].startswith("base ")
    assert lines[-1].startswith("4/4 ")


async def test_a_watch_draws_in_a_terminal(
    master: MasterDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    outcome = await asyncio.wait_for(
        watch(FeedDouble(master), sweep.sweep_id, say=print, live=True), 10
    )
    assert outcome.is_good
    assert "4/4" in capsys.readouterr().out


def test_an_outcome_of_bases_alone(master: MasterDouble) -> None:
    progress = MeshProgress(view_of(master), [], recipe_hashes=["f" * 32])
    outcome = outcome_of(progress)
    assert not outcome.is_good
    assert outcome.words() == "1 base not trained"


@given(done=st.integers(0, 500), total=st.integers(0, 500), width=st.integers(1, 60))
def test_a_bar_has_its_width(done: int, total: int, width: int) -> None:
    text = bar(done, total, width)
    assert len(text) == width
    assert (text == "█" * width) == (0 < total <= done)


# --- words -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.25, "250 ms"),
        (8.1, "8.1 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (72, "1 min 12 s"),
        (3599.6, "1 h"),
        (18600, "5 h 10 min"),
        (86400 * 2 + 3 * 3600, "2 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(17 * 3600, "17 h"), (45 * 3600, "45 h"), (1.25 * 3600, "1.2 h"), (90, "1 min 30 s")],
)
def test_hours(seconds: float, text: str) -> None:
    assert words.hours(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (214_000, "214 kB"), (1.6e9, "1.6 GB"), (999_999, "1.0 MB")],
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert words.size(size_bytes) == text


def test_lists() -> None:
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.listed(list("abcdefgh"), 4) == "a, b, c and 5 more"
    assert words.count(12000, "job") == "12,000 jobs"


def test_metrics() -> None:
    values = {"step": 10.0, "val.miou": 0.51234567, "loss": 2.0}
    assert words.metrics(values) == "step 10  val.miou 0.5123"
    assert words.metrics(values, "miou") == "val.miou 0.5123"
    assert words.metrics(values, "absent") == words.metrics(values)
    assert words.metrics({}) == ""
