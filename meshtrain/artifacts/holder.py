"""The client's side of `artifacts.server`: one peer, asked for one artifact."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from meshtrain.core.manifest import CHUNK_BYTES_MAX, MANIFEST_BYTES_MAX, Chunk
from meshtrain.core.swarm import Bits, bits_from_bytes

_ERROR_BYTES_MAX = 4096
_BUSY = {429, 503}
_LACKS = {404, 409}


class HttpTimeouts(msgspec.Struct, frozen=True):
    """How long a peer is waited for."""

    connect_s: float = 5.0
    read_s: float = 30.0
    """Without a byte."""
    total_s: float = 300.0
    """For one request."""


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
        timeout=aiohttp.ClientTimeout(
            total=limits.total_s, sock_connect=limits.connect_s, sock_read=limits.read_s
        ),
        auto_decompress=False,
        trust_env=False,
    )


class Holder:
    """A peer that may hold an artifact.

    Args:
        session: from `new_session`.
        url: the peer's base URL.
        artifact_id: the artifact.

    Raises:
        HolderError: by each method, when the peer fails; its kind tells how.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, artifact_id: str) -> None:
        self._session = session
        self._base = f"{url.rstrip('/')}/v1/artifacts/{artifact_id}"

    async def manifest(self) -> bytes:
        """The manifest's bytes, unchecked."""
        async with self._request("GET", "manifest") as response:
            return await _read_up_to(response, MANIFEST_BYTES_MAX)

    async def have(self, chunk_count: int) -> Bits:
        """Which chunks the peer says it holds."""
        size_bytes = (chunk_count + 7) // 8
        async with self._request("GET", "have") as response:
            data = await _read_up_to(response, size_bytes)
        if len(data) != size_bytes:
            raise HolderError(f"its bitmap has {len(data)} bytes, not {size_bytes}")
        return bits_from_bytes(data)

    async def chunk(self, file_index: int, chunk: Chunk) -> bytes:
        """A chunk's bytes, unchecked."""
        stop = chunk.offset + chunk.size_bytes - 1
        wanted = {"Range": f"bytes={chunk.offset}-{stop}"}
        async with self._request("GET", f"files/{file_index}", headers=wanted) as response:
            if response.status != 206:
                raise HolderError(f"it answered {response.status} to a request for a range")
            data = await _read_up_to(response, min(chunk.size_bytes, CHUNK_BYTES_MAX))
        if len(data) != chunk.size_bytes:
            raise HolderError(f"it sent {len(data)} bytes of {chunk.size_bytes}")
        return data

    async def put_manifest(self, data: bytes) -> None:
        """Begins an upload."""
        async with self._request("PUT", "manifest", data=data):
            pass

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
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(
                method, f"{self._base}/{path}", headers=headers, data=data, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise await _refusal(response)
                yield response
        except TimeoutError as error:
            raise HolderError("it did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HolderError(str(error) or type(error).__name__) from error


async def _read_up_to(response: aiohttp.ClientResponse, size_max_bytes: int) -> bytes:
    announced_bytes = response.content_length
    if announced_bytes is not None and announced_bytes > size_max_bytes:
        raise HolderError(f"it sends {announced_bytes} bytes, at most {size_max_bytes} were due")
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > size_max_bytes:
            raise HolderError(f"it sends more than the {size_max_bytes} bytes that were due")
    return bytes(body)


async def _refusal(response: aiohttp.ClientResponse) -> HolderError:
    text = (await response.content.read(_ERROR_BYTES_MAX)).decode("utf-8", "replace")
    try:
        why = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        why = response.reason or ""
    told = f"{response.status}: {why}"
    if response.status in _BUSY:
        return HolderBusyError(told)
    if response.status in _LACKS:
        return HolderLacksError(told)
    return HolderRefusesError(response.status, told)
