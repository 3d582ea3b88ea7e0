"""Files that somebody else may have put in place of ours."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO


def open_plain(path: str) -> BinaryIO:
    """A file that a job may have replaced by anything: a pipe would block, a link lead elsewhere.

    Raises OSError for all that is no plain file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no plain file")
    return open(fd, "rb")  # noqa: PTH123
