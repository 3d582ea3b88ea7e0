"""Draws the plots of sweeps that are done, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

PLOT_TIMEOUT_S = 120.0


class Plotter:
    """The sweeps to draw, one after the other: the daemon itself never loads matplotlib.

    Args:
        say: shows a line to people.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        #: a sweep's folder → its name
        self._waiting: dict[Path, str] = {}
        self._wake = asyncio.Event()

    def take(self, folder: Path, name: str) -> None:
        """Draw the sweep `name`, whose table lies in `folder`, soon."""
        self._waiting[folder] = name
        self._wake.set()

    @property
    def waiting(self) -> tuple[str, ...]:
        """The sweeps that are still to draw."""
        return tuple(self._waiting.values())

    async def run(self) -> None:
        """Draw for ever; nothing where matplotlib isn't there."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.draw_waiting()

    async def draw_waiting(self) -> None:
        """Draw what waits; what can't be drawn is said."""
        waiting, self._waiting = self._waiting, {}
        if importlib.util.find_spec("matplotlib") is None:
            return
        for folder, name in waiting.items():
            await self._draw(folder, name)

    async def _draw(self, folder: Path, name: str) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "meshtrain.results.plots",
                str(folder),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "MPLBACKEND": "Agg"},
            )
        except OSError as error:
            self._say(f"no plot of {name}: no process for it: {error.strerror}")
            return
        try:
            async with asyncio.timeout(PLOT_TIMEOUT_S):
                _, told = await process.communicate()
        except TimeoutError:
            _kill(process)
            await process.wait()
            self._say(f"the plot of {name} took over {PLOT_TIMEOUT_S:g} s: given up")
            return
        except asyncio.CancelledError:
            _kill(process)
            await process.wait()
            raise
        if process.returncode:
            last = told.decode("utf-8", "replace").strip().splitlines()[-1:]
            self._say(f"no plot of {name}: {' '.join(last)}")


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
