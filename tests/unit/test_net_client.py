"""What people's commands ask a master, with real links on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zmq.asyncio

from meshtrain.core.changes import Note
from meshtrain.errors import ProtocolError, SettingsError
from meshtrain.net.base import MasterAwayError
from meshtrain.net.link import LinkState
from meshtrain.net.zmq_client import MasterClient, Ports
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.wire import messages as wire

Answers = Callable[[Any], list[Any]]
NOTES = tuple(Note(float(n), f"note {n}") for n in range(5))


class Desk:
    """A master that answers as it is told to."""

    def __init__(self) -> None:
        self.answers: Answers = lambda message: [wire.Done(message.request_id)]
        self.asked: list[Any] = []
        self.sockets = MasterSockets(
            "127.0.0.1", 0, 0, 0, on_control=self._answer, on_bulk=lambda _: None
        )
        self.address = f"127.0.0.1:{self.sockets.control_port}"

    def _answer(self, batch: list[Any]) -> None:
        for peer, message in batch:
            self.asked.append(message)
            for answer in self.answers(message):
                self.sockets.send_control(peer, [answer])


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.sockets.close()


async def ask(address: str, question: Callable[[MasterClient], Any], timeout_s: float = 20) -> Any:
    """Commands are synchronous, so they run beside the master's loop."""

    def run() -> Any:
        with MasterClient(address, timeout_s) as client:
            return question(client)

    return await asyncio.to_thread(run)


def cancel(client: MasterClient) -> Any:
    return client.request(wire.Cancel("request-1", ("s",)))


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_request_is_answered(desk: Desk) -> None:
    desk.answers = lambda message: [wire.Done(message.request_id, done=("job-1",))]
    assert await ask(desk.address, cancel) == wire.Done("request-1", done=("job-1",))
    assert desk.asked == [wire.Cancel("request-1", ("s",))]


async def test_an_error_of_the_answer_is_the_callers(desk: Desk) -> None:
    desk.answers = lambda message: [wire.Answer(message.request_id, error="no such sweep")]
    answer = await ask(desk.address, lambda c: c.request(wire.Query("request-2", "jobs")))
    assert answer == wire.Answer("request-2", error="no such sweep")


async def test_answers_to_older_requests_are_passed_over(desk: Desk) -> None:
    desk.answers = lambda message: [wire.Done("request-0"), wire.Done(message.request_id)]
    assert await ask(desk.address, cancel) == wire.Done("request-1")


async def test_one_client_asks_many_times(desk: Desk) -> None:
    def many(client: MasterClient) -> list[str]:
        return [client.request(wire.Query(f"r{n}", "jobs")).request_id for n in range(50)]

    assert await ask(desk.address, many) == [f"r{n}" for n in range(50)]


async def test_a_snapshot_comes_in_parts(desk: Desk) -> None:
    desk.answers = lambda message: [
        wire.Snapshot(message.request_id, 2, 42, NOTES[:3], last=False),
        wire.Snapshot(message.request_id, 2, 42, NOTES[3:]),
    ]
    assert await ask(desk.address, lambda c: c.snapshot()) == (2, 42, list(NOTES))
    assert desk.asked[0].what == "snapshot"


async def test_parts_of_different_moments_are_no_snapshot(desk: Desk) -> None:
    desk.answers = lambda message: [
        wire.Snapshot(message.request_id, 2, 42, NOTES[:3], last=False),
        wire.Snapshot(message.request_id, 2, 43, NOTES[3:]),
    ]
    with pytest.raises(ProtocolError, match="parts are of different moments"):
        await ask(desk.address, lambda c: c.snapshot())


async def test_no_snapshot_says_why(desk: Desk) -> None:
    desk.answers = lambda message: [wire.Answer(message.request_id, error="still starting")]
    with pytest.raises(ProtocolError, match="gave no snapshot: still starting"):
        await ask(desk.address, lambda c: c.snapshot())
    desk.answers = lambda message: [wire.Snapshot(message.request_id, 1, 1, ())]
    with pytest.raises(ProtocolError, match="snapshot that was not asked for"):
        await ask(desk.address, cancel)


async def test_the_ports_are_told(desk: Desk) -> None:
    rows = [{"control": 1, "bulk": 2, "feed": 3, "http": 4, "later": "more"}]
    desk.answers = lambda message: [wire.Answer(message.request_id, rows=rows, total=1)]
    assert await ask(desk.address, lambda c: c.ports()) == Ports(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "an empty answer"),
        ([5], "Expected `object`, got `int`"),
        ([{"control": 1, "bulk": 2, "feed": 0}], "feed"),
        ([{"control": 1}], "bulk"),
    ],
)
async def test_ports_that_are_none(desk: Desk, rows: list[Any], said: str) -> None:
    desk.answers = lambda message: [wire.Answer(message.request_id, rows=rows)]
    with pytest.raises(ProtocolError, match=r"did not tell its ports \(.*" + said):
        await ask(desk.address, lambda c: c.ports())


async def test_a_refusal_is_an_error(desk: Desk) -> None:
    desk.answers = lambda _: [wire.Refused("it speaks protocol 2: upgrade the master")]
    with pytest.raises(ProtocolError, match="refused the request: it speaks protocol 2"):
        await ask(desk.address, cancel)


async def test_a_request_that_is_too_large_is_not_sent(desk: Desk) -> None:
    submit = wire.Submit("r", "s.yaml", b"x" * (9 << 20))
    with pytest.raises(ProtocolError, match="message 'submit' can't be sent: it has 94"):
        await ask(desk.address, lambda c: c.request(submit))
    assert not desk.asked


async def test_no_master_is_a_clear_error() -> None:
    address = f"127.0.0.1:{unused_port()}"
    with pytest.raises(MasterAwayError) as caught:
        await ask(address, cancel, timeout_s=0.01)
    assert str(caught.value) == (
        f"no master answers at {address} within 0.01 s: start one with `meshtrain master`, "
        "or name another with --master"
    )


async def test_a_master_that_is_busy_is_another_error(desk: Desk) -> None:
    """The request got there: that nothing was done would be a lie."""

    def ask_thrice(client: MasterClient) -> Any:
        client.request(wire.Cancel("request-1", ("s",)))
        desk.answers = lambda _: []
        with pytest.raises(MasterAwayError, match="took the request but has not answered"):
            client.request(wire.Cancel("request-2", ("s",)), timeout_s=0)
        desk.answers = lambda message: [wire.Done("request-2"), wire.Done(message.request_id)]
        return client.request(wire.Cancel("request-3", ("s",)))

    assert await ask(desk.address, ask_thrice) == wire.Done("request-3")


async def test_an_answer_is_read_though_its_link_has_ended_since(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_and_hang_up(message: wire.Cancel) -> list[Any]:
        asyncio.get_running_loop().call_soon(desk.sockets.rebind)
        return [wire.Done(message.request_id)]

    wait = MasterClient._wait_for_answer

    def wait_for_the_end_first(client: MasterClient, deadline_s: float, ups: int) -> bool:
        while client._monitor.read() is LinkState.UP:
            assert client._monitor.socket.poll(20_000), "the link never ended"
        return wait(client, deadline_s, ups)

    desk.answers = answer_and_hang_up
    monkeypatch.setattr(MasterClient, "_wait_for_answer", wait_for_the_end_first)
    assert await ask(desk.address, cancel) == wire.Done("request-1")


async def test_an_answer_that_is_garbage_is_an_error() -> None:
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    asking = asyncio.ensure_future(ask(f"127.0.0.1:{port}", cancel))
    peer = (await router.recv_multipart())[0]
    await router.send_multipart([peer, b"\xc1"])
    with pytest.raises(ProtocolError, match="was refused"):
        await asking
    context.destroy(linger=0)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:0", "192.168.1.5:7470"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(SettingsError):
        MasterClient(address)


def test_closing_twice_is_harmless() -> None:
    client = MasterClient(f"127.0.0.1:{unused_port()}")
    client.close()
    client.close()


async def test_a_question_that_was_lost_with_its_link_is_asked_again(desk: Desk) -> None:
    loop = asyncio.get_running_loop()

    def cut_first(message: Any) -> list[Any]:
        if len(desk.asked) == 1:
            # As after a revocation: all links are cut, and the members come back.
            loop.call_soon(desk.sockets.rebind)
            return []
        return [wire.Answer(message.request_id, rows=[{"name": "s"}], total=1)]

    desk.answers = cut_first
    question = wire.Query("request-1", "jobs")
    answer = await ask(desk.address, lambda client: client.request(question))
    assert answer.rows == [{"name": "s"}]
    assert desk.asked == [question, question]


async def test_what_changes_something_is_not_sent_again_over_the_next_link(desk: Desk) -> None:
    loop = asyncio.get_running_loop()

    def cut_first(message: Any) -> list[Any]:
        if isinstance(message, wire.Cancel):
            loop.call_soon(desk.sockets.rebind)
            return []
        return [wire.Done(message.request_id)]

    desk.answers = cut_first
    with pytest.raises(MasterAwayError, match="it may still carry it out"):
        await ask(desk.address, cancel, timeout_s=1.0)
    assert len(desk.asked) == 1
