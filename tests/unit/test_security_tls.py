"""P10: a server with another certificate than its member's gets nothing to read."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import pytest
from member_keys import NODE, OTHER_NODE

from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security.keys import Identity
from meshtrain.security.tls import WrongCertificateError, pinned_context, server_context


class Server:
    """Serves TLS as a node, and keeps what it gets to read."""

    def __init__(self) -> None:
        self.received = b""
        self.version: str | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._meet, "127.0.0.1", 0, ssl=server_context(NODE)
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.version = writer.get_extra_info("ssl_object").version()
        try:
            self.received += await reader.read(100)
            writer.write(b"answer")
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        self._server.close()


async def ask(server: Server, context: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    try:
        writer.write(b"secret")
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


@pytest.fixture
async def server() -> Server:
    made = Server()
    await made.start()
    return made


async def test_p10_the_pinned_certificate_is_taken_by_tls_1_3(server: Server) -> None:
    assert await ask(server, pinned_context(NODE.member.cert_sha256)) == b"answer"
    assert (server.received, server.version) == (b"secret", "TLSv1.3")
    await server.stop()


async def test_p10_another_certificate_is_refused_before_anything_is_sent(server: Server) -> None:
    with pytest.raises(WrongCertificateError, match="another server"):
        await ask(server, pinned_context(OTHER_NODE.member.cert_sha256))
    assert await ask(server, pinned_context(NODE.member.cert_sha256)) == b"answer"
    assert server.received == b"secret", "of the second only"
    await server.stop()


async def test_p10_a_plain_socket_is_pinned_too(server: Server) -> None:
    def connect(cert_sha256: str) -> bytes:
        raw = socket.create_connection(("127.0.0.1", server.port))
        with pinned_context(cert_sha256).wrap_socket(raw) as sock:
            sock.sendall(b"secret")
            return sock.recv(100)

    with pytest.raises(WrongCertificateError):
        await asyncio.to_thread(connect, OTHER_NODE.member.cert_sha256)
    assert await asyncio.to_thread(connect, NODE.member.cert_sha256) == b"answer"
    assert server.received == b"secret"
    await server.stop()


async def test_p10_a_pin_that_is_no_hash_takes_nobody(server: Server) -> None:
    with pytest.raises(WrongCertificateError):
        await ask(server, pinned_context(""))
    await server.stop()


async def test_p10_older_versions_of_tls_are_refused(server: Server) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await ask(server, old)
    assert server.received == b""
    await server.stop()


async def test_p10_a_server_that_knows_only_older_tls_is_refused() -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_cert_chain(NODE.cert_path, NODE.key_path)
    left, right = socket.socketpair()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            old.wrap_socket(right, server_side=True)
        except OSError as error:
            failures.append(error)
        finally:
            right.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(pinned_context(NODE.member.cert_sha256).wrap_socket, left)
    left.close()
    thread.join()
    assert failures


def test_keys_that_do_not_fit_are_told_with_their_file(tmp_path: Path) -> None:
    broken = Identity.load_or_create(tmp_path / "keys", "gpu9", MemberKind.NODE)
    broken.key_path.write_bytes(OTHER_NODE.key_path.read_bytes())
    with pytest.raises(SettingsError, match=r"tls\.crt and its key can't be used"):
        server_context(broken)
