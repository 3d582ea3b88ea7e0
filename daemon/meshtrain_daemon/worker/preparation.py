"""What is prepared on this node, once for all jobs that need the same: kept, used, let go.

    prepared/<key>/tree      what the lines filled, read-only
    prepared/<key>/done      its record; without one it is not complete
    prepared/<key>/lock      see prepare_step.py, which fills it under the job's shim
    prepared/.gone-…         being removed

The key is the hash of all that the content depends on (spec/inputs.py). What a
running attempt uses is never removed; of the rest the longest unused goes first
when all together are larger than the node's setting.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import msgspec

from meshtrain.core.commands import AssignAttempt
from meshtrain.core.manifest import is_digest
from meshtrain.spec.inputs import prepared_key
from meshtrain.spec.jobs import CommandWork
from meshtrain_daemon.worker import prepare_step
from meshtrain_daemon.worker.plain_file import open_plain
from meshtrain_daemon.worker.prepare_step import DONE_NAME, LOCK_NAME, TREE_NAME

GONE_PREFIX = ".gone-"
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""The folder may be another account's: a link would lead elsewhere, a pipe would block."""
_RECORD_BYTES_MAX = 64 * 1024
LINE_SHOWN_MAX = 120


class Record(msgspec.Struct, frozen=True):
    """What is known of something that was prepared."""

    size_bytes: int
    files_count: int
    took_s: float


_record_decoder = msgspec.json.Decoder(Record)


def key_of(assignment: AssignAttempt) -> str | None:
    """Which preparation an attempt uses; None where it needs none."""
    work = assignment.work
    if not isinstance(work, CommandWork) or work.prepare is None:
        return None
    return prepared_key(work, assignment.user)


class Prepared:
    """The folder of all that is prepared on a node. Methods block, and may be called from threads.

    Args:
        root: the folder; made when it is needed.
        bytes_max: what may be kept for later jobs.
    """

    def __init__(self, root: Path, bytes_max: int) -> None:
        self._root = root
        self._bytes_max = bytes_max
        #: held while one is taken, and while one is taken out of its place
        self._lock = threading.Lock()

    def folder(self, key: str) -> str:
        """Where a preparation lies."""
        return f"{self._root}/{key}"

    def tree(self, key: str) -> str:
        """What jobs see of it."""
        return f"{self._root}/{key}/{TREE_NAME}"

    def is_done(self, key: str) -> bool:
        """Whether it is complete."""
        return self._record(key) is not None

    def take(self, key: str) -> bool:
        """Make room for it, note that it is used now, and say whether it is complete.

        Raises OSError.
        """
        folder = Path(self.folder(key))
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            return self.is_done(key)

    def trim(self, in_use: Callable[[], Collection[str]]) -> list[str]:
        """Remove what is too much, and what was cut short; the keys of what is gone.

        Args:
            in_use: tells the keys that attempts on this node use or wait for, those too that
                came meanwhile; called in this thread. Who takes one is among them before.
        """
        self._finish_removals()
        found = []
        for key in self._keys():
            record = self._record(key)
            with contextlib.suppress(FileNotFoundError):
                used_s = Path(self.folder(key)).stat().st_mtime
                found.append((used_s, key, record))
        total = sum(record.size_bytes for _, _, record in found if record is not None)
        gone = []
        for _, key, record in sorted(found, key=lambda one: one[:2]):
            too_much = record is None or total > self._bytes_max
            if too_much and self._remove(key, in_use):
                total -= 0 if record is None else record.size_bytes
                gone.append(key)
        return gone

    def _keys(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root) as entries:
            yield from [entry.name for entry in entries if is_digest(entry.name)]

    def _record(self, key: str) -> Record | None:
        try:
            with open_plain(f"{self.folder(key)}/{DONE_NAME}") as file:
                return _record_decoder.decode(file.read(_RECORD_BYTES_MAX))
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            return None

    def _remove(self, key: str, in_use: Callable[[], Collection[str]]) -> bool:
        """Remove it, unless it is in use, or somebody whom nobody told of is at it."""
        if key in in_use():
            return False
        folder = self.folder(key)
        gone = f"{self._root}/{GONE_PREFIX}{secrets.token_hex(6)}"
        try:
            fd = os.open(f"{folder}/{LOCK_NAME}", _LOCK_FLAGS, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._lock:
                # A job may have been assigned while another one was being removed.
                if key in in_use():
                    return False
                os.rename(folder, gone)  # noqa: PTH104
        except OSError:
            return False
        finally:
            os.close(fd)
        self._finish_removals()
        return True

    def _finish_removals(self) -> None:
        for path in self._root.glob(f"{GONE_PREFIX}*"):
            with contextlib.suppress(OSError):
                if os.geteuid() == 0:
                    # It may be another account's, which could put a link in the place of a
                    # folder: root need not change who may write there.
                    shutil.rmtree(path)
                else:
                    prepare_step.remove(str(path))


def write_request(
    path: str,
    *,
    folder: str,
    lines: str,
    written: str,
    cwd: str | None,
    argv: tuple[str, ...],
    env: dict[str, str],
    log: str,
) -> tuple[str, ...]:
    """Write what is to be prepared and what to become then; the arguments of the step.

    Args:
        path: the request's own.
        folder: of the preparation.
        lines: shell lines, with all placeholders filled.
        written: the same with the node's placeholders, for people.
        cwd: where they run; None is the tree that they fill.
        argv: of the job.
        env: what the job gets beside, and the preparation doesn't.
        log: the attempt's.

    Raises OSError, and ValueError for text that no file can get.
    """
    # Its lines without those that every script of several has.
    wanted = [line for line in written.splitlines() if line.strip() not in ("", "set -e")]
    shown = wanted[0].strip() if wanted else ""
    if len(shown) > LINE_SHOWN_MAX or len(wanted) > 1:
        shown = f"{shown[:LINE_SHOWN_MAX]} …"
    request = {
        "folder": folder,
        "command": lines,
        "shown": shown,
        "cwd": cwd,
        "argv": argv,
        "env": env,
        "log": log,
    }
    Path(path).write_bytes(msgspec.json.encode(request))
    return (sys.executable, "-I", "-S", prepare_step.__file__, path)
