"""What a fuzz target is, and what it must never do: raise, take a second, or grow."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""Inputs that once went wrong, a folder for each target: `make test` runs them again."""
INPUT_S_MAX = 1.0
"""Time of the processor, so that a busy machine accuses nobody."""
GROWTH_BLOCKS_MAX = 0.02
"""Blocks of memory that may stay for each input, in the second half of a run."""
GROWTH_LOOKED_AT = 20_000


class TooSlowError(Exception):
    """Raised when one input takes longer than `INPUT_S_MAX`."""


class GrowthError(Exception):
    """Raised when memory grows with the number of inputs."""


@dataclass(frozen=True, slots=True)
class Target:
    """What takes bytes from outside.

    `one` raises for whatever a documented error is not. `modules` are those whose
    covered lines are counted. `share` is the part of all runs that it gets.
    """

    name: str
    one: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    modules: tuple[str, ...]
    share: float
    size_max: int = 4096
    words: tuple[bytes, ...] = ()

    def kept(self) -> list[Path]:
        """The inputs that once went wrong."""
        folder = CORPUS / self.name
        return sorted(folder.iterdir()) if folder.is_dir() else []


class Watched:
    """A target whose time and memory are watched.

    Args:
        runs: how many inputs there will be; 0 leaves memory alone.
    """

    def __init__(self, target: Target, runs: int = 0) -> None:
        self._one = target.one
        self._count = 0
        self._half = runs // 2
        self._runs = runs
        self._blocks_at_half = 0
        self.slowest_s = 0.0

    def __call__(self, data: bytes) -> None:
        began_s = time.process_time()
        self._one(data)
        took_s = time.process_time() - began_s
        if took_s > INPUT_S_MAX:
            raise TooSlowError(f"{len(data)} bytes took {took_s:.1f} s")
        self.slowest_s = max(self.slowest_s, took_s)
        self._count += 1
        if self._count == self._half:
            self._blocks_at_half = _blocks()
        elif self._count == self._runs and self._half:
            grown = (_blocks() - self._blocks_at_half) / (self._runs - self._half)
            if self._runs >= GROWTH_LOOKED_AT and grown > GROWTH_BLOCKS_MAX:
                raise GrowthError(f"{grown:.3f} blocks of memory stay for each input")
            print(
                f"slowest input {self.slowest_s * 1000:.1f} ms, "
                f"blocks that stay for each input {grown:.4f}",
                flush=True,
            )


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
