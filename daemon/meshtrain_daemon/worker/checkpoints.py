"""Makes the newest checkpoint of a job an artifact of the node.

A job puts its checkpoints into the folder that MESHTRAIN_CHECKPOINT names, each
a file or a folder. One that is being written has a name that begins with a dot
or ends in `.tmp`, and is renamed when it is complete. An older one may be
removed by the job at any time.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from meshtrain.artifacts.chunking import list_files
from meshtrain.artifacts.disk import clone_file
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.manifest import Manifest, artifact_id
from meshtrain.errors import ArtifactError
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.verdict import shown

UNFINISHED_SUFFIX = ".tmp"
MAKING_PREFIX = ".checkpoint-"
TRIES_MAX = 3
"""A job may replace its checkpoint while it is being stored: then the next one is tried."""
_ENTRIES_MAX = 100_000


class _Entry(NamedTuple):
    mtime_ns: int
    name: str


class Checkpoints:
    """Stores checkpoints; its methods block, and may be called from any thread.

    Args:
        store: where they go.
        node_id: named in failures.
    """

    def __init__(self, store: ArtifactStore, node_id: str) -> None:
        self._store = store
        self._node_id = node_id
        #: by attempt, the one that was stored last
        self._last: dict[str, _Entry] = {}
        #: by attempt, why one could not be stored, as it was told last
        self._told: dict[str, str] = {}

    def keep_newest(self, folder: AttemptFolder) -> io.CheckpointStored | io.CheckpointFailed:
        """Make the newest complete checkpoint an artifact, unless it is one already."""
        attempt_id = folder.assignment.attempt_id
        try:
            return self._keep_newest(folder)
        except DiskFullError as error:
            failure = Failure(FailureClass.DISK, shown(str(error)), self._node_id)
        except ArtifactError as error:
            failure = Failure(FailureClass.USER_ERROR, shown(str(error)), self._node_id)
        except OSError as error:
            told = f"its checkpoint can't be stored: {error.strerror or error}"
            failure = Failure(FailureClass.DISK, shown(told), self._node_id)
        return io.CheckpointFailed(attempt_id, failure)

    def forget(self, attempt_id: str) -> None:
        """Nothing of the attempt is needed any more."""
        self._last.pop(attempt_id, None)
        self._told.pop(attempt_id, None)

    def is_news(self, failed: io.CheckpointFailed) -> bool:
        """Whether nobody was told yet that an attempt's checkpoints fail for this reason."""
        message = failed.failure.message
        is_new = self._told.get(failed.attempt_id) != message
        self._told[failed.attempt_id] = message
        return is_new

    def _keep_newest(self, folder: AttemptFolder) -> io.CheckpointStored:
        attempt_id = folder.assignment.attempt_id
        for tries_left in reversed(range(TRIES_MAX)):
            newest = _newest(folder.checkpoints)
            if newest is None or newest == self._last.get(attempt_id):
                return io.CheckpointStored(attempt_id, None)
            source = Path(folder.checkpoints, newest.name)
            try:
                manifest = self._store_entry(source, Path(folder.path))
            except DiskFullError:
                raise
            except (ArtifactError, OSError):
                # One that the job replaced or removed meanwhile is no error.
                if tries_left and _newest(folder.checkpoints) != newest:
                    continue
                raise
            self._last[attempt_id] = newest
            return io.CheckpointStored(attempt_id, artifact_id(manifest), manifest.size_bytes)
        raise ArtifactError(
            f"the job replaced its checkpoint {TRIES_MAX} times while it was being stored; keep "
            "each for longer than it takes to copy"
        )

    def _store_entry(self, source: Path, beside: Path) -> Manifest:
        making = beside / f"{MAKING_PREFIX}{secrets.token_hex(4)}"
        making.mkdir()
        try:
            before = _signature(source)
            _copy(source, making)
            # Looked at before it gets into the store: half a checkpoint must never be one.
            if _signature(source) != before:
                raise ArtifactError(
                    f"the checkpoint {source.name} was written to while it was being stored; "
                    f"write it under a name that ends in {UNFINISHED_SUFFIX}, and rename it when "
                    "it is complete"
                )
            return self._store.add_tree(making, move=True)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a daemon that was killed had copied of a checkpoint: it may be large."""
    for making in folder.glob(f"{MAKING_PREFIX}*"):
        shutil.rmtree(making, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """A folder's files, or one file, as files of a folder."""
    # What is above the folder of checkpoints is ours; from there on a job may put links.
    above = Path(os.path.realpath(source.parent.parent), source.parent.name, source.name)
    if not stat.S_ISDIR(source.lstat().st_mode):
        clone_file(source, target / source.name, 0o600, real=str(above))
        return
    for relpath in list_files(source):
        copied = target / relpath
        copied.parent.mkdir(parents=True, exist_ok=True)
        executable = (source / relpath).lstat().st_mode & stat.S_IXUSR
        mode = 0o700 if executable else 0o600
        clone_file(source / relpath, copied, mode, real=str(above / relpath))


def _newest(folder: str) -> _Entry | None:
    """The newest complete entry; of two of one time the greater name."""
    newest: _Entry | None = None
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= _ENTRIES_MAX:
                    raise ArtifactError(
                        f"the job keeps more than {_ENTRIES_MAX} checkpoints; remove older ones"
                    )
                if entry.name.startswith(".") or entry.name.endswith(UNFINISHED_SUFFIX):
                    continue
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
                    continue  # A link to the last one, as some programs make it.
                found = _Entry(info.st_mtime_ns, entry.name)
                newest = found if newest is None else max(newest, found)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return newest


def _signature(path: Path) -> list[tuple[str, int, int]]:
    """What tells that something was written to, without reading it."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        return [("", info.st_size, info.st_mtime_ns)]
    found = []
    for folder, _, files in os.walk(path):
        for name in files:
            info = os.lstat(f"{folder}/{name}")
            found.append((f"{folder}/{name}", info.st_size, info.st_mtime_ns))
    return sorted(found)
