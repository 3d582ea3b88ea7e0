"""What a host has: memory and disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def memory_bytes() -> int:
    """Main memory of the host, in bytes; 0 where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def disk_free_bytes(folder: Path) -> int:
    """Free space, in bytes, where `folder` lies; raises OSError when it isn't there."""
    return shutil.disk_usage(folder).free
