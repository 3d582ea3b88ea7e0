"""A backup as one file: what is in it, and how it is held against what it promises.

    manifest.json       first: versions, time, and size and SHA-256 of each file
    jobs.db             the job store
    members.json        who belongs to the mesh, where there is such a list
    revoked_keys.json   keys that were revoked and replaced, where there are some
    tokens.json         join tokens that are not used yet, where there are some
    keys/NAME           the master's keys

It is a plain tar, for its owner's eyes alone: it holds keys. What is read from
one is trusted in nothing: only these names are taken, only plain files, only
with the size and digest that the manifest promises.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from pathlib import Path
from typing import IO, Annotated

import msgspec

from meshtrain.errors import StoreError

FORMAT = 1
MANIFEST_NAME = "manifest.json"
STORE_NAME = "jobs.db"
MEMBERS_NAME = "members.json"
HOME_FILES = (MEMBERS_NAME, "tokens.json", "revoked_keys.json")
KEYS_FOLDER = "keys"
KEYS_MAX = 1000
SMALL_BYTES_MAX = 16 << 20
"""No key, list of members or manifest is larger."""
_KEY_NAME = re.compile(r"keys/[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_PIECE_BYTES = 1 << 20

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class BackupError(StoreError):
    """Raised when a backup can't be made, or a file is none that can be restored."""


class KeptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size_bytes: Count
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: Count
    meshtrain: str
    """The version of the program that made it."""
    schema: Count
    incarnation: Count
    made_wall_s: float
    """When, in seconds since 1970."""
    jobs: Count
    files: dict[str, KeptFile]


_decode = msgspec.json.Decoder(Manifest).decode


def may_be_kept(name: str) -> bool:
    """Whether a file of this name belongs in a backup."""
    return name in (STORE_NAME, *HOME_FILES) or _KEY_NAME.fullmatch(name) is not None


def measure(path: Path) -> KeptFile:
    """The size and digest of a file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return KeptFile(file.tell(), found.hexdigest())


def read_manifest(archive: tarfile.TarFile, path: Path) -> Manifest:
    """The manifest, which comes first.

    Raises BackupError when there is none, or it is one of a newer meshtrain.
    """
    first = archive.next()
    if first is None or first.name != MANIFEST_NAME or not first.isreg():
        raise no_backup(path, "it doesn't begin with a manifest")
    if first.size > SMALL_BYTES_MAX:
        raise no_backup(path, f"its manifest has {first.size:,} bytes")
    data = _opened(archive, first, path).read(first.size)
    try:
        manifest = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise no_backup(path, f"its manifest makes no sense: {error}") from error
    if manifest.format > FORMAT:
        raise BackupError(
            f"{path} was made by a newer meshtrain, {manifest.meshtrain[:40]}: its format is "
            f"{manifest.format}, and this one reads format {FORMAT}. "
            "Upgrade meshtrain on this host; nothing was changed"
        )
    if STORE_NAME not in manifest.files:
        raise no_backup(path, f"it holds no {STORE_NAME}")
    if len(manifest.files) > KEYS_MAX + 1 + len(HOME_FILES):
        raise no_backup(path, f"it names {len(manifest.files)} files")
    for name, kept in manifest.files.items():
        if not may_be_kept(name):
            raise no_backup(path, f"it holds {name[:80]!r}, which is no part of a backup")
        if name != STORE_NAME and kept.size_bytes > SMALL_BYTES_MAX:
            raise no_backup(path, f"its {name} has {kept.size_bytes:,} bytes")
    return manifest


def unpack(path: Path, folder: Path) -> Manifest:
    """Writes the files of a backup below `folder`, each held against the manifest.

    Nothing but plain files with the names, sizes and digests of the manifest is
    taken; on any other, nothing of the backup counts. Raises BackupError for a
    file that is no backup, or a damaged one; OSError when the disk refuses.
    """
    with _opened_archive(path) as archive:
        try:
            manifest = read_manifest(archive, path)
            wanted = dict(manifest.files)
            while (member := archive.next()) is not None:
                kept = wanted.pop(member.name, None)
                if kept is None:
                    raise no_backup(path, f"its {member.name[:80]!r} is not in its manifest")
                if not member.isreg():
                    raise no_backup(path, f"its {member.name} is no plain file")
                if member.size != kept.size_bytes:
                    raise no_backup(path, f"its {member.name} has another size than promised")
                target = folder / member.name
                target.parent.mkdir(mode=0o700, exist_ok=True)
                if _write(_opened(archive, member, path), target) != kept.sha256:
                    raise no_backup(path, f"its {member.name} is not what was put in")
        except (tarfile.TarError, EOFError) as error:
            raise no_backup(path, f"it is cut off or damaged: {error}") from error
    if wanted:
        raise no_backup(path, f"it is cut off: {min(wanted)} is missing")
    return manifest


def no_backup(path: Path, what: str) -> BackupError:
    """The error for a file that can't be restored."""
    return BackupError(
        f"{path} is no whole backup of meshtrain: {what}. Nothing was changed. "
        "Give a file that `meshtrain backup` made"
    )


def private(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file so that, where it is made, only its owner may read it."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _opened_archive(path: Path) -> tarfile.TarFile:
    if path.exists() and not path.is_file():
        raise no_backup(path, "it is no plain file")
    try:
        return tarfile.open(path, "r:")
    except tarfile.TarError as error:
        raise no_backup(path, str(error)) from error
    except OSError as error:
        raise BackupError(
            f"the backup {path} can't be read: {error.strerror}. Nothing was changed. "
            "See that the file is there and may be read by this user"
        ) from error


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise no_backup(path, f"its {member.name[:80]!r} is no plain file")
    return file


def _write(source: IO[bytes], target: Path) -> str:
    """Writes a new file for its owner alone, durably; its SHA-256."""
    found = hashlib.sha256()
    with open(target, "xb", opener=private) as file:
        while piece := source.read(_PIECE_BYTES):
            found.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return found.hexdigest()
