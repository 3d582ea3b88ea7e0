"""The dashboard that `feed.py` measures: a real one, in a process of its own, drawing on no screen.

    python benchmarks/feed_watch.py HOST:PORT

It follows the master there, presses keys, and prints a line of JSON when it is connected
and one with its figures when a line comes on its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

from textual import events

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "daemon"), str(ROOT / "tui")]

from meshtrain.core.changes import Note  # noqa: E402
from meshtrain.core.pages import PageQuery  # noqa: E402
from meshtrain.net.zmq_feed import FeedBatch, FeedClient  # noqa: E402
from meshtrain_tui.app import Top  # noqa: E402

KEYS = ("2", "down", "pagedown", "end", "home", "6", "down", "pagedown", "7", "4", "1")
"""Pressed in turn: screens, and what moves in long lists."""
KEY_S_MAX = 5.0


def resident_mb() -> float:
    """Memory of this process that lies in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Stamped(FeedClient):
    """Notes how long each stamp was on its way, and how many rows came."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.applied_ms: list[float] = []
        self.rows = 0
        self.first = asyncio.Event()

    async def batches(self) -> AsyncIterator[FeedBatch]:
        async for batch in super().batches():
            now_s = time.monotonic()
            self.rows += len(batch.changes)
            if not batch.whole:
                self.applied_ms += [
                    (now_s - change.wall_s) * 1e3
                    for change in batch.changes
                    if isinstance(change, Note)
                ]
            self.first.set()
            yield batch


async def pressed_ms(app: Top, key: str) -> float:
    """From a key, as the terminal's driver sends it, to the screen that shows what it did."""

    def shown() -> list[str]:
        return [strip.text for strip in app.screen._compositor.render_strips()]

    def place() -> tuple[str, ...]:
        """The screen's tab, and the line of the cursor: the feed changes what else is shown."""
        rows = shown()
        if len(rows) < 2 or not rows[1].strip():
            return before  # A screen that isn't drawn yet.
        lines = [(str(number), row[:30]) for number, row in enumerate(rows) if row[:1] == "▶"]
        return (rows[1], *(lines[0] if lines else ()))

    before: tuple[str, ...] = ()
    before = place()
    pressed_s = time.perf_counter()
    app.post_message(events.Key(key, key if len(key) == 1 else None))
    while place() == before:
        if time.perf_counter() - pressed_s > KEY_S_MAX:
            raise SystemExit(f"the key {key} did nothing:\n" + "\n".join(shown()))
        await asyncio.sleep(0.001)
    return (time.perf_counter() - pressed_s) * 1e3


async def watch(address: str) -> None:
    """The dashboard: a real one, which draws on no screen."""
    opened: list[Stamped] = []

    def open_source() -> Stamped:
        opened.append(Stamped(address, brief=True))
        return opened[-1]

    began_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    app = Top(address, open_source)
    async with app.run_test(size=(120, 40)) as pilot:
        (source,) = opened
        await source.first.wait()
        await pilot.pause()
        connected_ms = (time.perf_counter() - began_s) * 1e3
        print(json.dumps({"mb": resident_mb(), "connected_ms": connected_ms}), flush=True)
        ended = loop.run_in_executor(None, sys.stdin.readline)
        source.rows, repaint_ms, page_ms = 0, [], []
        key_ms: list[tuple[str, float]] = []
        keys = cycle(KEYS)
        began_s = time.perf_counter()
        while not ended.done():
            asked_s = time.perf_counter()
            await source.page(PageQuery("jobs", sort="ended", descending=True))
            page_ms.append((time.perf_counter() - asked_s) * 1e3)
            drawn_s = time.perf_counter()
            app.look()
            await pilot.pause()
            repaint_ms.append((time.perf_counter() - drawn_s) * 1e3)
            for _ in range(2):
                key = next(keys)
                key_ms.append((key, await pressed_ms(app, key)))
            await asyncio.sleep(0.1)
        took_s = time.perf_counter() - began_s
        applied = sorted(source.applied_ms)
        visited = sorted(took_ms for _, took_ms in key_ms[len(KEYS) :])
        told = {
            "mb": resident_mb(),
            "rows_per_s": source.rows / took_s,
            "applied_ms_median": statistics.median(applied),
            "applied_ms_p99": applied[int(0.99 * (len(applied) - 1))],
            "repaint_ms_median": statistics.median(repaint_ms),
            "repaint_ms_max": max(repaint_ms),
            "page_ms_median": statistics.median(page_ms),
            "key_ms_median": statistics.median(visited),
            "key_ms_p95": visited[int(0.95 * (len(visited) - 1))],
            "first_key_ms_max": max(took_ms for _, took_ms in key_ms[: len(KEYS)]),
            "snapshots": source.snapshots,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1]))
