"""The ways in which an archive fails, as its callers tell them apart.

MeshtrainError
├── ArchiveError                a tree that can't be read from the archive, or sent to it
│   ├── ArchiveAwayError        it doesn't answer, or is full, now: the same may work later
│   ├── ArchiveRefusedError     it is there and will not have it: somebody has to mend something
│   ├── NotArchivedError        it has no such tree
│   ├── LocalCopyError          what was to be sent is gone, or damaged, on this host
│   └── ArchiveStoppedError     the transfer was ended by us
└── ArchiveExtraError           a URL whose packages are not installed (a UserError)
"""

from __future__ import annotations

from meshtrain.errors import MeshtrainError, UserError


class ArchiveError(MeshtrainError):
    """Raised when something can't be read from an archive, or sent to it."""


class ArchiveAwayError(ArchiveError):
    """Raised when an archive doesn't answer, or has no room, now."""


class ArchiveRefusedError(ArchiveError):
    """Raised when an archive can't be used before somebody mends its settings or rights."""


class NotArchivedError(ArchiveError):
    """Raised when an archive doesn't have what is asked of it."""


class LocalCopyError(ArchiveError):
    """Raised when the copy that was to be sent is gone or damaged on this host."""


class ArchiveStoppedError(ArchiveError):
    """Raised in a transfer that was ended by us: it goes on at the next start."""


class ArchiveExtraError(UserError):
    """Raised when an archive is set whose optional packages are not installed."""
