"""Makes sure that an attempt never runs on here, whether or not it ever started.

A launch may still be on its way when its daemon dies, and its shim may be
slow. The folder is renamed first: from then on a shim finds neither the log
nor the place for its record, and ends the job that it may have started just
now. One that had recorded its start before is told to end at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from meshtrain_daemon.worker.kept_shim import end, is_over, open_shim
from meshtrain_daemon.worker.launch import read_outcome, read_started
from meshtrain_daemon.worker.orphans import sweep_orphans

FENCED_PREFIX = ".fenced-"
ATTEMPT_NAME_BYTES_MAX = 200
SHIM_ENDS_WITHIN_S = 10.0
"""How long a shim may take to kill its job's tree before its processes are sought by mark."""


def fence(folder: Path) -> Path | None:
    """Takes an attempt's folder out of its place; None when it isn't there.

    Raises OSError when the file system refuses.
    """
    # A name that is longer is no attempt's.
    name = folder.name if len(os.fsencode(folder.name)) <= ATTEMPT_NAME_BYTES_MAX else ""
    fenced = folder.with_name(f"{FENCED_PREFIX}{secrets.token_hex(4)}-{name}")
    try:
        folder.rename(fenced)
    except FileNotFoundError:
        return None
    return fenced


def attempt_of(fenced: Path) -> str:
    """The attempt whose folder was renamed to this."""
    return fenced.name.removeprefix(FENCED_PREFIX).partition("-")[2]


def end_late_shim(fenced: Path) -> None:
    """Ends what a shim of a fenced attempt had recorded as started; blocks until it is over."""
    attempt_id = attempt_of(fenced)
    started = read_started(fenced, attempt_id)
    # A shim that recorded the end may be at work for another attempt already.
    if started is None or read_outcome(fenced, attempt_id) is not None:
        return
    pidfd = open_shim(started)
    if pidfd is None:
        return
    try:
        end(pidfd, 0.0)
        is_over(pidfd, SHIM_ENDS_WITHIN_S)
    finally:
        os.close(pidfd)


def give_up(folder: Path, mark: str) -> None:
    """Fences an attempt, ends all of it, and removes its folder; blocks until that is done.

    Raises TimeoutError when processes are still there that no signal ends.
    """
    fenced = fence(folder)
    if fenced is not None:
        end_late_shim(fenced)
    sweep_orphans(mark, grace_s=0.0)
    if fenced is not None:
        shutil.rmtree(fenced, ignore_errors=True)
