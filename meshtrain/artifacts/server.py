"""Serves a host's artifacts to its peers, over HTTP, and takes uploads where that is allowed.

    GET  /v1/artifacts/{id}/manifest                 canonical bytes
    POST /v1/artifacts/{id}/news                     which chunks may be asked for, as they come
    GET  /v1/artifacts/{id}/files/{file}             a file, or one Range of it
    PUT  /v1/artifacts/{id}/manifest                 begins an upload
    GET  /v1/artifacts/{id}/have                     the bitmap of the chunks that needn't be put
    PUT  /v1/artifacts/{id}/chunks/{file}/{chunk}    one chunk of it
    POST /v1/artifacts/{id}/commit                   ends it

Files and chunks go by their index in the manifest, so that no path from outside
ever reaches the file system. A host that is still fetching serves what it has
verified, and answers 409 for the rest. An answer that refuses is JSON,
`{"error": "…"}`.

With keys, each request is signed (`security.signing`), and bodies go by TLS
unless that is switched off. Without keys nothing but loopback is served.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO, ParamSpec, TypeVar

from aiohttp import web

from meshtrain.artifacts.answers import Handler, answer_errors, refuse
from meshtrain.artifacts.bodies import BodyLimits, read_body, send_file
from meshtrain.artifacts.byterange import UnsatisfiableRangeError, parse_range
from meshtrain.artifacts.enrol import ENROL_PATH, Enrolment
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.guard import Guard, own_names_only
from meshtrain.artifacts.holder import FETCH_HEADER
from meshtrain.artifacts.listener import Listener
from meshtrain.artifacts.news import Follower, NewsDesk
from meshtrain.artifacts.open_files import OpenFiles
from meshtrain.artifacts.turns import Turns
from meshtrain.artifacts.uploads import UploadLimits, Uploads
from meshtrain.core.manifest import (
    CHUNK_BYTES_MAX,
    CHUNKS_MAX,
    MANIFEST_BYTES_MAX,
    canonical_bytes,
    is_digest,
)
from meshtrain.core.token_bucket import TokenBucket
from meshtrain.errors import ArtifactError
from meshtrain.security.loopback import require_loopback
from meshtrain.security.read_tokens import Readers
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.tls import server_context

REQUESTS_MAX = 256
_DISK_THREADS = 8
_BINARY = "application/octet-stream"
_FETCH_NAME = re.compile(r"[0-9a-f]{16}")

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ArtifactServer:
    """An HTTP server over one store.

    Args:
        store: what is served.
        host: the address to bind.
        port: the port to bind; 0 takes a free one.
        accept_uploads: whether peers may put artifacts here.
        security: whose server this is, and who is let in; None serves anybody on
            loopback, and nothing else.
        enrolment: lets those join who have a token; only with `security`.
        enrol_port: the port for them where bodies aren't encrypted: a token never
            goes in the clear. Else they come to `port`.
        readers: who may read `read_paths` by a token; only with `security`.
        read_paths: paths of routes that are added to `app`, with all below them.
        requests_max: requests served at a time; more are told to come again (503).
        body_limits: how slow peers may be.
        upload_limits: what uploads may take.
        sent_bytes_per_s_max: what is sent from here in all; None is no limit.
    """

    def __init__(
        self,
        store: ArtifactStore,
        host: str,
        port: int = 0,
        *,
        accept_uploads: bool = False,
        security: HttpSecurity | None = None,
        enrolment: Enrolment | None = None,
        enrol_port: int = 0,
        readers: Readers | None = None,
        read_paths: Sequence[str] = (),
        requests_max: int = REQUESTS_MAX,
        body_limits: BodyLimits | None = None,
        upload_limits: UploadLimits | None = None,
        sent_bytes_per_s_max: int | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._security = security
        self._enrolment = enrolment
        self._enrol_port = enrol_port
        self._requests_max = requests_max
        self._body_limits = body_limits or BodyLimits()
        self._uplink = TokenBucket(sent_bytes_per_s_max) if sent_bytes_per_s_max else None
        self._turns = Turns()
        self._requests = 0
        self._uploads = Uploads(store, upload_limits or UploadLimits())
        self._desk = NewsDesk(store)
        self._files = OpenFiles(store, self._in_thread)
        self._threads: ThreadPoolExecutor | None = None
        self._listener: Listener | None = None
        self._guard: Guard | None = None
        middlewares = [self._limit_requests, answer_errors]
        if security is not None:
            open_paths = frozenset({ENROL_PATH} if enrolment is not None else ())
            self._guard = Guard(security, open_paths, readers, read_paths)
            middlewares.insert(1, self._guard.admit)
        else:
            middlewares.insert(1, own_names_only)
        self.app = web.Application(middlewares=middlewares, client_max_size=MANIFEST_BYTES_MAX)
        """The application; routes may be added to it before `start`."""
        self.sent_bytes = 0
        """Of files, to peers."""
        self.enrol_url: str | None = None
        """Where people join, once it is started; None where they can't."""
        self._add_routes(accept_uploads)

    async def start(self) -> str:
        """Binds and serves; returns the base URL.

        Raises:
            ArtifactError: when the address can't be bound.
            SettingsError: when it isn't loopback and there are no keys, or when the
                keys can't be used.
        """
        security = self._security
        if security is None:
            require_loopback(self._host, "a server of artifacts")
        tls = server_context(security.identity) if security is not None else None
        encrypt = security is not None and security.encrypt
        self._threads = ThreadPoolExecutor(_DISK_THREADS, "artifact-server")
        self._desk.open()
        self._listener = Listener(self.app)
        try:
            url = await self._listener.listen(self._host, self._port, tls if encrypt else None)
            if self._enrolment is not None and tls is not None:
                self.enrol_url = url
                if not encrypt:
                    self.enrol_url = await self._listener.listen(self._host, self._enrol_port, tls)
        except ArtifactError:
            await self.stop()
            raise
        return url

    async def stop(self) -> None:
        """Stops serving; requests under way get a moment to end."""
        self._desk.close()
        self._files.close()
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
            self._threads = None

    def _add_routes(self, accept_uploads: bool) -> None:
        routes = self.app.router
        routes.add_get("/v1/artifacts/{id}/manifest", self._get_manifest)
        routes.add_post("/v1/artifacts/{id}/news", self._post_news)
        routes.add_get("/v1/artifacts/{id}/files/{file}", self._get_file)
        if accept_uploads:
            routes.add_put("/v1/artifacts/{id}/manifest", self._put_manifest)
            routes.add_get("/v1/artifacts/{id}/have", self._get_have)
            routes.add_put("/v1/artifacts/{id}/chunks/{file}/{chunk}", self._put_chunk)
            routes.add_post("/v1/artifacts/{id}/commit", self._post_commit)
        if self._enrolment is not None and self._security is not None:
            routes.add_post(ENROL_PATH, self._enrolment.answer)

    # --- serving ------------------------------------------------------------

    async def _get_manifest(self, request: web.Request) -> web.StreamResponse:
        manifest = await self._files.manifest(_id(request))
        data = await self._in_thread(canonical_bytes, manifest)
        return web.Response(body=data, content_type=_BINARY)

    async def _post_news(self, request: web.Request) -> web.StreamResponse:
        artifact_id = _id(request)
        name = request.headers.get(FETCH_HEADER, "")
        if _FETCH_NAME.fullmatch(name) is None:
            return refuse(400, f"the {FETCH_HEADER} header names no fetch. Send 16 hex digits")
        had_bytes = await self._read_body(request, (CHUNKS_MAX + 7) // 8)
        if had_bytes is None:
            return self._refuse_body()
        follower = self._desk.enter(
            artifact_id, name, had_bytes, is_there=lambda: request.transport is not None
        )
        if follower is None:
            return refuse(503, "too many follow artifacts here. Try again", {"Retry-After": "1"})
        # No answer to be waited for, and bounded by the desk.
        self._requests -= 1
        try:
            await self._desk.begin(follower)
            return await self._send_news(request, follower)
        finally:
            self._requests += 1
            self._desk.leave(follower)

    async def _send_news(self, request: web.Request, follower: Follower) -> web.StreamResponse:
        guard = self._guard
        response = web.StreamResponse()
        response.content_type = _BINARY
        response.enable_chunked_encoding()
        await response.prepare(request)
        # A follower that has gone is told of nothing more, and missed by nobody.
        with suppress(ConnectionResetError, TimeoutError):
            while (frame := await self._desk.next(follower)) is not None:
                if guard is not None and not guard.may_go_on(request):
                    break
                async with asyncio.timeout(self._body_limits.request_timeout_s):
                    await response.write(frame)
            await response.write_eof()
        return response

    async def _get_file(self, request: web.Request) -> web.StreamResponse:
        artifact_id, file_index = _id(request), _index(request, "file")
        manifest = await self._files.manifest(artifact_id)
        if file_index >= len(manifest.files):
            return refuse(404, f"the artifact has {len(manifest.files)} files, counted from 0")
        size_bytes = manifest.files[file_index].size_bytes
        try:
            wanted = parse_range(request.headers.get("Range"), size_bytes)
        except UnsatisfiableRangeError as error:
            return refuse(416, str(error), {"Content-Range": f"bytes */{size_bytes}"})
        start, stop = wanted or (0, size_bytes)
        file = await self._files.get(artifact_id, file_index, start, stop)
        try:
            async with self._turns.turn():
                response = await self._send_range(
                    request, file.file, start, stop, size_bytes, bool(wanted)
                )
        finally:
            self._files.release(file)
        self.sent_bytes += stop - start if request.method == "GET" else 0
        if request.method == "GET":
            name = request.headers.get(FETCH_HEADER, "")
            self._desk.gave(artifact_id, name, file_index, start, stop)
        return response

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
        if request.method == "HEAD" or stop == start:
            await response.write_eof()
        else:
            guard = self._guard
            await send_file(
                request,
                response,
                file,
                start,
                stop,
                self._body_limits,
                lambda: guard is None or guard.may_go_on(request),
                self._uplink,
            )
        return response

    # --- uploads ------------------------------------------------------------

    async def _put_manifest(self, request: web.Request) -> web.StreamResponse:
        artifact_id = _id(request)
        if not self._uploads.enter_manifest():
            return refuse(503, "too many manifests at a time. Try again", {"Retry-After": "1"})
        try:
            data = await self._read_body(request, MANIFEST_BYTES_MAX)
            if data is None:
                return self._refuse_body()
            now_s = asyncio.get_running_loop().time()
            began = await self._in_thread(self._uploads.begin, artifact_id, data, now_s)
        finally:
            self._uploads.leave_manifest()
        if began is None:
            return refuse(429, "too many uploads are open. Try again later", {"Retry-After": "5"})
        return web.json_response({"whole": began.committed}, status=201)

    async def _get_have(self, request: web.Request) -> web.StreamResponse:
        data = await self._in_thread(self._uploads.have_bytes, _id(request))
        return web.Response(body=data, content_type=_BINARY)

    async def _put_chunk(self, request: web.Request) -> web.StreamResponse:
        artifact_id = _id(request)
        file_index, chunk_index = _index(request, "file"), _index(request, "chunk")
        if not self._uploads.enter():
            return refuse(503, "too many chunks at a time. Try again", {"Retry-After": "1"})
        try:
            data = await self._read_body(request, CHUNK_BYTES_MAX)
            if data is None:
                return self._refuse_body()
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
            return refuse(409, f"{missing_count} chunks are missing. Put them, then commit")
        return web.json_response({"id": artifact_id})

    async def _read_body(self, request: web.Request, size_max_bytes: int) -> bytes | None:
        """A request's body; None when it isn't the one that was signed, or its sender left."""
        body = await read_body(request, size_max_bytes, self._body_limits)
        guard = self._guard
        if guard is None:
            return body
        is_signed = await self._in_thread(guard.is_signed_body, request, body)
        return body if is_signed and guard.may_go_on(request) else None

    def _refuse_body(self) -> web.Response:
        assert self._guard is not None
        return self._guard.challenge(
            "the body is not the one that was signed, or its sender is no member any more. "
            "Send it again"
        )

    # --- around all ---------------------------------------------------------

    @web.middleware
    async def _limit_requests(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._requests >= self._requests_max:
            return refuse(503, "too many requests at a time. Try again", {"Retry-After": "1"})
        self._requests += 1
        try:
            return await handler(request)
        finally:
            self._requests -= 1

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))


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
