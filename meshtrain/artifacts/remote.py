"""Artifacts that lie elsewhere, looked at without being fetched: manifests and single chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import aiohttp

from meshtrain.artifacts.channel import Channels
from meshtrain.artifacts.flight import Source
from meshtrain.artifacts.holder import (
    Holder,
    HolderError,
    HolderLacksError,
    HttpTimeouts,
    new_session,
)
from meshtrain.artifacts.peers import Peers
from meshtrain.core.manifest import Chunk, Manifest, digest_of, parse_manifest
from meshtrain.core.manifest import artifact_id as id_of
from meshtrain.core.tensor_layout import (
    LENGTH_BYTES,
    Layout,
    header_size_bytes,
    read_layout,
)
from meshtrain.errors import FetchError
from meshtrain.ids import short
from meshtrain.security.signing import HttpSecurity

SOURCES_MAX = 8
"""Asked one after the other for one artifact."""

_T = TypeVar("_T")


class RemoteArtifacts:
    """What the mesh's servers hold; an asynchronous context manager.

    Args:
        security: who asks, and how the servers are known; None asks without keys,
            on loopback only.
        timeouts: how long each is waited for.

    Raises:
        FetchError: by each method, when none of the sources could deliver; names each and why.
        ArtifactError: when what they deliver breaks a rule.
    """

    def __init__(self, security: HttpSecurity | None, timeouts: HttpTimeouts | None = None) -> None:
        self._timeouts = timeouts or HttpTimeouts()
        self._peers = Peers(security) if security is not None else None
        self._session: aiohttp.ClientSession | None = None
        self._channels: Channels | None = None

    async def __aenter__(self) -> Self:
        self._session = new_session(self._timeouts)
        self._channels = Channels(self._timeouts.connect_s, self._timeouts.read_s)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._channels is not None:
            self._channels.close()
        if self._session is not None:
            await self._session.close()

    async def manifest(self, artifact_id: str, sources: Sequence[Source]) -> Manifest:
        """The manifest of an artifact, from the first source that has it."""

        async def ask(holder: Holder) -> bytes:
            data = await holder.manifest()
            if await asyncio.to_thread(digest_of, data) != artifact_id:
                raise HolderError("its manifest is not the one of that id")
            return data

        data = await self._first(artifact_id, sources, ask)
        return await asyncio.to_thread(parse_manifest, data)

    async def layout(
        self, manifest: Manifest, file_index: int, sources: Sequence[Source]
    ) -> Layout | None:
        """Where the tensors of one of its files lie; None when it is no safetensors file."""
        file = manifest.files[file_index]
        head = b""
        wanted_bytes = LENGTH_BYTES + 1
        for chunk in file.chunks:
            if len(head) >= wanted_bytes:
                break
            head += await self._chunk(manifest, file_index, chunk, sources)
            size_bytes = header_size_bytes(head[: LENGTH_BYTES + 1], file.size_bytes)
            if size_bytes is None:
                return None
            wanted_bytes = LENGTH_BYTES + size_bytes
        header = head[LENGTH_BYTES:wanted_bytes]
        return await asyncio.to_thread(read_layout, header, file.size_bytes)

    async def _chunk(
        self, manifest: Manifest, file_index: int, chunk: Chunk, sources: Sequence[Source]
    ) -> bytes:
        async def ask(holder: Holder) -> bytes:
            data = bytearray(chunk.size_bytes)
            await holder.chunk(file_index, chunk, memoryview(data))
            if await asyncio.to_thread(digest_of, data) != chunk.digest:
                raise HolderError("its bytes are corrupt")
            return bytes(data)

        return await self._first(id_of(manifest), sources, ask)

    async def _first(
        self, name: str, sources: Sequence[Source], ask: Callable[[Holder], Awaitable[_T]]
    ) -> _T:
        reasons = []
        for source in sources[:SOURCES_MAX]:
            try:
                return await ask(self._holder(source, name))
            except HolderLacksError:
                reasons.append(f"{source.node_id}: doesn't hold it")
            except HolderError as error:
                reasons.append(f"{source.node_id} ({source.url}): {error}")
        raise FetchError(
            f"artifact {short(name)} could not be looked at: "
            + ("; ".join(reasons) or "no host that can be asked holds it")
            + ". See who holds what: meshtrain bases"
        )

    def _holder(self, source: Source, name: str) -> Holder:
        assert self._session is not None, "it is entered before it is asked"
        peer = None
        if self._peers is not None:
            peer = self._peers.of(source.node_id)
            if peer is None:
                raise HolderError("it is not on this host's list of members, or not any more")
        return Holder(
            self._session, source.url, name, peer, self._timeouts, channels=self._channels
        )
