"""Makes a backup of a master's home, also while the master runs.

The store is copied in one read transaction, which sees the last commit and
holds up no writer; members, tokens and keys are copied beside it. Logs,
artifacts and results are not in a backup.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec

import meshtrain
from meshtrain.clock import wall_now_s
from meshtrain.errors import UserError
from meshtrain.store import migrate
from meshtrain.store.archive import (
    FORMAT,
    HOME_FILES,
    KEYS_FOLDER,
    KEYS_MAX,
    MANIFEST_NAME,
    SMALL_BYTES_MAX,
    STORE_NAME,
    BackupError,
    KeptFile,
    Manifest,
    may_be_kept,
    measure,
    private,
)
from meshtrain.store.failures import sqlite_failure
from meshtrain.store.work_folder import work_beside

STATE_FOLDER = "state"
"""Below the master's home; the store lies in it."""


class Backup(msgspec.Struct, frozen=True):
    """A backup that was made."""

    path: Path
    size_bytes: int
    manifest: Manifest


def make_backup(
    home: Path,
    target: Path,
    *,
    force: bool = False,
    says: Callable[[str], None] = lambda step: None,
) -> Backup:
    """Writes a backup of the home of a master, which may be running.

    It appears at `target` whole or not at all, readable by its owner alone.

    Args:
        force: whether a file of that name is replaced.
        says: told what is being done.

    Raises UserError when `target` is there already, StoreError when the store
    can't be read, BackupError when the backup can't be written.
    """
    store = home / STATE_FOLDER / STORE_NAME
    if os.path.lexists(target) and not force:
        raise UserError(f"{target} is there already. Name another file, or replace it with --force")
    if target.is_dir():
        raise UserError(f"{target} is a folder. Name a file in it")
    migrate.demand_file(store)
    try:
        with work_beside(target, says) as work:
            copy = work / STORE_NAME
            _copy_store(store, copy, says)
            says("hashing what was copied")
            kept: dict[str, Path] = {STORE_NAME: copy, **_copy_files(home, work)}
            manifest = _describe(copy, {name: measure(path) for name, path in kept.items()})
            written = work / "backup"
            says("writing the backup")
            _write(written, manifest, kept)
            if force:
                written.replace(target)
            else:
                _name(written, target)
            migrate.fsync(target.parent)
            return Backup(target, target.stat().st_size, manifest)
    except FileExistsError as error:
        raise UserError(
            f"{target} was made by somebody else meanwhile. Name another file"
        ) from error
    except OSError as error:
        raise BackupError(
            f"the backup {target} can't be written: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}. See that {target.parent} is "
            f"there, has as much room as {store} takes twice, and may be written by this user"
        ) from error


def _name(written: Path, target: Path) -> None:
    """Gives a finished file its name; raises FileExistsError where there is one already."""
    try:
        os.link(written, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without hard links; the name was free a moment ago.
        written.rename(target)


def _copy_store(store: Path, copy: Path, says: Callable[[str], None]) -> None:
    says("copying the store")
    # Made here, since SQLite would make it readable by others.
    os.close(private(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    try:
        source = sqlite3.connect(
            f"{store.absolute().as_uri()}?mode=ro", uri=True, timeout=migrate.BUSY_WAIT_S
        )
        with contextlib.closing(source):
            migrate.check_version(source, store, migrate.known_migrations()[-1].version)
            target = sqlite3.connect(copy)
            with contextlib.closing(target):
                # All pages in one go: it is one moment's state, and is never begun anew
                # because the master wrote meanwhile. Readers hold up no writer.
                source.backup(target, pages=-1)
                # One file: without this it would need its log beside it.
                target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise sqlite_failure(store, error, "copied") from error
    says("looking through the copy")
    # What was copied is looked through, so that a damaged store isn't found out too late.
    migrate.check_whole(copy, migrate.known_migrations()[-1].version, told_as=store)


def _copy_files(home: Path, work: Path) -> dict[str, Path]:
    """Members, tokens and keys, as they are now, by their names in the backup."""
    found = [home / name for name in HOME_FILES]
    keys = home / KEYS_FOLDER
    if keys.is_dir():
        found += sorted(keys.iterdir())
    if len(found) > KEYS_MAX:
        raise BackupError(f"{keys} has more than {KEYS_MAX} files: see what they are")
    (work / KEYS_FOLDER).mkdir(mode=0o700)
    copies: dict[str, Path] = {}
    for path in found:
        name = str(path.relative_to(home))
        if not may_be_kept(name):
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with open(fd, "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise BackupError(f"{path} is no plain file: put the file itself there")
            data = file.read(SMALL_BYTES_MAX + 1)
        if len(data) > SMALL_BYTES_MAX:
            raise BackupError(f"{path} has more than {SMALL_BYTES_MAX:,} bytes: see what it is")
        with open(work / name, "xb", opener=private) as copy:
            copy.write(data)
        copies[name] = work / name
    return copies


def _describe(store: Path, files: dict[str, KeptFile]) -> Manifest:
    connection = sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)
    with contextlib.closing(connection):
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (incarnation,) = connection.execute("SELECT incarnation FROM meta").fetchone()
        (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
    return Manifest(
        format=FORMAT,
        meshtrain=meshtrain.__version__,
        schema=schema,
        incarnation=incarnation,
        made_wall_s=wall_now_s(),
        jobs=jobs,
        files=files,
    )


def _write(path: Path, manifest: Manifest, kept: dict[str, Path]) -> None:
    data = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    with open(path, "xb", opener=private) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(_member(MANIFEST_NAME, len(data), manifest), io.BytesIO(data))
            for name, source in kept.items():
                with source.open("rb") as content:
                    member = _member(name, manifest.files[name].size_bytes, manifest)
                    archive.addfile(member, content)
        file.flush()
        os.fsync(file.fileno())


def _member(name: str, size_bytes: int, manifest: Manifest) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o600
    member.mtime = int(manifest.made_wall_s)
    return member
