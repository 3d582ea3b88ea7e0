"""From a folder to its manifest: files found, cut, and hashed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import xxhash

from meshtrain.artifacts.cutting import content_pieces
from meshtrain.artifacts.failures import disk_errors
from meshtrain.core.manifest import (
    DEPTH_MAX,
    FILES_MAX,
    Chunk,
    FileEntry,
    Manifest,
    check_manifest,
)
from meshtrain.errors import ArtifactError

OnRead = Callable[[int], None]
"""Told of bytes as they have been read."""


def build_manifest(folder: Path, on_read: OnRead | None = None) -> Manifest:
    """The manifest of all files below a folder.

    Args:
        on_read: told how many bytes were read, piece by piece.

    Raises:
        ArtifactError: when something in it is no regular file (links are refused
            too: what they point at may change or be elsewhere), has a name that
            an artifact can't hold, changes while it is read, or can't be read.
    """
    return manifest_of(((relpath, folder / relpath) for relpath in list_files(folder)), on_read)


def manifest_of(files: Iterable[tuple[str, Path]], on_read: OnRead | None = None) -> Manifest:
    """The manifest of given files.

    Args:
        files: the path in the artifact, and where its content is.
        on_read: told how many bytes were read, piece by piece.

    Raises:
        ArtifactError: as `build_manifest` does.
    """
    entries = [_describe(relpath, path, on_read) for relpath, path in files]
    manifest = Manifest(tuple(sorted(entries, key=lambda entry: entry.path)))
    check_manifest(manifest)
    return manifest


def list_files(folder: Path) -> list[str]:
    """The relative paths of all files below a folder, sorted.

    Raises:
        ArtifactError: when the folder can't be read, or something in it is
            neither a folder nor a regular file.
    """
    with disk_errors(f"listing {folder}"):
        found = list(islice(_walk(folder, "", 0), FILES_MAX + 1))
    if len(found) > FILES_MAX:
        raise ArtifactError(
            f"{folder} has more than {FILES_MAX:,} files, which is the limit of an artifact. "
            "Pack them into fewer files, such as one archive"
        )
    return sorted(found)


def _walk(folder: Path, prefix: str, depth: int) -> Iterator[str]:
    if depth > DEPTH_MAX:
        raise ArtifactError(f"{folder} lies more than {DEPTH_MAX} folders deep. Flatten the tree")
    with os.scandir(folder) as entries:
        for entry in entries:
            relpath = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, relpath + "/", depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield relpath
            elif entry.is_symlink():
                raise ArtifactError(
                    f"{folder / entry.name} is a link, and an artifact holds regular files only. "
                    "Replace it by the file that it points at, or remove it"
                )
            else:
                raise ArtifactError(
                    f"{folder / entry.name} is a device, pipe or socket, and an artifact holds "
                    "regular files only. Remove it"
                )


def _describe(relpath: str, path: Path, on_read: OnRead | None) -> FileEntry:
    with disk_errors(f"reading {path}"):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb", buffering=0) as file:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise ArtifactError(
                    f"{path} is not a regular file, and an artifact holds only those. Remove it"
                )
            entry = _hash(relpath, file, before, on_read)
            after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ArtifactError(
            f"{path} changed while it was read. Try again when nothing writes to it"
        )
    return entry


def _hash(relpath: str, file: BinaryIO, found: os.stat_result, on_read: OnRead | None) -> FileEntry:
    whole = xxhash.xxh3_128()
    chunks: list[Chunk] = []
    offset = 0
    for view in content_pieces(file, found.st_size, relpath):
        chunks.append(Chunk(offset, len(view), xxhash.xxh3_128_hexdigest(view)))
        offset += len(view)
        if len(view) < found.st_size:
            whole.update(view)
        if on_read is not None:
            on_read(len(view))
    digest = chunks[0].digest if len(chunks) == 1 else whole.hexdigest()
    executable = bool(found.st_mode & stat.S_IXUSR)
    return FileEntry(relpath, found.st_size, executable, digest, tuple(chunks))
