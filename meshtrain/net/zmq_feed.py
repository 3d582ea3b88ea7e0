"""Follows a master's feed, and keeps a picture of the mesh that has no holes.

It subscribes first, then takes a snapshot at some number of the feed, then
applies what is newer: what comes in between waits in a buffer. Numbers are
(incarnation, seq). A jump in them, another incarnation, a full buffer or
silence means that something is missing: then it waits a moment of random
length, so that a hundred dashboards don't ask at once, and begins anew.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec
import zmq

from meshtrain.clock import lease_now_s
from meshtrain.core.changes import Change
from meshtrain.core.pages import Page, PageQuery
from meshtrain.core.view import MeshView
from meshtrain.errors import ProtocolError
from meshtrain.ids import new_id
from meshtrain.net.address import endpoint, split_address
from meshtrain.net.base import MasterAwayError, NotAdmittedError, SocketLimits
from meshtrain.net.curve import ClientSecurity, peer_name, secure_client
from meshtrain.net.feed_order import Order as Order
from meshtrain.net.feed_order import order_of as order_of
from meshtrain.net.feed_topics import BRIEF_TOPIC, FEED_TOPIC, GREETING_TOPIC
from meshtrain.net.link import LinkMonitor, LinkState, trouble_of
from meshtrain.net.socket_reader import SocketReader
from meshtrain.net.sockets import Context, Socket, open_dealer, open_socket, send_frames
from meshtrain.net.zmq_client import (
    BRIEF_SNAPSHOT,
    PORTS_QUERY,
    SNAPSHOT_QUERY,
    SnapshotParts,
    no_answer,
    no_master,
    page_in,
    read_ports,
    refused,
)
from meshtrain.security.loopback import permitted_address
from meshtrain.wire.codec import BadMessageError, Decoder, encode
from meshtrain.wire.messages import (
    AskPage,
    FromPerson,
    PageGiven,
    Query,
    Refused,
    ToDashboard,
    ToPerson,
)

GAP_DOUBLINGS_MAX = 5


class FeedBatch(msgspec.Struct, frozen=True):
    """News for a dashboard. `whole`: these rows replace all that was known."""

    incarnation: int
    seq: int
    changes: tuple[Change, ...]
    whole: bool


class FeedSettings(msgspec.Struct, frozen=True):
    """The patience of a dashboard."""

    timeout_s: float = 5.0
    """For one answer of the master."""
    silence_s: float = 5.0
    """Without a word from the feed, which beats each second, before beginning anew."""
    retry_s: float = 1.0
    """Before asking a master again that did not answer; times 0.5 to 1.5."""
    gap_jitter_s: float = 0.5
    """The most that is waited before a new snapshot; doubled while holes follow closely."""
    gap_calm_s: float = 30.0
    """A hole later than this after a snapshot counts as the first again."""
    buffered_max: int = 10_000
    """Messages of the feed that wait to be applied."""


class FeedClient:
    """A live picture of the mesh, for a dashboard.

        client = FeedClient("127.0.0.1:7470")
        async for batch in client.batches():
            show(client.view)

    Must be made within a running event loop. `view` is the picture, `trouble`
    says why it isn't live ("" when it is), `last_heard_s` is when the master was
    last heard, on the lease clock (None: never), `snapshots` counts them.
    `security` are the keys of the person who watches. With `brief` the picture has
    only the jobs that run, and the sums over all; the others are asked for with `page`.

    Raises SettingsError when the address is malformed, or not loopback and there is
    no `security`.
    """

    def __init__(
        self,
        address: str,
        *,
        brief: bool = False,
        settings: FeedSettings | None = None,
        limits: SocketLimits | None = None,
        jitter: Callable[[], float] = random.random,
        now_s: Callable[[], float] = lease_now_s,
        security: ClientSecurity | None = None,
    ) -> None:
        self.view = MeshView()
        self.trouble = "connecting"
        self.last_heard_s: float | None = None
        self.snapshots = 0
        self._address = address
        self._brief = brief
        self._settings = settings or FeedSettings()
        self._limits = limits = limits or SocketLimits()
        self._jitter = jitter
        self._now_s = now_s
        host, port = split_address(address)
        self._security = security
        self._host = permitted_address(
            host, "the dashboard", "connect to", with_keys=security is not None
        )
        asyncio.get_running_loop()
        self._answer_decoder: Decoder[ToPerson] = Decoder(
            ToPerson, limits.control_message_bytes_max
        )
        self._feed_decoder: Decoder[ToDashboard] = Decoder(
            ToDashboard, limits.feed_message_bytes_max
        )
        self._incarnation = 0
        self._seq = 0
        self._holes = False
        self._snapshot_s = -math.inf
        self._gaps_in_row = 0
        self._buffer: deque[ToDashboard] = deque()
        self._feed_came = asyncio.Event()
        self._answers: deque[ToPerson | ProtocolError] = deque()
        self._answer_came = asyncio.Event()
        self._pages: dict[str, asyncio.Future[ToPerson]] = {}
        self._subscribed = asyncio.Event()
        self._feed: Socket | None = None
        self._feed_reader: SocketReader | None = None
        self._feed_monitor: LinkMonitor | None = None
        self._feed_port: int | None = None
        self._closed = False
        self._context: Context = zmq.Context()
        self._control = open_dealer(
            self._context,
            limits,
            message_bytes_max=limits.control_message_bytes_max,
            queued_max=limits.control_queued_max,
            identity=peer_name(security.identity.member) if security else b"",
        )
        if security is not None:
            secure_client(self._control, security)
        where = endpoint(self._host, port)
        self._monitor = self._follow(self._control, where, self._on_link)
        self._control.connect(where)
        self._control_reader = self._listen(self._control, self._take_answers)

    async def batches(self) -> AsyncIterator[FeedBatch]:
        """The news, already applied to `view`, until the client is closed.

        The first batch, and each one after a hole in the feed, is a whole picture;
        `view` is a new object then. A master that is away is asked again and
        again; `trouble` tells.
        """
        while not self._closed:
            try:
                whole = await self._synchronise()
            except (MasterAwayError, ProtocolError) as error:
                self.trouble = str(error)
                await asyncio.sleep(self._settings.retry_s * (0.5 + self._jitter()))
                continue
            self.trouble = ""
            yield whole
            while (batch := await self._next_batch()) is not None:
                if batch.changes:
                    yield batch
            await asyncio.sleep(self._wait_for_snapshot_s())

    async def page(self, query: PageQuery) -> Page:
        """A page of a long list, as the master has it now.

        It may have fewer rows than `query.limit`. Raises UserError for what no page can
        answer, MasterAwayError when no answer comes in time, and ProtocolError when it
        is nonsense.
        """
        request_id = new_id("request")
        answered = self._pages[request_id] = asyncio.get_running_loop().create_future()
        deadline_s = asyncio.get_running_loop().time() + self._settings.timeout_s
        try:
            await self._send(AskPage(request_id, query), deadline_s)
            async with asyncio.timeout_at(deadline_s):
                return page_in(await answered, self._address)
        except TimeoutError as error:
            raise self._away(no_answer(self._address, self._settings.timeout_s)) from error
        finally:
            del self._pages[request_id]

    def stale_s(self) -> float | None:
        """Seconds since the master was last heard; None when it never was."""
        return None if self.last_heard_s is None else self._now_s() - self.last_heard_s

    def close(self) -> None:
        """Close the links; `batches` ends. Harmless when closed."""
        if self._closed:
            return
        self._closed = True
        self._close_feed()
        self._control_reader.close()
        self._monitor.close()
        self._control.close(0)
        self._context.term()
        self._feed_came.set()
        self._answer_came.set()
        self._subscribed.set()
        for answered in self._pages.values():
            if not answered.done():
                answered.set_exception(MasterAwayError("the client was closed"))

    def _wait_for_snapshot_s(self) -> float:
        """Longer each time when snapshots follow each other closely: they cost the master."""
        now_s = self._now_s()
        close = now_s - self._snapshot_s < self._settings.gap_calm_s
        self._gaps_in_row = min(self._gaps_in_row + 1, GAP_DOUBLINGS_MAX) if close else 0
        return self._settings.gap_jitter_s * (1 << self._gaps_in_row) * self._jitter()

    # --- a new picture ------------------------------------------------------------

    async def _synchronise(self) -> FeedBatch:
        ports = read_ports(await self._ask_once(PORTS_QUERY), self._address)
        await self._subscribe(ports.feed)
        if self._holes:
            # What is in the buffer doesn't add up; all of it is older than the snapshot.
            self._buffer.clear()
            self._holes = False
        parts = SnapshotParts(self._address)
        names = (BRIEF_SNAPSHOT,) if self._brief else ()
        async for answer in self._ask(SNAPSHOT_QUERY, names):
            if parts.add(answer):
                break
        former, self.view = self.view, MeshView()
        # What was read of hosts before is as true as it was.
        self.view.use_history = former.use_history
        for change in parts.changes:
            self.view.apply(change)
        self._incarnation, self._seq = parts.incarnation, parts.seq
        self._snapshot_s = self._now_s()
        self.snapshots += 1
        return FeedBatch(self._incarnation, self._seq, tuple(parts.changes), whole=True)

    async def _subscribe(self, feed_port: int) -> None:
        """Returns when the feed has greeted us, so that the snapshot can't be ahead of it."""
        if feed_port != self._feed_port:
            self._close_feed()
            self._feed = open_socket(
                self._context,
                zmq.SUB,
                self._limits,
                message_bytes_max=self._limits.feed_message_bytes_max,
                queued_max=self._limits.feed_queued_max,
            )
            if self._security is not None:
                secure_client(self._feed, self._security)
            for topic in (BRIEF_TOPIC, GREETING_TOPIC) if self._brief else (FEED_TOPIC,):
                self._feed.setsockopt(zmq.SUBSCRIBE, topic)
            where = endpoint(self._host, feed_port)
            self._feed_monitor = self._follow(self._feed, where, lambda state: None)
            self._feed.connect(where)
            self._feed_reader = self._listen(self._feed, self._take_feed)
            self._feed_port = feed_port
        timeout_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._subscribed.wait()
        except TimeoutError as error:
            raise MasterAwayError(
                f"the feed of the master at {self._address} (port {feed_port}) is silent for "
                f"{timeout_s:g} s: see that the master is up and that nothing blocks the port"
            ) from error

    async def _ask_once(self, what: str) -> ToPerson:
        async for answer in self._ask(what):
            return answer
        raise MasterAwayError("the client was closed")

    async def _send(self, message: FromPerson, deadline_s: float) -> None:
        """Send when the link is up. Raises MasterAwayError when it isn't in time."""
        data = encode(message, self._limits.control_message_bytes_max)
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._control_reader.wait_writable()
            if self._closed:
                raise MasterAwayError("the client was closed")
            send_frames(self._control, [data])
            self._control_reader.recheck()
        except (TimeoutError, zmq.Again) as error:
            raise self._away(no_master(self._address, self._settings.timeout_s)) from error

    async def _ask(self, what: str, names: tuple[str, ...] = ()) -> AsyncIterator[ToPerson]:
        request_id = new_id("request")
        timeout_s = self._settings.timeout_s
        self._answers.clear()
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        await self._send(Query(request_id, what, names), deadline_s)
        while not self._closed:
            try:
                async with asyncio.timeout_at(deadline_s):
                    answer = await self._next_answer()
            except TimeoutError as error:
                raise self._away(no_answer(self._address, timeout_s)) from error
            if isinstance(answer, ProtocolError):
                raise answer
            if isinstance(answer, Refused):
                raise ProtocolError(refused(self._address, answer))
            if answer is not None and answer.request_id == request_id:
                yield answer

    async def _next_answer(self) -> ToPerson | ProtocolError | None:
        while not self._answers and not self._closed:
            self._answer_came.clear()
            await self._answer_came.wait()
        return self._answers.popleft() if self._answers else None

    def _on_link(self, state: LinkState) -> None:
        self.trouble = self._link_trouble(state) or self.trouble

    def _link_trouble(self, state: LinkState) -> str:
        return trouble_of(state, self._address, with_keys=self._security is not None)

    def _away(self, otherwise: str) -> MasterAwayError:
        trouble = self._link_trouble(self._monitor.state)
        return NotAdmittedError(trouble) if trouble else MasterAwayError(otherwise)

    # --- following ------------------------------------------------------------------

    async def _next_batch(self) -> FeedBatch | None:
        """What came since, in one; None when something is missing or nothing comes."""
        if self._closed:
            return None
        if not self._buffer and not self._holes:
            self._feed_came.clear()
            try:
                async with asyncio.timeout(self._settings.silence_s):
                    await self._feed_came.wait()
            except TimeoutError:
                self.trouble = (
                    f"nothing heard from the master at {self._address} "
                    f"for {self._settings.silence_s:g} s"
                )
                # A link that hangs would stay silent for ever.
                self._close_feed()
                return None
        changes: list[Change] = []
        applied = False
        while self._buffer:
            feed = self._buffer.popleft()
            match order_of(feed, self._incarnation, self._seq):
                case Order.OLD:
                    continue
                case Order.GAP:
                    self._holes = True
                    break
                case Order.NEXT:
                    self._seq = feed.seq
                    changes.extend(feed.changes)
                    applied = True
        if self._closed or (self._holes and not applied):
            return None
        for change in changes:
            self.view.apply(change)
        return FeedBatch(self._incarnation, self._seq, tuple(changes), whole=False)

    # --- the sockets ------------------------------------------------------------------

    def _listen(self, socket: Socket, deliver: Callable[[list[list[bytes]]], None]) -> SocketReader:
        return SocketReader(
            socket,
            deliver,
            sends_max=self._limits.sends_per_turn_max,
            bytes_max=self._limits.bytes_per_turn_max,
            frames_max=self._limits.messages_per_send_max,
        )

    def _follow(
        self, socket: Socket, where: str, on_state: Callable[[LinkState], None]
    ) -> LinkMonitor:
        redial_s = self._limits.reconnect_max_ms / 1000
        return LinkMonitor(socket, where, on_state, redial_s=redial_s, jitter=self._jitter)

    def _close_feed(self) -> None:
        reader, socket, monitor = self._feed_reader, self._feed, self._feed_monitor
        self._feed_reader = self._feed = self._feed_monitor = self._feed_port = None
        self._subscribed.clear()
        if reader is not None:
            reader.close()
        if monitor is not None:
            monitor.close()
        if socket is not None:
            socket.close(0)

    def _take_answers(self, multiparts: list[list[bytes]]) -> None:
        self.last_heard_s = self._now_s()
        for frames in multiparts:
            for data in frames:
                try:
                    answer = self._answer_decoder.decode(data)
                except BadMessageError as error:
                    self._answers.append(error)
                    continue
                if not self._is_for_page(answer):
                    self._answers.append(answer)
        self._answer_came.set()

    def _is_for_page(self, answer: ToPerson) -> bool:
        """Gives a page to who asked for it."""
        if isinstance(answer, Refused):
            # It doesn't say what it is for: nobody needs to wait any longer.
            for answered in self._pages.values():
                if not answered.done():
                    answered.set_result(answer)
            return False
        waiting = self._pages.get(answer.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
        return isinstance(answer, PageGiven)

    def _take_feed(self, multiparts: list[list[bytes]]) -> None:
        self.last_heard_s = self._now_s()
        greeted = self._subscribed.is_set()
        for frames in multiparts:
            for data in frames:
                if len(self._buffer) >= self._settings.buffered_max:
                    self._buffer.clear()
                    self._holes = True
                try:
                    feed = self._feed_decoder.decode(data)
                except BadMessageError as error:
                    self.trouble = str(error)
                    self._holes = True
                    continue
                if feed.seq > 0:
                    self._buffer.append(feed)
                elif greeted:
                    # Greeted again: the link broke, or the master was restarted.
                    self._holes = True
                greeted = True
        self._subscribed.set()
        self._feed_came.set()
