"""What is recorded is what is played: all of it, at any time, whatever cut it short."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from recorded_double import WALL_S, Told, a_day, job, recorded, rows_of

from meshtrain.core.job import JobState
from meshtrain.core.pages import PageQuery
from meshtrain.core.view import MeshView
from meshtrain.errors import NotFoundError, UserError
from meshtrain.net.zmq_feed import FeedBatch, FeedClient
from meshtrain.wire.messages import Answer, Cancel, Query
from meshtrain_tui import recorder as recorder_module
from meshtrain_tui.recorder import Recorder
from meshtrain_tui.recording import Recording, RecordingFile, apply_all, read_recording
from meshtrain_tui.replay import Player, time_meant


class Clock:
    """A clock that goes when it is told to."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def view_after(count: int) -> MeshView:
    """What a dashboard shows that heard the first `count` batches itself."""
    view = MeshView()
    for batch in a_day()[:count]:
        apply_all(view, batch.changes)
    return view


async def until(player: Player, played: int) -> None:
    """Follow a player until it has played so much."""
    async for _ in player.batches():
        if player.position.played >= played:
            return


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.mesh"
    await recorded(path, a_day())
    return path


async def test_what_is_recorded_is_what_is_played(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    source = await recorded(path, a_day())
    assert source.closed
    clock = Clock()
    player = Player(Recording(path), real_now_s=clock)
    clock.now_s += 1000
    async with asyncio.timeout(5):
        await until(player, 6)
    assert rows_of(player.view) == rows_of(source.view)
    assert rows_of(player.view) == rows_of(view_after(6))
    assert player.position.at_end
    assert player.now_s() == WALL_S + 50


async def test_it_plays_at_the_pace_of_the_recording_or_another(file: Path) -> None:
    clock = Clock()
    player = Player(Recording(file), real_now_s=clock)
    batches = player.batches()
    first = await anext(batches)
    assert first.whole
    assert player.position.played == 1
    clock.now_s += 10
    assert player.now_s() == WALL_S + 10
    await anext(batches)
    assert player.position.played == 2
    player.hurry(2)
    assert player.position.speed == 4
    clock.now_s += 5
    assert player.now_s() == WALL_S + 30
    news = await anext(batches)
    assert player.position.played == 4
    assert len(news.changes) == 2, "what is due together is told together"
    player.hurry(-99)
    player.hurry(-1)
    assert player.position.speed == 0.25
    player.hurry(99)
    player.toggle()
    clock.now_s += 1000
    assert player.now_s() == WALL_S + 30
    assert not player.position.playing
    await batches.aclose()


@pytest.mark.parametrize("count", range(7))
async def test_every_step_shows_what_was_heard_then(file: Path, count: int) -> None:
    player = Player(Recording(file), real_now_s=Clock(), playing=False)
    player.step(count)
    assert rows_of(player.view) == rows_of(view_after(count))
    player.step(99)
    assert rows_of(player.view) == rows_of(view_after(6))
    player.step(count - 6)
    assert rows_of(player.view) == rows_of(view_after(count)), "also when it comes back"
    assert player.now_s() == WALL_S + 10 * max(0, count - 1)


async def test_a_jump_shows_that_time_and_tells_all_of_it(file: Path) -> None:
    player = Player(Recording(file), real_now_s=Clock(), playing=False)
    player.jump(WALL_S + 25)
    assert player.now_s() == WALL_S + 25
    batches = player.batches()
    assert (await anext(batches)).whole
    assert rows_of(player.view) == rows_of(view_after(3))
    player.jump_by(-1000)
    assert (await anext(batches)).whole
    assert player.now_s() == WALL_S
    assert rows_of(player.view) == rows_of(view_after(1))
    player.jump(WALL_S + 1e9)
    assert player.position.at_end
    player.toggle()
    assert player.now_s() == WALL_S, "from its end it begins again"
    await batches.aclose()


async def test_pages_come_from_all_jobs_heard_of(file: Path) -> None:
    player = Player(Recording(file), real_now_s=Clock(), playing=False)
    player.jump(WALL_S + 50)
    page = await player.page(PageQuery("jobs", states=("failed",)))
    assert [row.name for row in page.rows] == ["few_shot/b"]
    assert (page.matched, page.total) == (1, 3)
    player.jump(WALL_S + 10)
    page = await player.page(PageQuery("jobs", states=("failed",)))
    assert page.rows == ()


async def test_answers_are_those_of_their_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    cells = [{"n": index} for index in range(7)]
    row = {"sweep_id": "s1", "cells": cells}
    answers = {("results", ("s1",)): Answer("", rows=[row], total=7)}
    await recorded(path, a_day(), answers=answers)
    player = Player(Recording(path), real_now_s=Clock(), playing=False)
    player.step(99)
    answer = await player.ask(Query("q", "results", ("s1",), 2, 3))
    assert isinstance(answer, Answer)
    assert answer.rows == [{"sweep_id": "s1", "cells": cells[2:5]}]
    assert answer.total == 7
    with pytest.raises(NotFoundError, match="base abc"):
        await player.ask(Query("q", "base", ("abc",)))
    with pytest.raises(UserError, match="can't be changed"):
        await player.ask(Cancel("c", ("few_shot",)))
    player.jump(WALL_S + 40)
    with pytest.raises(NotFoundError):
        await player.ask(Query("q", "results", ("s1",)))


async def test_silence_is_played_as_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    source = Told(a_day(), lambda index: None)
    wall_s = WALL_S
    with RecordingFile(path) as file:
        recorder = Recorder(source, file, address="a", bytes_max=1 << 20, now_wall_s=lambda: wall_s)
        batches = source.batches()
        recorder._take(await anext(batches))
        wall_s += 10
        source.trouble = "nothing heard for 5 s"
        recorder._look()
        recorder._look()
        wall_s += 10
        source.trouble = ""
        recorder._take(await anext(batches))
    player = Player(Recording(path), real_now_s=Clock(), playing=False)
    player.jump(WALL_S + 5)
    assert player.trouble == "" and player.last_heard_s == WALL_S + 5
    player.jump(WALL_S + 15)
    assert player.trouble == "nothing heard for 5 s"
    assert player.last_heard_s == WALL_S
    player.jump(WALL_S + 20)
    assert player.trouble == ""
    assert len(Recording(path)) == 3, "the same trouble is written once"


async def test_a_master_s_real_feed_is_recorded_and_played(tmp_path: Path) -> None:
    from test_tui_feed import IMPATIENT, LIMITS, Master, sweep

    master = Master([sweep("first")])
    client = FeedClient(master.address, settings=IMPATIENT, limits=LIMITS)
    path = tmp_path / "a.mesh"
    with RecordingFile(path) as file:
        recorder = Recorder(client, file, address=master.address, bytes_max=1 << 20)
        running = asyncio.create_task(recorder.run())
        try:
            while not recorder.moments:
                await asyncio.sleep(0.001)
            for index in range(20):
                master.tell(*a_day()[index % 5 + 1].changes)
            while len(client.view.transfers) < 4 or len(client.view.notes) < 8:
                await asyncio.sleep(0.001)
        finally:
            running.cancel()
            await asyncio.wait([running])
            master.sockets.close()
    player = Player(Recording(path), real_now_s=Clock(), playing=False)
    player.step(1 << 20)
    assert rows_of(player.view) == rows_of(client.view)


# --- a file that anything may happen to ------------------------------------------------


async def test_whatever_a_crash_cuts_off_the_rest_is_whole(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in (*ends, *(end - 3 for end in ends), *(end + 5 for end in ends[:-1])):
        cut_file = tmp_path / f"{cut}.mesh"
        cut_file.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        there = Recording(cut_file)
        assert len(there) == max(0, whole - 1), "the first line is no moment"
        assert (there.torn_bytes > 0) == (cut not in ends)


async def test_adding_to_a_cut_recording_leaves_no_half_line(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])
    more = a_day()[:2]
    source = await recorded(file, more, add=True)
    there = Recording(file)
    assert there.torn_bytes == 0
    assert len(there) == 5 + 2
    player = Player(there, real_now_s=Clock(), playing=False)
    player.step(99)
    assert rows_of(player.view) == rows_of(source.view)


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    path.write_text("my thesis\n")
    with pytest.raises(UserError, match="--add"):
        RecordingFile(path)
    with pytest.raises(UserError, match="no recording"):
        RecordingFile(path, add=True)
    assert path.read_text() == "my thesis\n"
    with pytest.raises(UserError, match="can't be written"):
        RecordingFile(tmp_path / "no" / "folder.mesh")


def test_two_can_t_record_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    with RecordingFile(path), pytest.raises(UserError, match="another process"):
        RecordingFile(path, add=True)


def test_a_full_disk_leaves_the_last_line_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12: what was recorded stays readable."""
    from meshtrain_tui import recording
    from meshtrain_tui.recording import Beginning

    path = tmp_path / "a.mesh"
    with RecordingFile(path) as file:
        file.write(Beginning(1, "a", "0", WALL_S))
        before = path.read_bytes()
        real_write = recording.os.write

        def half(fd: int, data: bytes) -> int:
            if len(data) > 10:
                return real_write(fd, data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(recording.os, "write", half)
        with pytest.raises(UserError, match="No space left"):
            file.write(Beginning(1, "b", "0", WALL_S))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["{}\n", "nonsense\n", '{"wall_s": "now"}\n', '{"wall_s": 1.0, "batch": 7}\n', "\n", "[1]\n"],
)
def test_what_is_no_recording_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    """P11."""
    path = tmp_path / "a.mesh"
    path.write_text('{"recording":1,"address":"a","version":"0","wall_s":1}\n' + text)
    with pytest.raises(UserError, match="line 2"):
        Recording(path)


def test_other_formats_and_absent_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    path.write_text('{"recording":9,"address":"a","version":"0","wall_s":1}\n')
    with pytest.raises(UserError, match="format 9"):
        Recording(path)
    with pytest.raises(UserError, match="No such file"):
        Recording(tmp_path / "none")


async def test_an_empty_recording_plays_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    path.touch()
    player = Player(Recording(path), real_now_s=Clock())
    assert player.position.at_end
    player.step(1)
    player.step(-1)
    player.jump(5.0)
    assert player.view.nodes == {}


def test_recordings_of_before_are_read() -> None:
    old = Path(__file__).parent / "batch_composition.jsonl"
    moments = read_recording(old)
    assert len(moments) == 108
    assert moments[0].batch is not None and moments[0].batch.whole


# --- large ones ------------------------------------------------------------------------


async def test_whole_pictures_stand_among_the_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "PICTURE_CHANGES_MIN", 10)
    many = [
        FeedBatch(1, 10 + index, (job("a", JobState.RUNNING, retries=index),), whole=False)
        for index in range(60)
    ]
    path = tmp_path / "a.mesh"
    source = await recorded(path, [*a_day(), *many], every_s=1.0)
    there = Recording(path)
    assert there.whole_before(len(there)) > 40
    player = Player(there, real_now_s=Clock(), playing=False)
    player.jump(WALL_S + 100)
    assert rows_of(player.view) == rows_of(source.view)
    player.jump(WALL_S + 30)
    assert player.view.jobs["a"].retries == 24


async def test_it_ends_by_itself_when_the_file_is_large_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    source = Told(a_day(), lambda index: None)
    with RecordingFile(path) as file:
        recorder = Recorder(source, file, address="a", bytes_max=500, now_wall_s=lambda: WALL_S)
        await recorder.run()
    assert recorder.is_full
    assert 0 < len(Recording(path)) < 6


# --- times -----------------------------------------------------------------------------


async def test_times_are_read_as_people_write_them(file: Path) -> None:
    from datetime import datetime

    player = Player(Recording(file), real_now_s=Clock(), playing=False)
    player.jump(WALL_S + 20)
    at = player.position
    assert time_meant("50%", at) == WALL_S + 25
    assert time_meant("+5s", at) == WALL_S + 25
    assert time_meant("-1.5m", at) == WALL_S - 70
    assert time_meant("+2 h", at) == WALL_S + 20 + 7200
    begins = datetime.fromtimestamp(WALL_S)
    assert time_meant(f"{begins:%H:%M:%S}", at) == WALL_S
    assert time_meant(f"{begins:%Y-%m-%d %H:%M:%S}", at) == WALL_S
    before = datetime.fromtimestamp(WALL_S - 3600)
    assert time_meant(f"{before:%H:%M:%S}", at) == WALL_S - 3600 + 86400, "that time comes next"
    for wrong in ("", "soon", "25:00", "12:77", "5", "+5", "2026-13-01 10:00"):
        with pytest.raises(UserError, match="no time"):
            time_meant(wrong, at)


def test_a_moment_says_only_what_it_has() -> None:
    from meshtrain_tui.recording import Moment

    assert msgspec.json.encode(Moment(1.0, trouble="away")) == b'{"wall_s":1.0,"trouble":"away"}'
