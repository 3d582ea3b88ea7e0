"""Files that are being served, kept open from one request for a chunk to the next.

A swarm asks for a file some hundred times; to find and open it each time costs as
much as to send a chunk.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.partial import Partial
from meshtrain.core.manifest import Manifest

FILES_KEPT_MAX = 64
MANIFESTS_KEPT_MAX = 64
KEPT_S = 2.0
"""After so long it is looked up anew; so long a removed artifact may keep its room."""


class _InThread(Protocol):
    async def __call__(self, work: Callable[..., Any], *args: Any) -> Any: ...


@dataclass(slots=True, eq=False)
class OpenFile:
    """A file of an artifact; to be given back by `OpenFiles.release`."""

    file: BinaryIO
    size_bytes: int
    partial: Partial | None
    """Where it is still coming, or was when it was opened."""
    until_s: float
    users: int = 0
    kept: bool = True


class OpenFiles:
    """The open files of one server. Belongs to one event loop.

    Args:
        store: whose files they are.
        in_thread: runs what blocks.
    """

    def __init__(self, store: ArtifactStore, in_thread: _InThread) -> None:
        self._store = store
        self._in_thread = in_thread
        self._open: OrderedDict[tuple[str, int], OpenFile] = OrderedDict()
        self._manifests: dict[str, Manifest] = {}
        """Of whole artifacts, until the next sweep."""
        self._sweep: asyncio.TimerHandle | None = None

    async def manifest(self, artifact_id: str) -> Manifest:
        """The manifest of what is here, whole or not.

        Raises:
            UnknownArtifactError: when nothing of it is here.
        """
        partial = self._store.partial(artifact_id)
        if partial is not None:
            return partial.manifest
        manifest = self._manifests.get(artifact_id)
        if manifest is None:
            manifest = await self._in_thread(self._store.manifest, artifact_id)
            self._manifests[artifact_id] = manifest
            while len(self._manifests) > MANIFESTS_KEPT_MAX:
                del self._manifests[next(iter(self._manifests))]
            self._sweep_later()
        return manifest

    async def get(self, artifact_id: str, file_index: int, start: int, stop: int) -> OpenFile:
        """A file that holds the bytes `start` to `stop - 1`, verified.

        Raises:
            UnknownArtifactError: when nothing of it is here.
            ChunkNotHereError: when some of the range hasn't come yet.
        """
        key = (artifact_id, file_index)
        partial = self._store.partial(artifact_id)
        found = self._open.get(key)
        if found is not None and self._is_good(found, partial, file_index, start, stop):
            self._open.move_to_end(key)
        else:
            file, size_bytes = await self._in_thread(self._look_up, *key, start, stop)
            self._forget(key)
            until_s = asyncio.get_running_loop().time() + KEPT_S
            found = self._open[key] = OpenFile(file, size_bytes, partial, until_s)
            self._sweep_later()
            while len(self._open) > FILES_KEPT_MAX:
                self._forget(next(iter(self._open)))
        found.users += 1
        return found

    def release(self, file: OpenFile) -> None:
        """A request has ended."""
        file.users -= 1
        self._close_unused(file)

    def close(self) -> None:
        """Closes all that nobody uses, and the rest when it is released."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for key in list(self._open):
            self._forget(key)

    def _sweep_later(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEPT_S, self._close_old)

    def _close_old(self) -> None:
        self._sweep = None
        self._manifests.clear()
        now_s = asyncio.get_running_loop().time()
        for key, file in list(self._open.items()):
            if now_s >= file.until_s:
                self._forget(key)
        if self._open:
            self._sweep_later()

    def _is_good(
        self, found: OpenFile, partial: Partial | None, file_index: int, start: int, stop: int
    ) -> bool:
        if asyncio.get_running_loop().time() >= found.until_s or stop > found.size_bytes:
            return False
        if found.partial is None:
            return partial is None
        if found.partial.committed:
            return True
        # One that was discarded and begun anew is another file.
        return found.partial is partial and found.partial.holds(file_index, start, stop)

    def _look_up(
        self, artifact_id: str, file_index: int, start: int, stop: int
    ) -> tuple[BinaryIO, int]:
        file = self._store.open_verified(artifact_id, file_index, start, stop)
        return file, file.seek(0, 2)

    def _forget(self, key: tuple[str, int]) -> None:
        file = self._open.pop(key, None)
        if file is not None:
            file.kept = False
            self._close_unused(file)

    def _close_unused(self, file: OpenFile) -> None:
        if not file.kept and not file.users:
            file.file.close()
