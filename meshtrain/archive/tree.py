"""A tree of files in an archive: sent whole, read back verified.

    <place>/files/…            the files as they are
    <place>/artifact.msgpack   the artifact's own manifest: its chunks, its id
    <place>/manifest.json      for people and programs; written last

Whoever finds a manifest.json finds all that it names. A transfer that was cut
off goes on from the files that are there, each read back and held against its
digest; a place that another artifact has is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import msgspec
import xxhash

from meshtrain import failpoints
from meshtrain.archive.failures import (
    ArchiveRefusedError,
    ArchiveStoppedError,
    LocalCopyError,
    NotArchivedError,
)
from meshtrain.archive.target import Reader, Target
from meshtrain.core.manifest import (
    MANIFEST_BYTES_MAX,
    FileEntry,
    Manifest,
    canonical_bytes,
    digest_of,
    parse_manifest,
)
from meshtrain.core.manifest import artifact_id as id_of
from meshtrain.errors import ArtifactError

FORMAT = 1
FILES = "files"
ARTIFACT_FILE = "artifact.msgpack"
MANIFEST_FILE = "manifest.json"
_BLOCK_BYTES = 1 << 20
_JSON_BYTES_MAX = 128 << 20
_OTHER_DIGITS = 12


class FileRow(msgspec.Struct, frozen=True):
    """A file of a tree, as people read it."""

    path: str
    size_bytes: int
    xxh3_128: str
    executable: bool = False


class TreeManifest(msgspec.Struct, frozen=True):
    """What manifest.json holds."""

    meshtrain_archive: int
    """The number of this format."""
    artifact_id: str
    size_bytes: int
    files: tuple[FileRow, ...]
    about: dict[str, Any] = {}
    """What it is a result of, or which recipe's base."""


_decoder = msgspec.json.Decoder(TreeManifest)


def send_tree(
    target: Target,
    place: str,
    manifest: Manifest,
    open_file: Callable[[int], BinaryIO],
    *,
    about: Mapping[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> str:
    """Put an artifact's files into an archive; says at which place it is.

    Does nothing where it is there already.

    Args:
        place: its folder; where another artifact has that, it goes beside.
        open_file: opens the file of an index, as the manifest counts.
        about: said of it in its manifest.json.
        stopped: asked between blocks; once it is true, the transfer ends.

    Raises:
        ArchiveAwayError, ArchiveRefusedError: as the target does.
        LocalCopyError: when a file is gone, or isn't what the manifest promises.
        ArchiveStoppedError: when it was stopped.
    """
    artifact_id = id_of(manifest)
    for candidate in (place, beside(place, artifact_id)):
        there = read_tree(target, candidate)
        if there is None:
            _send(target, candidate, manifest, open_file, stopped)
            _write(target, f"{candidate}/{MANIFEST_FILE}", _described(manifest, about))
            return candidate
        if there.artifact_id == artifact_id:
            return candidate
    raise ArchiveRefusedError(
        f"{place} in the archive {target.url} is another artifact's, and so is the place beside "
        "it. Move one of them away"
    )


def beside(place: str, artifact_id: str) -> str:
    """Where an artifact goes when another one has its place."""
    return f"{place}-{artifact_id[:_OTHER_DIGITS]}"


def read_tree(target: Target, place: str) -> TreeManifest | None:
    """The manifest.json of a place; None where no whole tree is.

    Raises ArchiveRefusedError when it was written by a newer meshtrain.
    """
    data = target.read(f"{place}/{MANIFEST_FILE}", _JSON_BYTES_MAX)
    if data is None:
        return None
    try:
        told = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # Cut off while it was written, where the target has no whole writes.
        return None
    if told.meshtrain_archive > FORMAT:
        raise ArchiveRefusedError(
            f"{place} in the archive {target.url} was written by a newer meshtrain. Upgrade this "
            "one, or name another place"
        )
    return told


def read_artifact(target: Target, place: str, artifact_id: str) -> tuple[str, Manifest]:
    """Where an artifact lies in an archive, and its own manifest, verified by its id.

    Raises:
        NotArchivedError: when it is neither at its place nor beside.
        ArchiveRefusedError: when what lies there is not what the id names.
    """
    for candidate in (place, beside(place, artifact_id)):
        there = read_tree(target, candidate)
        if there is None or there.artifact_id != artifact_id:
            continue
        data = target.read(f"{candidate}/{ARTIFACT_FILE}", MANIFEST_BYTES_MAX)
        if data is None or digest_of(data) != artifact_id:
            raise _spoiled(target, f"{candidate}/{ARTIFACT_FILE}")
        try:
            return candidate, parse_manifest(data)
        except ArtifactError as error:
            raise _spoiled(target, f"{candidate}/{ARTIFACT_FILE}") from error
    raise NotArchivedError(
        f"the archive {target.url} has no whole copy of artifact {artifact_id[:8]}… at {place}"
    )


def open_archived(target: Target, place: str, file: FileEntry) -> Reader:
    """A file of a tree, from its start.

    Raises NotArchivedError when it is gone.
    """
    return target.open(f"{place}/{FILES}/{file.path}")


# --- sending ------------------------------------------------------------------------


def _send(
    target: Target,
    place: str,
    manifest: Manifest,
    open_file: Callable[[int], BinaryIO],
    stopped: Callable[[], bool],
) -> None:
    there = target.sizes(f"{place}/{FILES}")
    for index, file in enumerate(manifest.files):
        path = f"{place}/{FILES}/{file.path}"
        same_size = there.get(file.path) == file.size_bytes
        if same_size and _digest_there(target, path, stopped) == file.digest:
            continue
        target.write(path, _verified(index, file, open_file, stopped), file.size_bytes)
        failpoints.reach("archive.part")
    _write(target, f"{place}/{ARTIFACT_FILE}", canonical_bytes(manifest))


def _verified(
    index: int,
    file: FileEntry,
    open_file: Callable[[int], BinaryIO],
    stopped: Callable[[], bool],
) -> Iterator[bytes]:
    """A file's bytes; raises after the last one when they are not what was promised."""
    state = xxhash.xxh3_128()
    for block in _blocks(lambda: open_file(index), file.path, stopped):
        state.update(block)
        yield block
    if state.hexdigest() != file.digest:
        raise LocalCopyError(
            f"{file.path!r} is damaged on this host: its digest is {state.hexdigest()}, "
            f"{file.digest} was promised. See to the disk"
        )


def _blocks(
    opened: Callable[[], BinaryIO], path: str, stopped: Callable[[], bool]
) -> Iterator[bytes]:
    try:
        with opened() as source:
            while True:
                if stopped():
                    raise ArchiveStoppedError("the transfer was stopped")
                block = source.read(_BLOCK_BYTES)
                if not block:
                    return
                yield block
    except (OSError, ArtifactError) as error:
        raise LocalCopyError(f"{path!r} can't be read on this host: {error}") from error


def _digest_there(target: Target, path: str, stopped: Callable[[], bool]) -> str:
    state = xxhash.xxh3_128()
    try:
        source = target.open(path)
    except NotArchivedError:
        return ""
    with source:
        while block := source.read(_BLOCK_BYTES):
            if stopped():
                raise ArchiveStoppedError("the transfer was stopped")
            state.update(block)
    return state.hexdigest()


def _write(target: Target, path: str, data: bytes) -> None:
    target.write(path, (data,), len(data))


def _described(manifest: Manifest, about: Mapping[str, Any]) -> bytes:
    told = TreeManifest(
        meshtrain_archive=FORMAT,
        artifact_id=id_of(manifest),
        size_bytes=manifest.size_bytes,
        files=tuple(
            FileRow(f"{FILES}/{file.path}", file.size_bytes, file.digest, file.executable)
            for file in manifest.files
        ),
        about=dict(about),
    )
    return msgspec.json.format(msgspec.json.encode(told)) + b"\n"


def _spoiled(target: Target, path: str) -> ArchiveRefusedError:
    return ArchiveRefusedError(
        f"{path} in the archive {target.url} is gone, or not what was written. Restore it from "
        "the archive's own backup, or train the base anew: meshtrain bases rebuild"
    )
