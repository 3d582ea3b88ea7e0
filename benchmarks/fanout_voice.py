"""How a program of the fan-out is commanded: lines in, lines of JSON out.

The first line in is its order. It says `ready`, waits for the word to go, says
`done` with the time on the clock that all share, and serves on until its input
ends. So none outlives the benchmark, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def order() -> dict[str, Any]:
    """What this program is to do."""
    found: dict[str, Any] = json.loads(sys.stdin.readline())
    return found


def hear() -> str:
    """The next word; empty when there won't be one."""
    return sys.stdin.readline().strip()


def say(event: str, **fields: Any) -> None:
    """Tell the benchmark something."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def done(path: Path, **fields: Any) -> None:
    """Tell that the file is here, verified, durable and under its name, from now on."""
    say("done", done_s=time.monotonic(), path=str(path), **fields)


def fsync(path: Path) -> None:
    """Bring a file or a folder onto the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def die_with_parent() -> None:
    """For a child between fork and exec: it is killed when its parent ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
