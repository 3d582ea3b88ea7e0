"""P10: a revoked member is out at once, and the others carry on; what people are told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
import zmq.asyncio
from mesh_keys import Came, Keyring, Link

from meshtrain.core.changes import Note
from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.net.base import MasterAwayError, NotAdmittedError, SocketLimits
from meshtrain.net.curve import ClientSecurity, secure_server
from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_feed import FeedClient, FeedSettings
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.net.zmq_worker import WorkerSockets
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import Decoder, encode

NODE, PERSON, MASTER = MemberKind.NODE, MemberKind.PERSON, MemberKind.MASTER
FAST = SocketLimits(reconnect_min_ms=5, reconnect_max_ms=20)


class Inbox:
    """What came to a node or a dashboard."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._event = asyncio.Event()

    def __call__(self, batch: list[Any]) -> None:
        self.all.extend(batch)
        self._event.set()

    async def message(self, wanted: Any) -> None:
        while wanted not in self.all:
            self._event.clear()
            await self._event.wait()


class Mesh:
    """A master with keys, which answers as little as the clients need."""

    def __init__(self, keys: Keyring, stack: AsyncExitStack) -> None:
        self.keys = keys
        self.stack = stack
        self.came = Came()
        self.bulk = Came()
        self.seq = 0
        self.on_revoke: Callable[[bytes, wire.Revoke], None] = lambda peer, message: None
        self.master = MasterSockets(
            "127.0.0.1",
            *(0, 0, 0),
            on_control=self._control,
            on_bulk=self.bulk,
            security=keys.at_master(),
        )
        stack.callback(self.master.close)
        self.address = f"127.0.0.1:{self.master.control_port}"

    def _control(self, batch: list[tuple[bytes, Any]]) -> None:
        self.came(batch)
        for peer, message in batch:
            if isinstance(message, wire.Revoke):
                self.on_revoke(peer, message)
            elif isinstance(message, wire.Query) and message.what == "ports":
                ports = {name: getattr(self.master, f"{name}_port") for name in PORTS}
                self.master.send_control(peer, [wire.Answer(message.request_id, rows=[ports])])
            elif isinstance(message, wire.Query):
                snapshot = wire.Snapshot(message.request_id, 1, self.seq, ())
                self.master.send_control(peer, [snapshot])

    def publish(self, text: str) -> None:
        self.seq += 1
        self.master.publish(wire.Feed(1, self.seq, (Note(0.0, text),)))

    def worker(self, identity: Identity, **options: Any) -> tuple[WorkerSockets, Inbox, Inbox]:
        control, bulk = Inbox(), Inbox()
        worker = WorkerSockets(
            "127.0.0.1",
            options.pop("port", self.master.control_port),
            options.pop("name", identity.name),
            "5f0c93a1",
            on_control=control,
            on_bulk=bulk,
            limits=FAST,
            security=options.pop("security", self.keys.at_client(identity)),
        )
        self.stack.callback(worker.close)
        return worker, control, bulk

    def client(self, security: ClientSecurity | None, timeout_s: float = 20.0) -> MasterClient:
        client = MasterClient(self.address, timeout_s, limits=FAST, security=security)
        self.stack.callback(client.close)
        return client

    def dashboard(self, identity: Identity, timeout_s: float = 20.0) -> FeedClient:
        feed = FeedClient(
            self.address,
            settings=FeedSettings(timeout_s=timeout_s, retry_s=0.001, gap_jitter_s=0.001),
            limits=FAST,
            security=self.keys.at_client(identity),
        )
        self.stack.callback(feed.close)
        return feed


PORTS = ("control", "bulk", "feed")


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(Keyring(tmp_path), stack)


def beat(number: int) -> wire.Beat:
    return wire.Beat("s", number, 0.0, 0, 0, ())


def piece(number: int) -> wire.StreamBytes:
    return wire.StreamBytes("job-1.5", "job-1", "log", number, b"x")


async def beaten(mesh: Mesh, worker: WorkerSockets, number: int) -> bytes:
    """A heartbeat that arrived; the peer that it came from."""
    while not worker.send([beat(number)]):
        await worker.wait_connected()
    return await mesh.came.message(beat(number))


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# --- revoking ------------------------------------------------------------------------


async def test_p10_the_others_carry_on_under_their_names(mesh: Mesh) -> None:
    worker, control, stored = mesh.worker(mesh.keys.member("gpu1", NODE))
    peer = await beaten(mesh, worker, 1)
    assert peer.startswith(b"gpu1/5f0c93a1/")
    welcome = wire.Welcome("s", "s@1", 1, 30.0, 3.0, 0.0, mesh.master.bulk_port)
    assert mesh.master.send_control(peer, [welcome])
    await worker.wait_bulk_writable()
    assert worker.send_bulk([piece(0)])
    assert await mesh.bulk.message(piece(0)) == peer
    ports = [getattr(mesh.master, f"{name}_port") for name in PORTS]
    for round_ in (2, 3, 4):
        mesh.master.rebind()
        # A beat may still leave by the link that is being cut: it is lost, as any may be.
        while not mesh.came.has(beat(round_)):
            worker.send([beat(round_)])
            await asyncio.sleep(0.001)
        assert await mesh.came.message(beat(round_)) == peer
        answer = wire.BeatAnswer("s", round_, 0.0)
        assert mesh.master.send_control(peer, [answer])
        await control.message(answer)
        while not mesh.bulk.has(piece(round_)):
            worker.send_bulk([piece(round_)])
            await asyncio.sleep(0.001)
        told = wire.StreamStored("job-1.5", "log", round_)
        assert mesh.master.send_bulk(peer, [told])
        await stored.message(told)
    assert ports == [getattr(mesh.master, f"{name}_port") for name in PORTS]
    assert worker.trouble == ""


async def test_p10_a_revoked_member_is_cut_off_all_sockets(mesh: Mesh) -> None:
    gone = mesh.keys.member("gone", NODE)
    worker, _, _ = mesh.worker(mesh.keys.member("gpu1", NODE))
    context = zmq.asyncio.Context()
    ports = [getattr(mesh.master, f"{name}_port") for name in PORTS]
    kinds = (zmq.DEALER, zmq.DEALER, zmq.SUB)
    security = mesh.keys.at_client(gone)
    links = [Link(context, k, p, security) for k, p in zip(kinds, ports, strict=True)]
    try:
        for link in links:
            assert await link.handshake()
        await links[0].send(encode(beat(1)))
        peer = await mesh.came.message(beat(1))
        await links[1].send(encode(piece(1)))
        await mesh.bulk.message(piece(1))
        await links[2].receive()
        mesh.keys.revoke(gone)
        mesh.master.rebind()
        for link in links:
            assert not await link.handshake()
        assert not mesh.master.send_control(peer, [wire.SayHello()])
        assert not mesh.master.send_bulk(peer, [wire.StreamStored("job-1.5", "log", 1)])
        assert not mesh.master.publish(wire.Feed(1, 1))
        await beaten(mesh, worker, 2)
        for link in links:
            assert await link.silent()
    finally:
        for link in links:
            link.close()
        context.destroy(linger=0)


async def test_p10_the_answer_to_a_revocation_arrives(mesh: Mesh) -> None:
    """It is given before the links are cut, and still leaves."""
    gone = mesh.keys.member("gone", NODE)
    worker, _, _ = mesh.worker(gone)
    await beaten(mesh, worker, 1)

    def revoke(peer: bytes, message: wire.Revoke) -> None:
        mesh.keys.members.revoke(message.kind, message.name)
        mesh.master.send_control(peer, [wire.Done(message.request_id, done=(message.name,))])
        mesh.master.rebind()

    mesh.on_revoke = revoke
    client = mesh.client(mesh.keys.at_client(mesh.keys.member("admin", PERSON)))
    request = wire.Revoke("request-1", NODE, "gone")
    answer = await asyncio.to_thread(client.request, request)
    assert answer == wire.Done("request-1", done=("gone",))
    await until(lambda: worker.trouble)
    assert "refuses these keys" in worker.trouble
    # The same client goes on over a new link.
    assert (await asyncio.to_thread(client.ports)).control == mesh.master.control_port


async def test_p10_a_dashboard_takes_a_new_picture_after_others_were_cut_off(mesh: Mesh) -> None:
    feed = mesh.dashboard(mesh.keys.member("ada", PERSON))
    batches = feed.batches()
    assert (await anext(batches)).whole
    mesh.publish("before")
    await anext(batches)
    mesh.master.rebind()
    assert (await anext(batches)).whole
    assert feed.trouble == ""
    await until(lambda: mesh.master.subscribers)
    mesh.publish("after")
    assert (await anext(batches)).changes == (Note(0.0, "after"),)


async def test_p10_a_new_key_under_a_revoked_name_is_taken(mesh: Mesh) -> None:
    old = mesh.keys.member("gpu1", NODE)
    former, _, _ = mesh.worker(old)
    former_peer = await beaten(mesh, former, 1)
    mesh.keys.revoke(old)
    new = mesh.keys.identity("gpu1", NODE, "new-keys")
    mesh.keys.members.add(new.member)
    # Not yet cut off, the former holder of the name is no member all the same.
    assert former.send([beat(2)])
    worker, _, _ = mesh.worker(new)
    assert await beaten(mesh, worker, 3) != former_peer
    await until(lambda: mesh.master.counts.not_allowed)
    assert not mesh.came.has(beat(2))


async def test_a_paused_bulk_stays_paused(mesh: Mesh) -> None:
    worker, _, _ = mesh.worker(mesh.keys.member("gpu1", NODE))
    peer = await beaten(mesh, worker, 1)
    mesh.master.pause_bulk()
    mesh.master.rebind()
    await until(lambda: worker.send([beat(2)]) and mesh.came.has(beat(2)))
    welcome = wire.Welcome("s", "s@1", 1, 30.0, 3.0, 0.0, mesh.master.bulk_port)
    assert mesh.master.send_control(peer, [welcome])
    await worker.wait_bulk_writable()
    assert worker.send_bulk([piece(0)])
    await beaten(mesh, worker, 3)
    assert mesh.bulk.all == []
    mesh.master.resume_bulk()
    await mesh.bulk.message(piece(0))


async def test_cutting_links_leaves_no_descriptor_behind(mesh: Mesh) -> None:
    worker, _, _ = mesh.worker(mesh.keys.member("gpu1", NODE))
    await beaten(mesh, worker, 1)
    process = psutil.Process()

    async def settled(number: int) -> int:
        mesh.master.rebind()
        await until(lambda: worker.send([beat(number)]) and mesh.came.has(beat(number)))
        return process.num_fds()

    before = max([await settled(number) for number in range(2, 6)])
    counts = [await settled(number) for number in range(6, 20)]
    # What was closed is reaped by ZeroMQ's own threads, a little later.
    assert min(counts[-5:]) <= before + 12
    mesh.master.close()
    mesh.master.rebind()
    assert not mesh.master.publish(wire.Feed(1, 1))


# --- without a handler nobody is let in -------------------------------------------------


async def test_p10_with_no_handler_to_ask_nobody_is_let_in(tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    secure_server(router, keys.at_master())  # type: ignore[arg-type]
    port = router.bind_to_random_port("tcp://127.0.0.1")
    link = Link(context, zmq.DEALER, port, keys.at_client(keys.member("gpu1", NODE)))
    try:
        assert not await link.handshake()
    finally:
        link.close()
        context.destroy(linger=0)


# --- what people are told -----------------------------------------------------------------


async def test_p10_a_stranger_s_command_is_told_at_once(mesh: Mesh) -> None:
    stranger = mesh.keys.identity("eve", PERSON)
    client = mesh.client(mesh.keys.at_client(stranger), timeout_s=3600.0)
    with pytest.raises(NotAdmittedError, match=r"belong to no member.*ask for a token"):
        await asyncio.to_thread(client.ports)
    assert mesh.came.all == []


async def test_p10_a_command_without_keys_is_told_that_it_needs_some(mesh: Mesh) -> None:
    client = mesh.client(None, timeout_s=0.2)
    with pytest.raises(NotAdmittedError, match="speaks only to members, and no keys were given"):
        await asyncio.to_thread(client.ports)


async def test_p10_a_command_trusts_no_other_master(mesh: Mesh) -> None:
    other = mesh.keys.identity("mesh", MASTER, "other")
    ada = mesh.keys.member("ada", PERSON)
    client = mesh.client(ClientSecurity(ada, other.curve_public), timeout_s=0.2)
    with pytest.raises(NotAdmittedError, match="can't prove to be the master"):
        await asyncio.to_thread(client.ports)
    assert mesh.came.all == []


async def test_p10_a_command_with_keys_says_nothing_to_a_master_without(mesh: Mesh) -> None:
    came = Came()
    plain = MasterSockets("127.0.0.1", 0, 0, 0, on_control=came, on_bulk=came)
    mesh.stack.callback(plain.close)
    security = mesh.keys.at_client(mesh.keys.member("ada", PERSON))
    with (
        MasterClient(
            f"127.0.0.1:{plain.control_port}", 0.2, limits=FAST, security=security
        ) as client,
        pytest.raises(NotAdmittedError, match="can't prove to be the master"),
    ):
        await asyncio.to_thread(client.ports)
    assert came.all == []


async def test_a_master_that_is_away_is_told_as_such(mesh: Mesh) -> None:
    client = mesh.client(mesh.keys.at_client(mesh.keys.member("ada", PERSON)), timeout_s=0.2)
    mesh.master.close()
    with pytest.raises(MasterAwayError, match="no master answers") as caught:
        await asyncio.to_thread(client.ports)
    assert not isinstance(caught.value, NotAdmittedError)


async def test_p10_a_stranger_s_dashboard_says_why_it_is_empty(mesh: Mesh) -> None:
    feed = mesh.dashboard(mesh.keys.identity("eve", PERSON), timeout_s=0.02)
    batches = asyncio.ensure_future(anext(feed.batches()))
    await until(lambda: "refuses these keys" in feed.trouble)
    await until(lambda: mesh.master.counts.not_admitted > 1)
    assert "refuses these keys" in feed.trouble
    batches.cancel()
    await asyncio.gather(batches, return_exceptions=True)


async def test_p10_a_node_is_told_when_it_is_no_member_and_when_it_is_again(mesh: Mesh) -> None:
    gpu1 = mesh.keys.identity("gpu1", NODE)
    worker, _, _ = mesh.worker(gpu1)
    await until(lambda: worker.trouble)
    assert f"the master at {mesh.address} refuses these keys" in worker.trouble
    assert not worker.send([beat(1)])
    mesh.keys.members.add(gpu1.member)
    await beaten(mesh, worker, 2)
    assert worker.trouble == ""


async def test_a_link_that_met_a_master_without_keys_is_tried_again(mesh: Mesh) -> None:
    """ZeroMQ gives such a link up for good; a node must not, for the right master may come."""
    came = Came()
    ports = [getattr(mesh.master, f"{name}_port") for name in PORTS]
    mesh.master.close()
    plain = MasterSockets("127.0.0.1", *ports, on_control=came, on_bulk=came)
    worker, _, _ = mesh.worker(mesh.keys.member("gpu1", NODE), port=ports[0])
    await until(lambda: "can't prove to be the master" in worker.trouble)
    plain.close()
    again = MasterSockets(
        *("127.0.0.1", *ports), on_control=came, on_bulk=came, security=mesh.keys.at_master()
    )
    mesh.stack.callback(again.close)
    await worker.wait_connected()
    assert worker.send([beat(1)])
    await came.message(beat(1))
    assert worker.trouble == ""


async def test_a_client_that_was_refused_may_ask_again_once_it_is_a_member(mesh: Mesh) -> None:
    ada = mesh.keys.identity("ada", PERSON)
    client = mesh.client(mesh.keys.at_client(ada))
    for _ in range(2):
        with pytest.raises(NotAdmittedError):
            await asyncio.to_thread(client.ports)
    mesh.keys.members.add(ada.member)
    assert (await asyncio.to_thread(client.ports)).feed == mesh.master.feed_port


async def test_a_node_keeps_the_name_of_its_keys(mesh: Mesh) -> None:
    gpu1 = mesh.keys.member("gpu1", NODE)
    with pytest.raises(SettingsError, match=r"those of Identity.*not of node 'gpu2'"):
        mesh.worker(gpu1, name="gpu2")
    with pytest.raises(SettingsError, match="not of node 'ada'"):
        mesh.worker(mesh.keys.member("ada", PERSON))


# --- what may be reached from elsewhere ----------------------------------------------------


async def test_p10_off_loopback_nothing_goes_without_keys() -> None:
    elsewhere = "192.0.2.1"
    came = Came()
    with pytest.raises(SettingsError, match=r"the master refuses to bind 192\.0\.2\.1"):
        MasterSockets(elsewhere, 0, 0, 0, on_control=came, on_bulk=came)
    with pytest.raises(SettingsError, match="the worker refuses to connect to"):
        WorkerSockets(elsewhere, 7470, "gpu1", "x", on_control=print, on_bulk=print)
    with pytest.raises(SettingsError, match="meshtrain refuses to connect to"):
        MasterClient(f"{elsewhere}:7470")
    with pytest.raises(SettingsError, match="the dashboard refuses to connect to"):
        FeedClient(f"{elsewhere}:7470")


async def test_p10_with_keys_other_addresses_are_used(tmp_path: Path) -> None:
    keys = Keyring(tmp_path)
    came = Came()
    # RFC 5737 gives this address to nobody, so the bind gets as far as the kernel.
    with pytest.raises(SettingsError, match=r"port 7470 on 192\.0\.2\.1 can't be bound"):
        MasterSockets(
            *("192.0.2.1", 7470, 0, 0), on_control=came, on_bulk=came, security=keys.at_master()
        )
    ada = keys.at_client(keys.member("ada", PERSON))
    with MasterClient("192.0.2.1:7470", security=ada):
        pass


async def test_p10_the_list_of_members_says_which_master_is_trusted(mesh: Mesh) -> None:
    ada = mesh.keys.member("ada", PERSON)
    security = ClientSecurity.of(ada, mesh.keys.members.roll)
    assert security == mesh.keys.at_client(ada)
    with pytest.raises(SettingsError, match="person 'ada' has keys but has not joined"):
        ClientSecurity.of(ada, Roll())


async def test_every_direction_decodes_its_refusal() -> None:
    for union in (wire.ToNode, wire.ToPerson, wire.BulkToNode):
        decoder: Decoder[Any] = Decoder(union, 1 << 10)
        assert decoder.decode(encode(wire.Refused("no"))) == wire.Refused("no")
