"""A folder for the files that fuzz targets write; in memory where the host has such a place."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

SCRATCH_VARIABLE = "FUZZ_SCRATCH"
_IN_MEMORY = Path("/dev/shm")


def new_scratch() -> Path:
    """A new folder; whoever asks removes it."""
    parent = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="meshtrain-fuzz-", dir=parent))


@functools.cache
def scratch_folder() -> Path:
    """The folder of this process, removed when it ends.

    A process that the fuzzer ends runs no such code: its parent gives it a folder.
    """
    given = os.environ.get(SCRATCH_VARIABLE)
    if given:
        return Path(given)
    folder = new_scratch()
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
