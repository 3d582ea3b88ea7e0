"""P10: who gets a link to the master, and whose messages it takes. Real links on loopback."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import msgspec
import pytest
import pytest_asyncio
import zmq
import zmq.asyncio
from mesh_keys import Came, Keyring, Link
from test_codec import SAMPLES

from meshtrain.core.member import MemberKind
from meshtrain.net.admission import MAY_SEND
from meshtrain.net.curve import ClientSecurity
from meshtrain.net.feed_topics import FEED_GREETING, FEED_TOPIC
from meshtrain.net.zmq_master import FOREIGN_TOPICS_MAX, TOPIC_BYTES_MAX, MasterSockets
from meshtrain.security.keys import Identity
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import Decoder, encode

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE, PERSON = MemberKind.NODE, MemberKind.PERSON
BULK = get_args(wire.BulkToMaster)
TYPES = (*get_args(wire.FromNode), *get_args(wire.FromPerson), *BULK)
REFUSED: Decoder[wire.Refused] = Decoder(wire.Refused, 1 << 20)
FEED: Decoder[wire.Feed] = Decoder(wire.Feed, 1 << 20)


def sample(kind: type, sender: str) -> Any:
    """A message of this type that nobody sent before, as that sender would send it."""
    message = next(message for message in SAMPLES.values() if type(message) is kind)
    if isinstance(message, wire.Hello):
        spec = msgspec.structs.replace(message.spec, node_id=sender)
        return msgspec.structs.replace(message, spec=spec, session=mark())
    field = next(f for f in ("session", "request_id", "attempt_id") if hasattr(message, f))
    return msgspec.structs.replace(message, **{field: mark()})


_marks = itertools.count()


def mark() -> str:
    return f"mark-{next(_marks)}"


class World:
    """One master with its members, for all tests of this module."""

    def __init__(self, keys: Keyring) -> None:
        self.keys = keys
        self.context = zmq.asyncio.Context()
        self.came = Came()
        self.master = MasterSockets(
            "127.0.0.1",
            *(0, 0, 0),
            on_control=self.came,
            on_bulk=self.came,
            security=keys.at_master(),
        )
        self.right = {
            NODE: keys.member("gpu1", NODE),
            PERSON: keys.member("ada", PERSON),
        }
        self.unknown = {
            NODE: keys.identity("gpu1", NODE, "another-gpu1"),
            PERSON: keys.identity("ada", PERSON, "another-ada"),
        }
        self.revoked = {
            NODE: keys.member("old", NODE),
            PERSON: keys.member("bob", PERSON),
        }
        self.links: list[Link] = []
        self.standing: dict[tuple[str, str], Link] = {}

    def port(self, message_type: type) -> int:
        return self.master.bulk_port if message_type in BULK else self.master.control_port

    def link(self, kind: int, port: int, identity: Identity | None, peer: bytes = b"") -> Link:
        security = None if identity is None else self.keys.at_client(identity)
        link = Link(self.context, kind, port, security, peer)
        self.links.append(link)
        return link

    def standing_link(self, message_type: type, identity: Identity) -> Link:
        """A link that stays for the tests after this one."""
        port = self.port(message_type)
        key = (identity.member.curve_key, str(port))
        if key not in self.standing:
            self.standing[key] = self.link(zmq.DEALER, port, identity)
        return self.standing[key]

    async def deliver(self, message_type: type) -> None:
        """Send a message with the right key: by the time it is here, earlier ones are too."""
        identity = self.right[kind_for(message_type)]
        message = sample(message_type, identity.name)
        await self.standing_link(message_type, identity).send(encode(message))
        await self.came.message(message)

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.master.close()
        self.context.destroy(linger=0)


def kind_for(message_type: type) -> MemberKind:
    """The kind of member that sends this type."""
    return PERSON if message_type in get_args(wire.FromPerson) else NODE


def other_kind(message_type: type) -> MemberKind:
    return NODE if kind_for(message_type) is PERSON else PERSON


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(Keyring(tmp_path_factory.mktemp("mesh")))
    # Links of members that are revoked while they stand, on each port.
    for message_type in (wire.Beat, wire.Cancel, wire.StreamBytes):
        identity = world.revoked[kind_for(message_type)]
        message = sample(message_type, identity.name)
        await world.standing_link(message_type, identity).send(encode(message))
        await world.came.message(message)
    for identity in world.revoked.values():
        world.keys.revoke(identity)
    yield world
    world.close()


@pytest.fixture
def closing(world: World) -> Iterator[None]:
    """Closes the links that a test opened for itself."""
    before = len(world.links)
    yield
    kept = set(map(id, world.standing.values()))
    for link in [link for link in world.links[before:] if id(link) not in kept]:
        link.close()
        world.links.remove(link)


BY_TYPE = pytest.mark.parametrize("message_type", TYPES, ids=lambda t: t.__struct_config__.tag)


async def test_p10_every_message_that_the_master_takes_has_its_senders() -> None:
    assert set(MAY_SEND) == set(TYPES)
    assert all(kinds for kinds in MAY_SEND.values())


# --- each type of message --------------------------------------------------------------


@BY_TYPE
async def test_p10_with_the_right_key_it_is_taken(world: World, message_type: type) -> None:
    await world.deliver(message_type)


async def never_let_in(world: World, message_type: type, identity: Identity | None) -> None:
    """Nothing passes a link that never stands, though the message waits in it."""
    sender = identity.name if identity else "gpu1"
    message = sample(message_type, sender)
    peer = b"" if identity else f"{sender}/{mark()}".encode()
    link = world.link(zmq.DEALER, world.port(message_type), identity, peer)
    await link.offer(encode(message))
    assert not await link.handshake()
    await world.deliver(message_type)
    assert not world.came.has(message)
    assert await link.silent()


@BY_TYPE
@pytest.mark.usefixtures("closing")
async def test_p10_without_a_key_it_is_not_taken(world: World, message_type: type) -> None:
    await never_let_in(world, message_type, None)


@BY_TYPE
@pytest.mark.usefixtures("closing")
async def test_p10_with_an_unknown_key_it_is_not_taken(world: World, message_type: type) -> None:
    before = world.master.counts.not_admitted
    await never_let_in(world, message_type, world.unknown[kind_for(message_type)])
    assert world.master.counts.not_admitted > before


@BY_TYPE
@pytest.mark.usefixtures("closing")
async def test_p10_with_a_revoked_key_it_is_not_taken(world: World, message_type: type) -> None:
    await never_let_in(world, message_type, world.revoked[kind_for(message_type)])


async def refused(world: World, message_type: type, identity: Identity) -> str:
    """What the master answers to a message on a link that stands; it must not be taken."""
    message = sample(message_type, identity.name)
    link = world.standing_link(message_type, identity)
    before = world.master.counts.not_allowed
    await link.send(encode(message))
    answer = REFUSED.decode(await link.receive())
    assert not world.came.has(message)
    assert world.master.counts.not_allowed == before + 1
    return answer.error


@BY_TYPE
async def test_p10_with_a_key_revoked_since_it_is_not_taken(
    world: World, message_type: type
) -> None:
    error = await refused(world, message_type, world.revoked[kind_for(message_type)])
    assert "belongs to no member any more" in error


@BY_TYPE
async def test_p10_with_a_key_of_the_wrong_kind_it_is_not_taken(
    world: World, message_type: type
) -> None:
    kind = other_kind(message_type)
    error = await refused(world, message_type, world.right[kind])
    assert f"a {kind.value} may not send a message of type" in error


# --- the feed --------------------------------------------------------------------------


async def hear(world: World, link: Link) -> None:
    """Publishes until this link hears it: its greeting can be ahead of its subscription."""
    assert FEED.decode(await link.receive()) == FEED_GREETING
    feed = wire.Feed(1, next(_marks) + 1)
    while await link.silent():
        world.master.publish(feed)
        await asyncio.sleep(0.001)
    assert FEED.decode(await link.receive()) == feed


@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("kind", [NODE, PERSON])
async def test_p10_with_the_right_key_the_feed_is_heard(world: World, kind: MemberKind) -> None:
    link = world.link(zmq.SUB, world.master.feed_port, world.right[kind])
    await hear(world, link)


@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("kind", [NODE, PERSON])
@pytest.mark.parametrize("key", ["none", "unknown", "revoked"])
async def test_p10_without_a_member_s_key_the_feed_is_silent(
    world: World, kind: MemberKind, key: str
) -> None:
    keys = {"none": None, "unknown": world.unknown[kind], "revoked": world.revoked[kind]}
    bad = world.link(zmq.SUB, world.master.feed_port, keys[key])
    assert not await bad.handshake()
    good = world.link(zmq.SUB, world.master.feed_port, world.right[kind])
    await hear(world, good)
    assert await bad.silent()


async def subscriptions(world: World, count: int) -> None:
    """Until the master knows of so many; nothing else tells of them."""
    async with asyncio.timeout(20):
        while world.master.subscribers != count:
            await asyncio.sleep(0.001)


@pytest.mark.usefixtures("closing")
async def test_p10_nobody_ends_the_subscriptions_of_others(world: World) -> None:
    """ZeroMQ tells the end of a subscription though its link never had it: the feed fell silent.

    So none counts that a link tells itself; ZeroMQ's own sockets tell only of what they have.
    """
    world.master.rebind()
    good = world.link(zmq.SUB, world.master.feed_port, world.right[PERSON])
    assert FEED.decode(await good.receive()) == FEED_GREETING
    await subscriptions(world, 1)
    bad = world.link(zmq.SUB, world.master.feed_port, world.right[NODE])
    await subscriptions(world, 2)
    bad.socket.unsubscribe(b"")
    bad.socket.subscribe(FEED_TOPIC)
    await subscriptions(world, 3)
    bad.close()
    world.links.remove(bad)
    # The end of a link is told in nobody's name, and counts.
    await subscriptions(world, 2)
    key = world.right[NODE].curve_public
    world.master._take_subscriptions([[key, b"\x00" + FEED_TOPIC] for _ in range(3)])
    assert world.master.subscribers == 2
    feed = wire.Feed(1, next(_marks) + 1)
    assert world.master.publish(feed)
    assert FEED.decode(await good.receive()) == feed


@pytest.mark.usefixtures("closing")
async def test_p11_topics_of_no_feed_do_not_gather(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """ZeroMQ keeps each topic for as long as its link stands."""
    world.master.rebind()
    good = world.link(zmq.SUB, world.master.feed_port, world.right[PERSON])
    assert FEED.decode(await good.receive()) == FEED_GREETING
    identity = world.keys.member("curious", NODE)
    bad = world.link(zmq.XSUB, world.master.feed_port, identity)
    assert await bad.handshake()
    for number in range(FOREIGN_TOPICS_MAX + 1):
        await bad.send(b"\x01" + str(number).encode())
    # All links are cut, and what was asked for is forgotten: it doesn't come in again.
    async with asyncio.timeout(20):
        assert not await bad.handshake()
    assert "more than 200 topics" in caplog.text
    assert "by the node curious, which is shut out of it" in caplog.text
    # The others come back by themselves, and what it has to say elsewhere is taken.
    await subscriptions(world, 1)
    await hear(world, good)
    beat = sample(wire.Beat, "curious")
    link = world.link(zmq.DEALER, world.master.control_port, identity)
    await link.send(encode(beat))
    await world.came.message(beat)


@pytest.mark.usefixtures("closing")
async def test_p11_a_topic_of_any_length_cuts_its_link(world: World) -> None:
    bad = world.link(zmq.XSUB, world.master.feed_port, world.right[NODE])
    assert await bad.handshake()
    await bad.send(b"\x01" + bytes(TOPIC_BYTES_MAX))
    # It comes back, and is let in again: it was cut.
    async with asyncio.timeout(20):
        assert await bad.handshake()


# --- who says that they are who ----------------------------------------------------------


async def test_p10_a_node_can_t_say_hello_for_another(world: World) -> None:
    gpu1 = world.right[NODE]
    hello = sample(wire.Hello, "gpu2")
    link = world.standing_link(wire.Hello, gpu1)
    await link.send(encode(hello))
    error = REFUSED.decode(await link.receive()).error
    assert "the keys of node 'gpu1' can't speak for node 'gpu2'" in error
    assert not world.came.has(hello)


@pytest.mark.usefixtures("closing")
@pytest.mark.parametrize("peer", [b"gpu2/5f0c93a1", b"gpu1", b"person@gpu1/x", b"gpu11/x", b"\0"])
async def test_p10_a_link_under_a_name_of_another_is_refused(world: World, peer: bytes) -> None:
    beat = sample(wire.Beat, "gpu1")
    link = world.link(zmq.DEALER, world.master.control_port, world.right[NODE], peer)
    await link.send(encode(beat))
    error = REFUSED.decode(await link.receive()).error
    assert "took a name for its link that is not its own" in error
    assert not world.came.has(beat)


async def test_p10_of_what_comes_together_only_what_may_be_sent_is_taken(world: World) -> None:
    gpu1 = world.right[NODE]
    first, cancel, last = (sample(t, "gpu1") for t in (wire.Beat, wire.Cancel, wire.Goodbye))
    link = world.standing_link(wire.Beat, gpu1)
    await link.send(encode(first), encode(cancel), b"\xc1", encode(last))
    error = REFUSED.decode(await link.receive()).error
    assert "a node may not send a message of type 'cancel'" in error
    assert await world.came.message(first) == await world.came.message(last)
    assert not world.came.has(cancel)


@pytest.mark.usefixtures("closing")
async def test_p10_a_master_with_another_key_hears_nothing(world: World) -> None:
    """A node that pinned another master's key says nothing to this one."""
    other = world.keys.identity("mesh", MemberKind.MASTER, "another-master")
    beat = sample(wire.Beat, "gpu1")
    security = ClientSecurity(world.right[NODE], other.curve_public)
    link = Link(world.context, zmq.DEALER, world.master.control_port, security)
    world.links.append(link)
    await link.offer(encode(beat))
    assert not await link.handshake()
    await world.deliver(wire.Beat)
    assert not world.came.has(beat)
