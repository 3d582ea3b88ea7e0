"""The last part of a restore: what was made ready is moved into its place.

    state/restore.new/      being made; one that a kill left counts for nothing
    state/restore.ready/    whole: from here on the restore is decided, and is finished by
                            whoever opens the store next
    before-restore-TIME/    what lay there before

Each step is a rename, and is passed over where it was done already: a restore
that was cut off at any of them goes on from there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import msgspec

from meshtrain.errors import StoreError
from meshtrain.store.migrate import fsync

NEW = "restore.new"
READY = "restore.ready"
ASIDE_PREFIX = "before-restore-"
PLAN_NAME = "plan.json"
_STORE_NAME = "jobs.db"
_LOG_ENDINGS = ("-wal", "-shm", "-journal")


class Plan(msgspec.Struct, frozen=True):
    """What is still to be done, once all is ready."""

    aside: Annotated[str, msgspec.Meta(pattern=rf"\A{ASIDE_PREFIX}[0-9-]{{1,40}}\Z")]
    """The folder below the home that takes what lies there now."""
    files: tuple[str, ...] = ()
    """Besides the store: members, tokens and keys that the home doesn't have."""


_plan_decoder = msgspec.json.Decoder(Plan)


def finish(state: Path) -> Path | None:
    """Ends a restore that is decided; the folder that has what was there before it.

    Whoever calls holds the lock of the store. Does nothing, and returns None,
    where there is no restore to finish. Raises StoreError when it can't go on;
    it may be called again.

    Args:
        state: the folder of the store.
    """
    shutil.rmtree(state / NEW, ignore_errors=True)
    ready = state / READY
    if not ready.is_dir():
        return None
    try:
        if not (ready / PLAN_NAME).exists() and not (ready / _STORE_NAME).exists():
            # It was through, but for the sweeping up.
            shutil.rmtree(ready)
            return None
        plan = _plan_decoder.decode((ready / PLAN_NAME).read_bytes())
        aside = state.parent / plan.aside
        aside.mkdir(mode=0o700, exist_ok=True)
        fsync(aside.parent)
        _swap_store(state, ready, aside)
        for name in plan.files:
            _put(ready / name, state.parent / name)
        for left in (_STORE_NAME, PLAN_NAME):
            (ready / left).unlink(missing_ok=True)
        shutil.rmtree(ready)
        fsync(state)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(
            f"a restore that was begun can't be finished: {error}. What is to be put in place "
            f"lies in {ready}, what was there before beside {state}. "
            "Mend that, then run `meshtrain restore FILE` again, or start the master: "
            "either goes on with it"
        ) from error
    return aside


def _swap_store(state: Path, ready: Path, aside: Path) -> None:
    if not (ready / _STORE_NAME).exists():
        return
    # Its log first: that must never lie beside another store, which would take it for its own.
    for name in (*(f"{_STORE_NAME}{ending}" for ending in _LOG_ENDINGS), _STORE_NAME):
        if (state / name).exists():
            (state / name).rename(_unused(aside / name))
    fsync(aside)
    fsync(state)
    (ready / _STORE_NAME).rename(state / _STORE_NAME)
    fsync(state)


def _put(source: Path, target: Path) -> None:
    if not source.exists() or target.exists():
        return
    target.parent.mkdir(mode=0o700, exist_ok=True)
    source.rename(target)
    fsync(target.parent)


def _unused(path: Path) -> Path:
    """The path, with a number where there is something of that name: nothing is overwritten."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found
