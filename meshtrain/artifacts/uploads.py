"""Artifacts that others put into a store: how many, how large, and for how long."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import msgspec

from meshtrain.artifacts.failures import UnknownArtifactError
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.partial import Partial
from meshtrain.artifacts.reuse import ChunkIndex, take_known_chunks
from meshtrain.core.manifest import digest_of, parse_manifest
from meshtrain.core.swarm import bits_to_bytes
from meshtrain.errors import ArtifactError, CorruptChunkError
from meshtrain.ids import short


class UploadLimits(msgspec.Struct, frozen=True):
    """What uploads may take of a host."""

    open_max: int = 64
    """Uploads that have begun and not ended."""
    chunks_max: int = 32
    """Chunks that are being received at a time; each is held in memory."""
    manifests_max: int = 4
    """Manifests, likewise."""
    size_max_bytes: int = 64 << 30
    """Of one artifact."""
    idle_max_s: float = 3600.0
    """An upload that got nothing for so long may be removed for another one."""
    reuse_max_s: float = 20.0
    """How long chunks that are here already are taken from there while the sender waits."""


@dataclass(slots=True)
class _Upload:
    partial: Partial
    missing_count: int
    moved_s: float
    """When it was last seen to have got on."""


class Uploads:
    """The uploads into one store. Methods may be called from any thread."""

    def __init__(self, store: ArtifactStore, limits: UploadLimits) -> None:
        self._store = store
        self._limits = limits
        self._known = ChunkIndex(store)
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._open: dict[str, _Upload] = {}
        self._chunks = 0
        self._manifests = 0

    def begin(self, artifact_id: str, manifest_bytes: bytes, now_s: float) -> Partial | None:
        """Begins an upload, or finds it; None when too many are open.

        Raises:
            CorruptChunkError: when the manifest isn't the one that the id names.
            ArtifactError: when it breaks a rule, or is too large.
        """
        if digest_of(manifest_bytes) != artifact_id:
            raise CorruptChunkError(
                f"the manifest has digest {digest_of(manifest_bytes)}, not {artifact_id}. "
                "Send the manifest that the id names"
            )
        manifest = parse_manifest(manifest_bytes)
        if manifest.size_bytes > self._limits.size_max_bytes:
            raise ArtifactError(
                f"artifact {short(artifact_id)} has {manifest.size_bytes:,} bytes, the limit of "
                f"an upload is {self._limits.size_max_bytes:,}. Send less, or raise the limit"
            )
        with self._lock:
            self._clear(now_s)
            if artifact_id not in self._open and len(self._open) >= self._limits.open_max:
                return None
            partial = self._store.begin(manifest)
            if not partial.committed:
                self._open[artifact_id] = _Upload(partial, partial.missing_count, now_s)
        self._take_known_chunks(partial)
        return partial

    def _take_known_chunks(self, partial: Partial) -> None:
        """What artifacts here hold of it needn't be sent; one upload at a time takes it."""
        if not self._taking.acquire(blocking=False):
            return
        try:
            end_s = time.monotonic() + self._limits.reuse_max_s
            take_known_chunks(partial, self._known, stopped=lambda: time.monotonic() > end_s)
        finally:
            self._taking.release()

    def have_bytes(self, artifact_id: str) -> bytes:
        """The bitmap of the chunks that needn't be sent: all, where the artifact is whole.

        Only who uploads asks for it: who fetches is told by `NewsDesk`.

        Raises:
            UnknownArtifactError: when nothing of it is here.
        """
        partial = self._store.partial(artifact_id)
        if partial is not None:
            return bits_to_bytes(partial.have, partial.numbers.count)
        chunk_count = self._store.manifest(artifact_id).chunk_count
        return bits_to_bytes((1 << chunk_count) - 1, chunk_count)

    def write_chunk(self, artifact_id: str, file_index: int, chunk_index: int, data: bytes) -> None:
        """Takes one chunk.

        Raises:
            UnknownArtifactError: when no upload of the artifact is open.
            CorruptChunkError, DiskFullError, ArtifactError: as `Partial.write_chunk` does.
        """
        partial = self._store.partial(artifact_id)
        if partial is not None:
            partial.write_chunk(file_index, chunk_index, data)
        elif not self._store.has(artifact_id):
            raise UnknownArtifactError(
                f"no upload of artifact {short(artifact_id)} is open. Put its manifest first"
            )

    def commit(self, artifact_id: str) -> int:
        """Ends an upload; returns how many chunks are missing, when it can't be ended.

        Raises:
            UnknownArtifactError: when no upload of the artifact is open.
            ArtifactError: as `Partial.commit` does.
        """
        partial = self._store.partial(artifact_id)
        if partial is None:
            if not self._store.has(artifact_id):
                raise UnknownArtifactError(
                    f"no upload of artifact {short(artifact_id)} is open. Put its manifest first"
                )
            return 0
        if partial.missing_count:
            return partial.missing_count
        partial.commit()
        with self._lock:
            self._open.pop(artifact_id, None)
        return 0

    def enter(self) -> bool:
        """Whether one more chunk may be received now; `leave` ends it."""
        with self._lock:
            if self._chunks >= self._limits.chunks_max:
                return False
            self._chunks += 1
            return True

    def leave(self) -> None:
        """A chunk was received, or given up."""
        with self._lock:
            self._chunks -= 1

    def enter_manifest(self) -> bool:
        """Whether one more manifest may be received now; `leave_manifest` ends it."""
        with self._lock:
            if self._manifests >= self._limits.manifests_max:
                return False
            self._manifests += 1
            return True

    def leave_manifest(self) -> None:
        """A manifest was taken, or refused."""
        with self._lock:
            self._manifests -= 1

    def _clear(self, now_s: float) -> None:
        """Forgets what is whole or gone, and removes what nobody goes on with."""
        for artifact_id, upload in list(self._open.items()):
            missing_count = upload.partial.missing_count
            if self._store.partial(artifact_id) is not upload.partial:
                del self._open[artifact_id]
            elif missing_count != upload.missing_count:
                upload.missing_count = missing_count
                upload.moved_s = now_s
            elif now_s - upload.moved_s >= self._limits.idle_max_s:
                upload.partial.discard()
                del self._open[artifact_id]
