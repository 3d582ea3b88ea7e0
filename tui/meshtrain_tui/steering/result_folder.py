"""Opens the folder that a sweep's results lie in, where it lies on this host."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path


def opener(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> str | None:
    """The program that shows a folder on this host's desktop; None where there is no desktop."""
    if platform == "darwin":
        return shutil.which("open")
    if environment.get("SSH_CONNECTION"):
        # The window would open on the host, and nobody sits before it.
        return None
    if environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"):
        return shutil.which("xdg-open")
    return None


async def show_folder(folder: Path, program: str | None) -> bool:
    """Open a folder in `program`; False where that can't be done."""
    if program is None or not folder.is_dir():
        return False
    started = await asyncio.create_subprocess_exec(
        program,
        str(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await started.wait() == 0
