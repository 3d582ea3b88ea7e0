"""The ways in which a store of artifacts fails, as its callers tell them apart.

ArtifactError
├── DiskFullError           no room; the work waits, and is no fault of the job
├── UnknownArtifactError    no such artifact here
└── ChunkNotHereError       it is being fetched, and these bytes have not come yet
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from meshtrain.errors import ArtifactError
from meshtrain.ids import short

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class DiskFullError(ArtifactError):
    """Raised when the disk, or the quota on it, has no room for an artifact."""


class UnknownArtifactError(ArtifactError):
    """Raised when an artifact that is asked for isn't in the store."""


class ChunkNotHereError(ArtifactError):
    """Raised when bytes of a partial artifact are asked for that haven't been verified yet."""


def unknown_artifact(artifact_id: str) -> UnknownArtifactError:
    """The error that names an artifact which a store was asked for and hasn't."""
    return UnknownArtifactError(
        f"artifact {short(artifact_id)} is not in this store. Fetch it from a node that holds it"
    )


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns the system's errors into ours.

    Args:
        doing: what is being done, as in `storing artifact 7f3a…c21 in /data`.

    Raises:
        DiskFullError: when there is no room.
        ArtifactError: on any other error of the system.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"{doing} failed: the disk is full{where}. Free some room, or set another folder"
            ) from error
        raise ArtifactError(
            f"{doing} failed: {error.strerror or error}{where}. Mend the folder or its disk, "
            "and try again"
        ) from error
