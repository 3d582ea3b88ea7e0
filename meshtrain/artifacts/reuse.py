"""Chunks that need not be fetched, since artifacts that are here already hold them.

A fine-tune's manifest names mostly chunks of its base (`artifacts.cutting`). Those
are read from where they lie, verified as if they had come over the network, and
written; only what is new is asked for. Nothing here is trusted, and nothing
promised: an artifact may be removed at any time, or its disk give other bytes,
and what could not be taken is fetched like the rest.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.partial import Partial
from meshtrain.core.manifest import ChunkNumbers
from meshtrain.core.swarm import flags_of
from meshtrain.errors import ArtifactError, CorruptChunkError

CHUNKS_MAX = 1 << 22
"""Of an index: 2 TiB in chunks of about 512 KiB, and 32 MiB of memory."""
_KEY_DIGITS = 16


class ChunkIndex:
    """Which whole artifacts of a store hold which chunks, by 64 bits of their digests.

    It reads each manifest once, when it is first asked after the artifact came,
    and forgets those that have gone; nobody needs to tell it of either. One index
    serves all fetches of a store. All methods block on the disk and may be called
    from any thread.

    Args:
        store: whose artifacts it knows.
        chunks_max: how many chunks it keeps; artifacts beyond that are not looked in.
    """

    def __init__(self, store: ArtifactStore, chunks_max: int = CHUNKS_MAX) -> None:
        self.store = store
        self._chunks_max = chunks_max
        self._keys: dict[str, array[int]] = {}
        """By artifact, in the order of its chunks."""
        self._passed_over: set[str] = set()
        """Artifacts that found no room here; looked at again when another has gone."""
        self._count = 0
        self._lock = threading.Lock()

    @property
    def chunk_count(self) -> int:
        """How many chunks it knows."""
        return self._count

    def holders(self, digests: Mapping[str, object]) -> list[tuple[str, list[int]]]:
        """Where some chunks may be: artifacts and numbers of their chunks, the most first.

        What it names is to be checked against the artifact's manifest: of a digest only
        half is known here.

        Raises:
            ArtifactError: when the store can't be listed.
        """
        wanted = {_key(digest) for digest in digests}
        with self._lock:
            self._catch_up()
            known = list(self._keys.items())
        found = [
            (artifact_id, [number for number, key in enumerate(keys) if key in wanted])
            for artifact_id, keys in known
        ]
        return sorted((hit for hit in found if hit[1]), key=lambda hit: (-len(hit[1]), hit[0]))

    def _catch_up(self) -> None:
        here = self.store.ids()
        gone = self._keys.keys() - set(here)
        for artifact_id in gone:
            self._count -= len(self._keys.pop(artifact_id))
        self._passed_over = set() if gone else self._passed_over & set(here)
        for artifact_id in here:
            if artifact_id in self._keys or artifact_id in self._passed_over:
                continue
            try:
                manifest = self.store.manifest(artifact_id)
            except ArtifactError:
                # Removed in this instant, or damaged: what it holds is fetched.
                continue
            if self._count + manifest.chunk_count > self._chunks_max:
                self._passed_over.add(artifact_id)
                continue
            keys = array("Q", (_key(c.digest) for file in manifest.files for c in file.chunks))
            self._keys[artifact_id] = keys
            self._count += len(keys)


def take_known_chunks(
    partial: Partial, index: ChunkIndex, *, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Takes the chunks that are missing from artifacts that are here; blocks on the disk.

    Args:
        partial: what is being fetched.
        index: of the store that it is fetched into.
        stopped: asked before each chunk; true breaks off.

    Returns:
        The bytes that were taken, and need not be fetched.

    Raises:
        DiskFullError: when there is no room.
        ArtifactError: when the partial can't be written, or was discarded.
    """
    missing = _missing(partial)
    if not missing:
        return 0
    taken_bytes = 0
    for artifact_id, numbers in index.holders(missing):
        for digest, data in _read(index.store, artifact_id, numbers, missing):
            if stopped():
                return taken_bytes
            written_bytes = _write(partial, missing[digest], data)
            if written_bytes is not None:
                taken_bytes += written_bytes
                del missing[digest]
        if not missing:
            break
    return taken_bytes


def _missing(partial: Partial) -> dict[str, list[tuple[int, int]]]:
    """The places, as file and chunk, that chunks are missing in, by digest."""
    here = flags_of(partial.have, partial.numbers.count)
    missing: dict[str, list[tuple[int, int]]] = {}
    number = 0
    for file_index, file in enumerate(partial.manifest.files):
        for chunk_index, chunk in enumerate(file.chunks):
            if not here[number]:
                missing.setdefault(chunk.digest, []).append((file_index, chunk_index))
            number += 1
    return missing


def _read(
    store: ArtifactStore, artifact_id: str, numbers: list[int], wanted: Mapping[str, object]
) -> Iterator[tuple[str, memoryview]]:
    """The wanted ones of an artifact's chunks, unchecked; each is valid until the next is taken.

    Ends early when the artifact goes or can't be read.
    """
    buffer = bytearray(0)
    file: BinaryIO | None = None
    open_index = -1
    try:
        manifest = store.manifest(artifact_id)
        places = ChunkNumbers(manifest)
        for number in numbers:
            if number >= places.count:
                return
            file_index, chunk_index = places.place(number)
            chunk = manifest.files[file_index].chunks[chunk_index]
            if chunk.digest not in wanted:
                continue
            if file is None or file_index != open_index:
                if file is not None:
                    file.close()
                stop = manifest.files[file_index].size_bytes
                file = store.open_verified(artifact_id, file_index, 0, stop)
                open_index = file_index
            if len(buffer) < chunk.size_bytes:
                buffer = bytearray(chunk.size_bytes)
            view = memoryview(buffer)[: chunk.size_bytes]
            if _read_at(file.fileno(), view, chunk.offset):
                yield chunk.digest, view
    except (ArtifactError, OSError):
        return
    finally:
        if file is not None:
            file.close()


def _read_at(fd: int, view: memoryview, offset: int) -> bool:
    while view:
        count = os.preadv(fd, [view], offset)
        if not count:
            return False
        view = view[count:]
        offset += count
    return True


def _write(partial: Partial, places: list[tuple[int, int]], data: memoryview) -> int | None:
    """Puts a chunk in all its places; the bytes that were new, None when they are wrong."""
    written_bytes = 0
    for file_index, chunk_index in places:
        try:
            if partial.write_chunk(file_index, chunk_index, data):
                written_bytes += len(data)
        except CorruptChunkError:
            # The disk gives other bytes than were stored: another artifact may have the right
            # ones, or the network.
            return None
    return written_bytes


def _key(digest: str) -> int:
    return int(digest[:_KEY_DIGITS], 16)
