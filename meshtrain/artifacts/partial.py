"""An artifact that is still coming: files of full size, and a bitmap of what is verified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from meshtrain import failpoints
from meshtrain.artifacts.disk import (
    Bytes,
    fsync_path,
    preallocate,
    read_at,
    write_at,
    write_durably,
)
from meshtrain.artifacts.failures import ChunkNotHereError, disk_errors
from meshtrain.artifacts.tree import FILES_NAME, MANIFEST_NAME, seal
from meshtrain.artifacts.whole_digest import WholeDigest
from meshtrain.core.manifest import (
    ChunkNumbers,
    FileEntry,
    Manifest,
    canonical_bytes,
    digest_of,
)
from meshtrain.core.swarm import Bits, bits_from_bytes, bits_to_bytes, flags_of
from meshtrain.errors import ArtifactError, CorruptChunkError
from meshtrain.ids import short

HAVE_NAME = "have"


class _State(Enum):
    OPEN = auto()
    COMMITTED = auto()
    DISCARDED = auto()


class Partial:
    """An artifact on its way into the store; got from `ArtifactStore.begin`.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        artifact_id: str,
        manifest: Manifest,
        folder: Path,
        *,
        have: Bits,
        committed: bool,
        on_commit: Callable[[Partial], None],
        on_discard: Callable[[Partial], None],
    ) -> None:
        self.artifact_id = artifact_id
        self.manifest = manifest
        self.numbers = ChunkNumbers(manifest)
        self.folder = folder
        self._all: Bits = (1 << self.numbers.count) - 1
        self._have = self._all if committed else have
        self._writing: set[int] = set()
        self._digests: dict[int, WholeDigest] = {}
        self._state = _State.COMMITTED if committed else _State.OPEN
        self._lock = threading.Condition()
        self._commit_lock = threading.Lock()
        self._on_commit = on_commit
        self._on_discard = on_discard
        self.on_have: Callable[[], None] | None = None
        """Called in any thread when more is here, or all of it is in the store."""

    @property
    def have(self) -> Bits:
        """The numbers of the chunks that are here and verified, as a set of bits."""
        return self._have

    @property
    def missing_count(self) -> int:
        """How many chunks are still to come."""
        return (self._all & ~self._have).bit_count()

    @property
    def committed(self) -> bool:
        """Whether the artifact is whole in the store, by this partial or another way."""
        return self._state is _State.COMMITTED

    @property
    def missing_bytes(self) -> int:
        """The bytes of the chunks that are still to come."""
        chunks = (chunk for file in self.manifest.files for chunk in file.chunks)
        have = flags_of(self._have, self.numbers.count)
        return sum(c.size_bytes for c, here in zip(chunks, have, strict=True) if not here)

    def write_chunk(self, file_index: int, chunk_index: int, data: Bytes) -> bool:
        """Checks a chunk and puts it in its place; says whether it was new.

        Raises:
            CorruptChunkError: when its digest or size is not the promised one.
            DiskFullError: when there is no room.
            ArtifactError: when there is no such chunk, it can't be written, or
                the partial was discarded.
        """
        (result,) = self.write_chunks(file_index, [(chunk_index, data)])
        if isinstance(result, CorruptChunkError):
            raise result
        return result

    def write_chunks(
        self, file_index: int, chunks: Sequence[tuple[int, Bytes]]
    ) -> list[bool | CorruptChunkError]:
        """Checks chunks of one file, and puts them in their places.

        Args:
            chunks: the index of each, and its bytes.

        Returns:
            Of each in turn whether it was new, or what is wrong with it.

        Raises:
            DiskFullError: when there is no room; none counts as written then.
            ArtifactError: when there is no such chunk, they can't be written, or
                the partial was discarded.
        """
        for index, _ in chunks:
            self.numbers.number(file_index, index)
        file = self.manifest.files[file_index]
        results: list[bool | CorruptChunkError] = []
        right: dict[int, Bytes] = {}
        for index, data in chunks:
            corrupt = self._why_corrupt(file, index, data)
            results.append(corrupt or index not in right)
            if corrupt is None:
                right[index] = data
        new = self._write(file_index, right)
        if new:
            failpoints.reach("chunk.verified")
            self._note_have([self.numbers.number(file_index, index) for index in new])
            failpoints.reach("chunk.noted")
            self._tell()
            if len(file.chunks) > 1:
                with (
                    disk_errors(f"reading artifact {short(self.artifact_id)}"),
                    suppress(FileNotFoundError),
                ):
                    # Not there any more: another thread wrote the last chunk, and committed.
                    self._digest(file_index).follow(new)
        return [
            result and index in new if isinstance(result, bool) else result
            for result, (index, _) in zip(results, chunks, strict=True)
        ]

    def _why_corrupt(
        self, file: FileEntry, chunk_index: int, data: Bytes
    ) -> CorruptChunkError | None:
        chunk = file.chunks[chunk_index]
        if len(data) == chunk.size_bytes and digest_of(data) == chunk.digest:
            return None
        return CorruptChunkError(
            f"chunk {chunk_index} of {file.path!r} in artifact {short(self.artifact_id)} is "
            f"corrupt: {len(data)} bytes came with digest {digest_of(data)}, promised were "
            f"{chunk.size_bytes} with {chunk.digest}. Take it from another holder"
        )

    def _write(self, file_index: int, chunks: Mapping[int, Bytes]) -> dict[int, Bytes]:
        """Writes those that are not here; returns them by index."""
        file = self.manifest.files[file_index]
        new: dict[int, Bytes] = {}
        written = False
        try:
            # In one order everywhere: two that wait for each other's would wait for ever.
            for index in sorted(chunks):
                if self._claim(self.numbers.number(file_index, index)):
                    new[index] = chunks[index]
            if new:
                with disk_errors(f"writing artifact {short(self.artifact_id)}"):
                    pieces = [(file.chunks[index].offset, data) for index, data in new.items()]
                    write_at(self._path(file), pieces, soon=True)
                    written = True
        finally:
            with self._lock:
                for index in new:
                    number = self.numbers.number(file_index, index)
                    self._writing.discard(number)
                    if written:
                        self._have |= 1 << number
                self._lock.notify_all()
        return new

    def holds(self, file_index: int, start: int, stop: int) -> bool:
        """Whether the bytes `start` to `stop - 1` of a file are here and verified."""
        numbers = self.numbers.covering(file_index, start, stop)
        mask = ((1 << len(numbers)) - 1) << numbers.start
        return self._have & mask == mask

    def verified_path(self, file_index: int, start: int, stop: int) -> Path:
        """The file that holds a verified range.

        Raises:
            ChunkNotHereError: when some of the range has not come yet.
        """
        if not self.holds(file_index, start, stop):
            file = self.manifest.files[file_index]
            raise ChunkNotHereError(
                f"bytes {start} to {stop - 1} of {file.path!r} have not come here yet. Ask for "
                "the bitmap, and again when it has them"
            )
        return self._path(self.manifest.files[file_index])

    def commit(self) -> None:
        """Makes the artifact visible under its id, whole and durable.

        Fine when it is there already, whoever put it there.

        Raises:
            CorruptChunkError: when the disk gives other bytes than were written;
                those chunks count as missing again.
            ArtifactError: when chunks are missing, when the manifest contradicts
                itself, or when the disk fails.
        """
        with self._commit_lock:
            if self._state is _State.COMMITTED:
                return
            self._check_open()
            if self.missing_count:
                raise ArtifactError(
                    f"artifact {short(self.artifact_id)} can't be committed: "
                    f"{self.missing_count} of {self.numbers.count} chunks are missing. "
                    "Write them first"
                )
            with disk_errors(f"committing artifact {short(self.artifact_id)}"):
                for index, file in enumerate(self.manifest.files):
                    self._check_whole(index, file)
                seal(self.folder / FILES_NAME, self.manifest)
                fsync_path(self.folder)
                self._on_commit(self)
            self._state = _State.COMMITTED
        self._tell()

    def discard(self) -> None:
        """Removes the partial and all that came; a committed artifact stays."""
        with self._commit_lock:
            if self._state is not _State.OPEN:
                return
            self._state = _State.DISCARDED
            with disk_errors(f"removing the partial artifact {short(self.artifact_id)}"):
                self._on_discard(self)

    def _digest(self, index: int) -> WholeDigest:
        with self._lock:
            digest = self._digests.get(index)
            if digest is None:
                file = self.manifest.files[index]
                first = self.numbers.number(index, 0)
                digest = self._digests[index] = WholeDigest(
                    self._path(file), file, lambda chunk: bool(self._have >> (first + chunk) & 1)
                )
        return digest

    def _tell(self) -> None:
        tell = self.on_have
        if tell is not None:
            tell()

    def _claim(self, number: int) -> bool:
        """Whether the caller is the one to write a chunk; waits for another who does."""
        with self._lock:
            self._lock.wait_for(lambda: number not in self._writing)
            if self._have >> number & 1:
                return False
            self._check_open()
            self._writing.add(number)
            return True

    def _check_open(self) -> None:
        if self._state is _State.DISCARDED:
            raise ArtifactError(
                f"the partial artifact {short(self.artifact_id)} was discarded. Begin it again"
            )

    def _note_have(self, numbers: Sequence[int]) -> None:
        # Only a hint of what to read again after a crash: what it claims is
        # verified before it counts, so that it needs no fsync of its own.
        # The file is gone when another thread wrote the last chunk and committed.
        doing = f"writing artifact {short(self.artifact_id)}"
        with self._lock, disk_errors(doing), suppress(FileNotFoundError):
            first = min(numbers) >> 3
            size_bytes = (max(numbers) >> 3) + 1 - first
            bits = self._have >> 8 * first & (1 << 8 * size_bytes) - 1
            data = bits_to_bytes(bits, 8 * size_bytes)
            write_at(self.folder / HAVE_NAME, [(first, data)])

    def _path(self, file: FileEntry) -> Path:
        return self.folder / FILES_NAME / file.path

    def _check_whole(self, index: int, file: FileEntry) -> None:
        """Reads a file back: a manifest may lie about the whole though each chunk is right."""
        if len(file.chunks) < 2:
            return
        digest = self._digest(index)
        if digest.finish() == file.digest:
            return
        digest.begin_again()
        bad = [
            self.numbers.number(index, chunk_index)
            for chunk_index, chunk in enumerate(file.chunks)
            if digest_of(read_at(self._path(file), chunk.offset, chunk.size_bytes)) != chunk.digest
        ]
        if not bad:
            raise ArtifactError(
                f"artifact {short(self.artifact_id)} is refused: its manifest promises digest "
                f"{file.digest} for {file.path!r}, but its chunks make another file. Publish "
                "it again"
            )
        with self._lock:
            for number in bad:
                self._have &= ~(1 << number)
        self._note_have(bad)
        raise CorruptChunkError(
            f"{len(bad)} chunks of {file.path!r} in artifact {short(self.artifact_id)} were "
            "verified when they came, and read back differently. Check the disk; fetch again"
        )


def create_partial(folder: Path, manifest: Manifest) -> None:
    """Lays out a new partial: the manifest, the empty bitmap, files of full size."""
    files = folder / FILES_NAME
    files.mkdir(parents=True)
    for file in manifest.files:
        path = files / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        preallocate(path, file.size_bytes)
    (folder / HAVE_NAME).write_bytes(bits_to_bytes(0, manifest.chunk_count))
    # Last: a partial with a manifest has all its files.
    write_durably(folder / MANIFEST_NAME, canonical_bytes(manifest))


def resume_have(folder: Path, manifest: Manifest) -> Bits | None:
    """Which chunks of an earlier process are here; None when the partial is no good.

    Each chunk that the bitmap claims is read and checked: after a loss of power
    the bitmap may have reached the disk before the chunk did.
    """
    try:
        if (folder / MANIFEST_NAME).read_bytes() != canonical_bytes(manifest):
            return None
        claimed = bits_from_bytes((folder / HAVE_NAME).read_bytes())
        claimed &= (1 << manifest.chunk_count) - 1
        for file in manifest.files:
            path = folder / FILES_NAME / file.path
            if path.stat().st_size != file.size_bytes:
                return None
            path.chmod(0o600)
        have = _verified(folder, manifest, claimed)
        (folder / HAVE_NAME).write_bytes(bits_to_bytes(have, manifest.chunk_count))
    except FileNotFoundError:
        return None
    return have


def _verified(folder: Path, manifest: Manifest, claimed: Bits) -> Bits:
    flags = flags_of(claimed, manifest.chunk_count)
    have = bytearray(bits_to_bytes(0, len(flags)))
    number = 0
    for file in manifest.files:
        path = folder / FILES_NAME / file.path
        for chunk in file.chunks:
            if flags[number]:
                data = read_at(path, chunk.offset, chunk.size_bytes)
                if digest_of(data) == chunk.digest:
                    have[number >> 3] |= 1 << (number & 7)
            number += 1
    return bits_from_bytes(have)
