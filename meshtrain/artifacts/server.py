"""Serves a host's artifacts to its peers, over HTTP, and takes uploads where that is allowed.

    GET  /v1/artifacts/{id}/manifest                 canonical bytes
    GET  /v1/artifacts/{id}/have                     the bitmap of the chunks that are here
    GET  /v1/artifacts/{id}/files/{file}             a file, or one Range of it
    PUT  /v1/artifacts/{id}/manifest                 begins an upload
    PUT  /v1/artifacts/{id}/chunks/{file}/{chunk}    one chunk of it
    POST /v1/artifacts/{id}/commit                   ends it

Files and chunks go by their index in the manifest, so that no path from outside
ever reaches the file system. A host that is still fetching serves what it has
verified, and answers 409 for the rest. An answer that refuses is JSON,
`{"error": "…"}`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, ParamSpec, TypeVar

from aiohttp import web

from meshtrain.artifacts.byterange import UnsatisfiableRangeError, parse_range
from meshtrain.artifacts.failures import (
    ChunkNotHereError,
    DiskFullError,
    UnknownArtifactError,
)
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.uploads import UploadLimits, Uploads
from meshtrain.core.manifest import (
    CHUNK_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    ChunkNumbers,
    Manifest,
    canonical_bytes,
    is_digest,
)
from meshtrain.core.swarm import Bits, bits_to_bytes
from meshtrain.errors import ArtifactError, CorruptChunkError

REQUESTS_MAX = 256
BODY_MIN_BYTES_PER_S = 64 << 10
REQUEST_TIMEOUT_S = 60.0
"""What any request may take, besides the time for its body."""
_DISK_THREADS = 8
_SHUTDOWN_S = 1.0
"""What requests under way get to end when the server stops."""
_LINGER_S = 1.0
"""How long a refused body is read on, so that its sender gets to see the refusal."""
_BINARY = "application/octet-stream"

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS = (
    (UnknownArtifactError, 404),
    (ChunkNotHereError, 409),
    (CorruptChunkError, 422),
    (DiskFullError, 507),
    (ArtifactError, 400),
)


class ArtifactServer:
    """An HTTP server over one store.

    Args:
        store: what is served.
        host: the address to bind.
        port: the port to bind; 0 takes a free one.
        accept_uploads: whether peers may put artifacts here.
        requests_max: requests served at a time; more are told to come again (503).
        request_timeout_s: what a request may take besides the time for its body.
        body_min_bytes_per_s: a peer that sends or takes a body more slowly is cut off.
        upload_limits: what uploads may take.
    """

    def __init__(
        self,
        store: ArtifactStore,
        host: str,
        port: int = 0,
        *,
        accept_uploads: bool = False,
        requests_max: int = REQUESTS_MAX,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        body_min_bytes_per_s: int = BODY_MIN_BYTES_PER_S,
        upload_limits: UploadLimits | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._port = port
        self._requests_max = requests_max
        self._request_timeout_s = request_timeout_s
        self._body_min_bytes_per_s = body_min_bytes_per_s
        self._requests = 0
        self._uploads = Uploads(store, upload_limits or UploadLimits())
        self._threads: ThreadPoolExecutor | None = None
        self._runner: web.AppRunner | None = None
        self.app = web.Application(
            middlewares=[self._limit_requests, _answer_errors],
            client_max_size=MANIFEST_BYTES_MAX,
        )
        """The application; routes may be added to it before `start`."""
        self._add_routes(accept_uploads)

    async def start(self) -> str:
        """Binds and serves; returns the base URL.

        Raises:
            ArtifactError: when the address can't be bound.
        """
        self._threads = ThreadPoolExecutor(_DISK_THREADS, "artifact-server")
        self._runner = web.AppRunner(
            self.app, access_log=None, shutdown_timeout=_SHUTDOWN_S, lingering_time=_LINGER_S
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.stop()
            raise ArtifactError(
                f"artifacts can't be served on {self._host}:{self._port}: "
                f"{error.strerror or error}. Set another address or port"
            ) from error
        port = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stops serving; requests under way get a moment to end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
            self._threads = None

    def _add_routes(self, accept_uploads: bool) -> None:
        routes = self.app.router
        routes.add_get("/v1/artifacts/{id}/manifest", self._get_manifest)
        routes.add_get("/v1/artifacts/{id}/have", self._get_have)
        routes.add_get("/v1/artifacts/{id}/files/{file}", self._get_file)
        if accept_uploads:
            routes.add_put("/v1/artifacts/{id}/manifest", self._put_manifest)
            routes.add_put("/v1/artifacts/{id}/chunks/{file}/{chunk}", self._put_chunk)
            routes.add_post("/v1/artifacts/{id}/commit", self._post_commit)

    # --- serving ------------------------------------------------------------

    async def _get_manifest(self, request: web.Request) -> web.StreamResponse:
        data = await self._in_thread(self._manifest_bytes, _id(request))
        return web.Response(body=data, content_type=_BINARY)

    async def _get_have(self, request: web.Request) -> web.StreamResponse:
        data = await self._in_thread(self._have_bytes, _id(request))
        return web.Response(body=data, content_type=_BINARY)

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        artifact_id, file_index = _id(request), _index(request, "file")
        manifest, _ = await self._in_thread(self._look_up, artifact_id)
        if file_index >= len(manifest.files):
            return _refuse(404, f"the artifact has {len(manifest.files)} files, counted from 0")
        size_bytes = manifest.files[file_index].size_bytes
        try:
            wanted = parse_range(request.headers.get("Range"), size_bytes)
        except UnsatisfiableRangeError as error:
            return _refuse(416, str(error), {"Content-Range": f"bytes */{size_bytes}"})
        start, stop = wanted or (0, size_bytes)
        file = await self._in_thread(
            self._store.open_verified, artifact_id, file_index, start, stop
        )
        try:
            return await self._send_range(request, file, start, stop, size_bytes, bool(wanted))
        finally:
            file.close()

    async def _send_range(
        self,
        request: web.Request,
        file: BinaryIO,
        start: int,
        stop: int,
        size_bytes: int,
        partial_content: bool,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=206 if partial_content else 200)
        response.content_type = _BINARY
        response.content_length = stop - start
        response.headers["Accept-Ranges"] = "bytes"
        if partial_content:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size_bytes}"
        await response.prepare(request)
        transport = request.transport
        if request.method == "HEAD" or stop == start:
            await response.write_eof()
            return response
        if transport is None:
            raise ConnectionResetError("the peer is gone")
        limit_s = self._request_timeout_s + (stop - start) / self._body_min_bytes_per_s
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.get_running_loop().sendfile(transport, file, start, stop - start)
        except TimeoutError:
            # The headers are out: breaking the connection is all that tells the peer.
            transport.abort()
            raise ConnectionResetError("the peer takes its answer too slowly") from None
        await response.write_eof()
        return response

    def _look_up(self, artifact_id: str) -> tuple[Manifest, Bits | None]:
        """The manifest of what is here, and which chunks; None where it is whole."""
        partial = self._store.partial(artifact_id)
        if partial is not None and not partial.committed:
            return partial.manifest, partial.have
        return self._store.manifest(artifact_id), None

    def _manifest_bytes(self, artifact_id: str) -> bytes:
        return canonical_bytes(self._look_up(artifact_id)[0])

    def _have_bytes(self, artifact_id: str) -> bytes:
        manifest, have = self._look_up(artifact_id)
        chunk_count = ChunkNumbers(manifest).count
        whole = (1 << chunk_count) - 1
        return bits_to_bytes(whole if have is None else have, chunk_count)

    # --- uploads ------------------------------------------------------------

    async def _put_manifest(self, request: web.Request) -> web.StreamResponse:
        artifact_id = _id(request)
        data = await self._read_body(request, MANIFEST_BYTES_MAX)
        now_s = asyncio.get_running_loop().time()
        began = await self._in_thread(self._uploads.begin, artifact_id, data, now_s)
        if began is None:
            return _refuse(429, "too many uploads are open. Try again later", {"Retry-After": "5"})
        return web.json_response({"whole": began.committed}, status=201)

    async def _put_chunk(self, request: web.Request) -> web.StreamResponse:
        artifact_id = _id(request)
        file_index, chunk_index = _index(request, "file"), _index(request, "chunk")
        if not self._uploads.enter():
            return _refuse(503, "too many chunks at a time. Try again", {"Retry-After": "1"})
        try:
            data = await self._read_body(request, CHUNK_BYTES_MAX)
            await self._in_thread(
                self._uploads.write_chunk, artifact_id, file_index, chunk_index, data
            )
        finally:
            self._uploads.leave()
        return web.Response(status=204)

    async def _post_commit(self, request: web.Request) -> web.StreamResponse:
        artifact_id = _id(request)
        missing_count = await self._in_thread(self._uploads.commit, artifact_id)
        if missing_count:
            return _refuse(409, f"{missing_count} chunks are missing. Put them, then commit")
        return web.json_response({"id": artifact_id})

    async def _read_body(self, request: web.Request, size_max_bytes: int) -> bytes:
        """A request's body, within its size and time."""
        announced_bytes = request.content_length or 0
        if announced_bytes > size_max_bytes:
            raise _too_large(size_max_bytes)
        limit_s = self._request_timeout_s + announced_bytes / self._body_min_bytes_per_s
        body = bytearray()
        try:
            async with asyncio.timeout(limit_s):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > size_max_bytes:
                        raise _too_large(size_max_bytes)
        except TimeoutError:
            raise web.HTTPRequestTimeout(
                text=_error_text("the body came too slowly. Try again"),
                content_type="application/json",
            ) from None
        return bytes(body)

    # --- around all ---------------------------------------------------------

    @web.middleware
    async def _limit_requests(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if self._requests >= self._requests_max:
            return _refuse(503, "too many requests at a time. Try again", {"Retry-After": "1"})
        self._requests += 1
        try:
            return await handler(request)
        finally:
            self._requests -= 1

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ArtifactError as error:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        return _refuse(status, str(error))


def _id(request: web.Request) -> str:
    text = request.match_info["id"]
    if not is_digest(text):
        raise ArtifactError("an artifact's id has 32 lower-case hexadecimal digits. Mend the URL")
    return text


def _index(request: web.Request, name: str) -> int:
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ArtifactError(f"a {name} goes by its index, a number counted from 0. Mend the URL")
    return int(text)


def _refuse(status: int, why: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": why}, status=status, headers=headers)


def _too_large(size_max_bytes: int) -> web.HTTPRequestEntityTooLarge:
    return web.HTTPRequestEntityTooLarge(
        max_size=size_max_bytes,
        actual_size=0,
        text=_error_text(f"the body has more than {size_max_bytes} bytes. Send less"),
        content_type="application/json",
    )


def _error_text(why: str) -> str:
    return json.dumps({"error": why})
