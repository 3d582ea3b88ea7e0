"""When each artifact of a store was last used, kept as the time of its manifest's file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.tree import MANIFEST_NAME
from meshtrain.core.cache import Cached
from meshtrain.errors import ArtifactError


def cached(store: ArtifactStore, wall_s: float) -> list[Cached]:
    """All whole artifacts, with their sizes in bytes and how long nothing has used them.

    Args:
        wall_s: now, in seconds since 1970.

    Raises ArtifactError when the store can't be listed; an artifact that can't be
    read counts as one of unknown size.
    """
    found = []
    for artifact_id in store.ids():
        size_bytes, idle_s = 0, 0.0
        try:
            size_bytes = store.size_bytes(artifact_id)
            # A clock that went back makes nothing used in the future.
            idle_s = max(0.0, wall_s - _path(store, artifact_id).stat().st_mtime)
        except (ArtifactError, OSError):
            # Removed this moment, or damaged: whoever needs it will be told.
            pass
        found.append(Cached(artifact_id, size_bytes, idle_s))
    return found


def note_use(store: ArtifactStore, artifact_id: str) -> None:
    """Remember that an artifact is used now; fine when it is gone."""
    # It only orders what goes first when there is no room.
    with contextlib.suppress(OSError):
        os.utime(_path(store, artifact_id))


def _path(store: ArtifactStore, artifact_id: str) -> Path:
    return store.root / "artifacts" / artifact_id / MANIFEST_NAME
