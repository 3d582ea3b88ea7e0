"""What a job left in its output folder becomes a result: metrics read, files an artifact."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.manifest import Manifest, artifact_id
from meshtrain.errors import ArtifactError
from meshtrain.results.metrics import read_metrics
from meshtrain.spec.jobs import CommandWork
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.job_users import is_own_user
from meshtrain_daemon.worker.stored_record import is_noted, note_stored, stored_before
from meshtrain_daemon.worker.verdict import shown

_PASSING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EAGAIN, errno.EINTR),
}
_OF_THE_HOST = {
    *(errno.EIO, errno.EROFS, errno.ESTALE, errno.EREMOTEIO, errno.EUCLEAN, errno.ENODEV),
    *(errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),
}
"""Errors of a disk that no job can be blamed for."""
METRICS_TOLD_MAX = 100
"""Metrics that travel with the end of an attempt; the rest is in its result."""


def is_empty(folder: AttemptFolder) -> bool:
    """Whether the job left nothing; also when it removed the folder itself."""
    try:
        with os.scandir(folder.output) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        empty = True
    except OSError:
        # No folder any more: storing it tells what it is.
        return False
    # A former daemon may have taken it.
    return empty and not is_noted(folder.path)


def store_output(
    folder: AttemptFolder, store: ArtifactStore, node_id: str
) -> io.OutputStored | io.OutputFailed:
    """Make the output folder an artifact of the node; takes as long as hashing it does.

    May be called again after any crash: the result is the same.
    """
    attempt_id = folder.assignment.attempt_id
    before = stored_before(folder.path, attempt_id, store)
    if before is not None:
        return before
    work = folder.assignment.work
    result_file = work.result_file if isinstance(work, CommandWork) else None
    output = Path(folder.output)
    if output.is_symlink():
        told_link = "its output folder was replaced by a link; write the files into it instead"
        return io.OutputFailed(attempt_id, Failure(FailureClass.USER_ERROR, told_link, node_id))
    metrics = read_metrics(output, result_file).values
    if len(metrics) > METRICS_TOLD_MAX:
        metrics = dict(list(metrics.items())[:METRICS_TOLD_MAX])
    # A name that is no text can't travel.
    metrics = {name: value for name, value in metrics.items() if _is_text(name)}

    def note(manifest: Manifest) -> None:
        note_stored(folder.path, told(manifest))

    def told(manifest: Manifest) -> io.OutputStored:
        return io.OutputStored(
            attempt_id,
            artifact_id(manifest),
            size_bytes=manifest.size_bytes,
            metrics=metrics,
        )

    try:
        # What another account wrote it may write to again: the store gets files of its own.
        own = folder.assignment.user is None or is_own_user(folder.assignment.user)
        manifest = store.add_tree(output, move=own, planned=note)
    except DiskFullError as error:
        return io.OutputFailed(attempt_id, Failure(FailureClass.DISK, shown(str(error)), node_id))
    except (ArtifactError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"its output can't be stored: {error.strerror or error}"
        failure_class = FailureClass.USER_ERROR
        if number in _PASSING:
            failure_class = FailureClass.DISK  # It stays where it is, and is tried again.
        elif number in _OF_THE_HOST:
            failure_class = FailureClass.HOST_LOST
        return io.OutputFailed(attempt_id, Failure(failure_class, shown(reason), node_id))
    return told(manifest)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
