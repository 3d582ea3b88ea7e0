"""Draws the pictures of the README from a recorded feed; also records one.

python docs/make_images.py                            docs/images/top.svg, from the recording
python docs/make_images.py --record 127.0.0.1:7470    records until all sweeps are done, or ctrl+c

The recording is a real run of configs/examples/batch_composition.yaml on three
nodes of one machine; tests/tui replays the same one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time
from pathlib import Path

from meshtrain.clock import wall_now_s
from meshtrain.core.view import MeshView
from meshtrain.net.zmq_feed import FeedClient
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks
from meshtrain_tui.recording import Moment, Replay, read_recording, write_moment

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "tests" / "tui" / "batch_composition.jsonl"
PICTURE = ROOT / "docs" / "images" / "top.svg"
SIZE = (100, 30)
FONT_FACE = re.compile(r"\s*@font-face\s*{[^}]*}")
"""Fonts that would be fetched from elsewhere; the reader's own monospace font does as well."""
ENDED_SHOWN = 14
"""The picture shows the moment when this many jobs of the sweep have ended."""


def all_done(view: MeshView) -> bool:
    sweeps = view.sweeps.values()
    return bool(sweeps) and all(view.progress(s.sweep_id).ended == s.jobs for s in sweeps)


async def record(address: str) -> None:
    client = FeedClient(address)
    try:
        with RECORDING.open("wb") as file:
            async for batch in client.batches():
                write_moment(file, Moment(wall_now_s(), batch))
                if all_done(client.view):
                    return
    finally:
        client.close()


async def draw() -> None:
    # The same picture wherever it is drawn.
    os.environ["TZ"] = "UTC"
    time.tzset()
    replay = Replay(read_recording(RECORDING))
    app = Top(
        "127.0.0.1:7470",
        lambda: replay,
        clocks=Clocks(replay.now_s, replay.now_s),
        redraw_min_s=0,
    )
    async with app.run_test(size=SIZE) as pilot:
        shown = MeshView()

        def until_enough(moment: Moment) -> bool:
            enough = sum(shown.progress(s).ended for s in shown.sweeps) >= ENDED_SHOWN
            for change in moment.batch.changes:
                shown.apply(change)
            return not enough

        replay.play_while(until_enough)
        await replay.wait_played()
        app.look()
        await pilot.pause()
        PICTURE.parent.mkdir(exist_ok=True)
        picture = app.export_screenshot(title="meshtrain top")
        PICTURE.write_text(FONT_FACE.sub("", picture), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", metavar="HOST:PORT", help="record this master's feed")
    address = parser.parse_args().record
    asyncio.run(draw() if address is None else record(address))


if __name__ == "__main__":
    main()
