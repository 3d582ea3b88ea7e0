"""What reaches a master before its parts are there, and after they have ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from meshtrain.net.zmq_client import MasterClient, Ports
from meshtrain.spec.settings import MasterSettings
from meshtrain.wire.messages import Answer, Query, StreamBytes, Submit
from meshtrain_daemon.master.mesh import EARLY_MAX, Master


def settings(home: Path) -> MasterSettings:
    return MasterSettings(home=home, control_port=0, bulk_port=0, feed_port=0, http_port=0)


async def test_p11_a_message_that_comes_before_the_master_is_up_waits(tmp_path: Path) -> None:
    """It ended the master: the part that answers people was not there yet."""
    master = Master(settings(tmp_path), lambda text: None)
    for number in range(2 * EARLY_MAX):
        master._on_control([(b"somebody gone", Query(f"q{number}", "ports"))])
        master._on_bulk([(b"somebody gone", StreamBytes("a.1", "a", "log", 0, b"x"))])
    told: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(master.run(told.set_result))
    ports = await asyncio.wait_for(told, 30)

    def ask() -> object:
        with MasterClient(f"127.0.0.1:{ports.control}") as client:
            return client.request(Query("mine", "ports"))

    answer = await asyncio.to_thread(ask)
    assert isinstance(answer, Answer) and answer.rows[0]["control"] == ports.control
    master.stop()
    await asyncio.wait_for(running, 30)


async def test_what_comes_while_the_master_stops_does_not_keep_it(tmp_path: Path) -> None:
    """It waited for a commit by a loop that had ended, and the master for it."""
    master = Master(settings(tmp_path), lambda text: None)
    told: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(master.run(told.set_result))
    await asyncio.wait_for(told, 30)
    last = asyncio.Event()

    async def one_that_ends_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # The others have ended, and the master waits for this one.
            master._on_control([(b"somebody", Submit("late", "a.yaml", b"command: 'true'"))])
            master._spawn(one_that_never_ends())
            last.set()

    async def one_that_never_ends() -> None:
        await asyncio.Event().wait()

    master._spawn(one_that_ends_late())
    await asyncio.sleep(0)
    master.stop()
    await asyncio.wait_for(running, 30)
    assert last.is_set()
