"""Members with real keys, and raw links with or without them, for tests of security."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from meshtrain.core.member import MemberKind
from meshtrain.net.curve import ClientSecurity, MasterSecurity, peer_name, secure_client
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile

FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Keyring:
    """A mesh's list of members, and the keys of all who are to be on it or not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.members = MembersFile(folder / "members.json")
        self.master = self.identity("mesh", MemberKind.MASTER)
        self.members.add(self.master.member)

    def identity(self, name: str, kind: MemberKind, folder: str = "") -> Identity:
        """Keys that nobody knows yet."""
        keys = self._folder / (folder or f"{kind.value}-{name}")
        return Identity.load_or_create(keys, name, kind)

    def member(self, name: str, kind: MemberKind) -> Identity:
        """The keys of a member."""
        identity = self.identity(name, kind)
        self.members.add(identity.member)
        return identity

    def revoke(self, identity: Identity) -> None:
        self.members.revoke(identity.member.kind, identity.name)

    def at_master(self) -> MasterSecurity:
        return MasterSecurity(self.master, self.members.roll)

    def at_client(self, identity: Identity) -> ClientSecurity:
        return ClientSecurity(identity, self.master.curve_public)


class Link:
    """A raw socket to the master that may say anything, and knows how its handshakes went."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        kind: int,
        port: int,
        security: ClientSecurity | None,
        peer: bytes = b"",
    ) -> None:
        self.socket: zmq.asyncio.Socket = context.socket(kind)
        self.socket.linger = 0
        self.socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 20)
        if kind == zmq.SUB:
            self.socket.subscribe(b"")
        elif peer or security is not None:
            own = peer_name(security.identity.member) if security else b""
            self.socket.setsockopt(zmq.ROUTING_ID, peer or own)
        if security is not None:
            secure_client(self.socket, security)  # type: ignore[arg-type]
        self._monitor = self.socket.get_monitor_socket(FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    async def handshake(self) -> bool:
        """Whether the next handshake succeeds."""
        event, _ = await self._monitor.recv_multipart()
        return bool(int.from_bytes(event[:2], "little") & zmq.EVENT_HANDSHAKE_SUCCEEDED)

    async def send(self, *frames: bytes) -> None:
        await self.socket.send_multipart(list(frames))

    async def offer(self, *frames: bytes) -> None:
        """Send, unless ZeroMQ has given the link up already, as it does with refused ones."""
        with contextlib.suppress(zmq.Again):
            await self.socket.send_multipart(list(frames), zmq.NOBLOCK)

    async def receive(self) -> bytes:
        return (await self.socket.recv_multipart())[-1]

    async def silent(self) -> bool:
        """Whether nothing has come."""
        return await self.socket.poll(0) == 0

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)


class Came:
    """What came to the master, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[tuple[bytes, Any]] = []
        self._event = asyncio.Event()

    def __call__(self, batch: list[tuple[bytes, Any]]) -> None:
        self.all.extend(batch)
        self._event.set()

    async def message(self, wanted: Any) -> bytes:
        """The peer that `wanted` came from."""
        while True:
            for peer, message in self.all:
                if message == wanted:
                    return peer
            self._event.clear()
            await self._event.wait()

    def has(self, wanted: Any) -> bool:
        return any(message == wanted for _, message in self.all)
