"""The master's three sockets: control, bulk and the feed.

What a slow or vanished peer doesn't take is dropped and counted, never waited
for. Each peer has its own queue of `control_queued_max` sends in ZeroMQ, so
that one slow node costs no other anything. Dropping is right here: the
scheduler repeats a node's commands until it has seen them, a person's command
asks again, and a node offers its bytes again until they are acknowledged.

With keys only members get a link, each message is checked against the roll, and
`rebind` cuts all links, so that a revoked member hears nothing more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import zmq

from meshtrain.core.member import Member
from meshtrain.errors import ProtocolError
from meshtrain.net.admission import NotAllowedError, SenderCheck, ZapHandler
from meshtrain.net.base import (
    BulkBatch,
    ControlBatch,
    SocketLimits,
    TakeBulk,
    TakeControl,
    TransportCounts,
)
from meshtrain.net.curve import FEED_DOMAIN, ZAP_DOMAIN, MasterSecurity, secure_server
from meshtrain.net.feed_topics import BRIEF_TOPIC, FEED_GREETING, FEED_TOPIC, GREETING_TOPIC
from meshtrain.net.listening import ListeningPort
from meshtrain.net.socket_reader import SocketReader
from meshtrain.net.sockets import Context, Socket, open_socket, send_frames, split
from meshtrain.security.loopback import permitted_address
from meshtrain.wire.codec import BadMessageError, BadMessageKind, Decoder, encode
from meshtrain.wire.messages import (
    Brief,
    BulkToMaster,
    BulkToNode,
    Message,
    Refused,
    ToDashboard,
    ToMaster,
    ToNode,
    ToPerson,
)

logger = logging.getLogger(__name__)

TOPIC_BYTES_MAX = 1024
"""Of what a dashboard subscribes to. The messages of the handshake, some 400 bytes, must pass."""
FOREIGN_TOPICS_MAX = 200
"""Topics of one member that no dashboard asks for, until it is shut out of the feed: ZeroMQ keeps
each for as long as its link stands."""
LAST_WORDS_MS = 1000
"""How long links that are cut by `rebind` may take to send what was said before."""
_TOPICS = frozenset({b"", FEED_TOPIC, BRIEF_TOPIC, GREETING_TOPIC})


class MasterSockets:
    """Binds control, bulk and feed, and delivers what comes in batches.

    Must be made within a running event loop. Port 0 takes any free port; the
    real ones are `control_port`, `bulk_port` and `feed_port`. `on_control` and
    `on_bulk` are called from the loop, once per drained batch, with
    (peer, message) pairs; bad messages never reach them: they are counted and
    answered with Refused. A peer is known by the same bytes on both sockets.
    What the callbacks raise goes to the loop's exception handler.

    With `security`, what reaches the callbacks was sent by a member that may send
    it (`admission.MAY_SEND`), from a peer whose name is that member's own
    (`curve.peer_prefix`), and a Hello names the node that sent it.

    Raises SettingsError when `host` is not loopback and there is no `security`, or
    a port can't be bound.
    """

    def __init__(
        self,
        host: str,
        control_port: int,
        bulk_port: int,
        feed_port: int,
        *,
        on_control: TakeControl,
        on_bulk: TakeBulk,
        limits: SocketLimits | None = None,
        security: MasterSecurity | None = None,
    ) -> None:
        self.counts = TransportCounts()
        self._limits = limits = limits or SocketLimits()
        self._on_control = on_control
        self._on_bulk = on_bulk
        self._subscribers = 0
        self._brief_subscribers = 0
        #: key of a member, in Z85 → topics that it asked for and that no feed has
        self._foreign_topics: Counter[bytes] = Counter()
        self._closed = False
        self._bulk_paused = False
        self._security = security
        self._check = SenderCheck(security.roll) if security else None
        address = permitted_address(host, "the master", with_keys=security is not None)
        asyncio.get_running_loop()
        self._control_decoder: Decoder[ToMaster] = Decoder(
            ToMaster, limits.control_message_bytes_max
        )
        self._bulk_decoder: Decoder[BulkToMaster] = Decoder(
            BulkToMaster, limits.bulk_message_bytes_max
        )
        self._zap: ZapHandler | None = None
        self._readers: list[SocketReader] = []
        self._sockets: list[Socket] = []
        self._ports: list[ListeningPort] = []
        self._context: Context = zmq.Context()
        try:
            if security:
                self._zap = ZapHandler(self._context, security.roll, self.counts, limits)
            for port, name in ((control_port, "control"), (bulk_port, "bulk"), (feed_port, "feed")):
                self._ports.append(ListeningPort(address, port, name))
            self._open_all()
        except BaseException:
            self.close()
            raise

    @property
    def control_port(self) -> int:
        return self._ports[0].port

    @property
    def bulk_port(self) -> int:
        return self._ports[1].port

    @property
    def feed_port(self) -> int:
        return self._ports[2].port

    @property
    def subscribers(self) -> int:
        """How many listen to the whole feed."""
        return self._subscribers

    @property
    def brief_subscribers(self) -> int:
        """How many listen to the feed in brief."""
        return self._brief_subscribers

    def send_control(self, peer: bytes, messages: Sequence[ToNode | ToPerson]) -> bool:
        """Send messages to a peer in one multipart, which arrives whole or not at all.

        Never waits. Returns False when the peer's queue is full or it is gone:
        then the messages are dropped and counted. A message that breaks a limit
        is replaced by Refused, which says so. More than
        `messages_per_send_max` messages are split.
        """
        reader, limits = self._control_reader, self._limits
        return self._send(reader, self._control, peer, messages, limits.control_message_bytes_max)

    def send_bulk(self, peer: bytes, messages: Sequence[BulkToNode]) -> bool:
        """The same as `send_control`, on the bulk socket."""
        reader, limits = self._bulk_reader, self._limits
        return self._send(reader, self._bulk, peer, messages, limits.bulk_message_bytes_max)

    def publish(self, feed: ToDashboard) -> bool:
        """Tell all who listen to this feed; encodes nothing and returns False when nobody does.

        A dashboard that is too slow misses some, and notices by their numbers.
        """
        if self._closed:
            return False
        if not self._listeners(feed):
            # A subscription may wait in the socket, ahead of the snapshot it comes with.
            self._feed_reader.drain()
            if not self._listeners(feed):
                return False
        try:
            data = encode(feed, self._limits.feed_message_bytes_max)
        except BadMessageError as error:
            self.counts.unsendable += 1
            logger.error("feed %d was left out: %s", feed.seq, error)
            return False
        send_frames(self._feed, [data])
        self._feed_reader.recheck()
        self.counts.published += 1
        return True

    def pause_bulk(self) -> None:
        """Read no more bulk: queues fill, and the nodes' `send_bulk` says to wait."""
        self._bulk_paused = True
        self._bulk_reader.pause()

    def resume_bulk(self) -> None:
        """Read bulk again."""
        self._bulk_paused = False
        self._bulk_reader.resume()

    def rebind(self) -> None:
        """Cut all links, and listen again on the same ports.

        To be called at once when a membership was ended: ZeroMQ can't cut one link
        alone. The others come back by themselves, known by the same names. What was
        sent to them before still leaves, unless their links were choked; what is in
        flight to us, and what is sent before they are back, is lost, and is repeated
        by whoever said it. Dashboards see a gap. Only answers to questions are never
        repeated: give them first.
        """
        if self._closed:
            return
        control, bulk, feed = self._sockets
        for reader in self._readers:
            reader.close()
        control.close(LAST_WORDS_MS)
        bulk.close(LAST_WORDS_MS)
        feed.close(0)
        self._subscribers = self._brief_subscribers = 0
        self._foreign_topics.clear()
        self._open_all()

    def close(self) -> None:
        """Close at once, what is unsent is dropped; the ports are free when it returns."""
        if self._closed:
            return
        self._closed = True
        for reader in self._readers:
            reader.close()
        for socket in self._sockets:
            socket.close(0)
        if self._zap is not None:
            self._zap.close()
        self._context.term()
        for port in self._ports:
            port.close()

    # --- opening ------------------------------------------------------------------

    def _open_all(self) -> None:
        limits = self._limits
        self._sockets, self._readers = [], []
        self._control = self._open_router(
            limits.control_message_bytes_max, limits.control_queued_max
        )
        self._bulk = self._open_router(limits.bulk_message_bytes_max, limits.bulk_queued_max)
        self._feed = self._open_feed()
        for port, socket in zip(self._ports, self._sockets, strict=True):
            port.bind(socket)
        self._control_reader = self._listen(self._control, self._take_control)
        self._bulk_reader = self._listen(self._bulk, self._take_bulk)
        self._feed_reader = self._listen(self._feed, self._take_subscriptions)
        if self._bulk_paused:
            self._bulk_reader.pause()

    def _open_router(self, message_bytes_max: int, queued_max: int) -> Socket:
        socket = self._open(zmq.ROUTER, message_bytes_max, queued_max)
        # A full or vanished peer is told to us instead of dropped in silence, so
        # that it can be counted.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A node whose old link died unnoticed must be able to come back at once.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        return socket

    def _reopen_feed(self) -> None:
        """Forget all topics; dashboards come back by themselves, and see a gap."""
        self._feed_reader.close()
        self._feed.close(0)
        self._sockets.remove(self._feed)
        self._readers.remove(self._feed_reader)
        self._subscribers = self._brief_subscribers = 0
        self._foreign_topics.clear()
        self._feed = self._open_feed()
        self._ports[-1].bind(self._feed)
        self._feed_reader = self._listen(self._feed, self._take_subscriptions)

    def _open_feed(self) -> Socket:
        limits = self._limits
        # All that comes in are topics, and ZeroMQ keeps each, at many times its size.
        socket = self._open(zmq.XPUB, TOPIC_BYTES_MAX, limits.feed_queued_max)
        # Each subscription is told, not only the first: they are counted.
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        socket.setsockopt(zmq.XPUB_WELCOME_MSG, encode(FEED_GREETING))
        return socket

    def _open(self, kind: int, message_bytes_max: int, queued_max: int) -> Socket:
        socket = open_socket(
            self._context,
            kind,
            self._limits,
            message_bytes_max=message_bytes_max,
            queued_max=queued_max,
        )
        self._sockets.append(socket)
        if self._security:
            domain = FEED_DOMAIN if kind == zmq.XPUB else ZAP_DOMAIN
            secure_server(socket, self._security, domain)
        return socket

    def _listen(self, socket: Socket, deliver: Any) -> SocketReader:
        limits = self._limits
        reader = SocketReader(
            socket,
            deliver,
            sends_max=limits.sends_per_turn_max,
            bytes_max=limits.bytes_per_turn_max,
            frames_max=limits.messages_per_send_max + 1,
            with_user_id=self._security is not None,
        )
        self._readers.append(reader)
        return reader

    # --- coming in ----------------------------------------------------------------

    def _take_control(self, multiparts: list[list[bytes]]) -> None:
        batch: ControlBatch = []
        refusals = self._decode(multiparts, self._control_decoder, batch)
        for peer, refusal in refusals:
            self.send_control(peer, [refusal])
        if batch:
            self._on_control(batch)

    def _take_bulk(self, multiparts: list[list[bytes]]) -> None:
        batch: BulkBatch = []
        refusals = self._decode(multiparts, self._bulk_decoder, batch)
        for peer, refusal in refusals:
            self.send_bulk(peer, [refusal])
        if batch:
            self._on_bulk(batch)

    def _decode(
        self, multiparts: list[list[bytes]], decoder: Decoder[Any], batch: list[Any]
    ) -> list[tuple[bytes, Refused]]:
        """Decodes into `batch`; at most one refusal a multipart, however bad it is."""
        refusals: list[tuple[bytes, Refused]] = []
        decode = decoder.decode
        frames_max = self._limits.messages_per_send_max + 1
        check = self._check
        sender: Member | None = None
        for frames in multiparts:
            if check is not None:
                user_id = frames.pop(0)
                try:
                    sender = check.sender(user_id, frames[0])
                except NotAllowedError as error:
                    self.counts.not_allowed += len(frames) - 1
                    refusals.append((frames[0], Refused(str(error))))
                    continue
            peer = frames[0]
            if len(frames) > frames_max:
                self.counts.refused[BadMessageKind.TOO_MANY] += 1
                refusals.append((peer, Refused(f"at most {frames_max - 1} messages at once")))
                continue
            error_first: ProtocolError | None = None
            for data in frames[1:]:
                try:
                    message = decode(data)
                    if check is not None and sender is not None:
                        check.require(sender, message)
                    batch.append((peer, message))
                except BadMessageError as error:
                    self.counts.refused[error.kind] += 1
                    error_first = error_first or error
                except NotAllowedError as error:
                    self.counts.not_allowed += 1
                    error_first = error_first or error
            if error_first is not None:
                refusals.append((peer, Refused(str(error_first))))
        self.counts.received += len(batch)
        return refusals

    def _take_subscriptions(self, multiparts: list[list[bytes]]) -> None:
        for frames in multiparts:
            user_id = frames.pop(0) if self._security is not None else b""
            change = {b"\x01": 1, b"\x00": -1}.get(frames[0][:1])
            if change == -1 and user_id:
                # A dashboard of ours unsubscribes by its link's end, which ZeroMQ tells in
                # nobody's name. Who says so itself may never have subscribed, and would
                # silence the feed for all others.
                continue
            if change is None:
                self.counts.refused[BadMessageKind.MALFORMED] += 1
                continue
            topic = frames[0][1:]
            # A topic is the beginning of what is wanted: an empty one is all.
            if FEED_TOPIC.startswith(topic):
                self._subscribers = max(0, self._subscribers + change)
            if BRIEF_TOPIC.startswith(topic):
                self._brief_subscribers = max(0, self._brief_subscribers + change)
            if change == 1 and topic not in _TOPICS:
                self._foreign_topics[user_id] += 1
                if self._foreign_topics[user_id] > FOREIGN_TOPICS_MAX:
                    self._shut_out(user_id)
                    self._reopen_feed()
                    return

    def _shut_out(self, user_id: bytes) -> None:
        who = "somebody without a name"
        if self._security is not None and self._zap is not None:
            self._zap.shut_out_of_feed.add(user_id)
            member = self._security.roll.by_curve_key(user_id.decode("ascii", "replace"))
            if member is not None:
                who = f"the {member.kind.value} {member.name}, which is shut out of it"
        logger.warning(
            "the feed was opened anew, and all dashboards have to come back: more than %d topics "
            "that it doesn't have were asked for by %s",
            FOREIGN_TOPICS_MAX,
            who,
        )

    def _listeners(self, feed: ToDashboard) -> int:
        return self._brief_subscribers if isinstance(feed, Brief) else self._subscribers

    # --- going out ----------------------------------------------------------------

    def _send(
        self,
        reader: SocketReader,
        socket: Socket,
        peer: bytes,
        messages: Sequence[Message],
        size_bytes_max: int,
    ) -> bool:
        if self._closed:
            return False
        frames = [self._encoded(message, size_bytes_max) for message in messages]
        sent = 0
        try:
            for part in split(frames, self._limits.messages_per_send_max):
                if part:
                    send_frames(socket, [peer, *part])
                    sent += len(part)
        except zmq.Again:
            self.counts.dropped_full += len(frames) - sent
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self.counts.dropped_gone += len(frames) - sent
        reader.recheck()
        self.counts.sent += sent
        return sent == len(frames)

    def _encoded(self, message: Message, size_bytes_max: int) -> bytes:
        try:
            return encode(message, size_bytes_max)
        except BadMessageError as error:
            self.counts.unsendable += 1
            logger.error("%s", error)
            return encode(Refused(str(error)))
