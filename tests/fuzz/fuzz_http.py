"""Fuzz targets of HTTP: what headers and paths say, and raw bytes to a server that runs."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from collections.abc import Sequence

from fuzz_base import Target
from fuzz_scratch import scratch, scratch_folder

from meshtrain.artifacts.byterange import UnsatisfiableRangeError, parse_range
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.manifest import canonical_bytes
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.core.swarm import bits_from_bytes, bits_to_bytes, flags_of
from meshtrain.security.membership import Roll
from meshtrain.security.signing import Asked, NotSignedError, Verifier

ANSWER_TIMEOUT_S = 20.0
KEY = Member("gpu1", MemberKind.NODE, "a" * 40, "b" * 64, "c" * 64)
NONCE = "0" * 32


def headers(data: bytes) -> None:
    if not data:
        return
    text = data[1:].decode("latin-1")
    match data[0] % 3:
        case 0:
            size_bytes = len(data) * 1000
            try:
                wanted = parse_range(text, size_bytes)
            except UnsatisfiableRangeError as error:
                assert str(error)
                return
            assert wanted is not None
            assert 0 <= wanted[0] < wanted[1] <= size_bytes
        case 1:
            try:
                _verifier().verify(text.replace("NONCE", NONCE), Asked("GET", "/", text), 0.0)
            except NotSignedError as error:
                assert str(error)
            else:
                raise AssertionError("nobody knows that key")
        case _:
            bits = bits_from_bytes(data[1:])
            count = 8 * len(data[1:])
            assert bits_to_bytes(bits, count) == data[1:]
            assert sum(flags_of(bits, count)) == bits.bit_count()


@functools.cache
def _verifier() -> Verifier:
    roll = Roll(Members(1, (KEY,)))
    verifier = Verifier(KEY, roll)
    verifier._nonce, verifier._nonce_until_s = NONCE, 1e9
    return verifier


def header_seeds() -> Sequence[bytes]:
    sign = (
        "Mesh node/gpu1 nonce=NONCE instance=" + "1" * 32 + " count=1 body=- signature=" + "2" * 128
    )
    ranges = ("bytes=0-99", "bytes=5-", "bytes=-7", "bytes=0-0,5-9", "bytes= 1-2 ", "items=0-1")
    return [b"\0" + text.encode() for text in ranges] + [b"\1" + sign.encode(), b"\2\x0f\xf0\1"]


# --- a server --------------------------------------------------------------------------------


class _Served:
    """A server of one small artifact, on a thread of its own."""

    def __init__(self) -> None:
        folder = scratch("served/a", bytes(range(256)) * 8).parent
        scratch("served/b/c", b"")
        self._store = ArtifactStore(scratch_folder() / "served_store")
        manifest = self._store.add_tree(folder)
        self.artifact_id = next(iter(self._store.ids()))
        self.manifest = canonical_bytes(manifest)
        self._loop = asyncio.new_event_loop()
        self.bugs: list[str] = []
        # It tells of each request that it can't read; here that is nearly each one.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        self._loop.set_exception_handler(
            lambda loop, context: self.bugs.append(str(context.get("message")))
        )
        self._server = ArtifactServer(self._store, "127.0.0.1", accept_uploads=True)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        url = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(30)
        self.port = int(url.rsplit(":", 1)[1])

    def answer(self, data: bytes) -> bytes:
        """All that the server says to these bytes, until it or we hang up."""
        with socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT_S) as link:
            received = b""
            try:
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
                while piece := link.recv(65536):
                    received += piece
            except (ConnectionResetError, BrokenPipeError):
                pass
            return received


@functools.cache
def _served() -> _Served:
    return _Served()


def raw_http(data: bytes) -> None:
    """Anything over TCP: an answer that is HTTP and no error of the server's own, or none."""
    served = _served()
    answer = served.answer(data.replace(b"ARTIFACT", served.artifact_id.encode()))
    assert not answer or answer.startswith(b"HTTP/"), answer[:100]
    assert answer[8:12] != b" 500", (answer, served.bugs)
    assert not served.bugs, served.bugs


def http_seeds() -> Sequence[bytes]:
    end = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    path = b"/v1/artifacts/ARTIFACT/"
    seeds = [
        b"GET " + path + tail + end + b"Range: bytes=" + wanted + b"\r\n\r\n"
        for tail in (b"files/0", b"files/1", b"files/9", b"manifest", b"have")
        for wanted in (b"0-9", b"-5", b"3000-", b"0-1,4-5")
    ]
    body = _served().manifest
    for request, content in (
        (b"PUT " + path + b"manifest", body),
        (b"PUT " + path + b"chunks/0/0", bytes(100)),
        (b"POST " + path + b"commit", b""),
        (b"HEAD " + path + b"files/0", b""),
        (b"DELETE " + path + b"manifest", b""),
    ):
        length = b"Content-Length: %d\r\n\r\n" % len(content)
        seeds.append(request + end + length + content)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    seeds.append(b"PUT " + path + b"manifest" + end + chunked)
    seeds.append(b"GET /" + b"a" * 9000 + end + b"\r\n")
    seeds.append(b"GET /v1/artifacts/%2e%2e/files/../../etc/passwd" + end + b"\r\n")
    return seeds


WORDS = (
    *(b"GET", b"PUT", b"POST", b"HEAD", b"Range", b"bytes=", b"Content-Length", b"ARTIFACT"),
    *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Upgrade: websocket", b"HTTP/1.1"),
    *(b"Content-Encoding: gzip", b"\r\n\r\n", b"/v1/artifacts/", b"files/", b"chunks/", b"%00"),
)

TARGETS = (
    Target(
        "headers",
        headers,
        header_seeds,
        ("meshtrain.artifacts.byterange", "meshtrain.security.signing"),
        share=0.1,
        size_max=600,
        words=WORDS,
    ),
    Target(
        "http",
        raw_http,
        http_seeds,
        (
            "meshtrain.artifacts.server",
            "meshtrain.artifacts.answers",
            "meshtrain.artifacts.bodies",
            "meshtrain.artifacts.uploads",
        ),
        share=0.02,
        size_max=12000,
        words=WORDS,
    ),
)
