"""Puts a backup in the place of a master's store, while no master runs there.

What is there is moved aside, never removed. The restored store gets an
incarnation that no store of this home had, so that no epoch is given twice:
what a node still runs under a lease of the lost store counts no more.

Bytes of logs that nodes were told to be stored stay: nodes have dropped theirs.
So the sizes that the restored store counts are raised to what lies on the disk.
What it holds of artifacts the master looks up itself when it starts.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from meshtrain.clock import wall_now_s
from meshtrain.errors import SettingsError, StoreError
from meshtrain.security.membership import MembersFile
from meshtrain.store import cutover, migrate
from meshtrain.store.archive import (
    HOME_FILES,
    KEYS_FOLDER,
    MEMBERS_NAME,
    STORE_NAME,
    BackupError,
    Manifest,
    unpack,
)
from meshtrain.store.backup import STATE_FOLDER
from meshtrain.store.complete import demand_complete
from meshtrain.store.lock import StoreLock
from meshtrain.store.sqlite import LOCK_NAME, SqliteStore
from meshtrain.store.sqlite_reader import SqliteReader

LOGS_FOLDER = "logs"
_STREAMS = ("log", "metrics")
_YEAR_2026_S = 1_767_225_600
_INCARNATION_S = 600
"""The least incarnation counts these since 2026: restores elsewhere get others, too."""


class Restored(msgspec.Struct, frozen=True):
    """A restore that is done."""

    manifest: Manifest
    incarnation: int
    aside: Path
    """What was there before."""
    members_restored: bool
    """Whether members, tokens and keys came from the backup; else the home had its own."""


def restore_backup(
    home: Path, backup: Path, *, says: Callable[[str], None] = lambda step: None
) -> Restored:
    """Puts a backup in place of the store below `home`.

    Nothing is touched before the whole backup was found to be in order, and
    then all is changed or nothing: where it is cut off, the next restore, or the
    next start of the master, goes on with it.

    The list of members gets a higher version than before: what nodes know of it may
    be later, and they take only what is later still.

    Args:
        says: told what is being done.

    Raises StoreInUseError while a master runs there, BackupError for a file that
    can't be restored, StoreError where the disk refuses.
    """
    state = home / STATE_FOLDER
    try:
        migrate.make_folder(state)
    except OSError as error:
        raise StoreError(
            f"the state folder {state} can't be made: {error.strerror}. "
            "Make it yourself, or name another home with MESHTRAIN_HOME"
        ) from error
    lock = StoreLock(state / LOCK_NAME)
    try:
        cutover.finish(state)
        new = state / cutover.NEW
        try:
            new.mkdir(mode=0o700)
            says("unpacking the backup, and holding it against its digests")
            manifest = unpack(backup, new)
            says("bringing the store up to date, and counting logs")
            incarnation = _prepare(new, home)
            plan = cutover.Plan(_aside_name(home), _files_missed(home, manifest))
            _make_ready(new, plan)
        except OSError as error:
            raise BackupError(
                f"{backup} can't be unpacked below {state}: {error.strerror or error}. Nothing "
                "was changed. See that there is room, and that this user may write there"
            ) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        says("putting it in place")
        aside = cutover.finish(state)
        assert aside is not None, "it was made ready just now"
        _renew_members(home)
        return Restored(manifest, incarnation, aside, bool(plan.files))
    finally:
        lock.release()


def _prepare(new: Path, home: Path) -> int:
    """Brings the unpacked store up to date; its incarnation."""
    store = SqliteStore(new)
    try:
        loaded = demand_complete(store.load(), store.path)
        known = [loaded.incarnation, *_incarnations(home)]
        since_2026 = int(wall_now_s() - _YEAR_2026_S) // _INCARNATION_S
        incarnation = max(*(number + 1 for number in known), since_2026)
        store.bump_incarnation(incarnation - loaded.incarnation)
        _count_logs(store, home)
        store.commit()
    finally:
        store.close()
    (new / LOCK_NAME).unlink()
    return incarnation


def _incarnations(home: Path) -> list[int]:
    """Those of the store that is there now, and of those put aside, as far as they can be read."""
    found: list[object] = []
    stores = [home / STATE_FOLDER / STORE_NAME]
    stores += home.glob(f"{cutover.ASIDE_PREFIX}*/{STORE_NAME}*")
    for path in stores:
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "-journal")):
            try:
                connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
                with closing(connection):
                    found += connection.execute("SELECT incarnation FROM meta").fetchone() or ()
            except sqlite3.Error:
                # Damaged: that may be why it is replaced.
                continue
    return [number for number in found if isinstance(number, int)]


def _count_logs(store: SqliteStore, home: Path) -> None:
    """Raises the counted size of streams to what nodes were told to be stored."""
    told = _sizes_told(home)
    logs = home / LOGS_FOLDER
    for folder in sorted(logs.iterdir()) if logs.is_dir() else ():
        attempts = {attempt.attempt_id for attempt in store.attempts_of(folder.name)}
        for path in sorted(folder.iterdir()) if attempts else ():
            attempt_id, _, stream = path.name.rpartition(".")
            if attempt_id not in attempts or stream not in _STREAMS or not path.is_file():
                continue
            counted = store.stream_sizes(attempt_id).get(stream, 0)
            size_bytes = path.stat().st_size
            if told is not None:
                # What lies beyond was never confirmed: it is sent again.
                size_bytes = min(size_bytes, told.get((attempt_id, stream), 0))
            if size_bytes > counted:
                store.set_stream_size(attempt_id, folder.name, stream, size_bytes)


def _sizes_told(home: Path) -> dict[tuple[str, str], int] | None:
    """What the store that is there now has counted; None where it can't be read."""
    try:
        reader = SqliteReader(home / STATE_FOLDER)
    except StoreError:
        return None
    try:
        return {
            (size.attempt_id, size.stream): size.size_bytes for size in reader.all_stream_sizes()
        }
    except StoreError:
        return None
    finally:
        reader.close()


def _files_missed(home: Path, manifest: Manifest) -> tuple[str, ...]:
    """The members, tokens and keys to put back: all, or none where the home has some.

    What the home has is never older: a restore brings back no member that was
    revoked meanwhile, and no token that was used.
    """
    keys = home / KEYS_FOLDER
    has_some = any((home / name).exists() for name in HOME_FILES)
    if has_some or (keys.is_dir() and any(keys.iterdir())):
        return ()
    return tuple(sorted(name for name in manifest.files if name != STORE_NAME))


def _renew_members(home: Path) -> None:
    path = home / MEMBERS_NAME
    if path.exists():
        # One that is damaged is the master's to tell, when it starts.
        with suppress(SettingsError):
            MembersFile(path).renew()


def _aside_name(home: Path) -> str:
    plain = f"{cutover.ASIDE_PREFIX}{time.strftime('%Y%m%d-%H%M%S')}"
    name, number = plain, 1
    while (home / name).exists():
        number += 1
        name = f"{plain}-{number}"
    return name


def _make_ready(new: Path, plan: cutover.Plan) -> None:
    """All that was unpacked becomes what is to be put in place, in one step."""
    (new / cutover.PLAN_NAME).write_bytes(msgspec.json.encode(plan))
    for path in [*new.rglob("*"), new]:
        migrate.fsync(path)
    new.rename(new.with_name(cutover.READY))
    migrate.fsync(new.parent)
