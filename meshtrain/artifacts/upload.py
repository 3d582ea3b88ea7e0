"""Puts a folder into another host's store, sending only what it lacks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from meshtrain.artifacts.chunking import build_manifest
from meshtrain.artifacts.disk import read_at
from meshtrain.artifacts.failures import DiskFullError, disk_errors
from meshtrain.artifacts.holder import (
    Holder,
    HolderBusyError,
    HolderError,
    HolderLacksError,
    HolderRefusesError,
    HttpTimeouts,
    new_session,
)
from meshtrain.artifacts.peers import Peer, Peers
from meshtrain.artifacts.snapshot import snapshot_manifest
from meshtrain.core.manifest import (
    ChunkNumbers,
    FileEntry,
    Manifest,
    artifact_id,
    canonical_bytes,
    digest_of,
)
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.swarm import flags_of
from meshtrain.errors import ArtifactError
from meshtrain.ids import short
from meshtrain.security.signing import HttpSecurity

_NO_ROOM_STATUS = 507

_T = TypeVar("_T")


class UploadSteps(Protocol):
    """Is told how an upload goes on."""

    def hashed(self, size_bytes: int) -> None:
        """So many more bytes were read and hashed."""
        ...

    def lacks(self, size_bytes: int) -> None:
        """All is hashed, and the other side lacks so many bytes."""
        ...

    def sent(self, size_bytes: int) -> None:
        """So many more of them were sent."""
        ...


class UploadRetries(msgspec.Struct, frozen=True):
    """How often a request is made again before the upload is given up."""

    failures_max: int = 4
    busy_max: int = 60
    wait_s: float = 0.25
    """After the first failure; doubles."""
    wait_max_s: float = 2.0


async def upload_tree(
    folder: Path,
    url: str,
    *,
    files: Sequence[str] | None = None,
    connections: int = 4,
    retries: UploadRetries | None = None,
    timeouts: HttpTimeouts | None = None,
    security: HttpSecurity | None = None,
    node_id: str = MASTER_NODE_ID,
    steps: UploadSteps | None = None,
) -> str:
    """Uploads a folder; returns the id of the artifact.

    Args:
        folder: what is uploaded.
        url: the base URL of a server that accepts uploads.
        files: relative paths of the files to take, as `snapshot_files` gives
            them; None takes all that is in the folder.
        connections: chunks sent at a time.
        retries: how often a request is made again.
        timeouts: how long the other side is waited for.
        security: who uploads, and how the other side is known; None uploads without
            keys, on loopback only.
        node_id: whose server `url` is, with `security`.
        steps: told how it goes on; the hashing from a thread.

    Raises:
        DiskFullError: when the other side has no room.
        ArtifactError: when it can't be reached or refuses, or when a file
            changes meanwhile.
        UserError: when one of `files` can't be part of a snapshot.
    """
    on_read = steps.hashed if steps is not None else None
    if files is None:
        manifest = await asyncio.to_thread(build_manifest, folder, on_read)
    else:
        manifest = await asyncio.to_thread(snapshot_manifest, folder, files, on_read)
    name = artifact_id(manifest)
    peer = _peer(security, node_id) if security is not None else None
    async with new_session(timeouts) as session:
        holder = Holder(session, url, name, peer, timeouts)
        upload = _Upload(folder, manifest, holder, retries or UploadRetries(), steps)
        try:
            await upload.run(connections)
        except HolderError as error:
            kind: type[ArtifactError] = ArtifactError
            if isinstance(error, HolderRefusesError) and error.status == _NO_ROOM_STATUS:
                kind = DiskFullError
            raise kind(
                f"artifact {short(name)} could not be uploaded to {url}: {error}. Mend that and "
                "try again: what has come there is kept"
            ) from error
    return name


def _peer(security: HttpSecurity, node_id: str) -> Peer:
    peer = Peers(security).of(node_id)
    if peer is None:
        raise ArtifactError(
            f"nothing can be uploaded to {node_id}: it is not on this host's list of members. "
            "Join the mesh with a token (`meshtrain token` where the master runs)"
        )
    return peer


class _Upload:
    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        holder: Holder,
        retries: UploadRetries,
        steps: UploadSteps | None,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._numbers = ChunkNumbers(manifest)
        self._holder = holder
        self._retries = retries
        self._steps = steps

    async def run(self, connections: int) -> None:
        manifest_bytes = canonical_bytes(self._manifest)
        await self._insist(lambda: self._holder.put_manifest(manifest_bytes))
        have = await self._insist(lambda: self._holder.have(self._numbers.count))
        here = flags_of(have, self._numbers.count)
        if self._steps is not None:
            self._steps.lacks(self._size_bytes(n for n, is_here in enumerate(here) if not is_here))
        missing = (number for number, is_here in enumerate(here) if not is_here)
        senders = [asyncio.create_task(self._send_all(missing)) for _ in range(connections)]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.wait(senders)
        await self._insist(self._holder.commit)

    async def _send_all(self, missing: Iterator[int]) -> None:
        for number in missing:
            file_index, chunk_index = self._numbers.place(number)
            file = self._manifest.files[file_index]
            data = await asyncio.to_thread(self._read, file, chunk_index)
            await self._insist(
                functools.partial(self._holder.put_chunk, file_index, chunk_index, data)
            )
            if self._steps is not None:
                self._steps.sent(len(data))

    def _size_bytes(self, numbers: Iterator[int]) -> int:
        total_bytes = 0
        for number in numbers:
            file_index, chunk_index = self._numbers.place(number)
            total_bytes += self._manifest.files[file_index].chunks[chunk_index].size_bytes
        return total_bytes

    def _read(self, file: FileEntry, chunk_index: int) -> bytes:
        chunk = file.chunks[chunk_index]
        path = self._folder / file.path
        with disk_errors(f"reading {path}"):
            data = read_at(path, chunk.offset, chunk.size_bytes)
        if digest_of(data) != chunk.digest:
            raise ArtifactError(
                f"{path} changed while it was being uploaded. Try again when nothing writes to it"
            )
        return data

    async def _insist(self, request: Callable[[], Awaitable[_T]]) -> _T:
        """Makes a request until it succeeds, is refused, or the retries are used up."""
        failures = refusals = 0
        while True:
            try:
                return await request()
            except (HolderRefusesError, HolderLacksError):
                raise
            except HolderBusyError:
                refusals += 1
                if refusals > self._retries.busy_max:
                    raise
            except HolderError:
                failures += 1
                if failures > self._retries.failures_max:
                    raise
            wait_s = self._retries.wait_s * 2 ** min(failures + refusals - 1, 16)
            await asyncio.sleep(min(wait_s, self._retries.wait_max_s))
