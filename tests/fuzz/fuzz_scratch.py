"""A folder for the files that fuzz targets write; in memory where the host has such a place."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

_IN_MEMORY = Path("/dev/shm")


@functools.cache
def scratch_folder() -> Path:
    """Removed when the process ends."""
    parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="meshtrain-fuzz-", dir=parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def scratch(name: str, content: bytes, *, private: bool = False) -> Path:
    """A file with this content; `private` as keys must be."""
    path = scratch_folder() / name
    if not path.parent.exists():
        path.parent.mkdir(parents=True, mode=0o700 if private else 0o755)
    path.write_bytes(content)
    if private:
        path.chmod(0o600)
    return path
