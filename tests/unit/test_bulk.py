"""Bytes on their way into the master: few in memory, written in pieces, told when counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import BulkToMaster, StreamBytes, StreamHole, StreamStored
from meshtrain_daemon.master import bulk as bulk_module
from meshtrain_daemon.master.bulk import WAITING_BYTES_MAX, WRITE_BYTES_MAX, BulkIntake

CHUNK = bytes(1 << 20)


class Course:
    """All that the intake works with, and what it did."""

    def __init__(self, *, with_keys: bool = False) -> None:
        self.written: list[list[BulkToMaster]] = []
        self.sent: list[StreamStored] = []
        self.paused = False
        self.errors: list[OSError] = []
        self.told: list[str] = []
        self.attempts_asked = 0
        self.all_written = asyncio.Event()
        job = SimpleNamespace(
            job_id="j",
            attempt=SimpleNamespace(attempt_id="j.2", node_id="n1"),
            state=SimpleNamespace(is_terminal=False),
        )
        self.intake = BulkIntake(
            state=SimpleNamespace(jobs={"j": job}),  # type: ignore[arg-type]
            sockets=self,  # type: ignore[arg-type]
            logbook=self,  # type: ignore[arg-type]
            store=self,  # type: ignore[arg-type]
            writer=self,  # type: ignore[arg-type]
            reporter=None,  # type: ignore[arg-type]
            say=self.told.append,
            with_keys=with_keys,
        )

    def pause_bulk(self) -> None:
        self.paused = True

    def resume_bulk(self) -> None:
        self.paused = False

    def send_bulk(self, peer: bytes, messages: Sequence[StreamStored]) -> bool:
        self.sent.extend(messages)
        self.all_written.set()
        return True

    def attempts_of(self, job_id: str) -> list[Any]:
        self.attempts_asked += 1
        return [SimpleNamespace(attempt_id="j.1", node_id="n1")]

    async def count(self, write: Callable[[], Iterable[StreamSize]]) -> list[StreamSize]:
        if self.errors:
            raise self.errors.pop()
        return list(write())

    def write(self, messages: Iterable[BulkToMaster]) -> list[StreamSize]:
        self.written.append(list(messages))
        return [StreamSize("j.2", "j", "log", 1)]

    def counted(self, sizes: Iterable[StreamSize]) -> None:
        assert list(sizes)

    def confirmation(self, message: BulkToMaster) -> StreamStored:
        return StreamStored(message.attempt_id, message.stream, message.offset + 1)

    async def run_until_answered(self) -> None:
        async with asyncio.timeout(10):
            running = asyncio.create_task(self.intake.run())
            await self.all_written.wait()
            running.cancel()


def chunks(count: int, attempt: str = "j.2") -> list[tuple[bytes, BulkToMaster]]:
    return [(b"n1", StreamBytes(attempt, "j", "log", i * len(CHUNK), CHUNK)) for i in range(count)]


async def test_P12_a_flood_pauses_the_socket_and_is_written_in_pieces() -> None:
    course = Course()
    course.intake.take(chunks(2))
    assert not course.paused
    course.intake.take(chunks(WAITING_BYTES_MAX // len(CHUNK)))
    assert course.paused
    total = 2 + WAITING_BYTES_MAX // len(CHUNK)
    async with asyncio.timeout(10):
        running = asyncio.create_task(course.intake.run())
        while sum(map(len, course.written)) < total:
            await asyncio.sleep(0)
        running.cancel()
    assert not course.paused
    most = max(sum(len(m.data) for m in batch) for batch in course.written)  # type: ignore[union-attr]
    assert most <= WRITE_BYTES_MAX + len(CHUNK)


async def test_holes_count_little_against_the_memory() -> None:
    course = Course()
    course.intake.take([(b"n1", StreamHole("j.2", "j", "log", 0, 1 << 50))])
    assert not course.paused
    await course.run_until_answered()
    assert course.sent == [StreamStored("j.2", "log", 1)]


async def test_P11_bytes_of_nobody_are_confirmed_and_not_written() -> None:
    course = Course()
    course.intake.take(
        [
            (b"n1", StreamBytes("j.9", "j", "log", 5, b"abc")),
            (b"n1", StreamHole("k.1", "k", "log", 1 << 62, 1 << 62)),
            (b"n1", StreamHole("j.2", "j", "../log", 1, 1)),
            *chunks(3, attempt="j.1"),
        ]
    )
    await course.run_until_answered()
    assert course.sent[:3] == [
        StreamStored("j.9", "log", 8),
        StreamStored("k.1", "log", (1 << 63) - 1),
        StreamStored("j.2", "../log", 2),
    ]
    assert [len(batch) for batch in course.written] == [3]
    assert course.attempts_asked == 2, "once for each attempt, not for each message"


async def test_P10_bytes_are_taken_from_the_node_of_the_attempt_alone() -> None:
    course = Course(with_keys=True)
    mine = StreamBytes("j.2", "j", "log", 0, b"abc")
    former = StreamBytes("j.1", "j", "log", 0, b"abc")
    strangers = [(b"n2/life/secret", mine), (b"n11/life/secret", former), (b"n1", mine)]
    course.intake.take([*strangers, (b"n1/life/secret", mine), (b"n1/life/secret", former)])
    await course.run_until_answered()
    assert course.written == [[mine, former]]
    # The others are told to be rid of theirs, and nothing of it is kept.
    assert course.sent[:3] == [
        StreamStored("j.2", "log", 3),
        StreamStored("j.1", "log", 3),
        StreamStored("j.2", "log", 3),
    ]


async def test_P12_a_full_disk_delays_bytes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_module, "FULL_RETRY_S", 0.0)
    course = Course()
    course.errors.append(OSError(28, "No space left on device"))
    running = asyncio.create_task(course.intake.run())
    course.intake.take(chunks(1))
    while not course.told:
        await asyncio.sleep(0)
    assert course.sent == []
    course.intake.take(chunks(1))
    async with asyncio.timeout(10):
        await course.all_written.wait()
    running.cancel()
    assert "can't be stored" in course.told[0]
    assert len(course.sent) == 1
