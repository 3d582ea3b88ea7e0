"""The answers of a server that refuse: JSON, `{"error": "…"}`, and the status that fits."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from meshtrain.artifacts.failures import (
    ChunkNotHereError,
    DiskFullError,
    UnknownArtifactError,
)
from meshtrain.errors import ArtifactError, CorruptChunkError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_JSON = "application/json"
_STATUS = (
    (UnknownArtifactError, 404),
    (ChunkNotHereError, 409),
    (CorruptChunkError, 422),
    (DiskFullError, 507),
    (ArtifactError, 400),
)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns the errors of artifacts into answers."""
    try:
        return await handler(request)
    except ArtifactError as error:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        return refuse(status, str(error))


def refuse(status: int, why: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer that refuses, and says why."""
    return web.json_response({"error": why}, status=status, headers=headers)


def too_large(size_max_bytes: int) -> web.HTTPRequestEntityTooLarge:
    """What to raise when a body goes over its limit."""
    return web.HTTPRequestEntityTooLarge(
        max_size=size_max_bytes,
        actual_size=0,
        text=_text(f"the body has more than {size_max_bytes} bytes. Send less"),
        content_type=_JSON,
    )


def too_slow() -> web.HTTPRequestTimeout:
    """What to raise when a body takes too long to come."""
    return web.HTTPRequestTimeout(
        text=_text("the body came too slowly. Try again"), content_type=_JSON
    )


def encoded() -> web.HTTPUnsupportedMediaType:
    """What to raise when a body comes compressed: what it unpacks to has no limit."""
    return web.HTTPUnsupportedMediaType(
        text=_text("the body has a Content-Encoding. Send it as it is"), content_type=_JSON
    )


def _text(why: str) -> str:
    return json.dumps({"error": why})
