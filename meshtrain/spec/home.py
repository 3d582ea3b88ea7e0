"""Where all state lies if nobody says otherwise. Imports nothing that takes its time to load."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """`$XDG_STATE_HOME/meshtrain`, or `~/.local/state/meshtrain`."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG rules: a relative path there is to be ignored.
    root = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return root / "meshtrain"
