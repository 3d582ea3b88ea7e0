"""The screen of a job as a part of the dashboard: how one gets there, and what can be done."""

from __future__ import annotations

import msgspec
import pytest
from log_double import WALL_S, LogMaster, job_row
from tui_double import Dashboard, FakeMaster, FakeSource, dashboard
from tui_rows import small_mesh
from tui_snapshot import check_snapshot, in_utc

from meshtrain.core.advice import Advice
from meshtrain.core.estimate import StartEstimate
from meshtrain.core.job import JobState
from meshtrain.core.refusal import Because, Refusal
from meshtrain.core.span import Span
from meshtrain.core.why import NodeReason, Why
from meshtrain.wire.messages import Answer, Cancel, Done, FromPerson, Query, Reprioritise
from meshtrain_tui.screens.confirm import Confirm
from meshtrain_tui.screens.job import Job
from meshtrain_tui.screens.notice import Notice

WHY = Why(
    "a",
    "few_shot/shots=5,fold=2",
    JobState.WAITING,
    WALL_S,
    "no node has 12 GB of free GPU memory",
    since_wall_s=WALL_S - 720,
    nodes=(
        NodeReason(
            "gpu1",
            "9.8 GB free, needs 12 GB",
            Because.GPU_MEMORY,
            Refusal(Because.GPU_MEMORY),
            frees_wall_s=WALL_S + 1080,
            frees_job="few_shot/fold=0",
        ),
        NodeReason("gpu3", "drained", Because.DRAINED, Refusal(Because.DRAINED)),
    ),
    starts=StartEstimate(Span(WALL_S + 600, WALL_S + 1080, WALL_S + 90_000), "gpu1"),
    advice=(Advice("with 9 GB", "meshtrain retry few_shot --gpu-memory 9GB", True, "gpu1"),),
)


def with_logs(shown: Dashboard, logs: LogMaster) -> None:
    """The master answers for one job, its log and its metrics too."""
    master: FakeMaster = shown.master
    ask_others = master.ask

    async def ask(message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        if isinstance(message, Query) and message.what == "why":
            assert timeout_s is not None and timeout_s > 5, "the whole queue is played through"
            return Answer(message.request_id, rows=[msgspec.to_builtins(WHY)])
        if isinstance(message, Query) and message.what in ("job", "log", "lines", "times"):
            row = await logs.ask(
                message.what, message.names, offset=message.offset, limit=message.limit
            )
            return Answer(message.request_id, rows=[row])
        return await ask_others(message, timeout_s)

    shown.app._ask = ask


async def open_job(shown: Dashboard) -> LogMaster:
    logs = LogMaster(jobs={"a": job_row(job_id="a")})
    for number in range(50):
        logs.print("a2", b"epoch %d\n" % number, WALL_S + number)
    with_logs(shown, logs)
    shown.app.open("job", "a")
    await shown.until(lambda: "epoch 49" in shown.text and "▶ running" in shown.text)
    await shown.settle()
    return logs


def mesh() -> FakeSource:
    source = FakeSource()
    source.tell(small_mesh(), whole=True)
    return source


async def test_it_lies_over_the_list_and_shows_its_log() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        await open_job(shown)
        assert isinstance(shown.app.screen, Job)
        assert "Jobs › few_shot/shots=5,fold=2" in shown.text
        assert "▶ running" in shown.text
        await shown.press("slash", *"epoch 7$", "enter")
        await shown.until(lambda: "›epoch 7" in shown.text)
        await shown.press("escape")
        assert isinstance(shown.app.screen, Job), "first what was found is marked no more"
        await shown.press("escape")
        assert not isinstance(shown.app.screen, Job)


async def test_it_is_cancelled_and_given_a_priority() -> None:
    async with dashboard(mesh()) as shown:
        await open_job(shown)
        await shown.press("c")
        assert isinstance(shown.app.screen, Confirm)
        await shown.press("y")
        await shown.until(lambda: shown.master.acts())
        (done,) = shown.master.acts()
        assert isinstance(done, Cancel)
        assert done.names == ("a",)
        await shown.press("r")
        assert "Nothing to retry" in shown.said
        await shown.press("p")
        await shown.press("backspace", *"7", "enter")
        if isinstance(shown.app.screen, Confirm):
            await shown.press("y")
        await shown.until(lambda: len(shown.master.acts()) == 2)
        raised = shown.master.acts()[1]
        assert isinstance(raised, Reprioritise)
        assert (raised.names, raised.priority) == (("a",), 7)


async def test_the_command_that_shows_the_same() -> None:
    async with dashboard(mesh()) as shown:
        await open_job(shown)
        for keys, command in (
            ("l", "meshtrain logs few_shot/shots=5,fold=2"),
            ("m", "meshtrain logs few_shot/shots=5,fold=2 --metrics"),
            ("a", "meshtrain jobs few_shot/shots=5,fold=2"),
        ):
            await shown.press(keys, "dollar_sign")
            assert isinstance(shown.app.screen, Notice)
            assert command in shown.text
            await shown.press("escape")
        await shown.press("l", "left_square_bracket", "dollar_sign")
        assert "--attempt 1" in shown.text
        await shown.press("escape")


def waiting(job_id: str = "a") -> LogMaster:
    row = job_row(
        job_id=job_id,
        state="waiting",
        node_id=None,
        started_wall_s=None,
        reason="no GPU is free",
        attempts=[],
    )
    return LogMaster(jobs={job_id: row})


async def test_why_it_waits_is_told_as_the_command_tells_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with in_utc(monkeypatch):
        async with dashboard(mesh(), size=(100, 30)) as shown:
            with_logs(shown, waiting())
            shown.app.open("job", "a")
            await shown.until(lambda: "· waiting" in shown.text)
            await shown.press("a")
            await shown.until(lambda: "waiting 12 min: no node has 12 GB" in shown.text)
            assert "gpu1   9.8 GB free, needs 12 GB" in shown.text
            # An end on another day says on which.
            assert "starts  about 22:31 on gpu1 (22:23 to Wed 23:13)" in shown.text
            assert "meshtrain retry few_shot --gpu-memory 9GB" in shown.text
            await shown.press("dollar_sign")
            assert "meshtrain why few_shot/shots=5,fold=2" in shown.text


async def test_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_utc(monkeypatch):
        async with dashboard(mesh(), size=(80, 24)) as shown:
            logs = await open_job(shown)
            for epoch in range(40):
                line = f'{{"epoch": {epoch}, "loss": {2.0 / (epoch + 1):.4f}}}\n'
                logs.print("a2", line.encode(), WALL_S + epoch, "metrics")
            await shown.settle()
            check_snapshot(shown.app, "job_log_80x24")
            await shown.press("m")
            await shown.until(lambda: "loss" in shown.text)
            check_snapshot(shown.app, "job_metrics_80x24")
            await shown.press("a")
            check_snapshot(shown.app, "job_about_80x24")


async def test_its_keys_can_be_changed_and_are_told() -> None:
    from meshtrain_tui.command import known_keys

    known = known_keys()
    assert {"log.follow", "log.search", "job.cancel", "job.log", "curves.log_y"} <= known.keys()
    async with dashboard(mesh(), size=(100, 60)) as shown:
        await open_job(shown)
        await shown.press("question_mark")
        assert "follow/pause" in shown.text
        assert "n and N go on" in " ".join(shown.text.split())


def test_the_row_of_the_query_is_that_of_the_lists() -> None:
    from meshtrain.core.changes import JobRow

    row = msgspec.convert({**job_row(), "type": "job"}, JobRow)
    assert (row.job_id, row.state, row.priority) == ("j", "running", 3)
