"""The master's and the nodes' sockets, with real links on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
import zmq
import zmq.asyncio

from meshtrain.errors import SettingsError
from meshtrain.net.base import MasterTransport, SocketLimits, WorkerTransport
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.net.zmq_worker import WorkerSockets
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import BadMessageError, BadMessageKind, Decoder, encode

TO_NODE: Decoder[wire.ToNode] = Decoder(wire.ToNode, 1 << 24)


class Inbox:
    """What came, and a way to wait for it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self._came = asyncio.Event()

    def __call__(self, batch: list[Any]) -> None:
        self.batches.append(batch)
        self._came.set()

    @property
    def all(self) -> list[Any]:
        return [item for batch in self.batches for item in batch]

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._came.clear()
            await self._came.wait()

    async def first(self, count: int) -> list[Any]:
        await self.until(lambda: len(self.all) >= count)
        return self.all


class Mesh:
    """Opens masters, nodes and raw peers, and closes all of them."""

    def __init__(self) -> None:
        self.control = Inbox()
        self.bulk = Inbox()
        self._context = zmq.asyncio.Context()
        self._open = ExitStack()

    def master(
        self,
        ports: tuple[int, int, int] = (0, 0, 0),
        limits: SocketLimits | None = None,
        on_control: Callable[[list[Any]], None] | None = None,
    ) -> MasterSockets:
        master = MasterSockets(
            "127.0.0.1",
            *ports,
            on_control=on_control or self.control,
            on_bulk=self.bulk,
            limits=limits,
        )
        self._open.callback(master.close)
        return master

    def worker(
        self,
        control_port: int,
        name: str = "gpu1",
        limits: SocketLimits | None = None,
        life: str = "5f0c93a1",
        on_control: Callable[[list[Any]], None] | None = None,
    ) -> tuple[WorkerSockets, Inbox, Inbox]:
        control, bulk = Inbox(), Inbox()
        worker = WorkerSockets(
            "127.0.0.1",
            control_port,
            name,
            life,
            on_control=on_control or control,
            on_bulk=bulk,
            limits=limits or SocketLimits(reconnect_min_ms=5, reconnect_max_ms=20),
        )
        self._open.callback(worker.close)
        return worker, control, bulk

    def peer(self, port: int, identity: bytes = b"", **options: int) -> zmq.asyncio.Socket:
        """A plain DEALER that may say anything."""
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        if identity:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.connect(f"tcp://127.0.0.1:{port}")
        return socket

    def close(self) -> None:
        self._open.close()
        self._context.destroy(linger=0)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    mesh = Mesh()
    yield mesh
    mesh.close()


def goodbye(number: int = 0) -> wire.Goodbye:
    return wire.Goodbye(f"s/{number}")


def welcome(master: MasterSockets) -> wire.Welcome:
    return wire.Welcome("s", "s@1", 1, 30.0, 3.0, 0.0, master.bulk_port)


def piece(number: int, data: bytes = b"x") -> wire.StreamBytes:
    return wire.StreamBytes("job-1.5", "job-1", "log", number, data)


async def greet(mesh: Mesh, master: MasterSockets, worker: WorkerSockets, inbox: Inbox) -> bytes:
    """Brings up both links of a worker; its name as the master knows it."""
    await worker.wait_connected()
    assert worker.send([goodbye()])
    peer: bytes = (await mesh.control.first(1))[-1][0]
    assert master.send_control(peer, [welcome(master)])
    await inbox.first(1)
    await worker.wait_bulk_writable()
    return peer


async def refused_by(socket: zmq.asyncio.Socket) -> str:
    answer = TO_NODE.decode((await socket.recv_multipart())[-1])
    assert isinstance(answer, wire.Refused)
    return answer.error


# --- what is meant to happen ----------------------------------------------------------


async def test_messages_go_both_ways_in_order(mesh: Mesh) -> None:
    master = mesh.master()
    worker, inbox, _ = mesh.worker(master.control_port)
    await worker.wait_connected()
    assert worker.send([goodbye(n) for n in range(5)])
    came = await mesh.control.first(5)
    assert came == [(b"gpu1/5f0c93a1", goodbye(n)) for n in range(5)]
    assert len(mesh.control.batches) == 1
    answers = [wire.BeatAnswer("s", n, 1.0) for n in range(5)]
    assert master.send_control(b"gpu1/5f0c93a1", answers)
    assert await inbox.first(5) == answers
    assert (master.counts.received, master.counts.sent) == (5, 5)
    assert (worker.counts.received, worker.counts.sent) == (5, 5)


async def test_they_are_the_transports_that_the_daemons_ask_for(mesh: Mesh) -> None:
    master: MasterTransport = mesh.master()
    worker: WorkerTransport = mesh.worker(1)[0]
    assert master.subscribers == 0
    assert worker.counts.sent == 0


async def test_bulk_has_a_link_of_its_own_once_welcomed(mesh: Mesh) -> None:
    master = mesh.master()
    worker, inbox, stored = mesh.worker(master.control_port)
    assert not worker.send_bulk([piece(0)])
    peer = await greet(mesh, master, worker, inbox)
    assert worker.send_bulk([piece(0), piece(1)])
    assert await mesh.bulk.first(2) == [(peer, piece(0)), (peer, piece(1))]
    assert master.send_bulk(peer, [wire.StreamStored("job-1.5", "log", 2)])
    assert await stored.first(1) == [wire.StreamStored("job-1.5", "log", 2)]


async def test_a_thousand_turns_lose_no_wakeup(mesh: Mesh) -> None:
    """Each side answers from within its callback, so sends eat the other's signals."""
    master: MasterSockets
    done = asyncio.Event()
    turns = 0

    def answer(batch: list[Any]) -> None:
        for peer, message in batch:
            assert master.send_control(peer, [wire.BeatAnswer(message.session, 0, 0.0)])

    def ask(batch: list[Any]) -> None:
        nonlocal turns
        turns += len(batch)
        if turns >= 1000:
            done.set()
        else:
            assert worker.send([goodbye(turns)])

    master = mesh.master(on_control=answer)
    worker, _, _ = mesh.worker(master.control_port, on_control=ask)
    await worker.wait_connected()
    worker.send([goodbye()])
    await done.wait()
    assert turns == 1000


async def test_a_flood_is_read_in_turns_with_the_rest_of_the_loop(mesh: Mesh) -> None:
    master = mesh.master(limits=SocketLimits(sends_per_turn_max=8))
    worker, _, _ = mesh.worker(master.control_port)
    await worker.wait_connected()
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(mesh.control.all))
        if turns[-1] < 200:
            loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    for n in range(200):
        assert worker.send([goodbye(n)])
    loop.call_soon(turn)
    assert [m for _, m in await mesh.control.first(200)] == [goodbye(n) for n in range(200)]
    assert max(len(batch) for batch in mesh.control.batches) <= 8
    assert len(set(turns)) >= 20


async def test_bytes_per_turn_are_bounded_too(mesh: Mesh) -> None:
    master = mesh.master(limits=SocketLimits(bytes_per_turn_max=4096))
    worker, inbox, _ = mesh.worker(master.control_port)
    await greet(mesh, master, worker, inbox)
    for n in range(12):
        assert worker.send_bulk([piece(n, b"x" * 3000)])
        await mesh.bulk.first(max(0, n - 8))
    came = await mesh.bulk.first(12)
    assert [m.offset for _, m in came] == list(range(12))
    assert max(len(batch) for batch in mesh.bulk.batches) <= 2


async def test_a_flood_on_bulk_holds_up_no_control(mesh: Mesh) -> None:
    """With bulk unread and full to the brim, control still passes; later, all of bulk comes."""
    master = mesh.master()
    worker, inbox, _ = mesh.worker(master.control_port)
    peer = await greet(mesh, master, worker, inbox)
    master.pause_bulk()
    offered = 0
    full = 0
    while full < 100:
        if worker.send_bulk([piece(offered, b"x" * 500_000)]):
            offered += 1
        else:
            full += 1
        await asyncio.sleep(0)
    assert offered < 1000
    assert worker.send([goodbye(77)])
    await mesh.control.until(lambda: mesh.control.all[-1] == (peer, goodbye(77)))
    assert master.send_control(peer, [wire.SayHello()])
    await inbox.until(lambda: wire.SayHello() in inbox.all)
    assert not mesh.bulk.all
    master.resume_bulk()
    await worker.wait_bulk_writable()
    assert worker.send_bulk([piece(offered)])
    came = await mesh.bulk.first(offered + 1)
    assert [m.offset for _, m in came] == list(range(offered + 1))


async def test_more_messages_than_travel_together_are_split(mesh: Mesh) -> None:
    limits = SocketLimits(messages_per_send_max=4, reconnect_min_ms=5)
    master = mesh.master(limits=limits)
    worker, inbox, _ = mesh.worker(master.control_port, limits=limits)
    peer = await greet(mesh, master, worker, inbox)
    assert worker.send([goodbye(n) for n in range(10)])
    assert [m for _, m in (await mesh.control.first(11))[1:]] == [goodbye(n) for n in range(10)]
    answers = [wire.BeatAnswer("s", n, 1.0) for n in range(10)]
    assert master.send_control(peer, answers)
    assert (await inbox.first(11))[1:] == answers
    with pytest.raises(BadMessageError, match="the limit is 4"):
        worker.send_bulk([piece(n) for n in range(5)])


async def test_nothing_to_send_is_sent(mesh: Mesh) -> None:
    master = mesh.master()
    worker, inbox, _ = mesh.worker(master.control_port)
    peer = await greet(mesh, master, worker, inbox)
    assert worker.send([])
    assert master.send_control(peer, [])


async def test_many_peers_are_all_served(mesh: Mesh) -> None:
    master = mesh.master()
    peers = [mesh.peer(master.control_port, b"node-%d" % n) for n in range(60)]
    for peer in peers:
        await peer.send_multipart([encode(goodbye(n)) for n in range(5)])
    came = await mesh.control.first(300)
    for n in range(60):
        assert [m for p, m in came if p == b"node-%d" % n] == [goodbye(k) for k in range(5)]
        assert master.send_control(b"node-%d" % n, [wire.SayHello()])
    for peer in peers:
        assert await peer.recv_multipart() == [encode(wire.SayHello())]


# --- links that break -----------------------------------------------------------------


async def test_a_master_that_is_away_gets_nothing_old(mesh: Mesh) -> None:
    first = mesh.master()
    port = first.control_port
    worker, inbox, _ = mesh.worker(port)
    await greet(mesh, first, worker, inbox)
    old_bulk_port = first.bulk_port
    first.close()
    while worker.send([goodbye(1)]):  # until the break is noticed
        await asyncio.sleep(0)
    assert not worker.send([goodbye(2), goodbye(3)])
    assert worker.counts.dropped_full == 3
    mesh.control.batches.clear()
    second = mesh.master((port, 0, 0))
    assert second.control_port == port
    await worker.wait_connected()
    assert worker.send([goodbye(4)])
    assert await mesh.control.first(1) == [(b"gpu1/5f0c93a1", goodbye(4))]
    assert second.bulk_port != old_bulk_port
    inbox.batches.clear()
    assert second.send_control(b"gpu1/5f0c93a1", [welcome(second)])
    await inbox.first(1)
    await worker.wait_bulk_writable()
    assert worker.send_bulk([piece(9)])
    assert (await mesh.bulk.first(1))[-1] == (b"gpu1/5f0c93a1", piece(9))


async def test_bulk_comes_back_on_the_same_port(mesh: Mesh) -> None:
    first = mesh.master()
    ports = (first.control_port, first.bulk_port, first.feed_port)
    worker, inbox, _ = mesh.worker(ports[0])
    await greet(mesh, first, worker, inbox)
    first.close()
    while worker.send_bulk([piece(0)]):
        await asyncio.sleep(0)
    mesh.bulk.batches.clear()
    mesh.master(ports)
    await worker.wait_bulk_writable()
    assert worker.send_bulk([piece(5)])
    assert await mesh.bulk.first(1) == [(b"gpu1/5f0c93a1", piece(5))]


async def test_a_restarted_node_is_another_peer(mesh: Mesh) -> None:
    master = mesh.master()
    old, _, _ = mesh.worker(master.control_port, life="old")
    new, inbox, _ = mesh.worker(master.control_port, life="new")
    for worker in (old, new):
        await worker.wait_connected()
        assert worker.send([goodbye()])
    assert {peer for peer, _ in await mesh.control.first(2)} == {b"gpu1/old", b"gpu1/new"}
    assert master.send_control(b"gpu1/new", [wire.SayHello()])
    assert await inbox.first(1) == [wire.SayHello()]


async def test_a_node_whose_old_link_hangs_is_taken_back(mesh: Mesh) -> None:
    master = mesh.master()
    hung = mesh.peer(master.control_port, b"gpu1/life")
    await hung.send(encode(goodbye(1)))
    await mesh.control.first(1)
    again = mesh.peer(master.control_port, b"gpu1/life")
    await again.send(encode(goodbye(2)))
    await mesh.control.first(2)
    assert master.send_control(b"gpu1/life", [wire.SayHello()])
    assert await again.recv_multipart() == [encode(wire.SayHello())]


async def test_a_peer_that_is_gone_is_counted(mesh: Mesh) -> None:
    master = mesh.master()
    assert not master.send_control(b"nobody", [wire.SayHello(), wire.SayHello()])
    assert not master.send_bulk(b"nobody", [wire.StreamStored("a", "log", 1)])
    assert master.counts.dropped_gone == 3


async def test_a_peer_that_reads_nothing_costs_the_others_nothing(mesh: Mesh) -> None:
    master = mesh.master(limits=SocketLimits(control_queued_max=5))
    deaf = mesh.peer(master.control_port, b"deaf", RCVHWM=1, RCVBUF=4096)
    await deaf.send(encode(goodbye()))
    worker, inbox, _ = mesh.worker(master.control_port)
    await worker.wait_connected()
    assert worker.send([goodbye()])
    await mesh.control.first(2)
    large = wire.Refused("x" * 1_000_000)
    while master.send_control(b"deaf", [large]):
        await asyncio.sleep(0)
    assert master.counts.dropped_full >= 1
    assert master.send_control(b"gpu1/5f0c93a1", [wire.SayHello()])
    assert await inbox.first(1) == [wire.SayHello()]


# --- what must not come ---------------------------------------------------------------


async def test_garbage_is_counted_and_answered(mesh: Mesh) -> None:
    master = mesh.master()
    peer = mesh.peer(master.control_port)
    frames = [b"\xc1garbage", encode(goodbye(1)), b"", encode(wire.SayHello()), encode(goodbye(2))]
    await peer.send_multipart(frames)
    assert "was refused" in await refused_by(peer)
    assert [m for _, m in await mesh.control.first(2)] == [goodbye(1), goodbye(2)]
    assert master.counts.refused == {BadMessageKind.MALFORMED: 2, BadMessageKind.UNKNOWN_TYPE: 1}
    await peer.send(encode(wire.Goodbye(session=5)))  # type: ignore[arg-type]
    assert "field session" in await refused_by(peer)
    assert master.counts.refused[BadMessageKind.WRONG_FIELD] == 1


async def test_garbage_on_bulk_is_counted_and_answered(mesh: Mesh) -> None:
    master = mesh.master()
    peer = mesh.peer(master.bulk_port)
    await peer.send(encode(goodbye()))
    assert "takes no message of that type" in await refused_by(peer)
    await peer.send(encode(piece(1)))
    assert [m for _, m in await mesh.bulk.first(1)] == [piece(1)]


async def test_too_many_at_once_are_refused(mesh: Mesh) -> None:
    master = mesh.master(limits=SocketLimits(messages_per_send_max=3))
    peer = mesh.peer(master.control_port)
    await peer.send_multipart([encode(goodbye(n)) for n in range(50)])
    assert "at most 3 messages" in await refused_by(peer)
    await peer.send_multipart([encode(goodbye(n)) for n in range(3)])
    assert len(await mesh.control.first(3)) == 3
    assert master.counts.refused == {BadMessageKind.TOO_MANY: 1}


async def test_a_frame_that_is_too_large_never_reaches_memory(mesh: Mesh) -> None:
    """Its sender loses its link for it; nobody else notices."""
    master = mesh.master(limits=SocketLimits(control_message_bytes_max=1000))
    rude = mesh.peer(master.control_port, b"rude", RECONNECT_IVL=-1)
    kind = mesh.peer(master.control_port, b"kind")
    await kind.send(encode(goodbye(1)))
    await rude.send(encode(goodbye(2)))
    await mesh.control.first(2)
    await rude.send(encode(wire.Goodbye("x" * 2000)))
    while master.send_control(b"rude", [wire.SayHello()]):  # until its link is cut
        await asyncio.sleep(0)
    await kind.send(encode(goodbye(3)))
    await mesh.control.until(lambda: (b"kind", goodbye(3)) in mesh.control.all)
    assert len(mesh.control.all) == 3


async def test_what_breaks_a_limit_of_ours_is_told_to_the_peer(mesh: Mesh) -> None:
    master = mesh.master(limits=SocketLimits(control_message_bytes_max=1000))
    peer = mesh.peer(master.control_port, b"peer")
    await peer.send(encode(goodbye()))
    await mesh.control.first(1)
    assert master.send_control(b"peer", [wire.Answer("r", rows=["x" * 2000])])
    error = await refused_by(peer)
    assert "'answer' can't be sent" in error and "the limit is 1000" in error
    assert master.counts.unsendable == 1


async def test_a_node_refuses_to_send_what_is_too_large(mesh: Mesh) -> None:
    worker, _, _ = mesh.worker(1, limits=SocketLimits(control_message_bytes_max=100))
    with pytest.raises(BadMessageError, match="the limit is 100"):
        worker.send([wire.Goodbye("x" * 200)])


async def test_a_node_passes_over_garbage_of_the_master(mesh: Mesh) -> None:
    router = mesh._context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    worker, inbox, _ = mesh.worker(port, limits=SocketLimits(messages_per_send_max=4))
    await worker.wait_connected()
    assert worker.send([goodbye()])
    peer = (await router.recv_multipart())[0]
    await router.send_multipart([peer, b"garbage"])
    await router.send_multipart([peer, *[encode(wire.SayHello())] * 9])
    await router.send_multipart([peer, b"\xc1", encode(wire.SayHello())])
    assert await inbox.first(1) == [wire.SayHello()]
    assert worker.counts.refused == {BadMessageKind.MALFORMED: 1, BadMessageKind.WRONG_FIELD: 1} | {
        BadMessageKind.TOO_MANY: 1
    }


async def test_a_callback_that_fails_is_reported_and_reading_goes_on(mesh: Mesh) -> None:
    problems: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: problems.append(context["exception"])
    )

    def fail_first(batch: list[Any]) -> None:
        mesh.control(batch)
        if len(mesh.control.batches) == 1:
            raise RuntimeError("a bug")

    master = mesh.master(limits=SocketLimits(sends_per_turn_max=1), on_control=fail_first)
    peer = mesh.peer(master.control_port)
    for n in range(3):
        await peer.send(encode(goodbye(n)))
    assert [m for _, m in await mesh.control.first(3)] == [goodbye(n) for n in range(3)]
    assert [str(problem) for problem in problems] == ["a bug"]


# --- opening and closing ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["control", "bulk", "feed"])
async def test_a_port_that_is_taken_is_named(mesh: Mesh, name: str) -> None:
    master = mesh.master()
    port = master.control_port
    ports = tuple(port if name == which else 0 for which in ("control", "bulk", "feed"))
    files = psutil.Process().num_fds()
    with pytest.raises(SettingsError, match=f"the {name} port {port} on 127.0.0.1 is taken"):
        mesh.master(ports)  # type: ignore[arg-type]
    assert psutil.Process().num_fds() == files


async def test_nothing_but_loopback(mesh: Mesh) -> None:
    with pytest.raises(SettingsError, match=r"the master refuses to bind 0\.0\.0\.0"):
        MasterSockets("0.0.0.0", 0, 0, 0, on_control=mesh.control, on_bulk=mesh.bulk)
    with pytest.raises(SettingsError, match=r"the worker refuses to connect to 192\.168\.1\.5"):
        WorkerSockets("192.168.1.5", 1, "n", "l", on_control=mesh.control, on_bulk=mesh.bulk)


async def test_a_name_that_is_too_long(mesh: Mesh) -> None:
    with pytest.raises(SettingsError, match="set a shorter name with --name"):
        mesh.worker(1, name="n" * 300)


async def test_nothing_is_left_open(mesh: Mesh) -> None:
    """Files and threads, with work under way at both ends."""

    async def once() -> None:
        master = mesh.master()
        worker, inbox, _ = mesh.worker(master.control_port)
        mesh.control.batches.clear()
        peer = await greet(mesh, master, worker, inbox)
        for n in range(100):
            worker.send([goodbye(n)])
            master.send_control(peer, [wire.SayHello()])
        worker.close()
        master.close()
        worker.close()
        master.close()
        assert not worker.send([goodbye()])
        assert not worker.send_bulk([piece(0)])
        assert not master.send_control(peer, [wire.SayHello()])
        assert not master.publish(wire.Feed(1, 1))

    await once()
    process = psutil.Process()
    before = process.num_fds(), process.num_threads()
    for _ in range(5):
        await once()
    assert (process.num_fds(), process.num_threads()) == before


async def test_closing_wakes_who_waits(mesh: Mesh) -> None:
    worker, _, _ = mesh.worker(1)
    waits = [
        asyncio.ensure_future(worker.wait_connected()),
        asyncio.ensure_future(worker.wait_bulk_writable()),
    ]
    await asyncio.sleep(0)
    worker.close()
    await asyncio.gather(*waits)


async def test_a_wait_that_is_given_up_leaves_nothing(mesh: Mesh) -> None:
    worker, _, _ = mesh.worker(1)
    wait = asyncio.ensure_future(worker.wait_connected())
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait


async def test_without_dashboards_nothing_is_encoded(mesh: Mesh) -> None:
    master = mesh.master()
    assert not master.publish(wire.Feed(1 << 70, 1))
    assert master.counts.unsendable == 0
