"""Answers take turns, in order, and none waits for one that is slow."""

from __future__ import annotations

import asyncio

import pytest

from meshtrain.artifacts.turns import Turns


class Sender:
    """Takes a turn, and holds it until it is told to end."""

    def __init__(self, turns: Turns) -> None:
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self._send(turns))

    async def _send(self, turns: Turns) -> None:
        async with turns.turn():
            self.begun.set()
            await self.end.wait()

    async def finish(self) -> None:
        self.end.set()
        await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_go_at_once_and_the_others_in_their_order() -> None:
    turns = Turns(2, patience_s=60.0)
    senders = [Sender(turns) for _ in range(4)]
    await settle()
    assert [sender.begun.is_set() for sender in senders] == [True, True, False, False]
    await senders[1].finish()
    await settle()
    assert [sender.begun.is_set() for sender in senders] == [True, True, True, False]
    for sender in (senders[0], senders[2], senders[3]):
        await sender.finish()
    assert all(sender.begun.is_set() for sender in senders)


async def test_one_that_is_slow_makes_room_and_gives_its_turn_back_once() -> None:
    turns = Turns(1, patience_s=0.001)
    slow, second = Sender(turns), Sender(turns)
    await second.begun.wait()
    assert not slow.task.done()
    await slow.finish()
    await second.finish()
    turns = Turns(1, patience_s=60.0)
    first, waiting = Sender(turns), Sender(turns)
    await settle()
    assert first.begun.is_set() and not waiting.begun.is_set()
    await first.finish()
    await waiting.begun.wait()
    await waiting.finish()


async def test_who_leaves_while_waiting_takes_no_turn_with_it() -> None:
    turns = Turns(1, patience_s=60.0)
    first, leaves, last = Sender(turns), Sender(turns), Sender(turns)
    await settle()
    leaves.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves.task
    await first.finish()
    await last.begun.wait()
    await last.finish()


async def test_who_leaves_as_its_turn_comes_leaves_as_any_other() -> None:
    turns = Turns(1, patience_s=60.0)
    first, leaves, last = Sender(turns), Sender(turns), Sender(turns)
    await settle()
    # Both before either is heard of.
    first.end.set()
    leaves.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves.task
    await last.begun.wait()
    await last.finish()


async def test_a_turn_that_comes_as_its_taker_leaves_goes_to_the_next() -> None:
    turns = Turns(1, patience_s=60.0)
    first, leaves, last = Sender(turns), Sender(turns), Sender(turns)
    await settle()
    first.end.set()
    await asyncio.sleep(0)
    leaves.task.cancel()
    await last.begun.wait()
    await last.finish()
    await asyncio.wait({first.task, leaves.task})
    # Nothing was lost: the next one goes at once.
    again = Sender(turns)
    await again.begun.wait()
    await again.finish()
