"""A node's two sockets to the master: control, and bulk for the bytes of logs and metrics.

A node outlives its master. While the master is away nothing is queued: sends
return False, ZeroMQ tries to connect again after 100 ms to 2 s, and the agent
says what still matters once it hears from the master.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from meshtrain import failpoints
from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.net.address import endpoint
from meshtrain.net.base import SocketLimits, TransportCounts
from meshtrain.net.curve import ClientSecurity, peer_name, secure_client
from meshtrain.net.link import LinkMonitor, LinkState, trouble_of
from meshtrain.net.socket_reader import SocketReader
from meshtrain.net.sockets import Context, Socket, open_dealer, send_frames, split
from meshtrain.security.loopback import permitted_address
from meshtrain.wire.codec import BadMessageError, BadMessageKind, Decoder, encode
from meshtrain.wire.messages import (
    BulkToMaster,
    BulkToNode,
    FromNode,
    Message,
    ToNode,
    Welcome,
)

logger = logging.getLogger(__name__)

IDENTITY_BYTES_MAX = 255


class WorkerSockets:
    """Connects to a master's control socket, and to its bulk socket once welcomed.

    Must be made within a running event loop. `life` is drawn anew at each start
    of the daemon: with it the node is a new peer to the master, so that nothing
    meant for its former process reaches this one. `on_control` and `on_bulk` are
    called from the loop, once per drained batch. Bad messages are counted and
    logged; they are never answered, so that two sides can't refuse each other in
    a circle.

    With `security` both links prove the node's keys and demand the master's.
    `trouble` says when the master refuses them, or can't prove its own ("": neither);
    the link is tried again and again all the same.

    Raises SettingsError when the host isn't loopback and there is no `security`, and
    when the node's name is too long or not that of its keys.
    """

    def __init__(
        self,
        master_host: str,
        control_port: int,
        node_id: str,
        life: str,
        *,
        on_control: Callable[[list[ToNode]], None],
        on_bulk: Callable[[list[BulkToNode]], None],
        limits: SocketLimits | None = None,
        security: ClientSecurity | None = None,
    ) -> None:
        self.counts = TransportCounts()
        self.trouble = ""
        self._security = security
        self._where = endpoint(master_host, control_port).removeprefix("tcp://")
        self.identity = f"{node_id}/{life}".encode()
        if security is not None:
            if (MemberKind.NODE, node_id) != (
                security.identity.member.kind,
                security.identity.name,
            ):
                raise SettingsError(
                    f"the keys given are those of {security.identity!r}, not of node "
                    f"'{node_id[:40]}': use the name that this node joined with"
                )
            self.identity = peer_name(security.identity.member, life)
        if not node_id or len(self.identity) > IDENTITY_BYTES_MAX:
            raise SettingsError(
                f"the node name '{node_id[:40]}' can't be used: together with the session it "
                f"must have 1 to {IDENTITY_BYTES_MAX} bytes; set a shorter name with --name"
            )
        self._limits = limits = limits or SocketLimits()
        self._address = permitted_address(
            master_host, "the worker", "connect to", with_keys=security is not None
        )
        self._on_control = on_control
        self._on_bulk = on_bulk
        self._control_decoder: Decoder[ToNode] = Decoder(ToNode, limits.control_message_bytes_max)
        self._bulk_decoder: Decoder[BulkToNode] = Decoder(BulkToNode, limits.bulk_message_bytes_max)
        self._bulk: Socket | None = None
        self._bulk_monitor: LinkMonitor | None = None
        self._bulk_reader: SocketReader | None = None
        self._bulk_port: int | None = None
        self._bulk_connected = asyncio.Event()
        self._closed = False
        asyncio.get_running_loop()
        self._context: Context = zmq.Context()
        self._control, self._monitor = self._dealer(
            control_port,
            limits.control_message_bytes_max,
            limits.control_queued_max,
            self._on_control_link,
        )
        self._control_reader = self._listen(self._control, self._take_control)

    def send(self, messages: Sequence[FromNode]) -> bool:
        """Send messages in one multipart, without waiting.

        Returns False when the master is away or its queue is full: then they are
        dropped and counted. Raises BadMessageError when one breaks a limit.
        """
        if self._closed:
            return False
        sent = self._send(self._control, messages, self._limits.control_message_bytes_max)
        self._control_reader.recheck()
        if not sent:
            self.counts.dropped_full += len(messages)
        return sent

    async def wait_connected(self) -> None:
        """Return once `send` may succeed, or the sockets are closed."""
        await self._control_reader.wait_writable()

    def send_bulk(self, messages: Sequence[BulkToMaster]) -> bool:
        """Send bytes of streams in one multipart, without waiting.

        Returns False when they can't be taken now; nothing was sent then, and
        `wait_bulk_writable` tells when to offer them again. What was sent may still
        be lost with the link: only StreamStored says that it arrived. Raises
        BadMessageError when a message breaks a limit, or when there are more than
        `messages_per_send_max`.
        """
        if len(messages) > self._limits.messages_per_send_max:
            raise BadMessageError(
                BadMessageKind.TOO_MANY,
                f"{len(messages)} messages can't be sent at once: the limit is "
                f"{self._limits.messages_per_send_max}",
            )
        if self._bulk is None or self._bulk_reader is None:
            return False
        sent = self._send(self._bulk, messages, self._limits.bulk_message_bytes_max)
        failpoints.reach("log.shipped")
        self._bulk_reader.recheck()
        return sent

    async def wait_bulk_writable(self) -> None:
        """Return once `send_bulk` may succeed, or the sockets are closed."""
        while not self._closed:
            await self._bulk_connected.wait()
            reader = self._bulk_reader
            if reader is None:
                continue
            await reader.wait_writable()
            if reader is self._bulk_reader:
                return

    def connect_bulk(self, bulk_port: int) -> None:
        """Connect to the master's bulk socket; done at each Welcome, it may have moved."""
        if self._closed or bulk_port == self._bulk_port:
            return
        self._close_bulk()
        self._bulk, self._bulk_monitor = self._dealer(
            bulk_port,
            self._limits.bulk_message_bytes_max,
            self._limits.bulk_queued_max,
            lambda state: None,
        )
        self._bulk_reader = self._listen(self._bulk, self._take_bulk)
        self._bulk_port = bulk_port
        self._bulk_connected.set()

    def close(self) -> None:
        """Close at once; what is unsent is dropped. Harmless when closed."""
        if self._closed:
            return
        self._closed = True
        self._close_bulk()
        self._bulk_connected.set()
        self._control_reader.close()
        self._monitor.close()
        self._control.close(0)
        self._context.term()

    # --- opening and closing ----------------------------------------------------

    def _dealer(
        self,
        port: int,
        message_bytes_max: int,
        queued_max: int,
        on_state: Callable[[LinkState], None],
    ) -> tuple[Socket, LinkMonitor]:
        socket = open_dealer(
            self._context,
            self._limits,
            message_bytes_max=message_bytes_max,
            queued_max=queued_max,
            identity=self.identity,
        )
        if self._security is not None:
            secure_client(socket, self._security)
        where = endpoint(self._address, port)
        redial_s = self._limits.reconnect_max_ms / 1000
        monitor = LinkMonitor(socket, where, on_state, redial_s=redial_s)
        socket.connect(where)
        return socket, monitor

    def _listen(self, socket: Socket, deliver: Callable[[list[list[bytes]]], None]) -> SocketReader:
        return SocketReader(
            socket,
            deliver,
            sends_max=self._limits.sends_per_turn_max,
            bytes_max=self._limits.bytes_per_turn_max,
            frames_max=self._limits.messages_per_send_max,
        )

    def _close_bulk(self) -> None:
        reader, socket, monitor = self._bulk_reader, self._bulk, self._bulk_monitor
        self._bulk_reader = self._bulk = self._bulk_monitor = self._bulk_port = None
        self._bulk_connected.clear()
        if reader is not None:
            reader.close()
        if monitor is not None:
            monitor.close()
        if socket is not None:
            socket.close(0)

    def _on_control_link(self, state: LinkState) -> None:
        former = self.trouble
        self.trouble = trouble_of(state, self._where, with_keys=self._security is not None)
        if self.trouble and self.trouble != former:
            logger.warning("%s", self.trouble)

    # --- coming in ----------------------------------------------------------------

    def _take_control(self, multiparts: list[list[bytes]]) -> None:
        batch: list[ToNode] = self._decode(multiparts, self._control_decoder)
        for message in batch:
            if isinstance(message, Welcome):
                self.connect_bulk(message.bulk_port)
        if batch:
            self._on_control(batch)

    def _take_bulk(self, multiparts: list[list[bytes]]) -> None:
        batch: list[BulkToNode] = self._decode(multiparts, self._bulk_decoder)
        if batch:
            self._on_bulk(batch)

    def _decode(self, multiparts: list[list[bytes]], decoder: Decoder[Any]) -> list[Any]:
        batch: list[Any] = []
        for frames in multiparts:
            if len(frames) > self._limits.messages_per_send_max:
                self.counts.refused[BadMessageKind.TOO_MANY] += 1
                logger.warning("the master sent too many messages at once: they were passed over")
                continue
            for data in frames:
                try:
                    batch.append(decoder.decode(data))
                except BadMessageError as error:
                    self.counts.refused[error.kind] += 1
                    logger.warning("from the master: %s", error)
        self.counts.received += len(batch)
        return batch

    # --- going out ----------------------------------------------------------------

    def _send(self, socket: Socket, messages: Sequence[Message], size_bytes_max: int) -> bool:
        frames = [encode(message, size_bytes_max) for message in messages]
        try:
            for part in split(frames, self._limits.messages_per_send_max):
                if part:
                    send_frames(socket, part)
                    self.counts.sent += len(part)
        except zmq.Again:
            return False
        return True
