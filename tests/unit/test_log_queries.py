"""What the master tells of logs: bytes past holes, lines by blocks, and when they came."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from master_double import MasterDouble, over_the_wire, small_sweep

from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import Answer, Query, StreamBytes, StreamHole
from meshtrain_daemon.master import log_times, queries
from meshtrain_daemon.master.log_lines import BLOCK_BYTES, COUNTED_BYTES_MAX, count_line_ends
from meshtrain_daemon.master.log_times import LogTimes, read_times, times_path
from meshtrain_daemon.master.logbook import Logbook, LogPiece
from meshtrain_tui.log.ranks import LogRanks
from meshtrain_tui.log.stream import LogStream
from meshtrain_tui.log.viewer import LogViewer


class MasterWithLogs(MasterDouble):
    """Its logs lie on a disk, in a real logbook."""

    book: Logbook

    def log_size(self, job_id: str, attempt_id: str, stream: str) -> int:
        return self.book.size_bytes(attempt_id, stream)

    def read_log(
        self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int
    ) -> LogPiece:
        return self.book.read(job_id, attempt_id, stream, offset, limit)

    def log_file(self, job_id: str, attempt_id: str, stream: str) -> Path:
        return self.book.path(job_id, attempt_id, stream)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def master(tmp_path: Path, clock: Clock) -> MasterWithLogs:
    master = MasterWithLogs()
    master.book = Logbook(tmp_path, (), clock)
    master.add_node("node-1")
    master.submit(small_sweep())
    master.run_once()
    return master


def row(master: MasterWithLogs, what: str, *names: str, **paging: int) -> dict[str, Any]:
    answer = over_the_wire(queries.answer(master.state, Query("r", what, names, **paging), master))
    assert isinstance(answer, Answer)
    assert answer.error == ""
    return answer.rows[0]


def job_of(master: MasterWithLogs) -> tuple[str, str]:
    """A job with an attempt, and that attempt."""
    for job in master.state.jobs.values():
        if job.attempt is not None:
            return job.job_id, job.attempt.attempt_id
    raise AssertionError


def store(master: MasterWithLogs, *messages: StreamBytes | StreamHole) -> list[StreamSize]:
    sizes = master.book.write(messages)
    master.book.counted(sizes)
    return sizes


def test_bytes_begin_where_they_say_also_behind_a_hole(master: MasterWithLogs) -> None:
    job_id, attempt_id = job_of(master)
    store(
        master,
        StreamBytes(attempt_id, job_id, "log", 0, b"one\n"),
        StreamHole(attempt_id, job_id, "log", 4, 100),
        StreamBytes(attempt_id, job_id, "log", 104, b"two\n"),
    )
    for offset, begin, data, next_offset in (
        (0, 0, b"one\n", 104),
        (2, 2, b"e\n", 104),
        (4, 104, b"two\n", 108),
        (50, 104, b"two\n", 108),
        (108, 108, b"", 108),
    ):
        found = row(master, "log", job_id, offset=offset)
        assert (found["begin"], found["data"], found["next_offset"]) == (begin, data, next_offset)


async def test_the_dashboard_reads_a_log_with_a_hole_line_by_line(
    master: MasterWithLogs, clock: Clock
) -> None:
    job_id, attempt_id = job_of(master)
    head = b"".join(b"line %d\n" % number for number in range(30_000))
    store(master, StreamBytes(attempt_id, job_id, "log", 0, head))
    store(master, StreamHole(attempt_id, job_id, "log", len(head), 3 * BLOCK_BYTES))
    clock.now_s += 60
    begin = len(head) + 3 * BLOCK_BYTES
    store(master, StreamBytes(attempt_id, job_id, "log", begin, b"[lost]\nlast\n"))

    async def ask(
        what: str, names: tuple[str, ...], *, offset: int = 0, limit: int = 1
    ) -> dict[str, Any]:
        return row(master, what, *names, offset=offset, limit=limit)

    ranks = LogRanks([LogStream(ask, job_id, attempt_id)])
    await ranks.refresh()
    while await ranks.count_next():
        pass
    assert await ranks.lines() == 30_002
    viewer = LogViewer(ranks)
    viewer.height = 3
    assert [shown.text for shown in await viewer.rows()][-1] == "last"
    place = await ranks.at_line(12_345)
    assert place is not None
    step = await ranks.after(place)
    assert step is not None
    assert step[0].shown == b"line 12345"
    assert await ranks.at_time(clock.now_s) == (begin + len(b"[lost]\n"),)


def test_lines_are_counted_by_blocks(master: MasterWithLogs) -> None:
    job_id, attempt_id = job_of(master)
    assert row(master, "lines", job_id)["counts"] == []
    data = b"x" * 99 + b"\n"
    data *= BLOCK_BYTES * 3 // 100
    store(master, StreamBytes(attempt_id, job_id, "log", 0, data))
    found = row(master, "lines", job_id, limit=1 << 30)
    counts = [data.count(b"\n", at, at + BLOCK_BYTES) for at in range(0, len(data), BLOCK_BYTES)]
    assert (found["counts"], found["next_offset"]) == (counts, len(data))
    found = row(master, "lines", job_id, offset=BLOCK_BYTES + 5, limit=BLOCK_BYTES)
    assert (found["begin"], found["counts"]) == (BLOCK_BYTES, counts[1:2])
    assert found["next_offset"] == 2 * BLOCK_BYTES
    found = row(master, "lines", job_id, offset=1 << 40)
    assert (found["counts"], found["size_bytes"]) == ([], len(data))
    assert COUNTED_BYTES_MAX % BLOCK_BYTES == 0
    assert row(master, "lines", job_id, "metrics")["counts"] == []


def test_a_log_that_is_no_file_any_more_has_no_lines(master: MasterWithLogs) -> None:
    job_id, attempt_id = job_of(master)
    store(master, StreamBytes(attempt_id, job_id, "log", 0, b"a\n"))
    path = master.log_file(job_id, attempt_id, "log")
    path.unlink()
    assert row(master, "lines", job_id)["counts"] == []
    path.mkdir()
    answer = queries.answer(master.state, Query("r", "lines", (job_id,)), master)
    assert "can't be read on the master" in answer.error


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=300), begin=st.integers(0, 5), size=st.integers(0, 400))
def test_counts_are_those_of_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, begin: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshtrain_daemon.master.log_lines.BLOCK_BYTES", 16)
        counts = count_line_ends(path, begin * 16, begin * 16 + size)
    piece = data[begin * 16 : begin * 16 + size]
    assert counts == [piece[at : at + 16].count(b"\n") for at in range(0, len(piece), 16)]


def test_times_tell_when_bytes_came(master: MasterWithLogs, clock: Clock) -> None:
    job_id, attempt_id = job_of(master)
    for offset, text in enumerate((b"a", b"b", b"c")):
        clock.now_s = 1000.0 + offset
        store(master, StreamBytes(attempt_id, job_id, "log", offset, text))
    found = row(master, "times", job_id)
    assert (found["offsets"], found["walls_s"]) == ([0, 1, 2], [1000.0, 1001.0, 1002.0])
    found = row(master, "times", job_id, offset=2)
    assert (found["offsets"], found["walls_s"]) == ([2], [1002.0])
    store(master, StreamBytes(attempt_id, job_id, "metrics", 0, b"{}\n"))
    assert row(master, "times", job_id, "metrics")["offsets"] == []


def test_only_the_ranks_of_a_gang_have_logs_of_their_own(master: MasterWithLogs) -> None:
    job_id, _ = job_of(master)
    answer = queries.answer(master.state, Query("r", "log", (job_id, "log.1")), master)
    assert "log and metrics" in answer.error
    answer = queries.answer(master.state, Query("r", "lines", ()), master)
    assert "the query lines takes a job" in answer.error


# --- the file of times ------------------------------------------------------------------


def test_bytes_that_come_close_together_have_one_time(tmp_path: Path) -> None:
    log, times = tmp_path / "a.log", LogTimes()
    for number in range(100):
        times.note(log, number, 50.0 + number / 64)
    pairs = read_times(log, 0, 100)
    assert pairs[0] == (0, 50.0)
    assert all(later - earlier >= 0.1 for (_, earlier), (_, later) in pairwise(pairs))
    assert 10 <= len(pairs) <= 16


def test_a_clock_that_is_put_back_mixes_nothing_up(tmp_path: Path) -> None:
    log, times = tmp_path / "a.log", LogTimes()
    for offset, wall_s in ((0, 100.0), (5, 50.0), (9, 200.0)):
        times.note(log, offset, wall_s)
    assert read_times(log, 0, 99) == [(0, 100.0), (9, 200.0)]


def test_a_master_that_starts_again_goes_on_from_what_is_stored(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for offset in (0, 10, 20):
        LogTimes().note(log, offset, 100.0 + offset)
    # It died before the bytes from 10 on were counted: they come again.
    assert read_times(log, 0, 10) == [(0, 100.0)]
    LogTimes().note(log, 10, 300.0)
    assert read_times(log, 0, 99) == [(0, 100.0), (10, 110.0)]
    LogTimes().note(log, 15, 400.0)
    assert read_times(log, 0, 99) == [(0, 100.0), (10, 110.0), (15, 400.0)]
    with times_path(log).open("ab") as file:
        file.write(b"torn")
    LogTimes().note(log, 30, 500.0)
    assert read_times(log, 0, 99)[-1] == (30, 500.0)


def test_times_that_can_not_be_written_or_read_cost_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    times_path(log).mkdir()
    LogTimes().note(log, 0, 100.0)
    assert read_times(log, 0, 10) == []
    times_path(log).rmdir()
    times_path(log).write_bytes(b"\xff" * 160)
    assert read_times(log, 0, 10) == []
    LogTimes().note(log, 0, 100.0)
    assert read_times(log, 0, 10) == [(0, 100.0)]


def test_a_file_that_is_full_keeps_half_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_times, "TIMES_MAX", 16)
    log, times = tmp_path / "a.log", LogTimes()
    for number in range(5000):
        times.note(log, number, 1000.0 + number)
    pairs = read_times(log, 0, 5000)
    assert 4 <= len(pairs) <= 16
    assert pairs[0] == (0, 1000.0)
    gaps = [later - earlier for (_, earlier), (_, later) in pairwise(pairs)]
    assert max(gaps) <= 5000 / 3
    assert pairs[-1][1] >= 1000.0 + 5000 - max(gaps) * 2
    assert list(tmp_path.iterdir()) == [times_path(log)]
