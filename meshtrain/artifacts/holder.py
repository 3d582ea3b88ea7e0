"""The client's side of `artifacts.server`: one peer, asked for one artifact."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from yarl import URL

from meshtrain.artifacts.channel import ChannelError, Channels, Reply
from meshtrain.artifacts.news_frames import (
    FRAMES_PER_S_MAX,
    LENGTH_BYTES,
    Frame,
    frame_length,
    read_frame,
)
from meshtrain.artifacts.peers import Peer
from meshtrain.core.manifest import MANIFEST_BYTES_MAX, Chunk
from meshtrain.core.swarm import Bits, bits_from_bytes
from meshtrain.errors import ProtocolError
from meshtrain.security.signing import NO_BODY, Asked

_ERROR_BYTES_MAX = 4096
_REASON_CHARS_MAX = 500
"""Of what a peer says went wrong, or the parser of it."""
_READ_BYTES = 256 << 10
"""Read ahead of each answer; less costs time, with TLS above all."""
_BUSY = {429, 503}
_LACKS = {404, 409}
_SIGNED_TRIES_MAX = 3
"""The nonce may have changed, and a request may reach a server twice on its way."""
_NONCE_PATH = "/v1/nonce"
"""No such page: whoever asks for it without a signature is told the nonce."""
_HASH_HERE_BYTES_MAX = 64 << 10
"""Hashing more is left to a thread."""


class HttpTimeouts(msgspec.Struct, frozen=True):
    """How long a peer is waited for."""

    connect_s: float = 5.0
    read_s: float = 30.0
    """Without a byte."""
    request_s: float = 60.0
    """For one request, besides the time for its body."""
    min_bytes_per_s: int = 64 << 10
    """A peer that sends or takes a body more slowly is given up."""

    def for_body_s(self, body_bytes: int) -> float:
        """For one request with such a body, whichever way it goes."""
        return self.request_s + body_bytes / self.min_bytes_per_s

    def between_bytes(self) -> aiohttp.ClientTimeout:
        """What aiohttp watches; the time of the whole is watched by who asks."""
        return aiohttp.ClientTimeout(sock_connect=self.connect_s, sock_read=self.read_s)


FETCH_HEADER = "X-Fetch"
"""Which stream of news a request for a chunk follows from."""


class HolderError(Exception):
    """Raised when a peer can't be reached, or answers other than asked."""


class HolderBusyError(HolderError):
    """Raised when a peer asks for patience."""


class HolderLacksError(HolderError):
    """Raised when a peer doesn't have what is asked."""


class HolderRefusesError(HolderError):
    """Raised when a peer refuses what was sent, for good."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def new_session(timeouts: HttpTimeouts | None = None) -> aiohttp.ClientSession:
    """A session fit for peers: no proxies, no cookies, and every wait has its end."""
    limits = timeouts or HttpTimeouts()
    return aiohttp.ClientSession(
        # The number of requests is bounded where they are chosen.
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=limits.between_bytes(),
        auto_decompress=False,
        read_bufsize=_READ_BYTES,
        trust_env=False,
    )


class Holder:
    """A peer that may hold an artifact.

    Args:
        session: from `new_session`.
        url: the peer's base URL.
        artifact_id: the artifact.
        channels: the connections that chunks come over; needed for `chunk` alone.
        fetch_name: what this fetch is known by to the peer.
        peer: who that is, for requests that are signed; None asks without keys,
            and only on loopback.
        timeouts: how long it is waited for.

    Raises:
        HolderError: by each method, when the peer fails; its kind tells how.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        artifact_id: str,
        peer: Peer | None = None,
        timeouts: HttpTimeouts | None = None,
        channels: Channels | None = None,
        fetch_name: str = "",
    ) -> None:
        self._channels = channels
        self._fetch_name = fetch_name
        self._session = session
        self._url = url.rstrip("/")
        self._artifact_id = artifact_id
        self._peer = peer
        self._timeouts = timeouts or HttpTimeouts()

    async def manifest(self) -> bytes:
        """The manifest's bytes, unchecked."""
        async with self._request("GET", "manifest") as answer:
            return await answer.read(MANIFEST_BYTES_MAX)

    async def page(self, path: str, size_max_bytes: int) -> bytes:
        """Something else that the peer's server tells: `path` begins with `/`."""
        async with self._request("GET", path) as answer:
            return await answer.read(size_max_bytes)

    async def news(self, have: bytes) -> AsyncIterator[Frame]:
        """What the peer shows, and what more, until it has no more to tell.

        Args:
            have: the bitmap of what is here already.
        """
        headers = {FETCH_HEADER: self._fetch_name}
        async with self._request("POST", "news", data=have, headers=headers) as answer:
            now_s = asyncio.get_running_loop().time
            paid_until_s = 0.0
            while (frame := await answer.frame()) is not None:
                yield frame
                # One that tells without end would keep the event loop from all else.
                paid_until_s = max(paid_until_s, now_s() - 1.0) + 1 / FRAMES_PER_S_MAX
                if paid_until_s > now_s():
                    await asyncio.sleep(paid_until_s - now_s())

    async def chunk(self, file_index: int, chunk: Chunk, into: memoryview) -> None:
        """Fills `into` with a chunk's bytes, unchecked; it has to be as long as the chunk."""
        await self.chunks(file_index, [chunk], [into], lambda number: None)

    async def chunks(
        self,
        file_index: int,
        chunks: Sequence[Chunk],
        into: Sequence[memoryview],
        on_chunk: Callable[[int], None],
    ) -> None:
        """Fills buffers with the bytes of chunks that lie side by side in a file, unchecked.

        Args:
            into: one buffer for each, as long as the chunk.
            on_chunk: called with the number of each, in their order, as it is full.
        """
        assert self._channels is not None
        limits = self._timeouts
        stop = chunks[-1].offset + chunks[-1].size_bytes
        range_ = f"bytes={chunks[0].offset}-{stop - 1}"
        size_bytes = stop - chunks[0].offset
        tls = self._peer.tls if self._peer is not None else None
        try:
            async with asyncio.timeout(limits.for_body_s(size_bytes)):
                url = self._check(self._url_of(f"files/{file_index}"))
                for tries_left in reversed(range(_SIGNED_TRIES_MAX)):
                    headers = await self._headers("GET", url, range_, NO_BODY)
                    headers[FETCH_HEADER] = self._fetch_name
                    reply = await self._channels.get(
                        url,
                        tls if url.scheme == "https" else None,
                        _head(url, headers),
                        into,
                        on_chunk,
                    )
                    if reply.status == 206:
                        return
                    if reply.status == 401 and tries_left and self._learns_from(reply.headers):
                        continue
                    raise _refused(reply.status, _why(reply))
        except TimeoutError as error:
            raise HolderError("it did not answer in time") from error
        except (ChannelError, aiohttp.ClientError, OSError, ValueError) as error:
            told = str(error) or type(error).__name__
            raise HolderError(told[:_REASON_CHARS_MAX]) from error

    async def put_manifest(self, data: bytes) -> None:
        """Begins an upload."""
        async with self._request("PUT", "manifest", data=data):
            pass

    async def have(self, chunk_count: int) -> Bits:
        """Which chunks of an upload needn't be put, since the peer has them."""
        size_bytes = (chunk_count + 7) // 8
        async with self._request("GET", "have") as answer:
            data = await answer.read(size_bytes)
        if len(data) != size_bytes:
            raise HolderError(f"its bitmap has {len(data)} bytes, not {size_bytes}")
        return bits_from_bytes(data)

    async def put_chunk(self, file_index: int, chunk_index: int, data: bytes) -> None:
        """Sends one chunk."""
        async with self._request("PUT", f"chunks/{file_index}/{chunk_index}", data=data):
            pass

    async def commit(self) -> None:
        """Ends an upload."""
        async with self._request("POST", "commit"):
            pass

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[_Answer]:
        limits = self._timeouts
        try:
            url = self._check(self._url_of(path))
            async with asyncio.timeout(limits.for_body_s(len(data or b""))) as limit:
                body_sha256 = await _sha256(data) if self._peer is not None else NO_BODY
                for tries_left in reversed(range(_SIGNED_TRIES_MAX)):
                    async with self._session.request(
                        method,
                        url,
                        headers=(headers or {}) | await self._headers(method, url, "", body_sha256),
                        data=data,
                        allow_redirects=False,
                        ssl=self._tls(),
                        timeout=limits.between_bytes(),
                    ) as response:
                        learns = self._learns_from(response.headers)
                        if response.status == 401 and tries_left and learns:
                            continue
                        if response.status >= 300:
                            raise await _refusal(response)
                        yield _Answer(response, limit, limits)
                        return
        except TimeoutError as error:
            raise HolderError("it did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            told = str(error) or type(error).__name__
            raise HolderError(told[:_REASON_CHARS_MAX]) from error

    async def _headers(
        self, method: str, url: URL, range_: str, body_sha256: str
    ) -> dict[str, str]:
        headers = {"Range": range_} if range_ else {}
        if self._peer is not None:
            if not self._peer.signer.knows_nonce:
                await self._learn_nonce(self._peer)
            asked = Asked(method, url.raw_path_qs, range_)
            headers["Authorization"] = self._peer.signer.sign(asked, body_sha256)
        return headers

    async def _learn_nonce(self, peer: Peer) -> None:
        """Asks without a signature, and without a body that would be sent for nothing."""
        async with peer.learning:
            if peer.signer.knows_nonce:
                return
            async with self._session.get(
                self._check(URL(self._url + _NONCE_PATH)),
                allow_redirects=False,
                ssl=self._tls(),
                timeout=self._timeouts.between_bytes(),
            ) as response:
                if response.status in _BUSY:
                    raise await _refusal(response)
                if response.status != 401 or not self._learns_from(response.headers):
                    raise HolderError(
                        f"it answered {response.status} and told no nonce to sign over: it serves "
                        "without membership, or is another kind of server"
                    )

    def _learns_from(self, headers: Mapping[str, str]) -> bool:
        challenge = headers.get("WWW-Authenticate") or headers.get("www-authenticate")
        return self._peer is not None and self._peer.signer.learn(challenge)

    def _url_of(self, path: str) -> URL:
        if path.startswith("/"):
            return URL(self._url + path)
        return URL(f"{self._url}/v1/artifacts/{self._artifact_id}/{path}")

    def _check(self, url: URL) -> URL:
        """Refuses addresses that this host's settings don't allow."""
        if self._peer is None:
            if url.scheme == "http" and not _is_loopback(url.host or ""):
                raise HolderError(
                    "it is not on loopback, where alone hosts without keys are asked. Join the "
                    "mesh with a token"
                )
        elif self._peer.encrypt and url.scheme != "https":
            raise HolderError(
                "it serves in the clear, which this host's artifacts.encrypt forbids. Set that "
                "alike on all hosts"
            )
        return url

    def _tls(self) -> ssl.SSLContext | bool:
        return True if self._peer is None else self._peer.tls


class _Answer:
    """An answer whose body has not been read yet."""

    def __init__(
        self, response: aiohttp.ClientResponse, limit: asyncio.Timeout, timeouts: HttpTimeouts
    ) -> None:
        self.status = response.status
        self._response = response
        self._limit = limit
        self._timeouts = timeouts

    async def read(self, size_max_bytes: int) -> bytes:
        """The body; each part of it that comes gives the rest its time."""
        announced_bytes = self._response.content_length
        if announced_bytes is not None and announced_bytes > size_max_bytes:
            raise HolderError(
                f"it sends {announced_bytes} bytes, at most {size_max_bytes} were due"
            )
        begun_s = asyncio.get_running_loop().time()
        body = bytearray()
        async for piece in self._response.content.iter_any():
            body += piece
            if len(body) > size_max_bytes:
                raise HolderError(f"it sends more than the {size_max_bytes} bytes that were due")
            self._limit.reschedule(begun_s + self._timeouts.for_body_s(len(body)))
        return bytes(body)

    async def frame(self) -> Frame | None:
        """The next frame of news; None at the end. Each gives the rest its time."""
        loop = asyncio.get_running_loop()
        self._limit.reschedule(loop.time() + self._timeouts.request_s)
        content = self._response.content
        try:
            prefix = await content.readexactly(LENGTH_BYTES)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise HolderError("its news broke off") from error
            return None
        try:
            return read_frame(await content.readexactly(frame_length(prefix)))
        except asyncio.IncompleteReadError as error:
            raise HolderError("its news broke off") from error
        except ProtocolError as error:
            raise HolderError(str(error)) from error


def _head(url: URL, headers: Mapping[str, str]) -> bytes:
    """A request without a body, as it goes over a channel."""
    lines = [f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.raw_authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _sha256(data: bytes | None) -> str:
    if not data:
        return NO_BODY
    if len(data) <= _HASH_HERE_BYTES_MAX:
        return hashlib.sha256(data).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def error_in(response: aiohttp.ClientResponse) -> str:
    """What an answer that refuses says: its status and why."""
    data = await response.content.read(_ERROR_BYTES_MAX)
    return _told(response.status, data, response.reason or "")


def _told(status: int, data: bytes, otherwise: str) -> str:
    try:
        why = str(json.loads(data.decode("utf-8", "replace"))["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        why = otherwise
    return f"{status}: {why}"[:_REASON_CHARS_MAX]


def _why(reply: Reply) -> str:
    return _told(reply.status, reply.body, "")


async def _refusal(response: aiohttp.ClientResponse) -> HolderError:
    return _refused(response.status, await error_in(response))


def _refused(status: int, told: str) -> HolderError:
    if status in _BUSY:
        return HolderBusyError(told)
    if status in _LACKS:
        return HolderLacksError(told)
    return HolderRefusesError(status, told)
