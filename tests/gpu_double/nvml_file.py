"""Writes the file that the fake `pynvml` beside it reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "MESHTRAIN_FAKE_NVML"
FOLDER = Path(__file__).parent


class NvmlFile:
    """A host's driver and GPUs, to be changed while somebody reads them.

    Args:
        folder: where the file goes; programs that hold a GPU say so in `holders/` below it.
        gpus: how many GPUs there are.
    """

    def __init__(self, folder: Path, gpus: int = 2) -> None:
        self.path = folder / "nvml.json"
        self.holders = folder / "holders"
        self.holders.mkdir()
        self.state: dict[str, Any] = {
            "holders": str(self.holders),
            "gpus": [
                {"uuid": f"GPU-{index}", "memory": 80 * 10**9, "idle": 500 * 10**6}
                for index in range(gpus)
            ],
        }
        self.write()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process see these GPUs."""
        search = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {VARIABLE: str(self.path), "PYTHONPATH": os.pathsep.join(search)}

    def gpu(self, index: int, **changed: Any) -> None:
        """Changes what one GPU tells."""
        self.state["gpus"][index].update(changed)
        self.write()

    def put(self, index: int, *pids: int, used: int | None = 10**9, kind: str = "C") -> None:
        """Puts processes on a GPU, and takes all others off."""
        self.gpu(index, processes=[{"pid": pid, "used": used, "type": kind} for pid in pids])

    def driver(self, **changed: Any) -> None:
        """Changes what the driver tells: `driver="away"`, `version=2`."""
        self.state.update(changed)
        self.write()

    def write(self) -> None:
        """Writes the file at once and whole."""
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.state))
        os.replace(unfinished, self.path)
