"""The manifest of an artifact: its files, their chunks, and the digest that names it.

An artifact is an immutable tree of files. Its manifest lists them in order of
path; each file is cut into chunks, and each chunk carries its xxh3-128. The
xxh3-128 of the manifest's canonical bytes is the artifact's id, so that whoever
has the id can check the manifest, and whoever has the manifest can check each
chunk as it comes, from anyone.

Canonical bytes are MessagePack arrays in the order of the fields below, behind
a tag that names the format. Folders are there because files are in them: empty
ones are not kept. Names keep their case.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

import msgspec
import xxhash

from meshtrain.errors import ArtifactError

MANIFEST_BYTES_MAX = 64 << 20
"""A manifest is read into memory before anything is known about its sender."""
FILES_MAX = 100_000
CHUNKS_MAX = 1 << 21
"""1 TiB in chunks of 512 KiB; the bitmap of a holder is then 256 KiB."""
TOTAL_BYTES_MAX = 1 << 40
CHUNK_BYTES_MAX = 16 << 20
"""A chunk is held in memory whole until its digest is checked."""
PATH_BYTES_MAX = 1024
DEPTH_MAX = 100
"""Folders around a file; with the next one it bounds what laying out a tree costs."""
FOLDERS_MAX = 100_000
NAME_BYTES_MAX = 255
"""What the usual file systems take for one name."""
EMPTY_DIGEST = xxhash.xxh3_128_hexdigest(b"")

_DIGEST = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A range of a file, with the digest of its bytes."""

    offset: int
    """Bytes from the start of the file."""
    size_bytes: int
    digest: Annotated[str, msgspec.Meta(min_length=32, max_length=32)]
    """xxh3-128, 32 lower-case hexadecimal digits. Its length is checked while a manifest is read:
    what a chunk takes in memory is then a few times its bytes there."""


class FileEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A file of an artifact."""

    path: str
    """Relative to the artifact's folder, parts separated by `/`."""
    size_bytes: int
    executable: bool
    digest: str
    """xxh3-128 of the whole content, whatever the cut into chunks."""
    chunks: tuple[Chunk, ...]
    """They cover the file from its start to its end; an empty file has none."""


class Manifest(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="meshtrain-manifest-1",
):
    """All that an artifact is: its files, sorted by path."""

    files: Annotated[tuple[FileEntry, ...], msgspec.Meta(max_length=FILES_MAX)]

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def chunk_count(self) -> int:
        """The chunks of all files."""
        return sum(len(file.chunks) for file in self.files)

    def file_digests(self) -> dict[str, str]:
        """The digest of each file's content, by path."""
        return {file.path: file.digest for file in self.files}


class ChunkNumbers:
    """The chunks of a manifest numbered through: file by file, in order."""

    def __init__(self, manifest: Manifest) -> None:
        self._files = manifest.files
        self._firsts = list(accumulate((len(f.chunks) for f in manifest.files), initial=0))

    @property
    def count(self) -> int:
        """How many chunks there are; their numbers are 0 to count - 1."""
        return self._firsts[-1]

    def number(self, file_index: int, chunk_index: int) -> int:
        """The number of a file's chunk.

        Raises:
            ArtifactError: when the manifest has no such file or chunk.
        """
        if not 0 <= file_index < len(self._files):
            raise ArtifactError(
                f"there is no file {file_index}: the manifest has {len(self._files)} files, "
                "counted from 0"
            )
        file = self._files[file_index]
        if not 0 <= chunk_index < len(file.chunks):
            raise ArtifactError(
                f"{file.path!r} has no chunk {chunk_index}: it has {len(file.chunks)}, "
                "counted from 0"
            )
        return self._firsts[file_index] + chunk_index

    def place(self, number: int) -> tuple[int, int]:
        """The file's and the chunk's index of a number."""
        file_index = bisect_right(self._firsts, number) - 1
        return file_index, number - self._firsts[file_index]

    def chunk(self, number: int) -> Chunk:
        """The chunk of a number."""
        file_index, chunk_index = self.place(number)
        return self._files[file_index].chunks[chunk_index]

    def covering(self, file_index: int, start: int, stop: int) -> range:
        """The numbers of the chunks that hold the bytes `start` to `stop - 1` of a file."""
        chunks = self._files[file_index].chunks
        if start >= stop:
            return range(0)
        first = bisect_right(chunks, start, key=lambda chunk: chunk.offset) - 1
        last = bisect_right(chunks, stop - 1, key=lambda chunk: chunk.offset) - 1
        base = self._firsts[file_index]
        return range(base + first, base + last + 1)


def canonical_bytes(manifest: Manifest) -> bytes:
    """The one encoding of a manifest that its id is made of."""
    return msgspec.msgpack.encode(manifest)


def artifact_id(manifest: Manifest) -> str:
    """The artifact's id: the xxh3-128 of its manifest's canonical bytes."""
    return digest_of(canonical_bytes(manifest))


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """The xxh3-128 of some bytes, in the form that manifests hold."""
    return xxhash.xxh3_128_hexdigest(data)


def is_digest(text: str) -> bool:
    """Whether a text has the form of a digest or an artifact's id."""
    return _DIGEST.fullmatch(text) is not None


_manifest_decoder = msgspec.msgpack.Decoder(Manifest)


def parse_manifest(data: bytes) -> Manifest:
    """Reads a manifest from anyone; nothing in it is trusted.

    Raises:
        ArtifactError: when it isn't canonical, breaks a rule or passes a limit;
            the message names the file and the mend.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise ArtifactError(
            f"the manifest is refused: it has {len(data):,} bytes, the limit is "
            f"{MANIFEST_BYTES_MAX:,}. Publish the tree as several artifacts"
        )
    try:
        manifest = _manifest_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"the manifest is refused: {error}. Fetch it again, from another holder, or publish "
            "it with the same version of meshtrain"
        ) from error
    check_manifest(manifest)
    if canonical_bytes(manifest) != data:
        raise ArtifactError(
            "the manifest is refused: its bytes are not in canonical form, so that one artifact "
            "would have two ids. Publish it with meshtrain"
        )
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Holds a manifest to the rules.

    Raises:
        ArtifactError: at the first rule that is broken, naming the file and the mend.
    """
    _check_totals(manifest.files)
    folders: set[str] = set()
    before = ""
    for index, file in enumerate(manifest.files):
        problem = path_problem(file.path)
        if problem is not None:
            raise _refused(index, file, problem)
        if index and file.path == before:
            raise _refused(index, file, "it is listed twice. List each file once")
        if index and file.path < before:
            raise _refused(index, file, f"it comes after {before!r}. Sort the files by path")
        before = file.path
        _add_folders(folders, file.path)
        if len(folders) > FOLDERS_MAX:
            raise _refused(
                index,
                file,
                f"with it there are more than {FOLDERS_MAX:,} folders. Pack them into an archive",
            )
        _check_content(index, file)
    for index, file in enumerate(manifest.files):
        if file.path in folders:
            raise _refused(index, file, "it is a file and a folder at once. Rename one of them")


def path_problem(path: str) -> str | None:
    """What is wrong with a path inside an artifact, with the mend; None when it is fine."""
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8. Rename it"
    parts = path.split("/")
    if not path:
        return "its path is empty. Give it a name"
    if path.startswith("/"):
        return "its path is absolute. Make it relative to the artifact's folder"
    if ".." in parts:
        return "its path leaves the folder by `..`. Make it a path inside"
    if "" in parts or "." in parts:
        return "its path has an empty part or a `.`. Write it in its shortest form"
    if _CONTROL.search(path):
        return "its path holds a control character, such as NUL or a line break. Rename it"
    if "\\" in path:
        return "its path holds a backslash. Separate folders by `/`, or rename it"
    if len(parts) - 1 > DEPTH_MAX:
        return f"it lies {len(parts) - 1} folders deep, the limit is {DEPTH_MAX}. Flatten the tree"
    if size_bytes > PATH_BYTES_MAX:
        return f"its path has {size_bytes} bytes, the limit is {PATH_BYTES_MAX}. Shorten it"
    if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        return f"its path has a name of more than {NAME_BYTES_MAX} bytes. Shorten it"
    return None


def _add_folders(folders: set[str], path: str) -> None:
    """The folders around a file; those around a known one are known."""
    folder, _, _ = path.rpartition("/")
    while folder and folder not in folders:
        folders.add(folder)
        folder, _, _ = folder.rpartition("/")


def _check_totals(files: Sequence[FileEntry]) -> None:
    if len(files) > FILES_MAX:
        raise ArtifactError(
            f"the manifest is refused: it has {len(files):,} files, the limit is {FILES_MAX:,}. "
            "Pack them into fewer files, such as one archive"
        )
    chunk_count = sum(len(file.chunks) for file in files)
    if chunk_count > CHUNKS_MAX:
        raise ArtifactError(
            f"the manifest is refused: it has {chunk_count:,} chunks, the limit is "
            f"{CHUNKS_MAX:,}. Publish the tree as several artifacts"
        )
    size_bytes = sum(file.size_bytes for file in files)
    if size_bytes > TOTAL_BYTES_MAX:
        raise ArtifactError(
            f"the manifest is refused: it has {size_bytes:,} bytes in all, the limit is "
            f"{TOTAL_BYTES_MAX:,}. Publish the tree as several artifacts"
        )


def _check_content(index: int, file: FileEntry) -> None:
    if file.size_bytes < 0:
        raise _refused(index, file, f"its size is {file.size_bytes}. Publish it again")
    if not is_digest(file.digest):
        raise _refused(index, file, f"its digest is not one: {file.digest[:40]!r}. Publish again")
    offset = 0
    for number, chunk in enumerate(file.chunks):
        if chunk.offset != offset:
            raise _refused(
                index,
                file,
                f"chunk {number} starts at byte {chunk.offset}, not at {offset}, where the one "
                "before it ends. Publish it again",
            )
        if not 0 < chunk.size_bytes <= CHUNK_BYTES_MAX:
            raise _refused(
                index,
                file,
                f"chunk {number} has {chunk.size_bytes} bytes; between 1 and {CHUNK_BYTES_MAX} "
                "are allowed. Publish it again",
            )
        if not is_digest(chunk.digest):
            raise _refused(
                index,
                file,
                f"the digest of chunk {number} is not one: {chunk.digest[:40]!r}. Publish again",
            )
        offset += chunk.size_bytes
    if offset != file.size_bytes:
        raise _refused(
            index,
            file,
            f"its size is {file.size_bytes} bytes, but its chunks come to {offset}. "
            "Publish it again",
        )
    if len(file.chunks) > 1:
        return
    only_digest = file.chunks[0].digest if file.chunks else EMPTY_DIGEST
    if file.digest != only_digest:
        raise _refused(
            index, file, "its digest differs from that of its only content. Publish it again"
        )


def _refused(index: int, file: FileEntry, problem: str) -> ArtifactError:
    return ArtifactError(f"the manifest is refused: file {index}, {file.path!r}: {problem}")
