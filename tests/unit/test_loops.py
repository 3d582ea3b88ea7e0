"""The master's loop of decisions: save, commit, send, in that order, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import pytest

from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.errors import StoreError
from meshtrain.store.base import StreamSize
from meshtrain.store.failures import StoreFullError
from meshtrain_daemon.master.backlog import Backlog
from meshtrain_daemon.master.loops import Decisions, Writer

KEPT = fx.SaveDrained("n1", True)
SENT = fx.AskHello("n1")


class Course:
    """Everything outside the loop, writing down what happens to it."""

    def __init__(self, batch_max: int = 10) -> None:
        self.events: list[ev.Event] = []
        self.done: list[object] = []
        self.commit_fails = False
        self.full = 0
        self.no_room = False
        self.told: list[object] = []
        self.writer = Writer(self)  # type: ignore[arg-type]
        self.decisions = Decisions(
            self,  # type: ignore[arg-type]
            self.writer,
            self,
            batch_max,
            retry_s=0.001,
        )
        self.decisions.on_full = lambda full, refused: self.told.append([str(full), *refused])
        self.decisions.on_room = lambda: self.told.append("room")

    # the scheduler

    def handle(self, event: ev.Event, now_s: float) -> list[fx.Effect]:
        self.events.append(event)
        return [] if isinstance(event, ev.PlaceJobs | ev.NodeBeat) else [SENT, KEPT]

    # the store

    def save(self, effects: Sequence[fx.Save]) -> None:
        self.done.append(("save", len(effects)))

    def commit(self) -> None:
        if self.commit_fails:
            raise StoreError("the disk is gone")
        if self.full:
            self.full -= 1
            self.done.append("full")
            raise StoreFullError("no space left")
        self.done.append("commit")

    def lacks_room(self) -> StoreFullError | None:
        return StoreFullError("3 bytes free") if self.no_room else None

    def rollback(self) -> None:
        self.done.append("rollback")

    def set_stream_size(self, attempt_id: str, job_id: str, stream: str, size_bytes: int) -> None:
        self.done.append((attempt_id, stream, size_bytes))

    # the sockets

    def send(self, effects: Sequence[fx.Effect]) -> None:
        self.done.append(("send", len(effects)))

    async def run_until(self, reached: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.decisions.run())
        try:
            while not reached() and not task.done():
                await asyncio.sleep(0)
            if task.done():
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.writer.close()


def beat(node_id: str, number: int) -> ev.NodeBeat:
    return ev.NodeBeat(node_id, "s/0", number, 0.0, 0, 0, ())


async def test_effects_are_saved_then_committed_then_sent_and_questions_answered_last() -> None:
    course = Course()
    course.decisions.post(ev.Tick(1.0))
    course.decisions.post(ev.Tick(2.0))
    course.decisions.afterwards(lambda: course.done.append("answer"))
    await course.run_until(lambda: "answer" in course.done)
    assert course.done == [("save", 2), "commit", ("send", 4), "answer"]
    assert course.events == [ev.Tick(1.0), ev.Tick(2.0), ev.PlaceJobs()]


async def test_a_failed_commit_ends_the_loop_and_nothing_was_sent() -> None:
    course = Course()
    course.commit_fails = True
    course.decisions.post(ev.Tick(1.0))
    course.decisions.afterwards(lambda: course.done.append("answer"))
    with pytest.raises(StoreError, match="the disk is gone"):
        await course.run_until(lambda: False)
    assert course.done == [("save", 1)]


async def test_of_many_heartbeats_of_a_node_the_latest_is_handled() -> None:
    course = Course()
    for number in range(100):
        course.decisions.post(beat("n1", number))
        course.decisions.post(beat("n2", -number))
    await course.run_until(lambda: ev.PlaceJobs() in course.events)
    assert course.events == [beat("n1", 99), beat("n2", -99), ev.PlaceJobs()]


async def test_a_batch_is_bounded_and_answers_wait_for_all_that_came_before_them() -> None:
    course = Course(batch_max=3)
    for number in range(8):
        course.decisions.post(ev.Tick(float(number)))
    course.decisions.afterwards(lambda: course.done.append("first"))
    course.decisions.afterwards(lambda: course.done.append("second"))
    await course.run_until(lambda: "second" in course.done)
    commits = [entry for entry in course.done if entry == "commit"]
    assert len(commits) == 3
    assert course.done[-2:] == ["first", "second"]
    ticks = [event for event in course.events if isinstance(event, ev.Tick)]
    assert ticks == [ev.Tick(float(number)) for number in range(8)]


async def test_what_is_posted_while_a_commit_runs_comes_next() -> None:
    course = Course()
    course.decisions.post(ev.Tick(1.0))
    original = course.commit

    def commit() -> None:
        original()
        if len(course.events) == 2:
            course.decisions.post(ev.Tick(2.0))

    course.commit = commit  # type: ignore[method-assign]
    course.decisions.afterwards(lambda: course.decisions.post(ev.Tick(3.0)))
    await course.run_until(lambda: ev.Tick(3.0) in course.events)
    assert [e for e in course.events if isinstance(e, ev.Tick)] == [
        ev.Tick(1.0),
        ev.Tick(2.0),
        ev.Tick(3.0),
    ]


async def test_bytes_are_written_before_they_are_counted_and_committed() -> None:
    course = Course()
    sizes = [StreamSize("j.1", "j", "log", 5)]

    def write() -> Iterable[StreamSize]:
        course.done.append("write")
        return sizes

    assert await course.writer.count(write) == sizes
    assert course.done == ["write", ("j.1", "log", 5), "commit"]

    def write_nothing() -> Iterable[StreamSize]:
        return []

    def refuse() -> Iterable[StreamSize]:
        raise OSError(28, "No space left on device")

    course.done.clear()
    assert await course.writer.count(write_nothing) == []
    with pytest.raises(OSError, match="No space"):
        await course.writer.count(refuse)
    assert course.done == []
    course.writer.close()


async def test_P12_a_commit_that_finds_the_disk_full_is_held_back_and_made_once() -> None:
    course = Course()
    course.full = 3
    course.decisions.post(ev.Tick(1.0))
    course.decisions.afterwards(lambda: course.done.append("answer"))
    await course.run_until(lambda: ("send", 2) in course.done)
    again = [("save", 1), "full", "rollback"]
    assert course.done == [*again, "answer", *again, *again, ("save", 1), "commit", ("send", 2)]
    assert course.told == [["no space left"], "room"]
    assert course.decisions.full is None


CANCEL = ev.CancelRequested("request-1", ("j",))


async def test_P12_without_room_nothing_is_decided_and_questions_are_answered() -> None:
    course = Course()
    course.no_room = True
    course.decisions.post(ev.Tick(1.0))
    course.decisions.post(CANCEL)
    course.decisions.post(ev.CollectFailed("a", "away"))
    course.decisions.afterwards(lambda: course.done.append("first"))

    async def ask() -> None:
        while not course.told:
            await asyncio.sleep(0)
        course.decisions.afterwards(lambda: course.done.append("second"))
        assert course.decisions.full is not None
        for number in range(100):
            course.decisions.post(ev.Tick(2.0 + number))
            course.decisions.post(beat("n1", number))
            course.decisions.post(ev.AttemptStarted("n1", "j.1", 1))
            course.decisions.post(ev.AttemptEnded("n1", "j.1", 1))
            course.decisions.post(hello("n2"))
        assert (course.done, course.events) == (["first", "second"], [])
        course.no_room = False

    asking = asyncio.create_task(ask())
    await course.run_until(lambda: ev.PlaceJobs() in course.events)
    await asking
    # The request was refused; time passes again, and nodes say again what they said.
    assert course.told == [["3 bytes free", "request-1"], "room"]
    assert course.events == [beat("n1", 99), ev.CollectFailed("a", "away"), ev.PlaceJobs()]


def hello(node_id: str) -> ev.NodeSaidHello:
    return ev.NodeSaidHello(NodeSpec(node_id, "http://n", 1), "s/0", (), (), 1)


def test_P12_while_events_are_held_back_they_do_not_grow_and_lose_nothing_said_once() -> None:
    backlog = Backlog()
    backlog.put(ev.AttemptEnded("n1", "j.1", 1))
    backlog.put(CANCEL)
    assert backlog.hold() == ["request-1"]
    for number in range(1000):
        backlog.put(ev.ArtifactHeld("n1", added=(f"a{number % 3}",)))
        backlog.put(ev.ArtifactHeld("n1", removed=(f"a{(number + 1) % 3}",)))
        backlog.put(ev.NodeLeft("n2", f"s/{number}"))
        backlog.put(ev.Tick(float(number)))
        backlog.put(hello("n3"))
    backlog.put(ev.CollectFailed("b", "its holder is away"))
    assert len(backlog) == 1
    backlog.go_on()
    # 999 % 3 == 0: a0 came last, a1 was removed after that, and a2 had come just before.
    assert list(backlog.take(10)) == [
        ev.CollectFailed("b", "its holder is away"),
        ev.ArtifactHeld("n1", added=("a0", "a2"), removed=("a1",)),
        ev.NodeLeft("n2", "s/999"),
    ]


def test_P1_what_came_before_it_was_removed_is_not_told_after_it() -> None:
    backlog = Backlog()
    backlog.hold()
    backlog.put(ev.ArtifactHeld(MASTER_NODE_ID, added=("a", "b")))
    backlog.put(ev.ArtifactDropped("a"))
    backlog.put(ev.ArtifactDropped("b"))
    backlog.put(ev.ArtifactHeld(MASTER_NODE_ID, added=("b",)))
    backlog.go_on()
    assert list(backlog.take(10)) == [
        ev.ArtifactDropped("a"),
        ev.ArtifactDropped("b"),
        ev.ArtifactHeld(MASTER_NODE_ID, added=("b",)),
    ]


async def test_P12_without_room_no_bytes_of_logs_are_written() -> None:
    course = Course()
    course.no_room = True

    def write() -> Iterable[StreamSize]:
        raise AssertionError("the last room is the store's")

    with pytest.raises(StoreFullError):
        await course.writer.count(write)
    assert course.done == []
    course.writer.close()


async def test_P12_bytes_that_a_full_disk_can_not_count_are_not_confirmed() -> None:
    course = Course()
    course.full = 1
    size = StreamSize("j.1", "j", "log", 3)
    try:
        with pytest.raises(StoreFullError):
            await course.writer.count(lambda: [size])
        assert course.done == [("j.1", "log", 3), "full", "rollback"]
        assert await course.writer.count(lambda: [size]) == [size]
    finally:
        course.writer.close()


async def test_heartbeats_are_handled_before_time_passes() -> None:
    course = Course()
    course.decisions.post(ev.Tick(1.0))
    course.decisions.post(beat("n1", 1))
    await course.run_until(lambda: len(course.events) == 3)
    assert [type(event) for event in course.events] == [ev.NodeBeat, ev.Tick, ev.PlaceJobs]
