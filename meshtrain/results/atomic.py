"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from meshtrain.results.errors import ResultsError

TMP_SUFFIX = ".tmp"


def tmp_beside(path: Path) -> Path:
    """A fresh hidden name in the folder of `path`, on the same file system."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}{TMP_SUFFIX}"


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Puts `data` at `path` by a temporary file and a rename.

    `durable` also waits until the bytes are on the disk. Raises ResultsError
    when the folder can't be written; the former file then stands as it was.
    """
    tmp = tmp_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tmp.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        tmp.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        raise ResultsError(
            f"{path} could not be written: {error.strerror or error}; "
            "free disk space or mend the folder's permissions"
        ) from error
