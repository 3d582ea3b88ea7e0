import sys
from pathlib import Path

import pytest
from textual import _wait

sys.path.insert(0, str(Path(__file__).parent))

LOOK_EVERY_S = 0.004


@pytest.fixture(autouse=True)
def quick_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each key Textual's pilot looks whether the process idles, every 20 ms at best.

    A shorter look, in which idling may take the same share, tells as well.
    """
    monkeypatch.setattr(_wait, "SLEEP_GRANULARITY", LOOK_EVERY_S)
    monkeypatch.setattr(_wait, "SLEEP_IDLE", LOOK_EVERY_S / 20)
