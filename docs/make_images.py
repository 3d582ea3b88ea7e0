"""Draws the pictures of the README from a recorded feed; also records one.

python docs/make_images.py                            docs/images/top.svg, from the recording
python docs/make_images.py --record 127.0.0.1:7470    records until all sweeps are done, or ctrl+c
python docs/make_images.py --demo                     docs/images/demo*, from a run of the demo

The recording is a real run of a sweep like configs/examples/batch_composition.yaml
on three nodes of one machine; tests/tui replays the same one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from meshtrain.clock import wall_now_s
from meshtrain.core.view import MeshView
from meshtrain.net.zmq_feed import FeedClient
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks
from meshtrain_tui.recording import Moment, Replay, read_recording, write_moment

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "tests" / "tui" / "batch_composition.jsonl"
IMAGES = ROOT / "docs" / "images"
PICTURE = IMAGES / "top.svg"
DEMO_WIDTH = 110
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


def draw_demo() -> None:
    """Run the demo, and draw what it printed and plotted."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "demo-output"
        told = subprocess.run(
            [sys.executable, "-m", "meshtrain.cli", "demo", "--output", str(output)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        shutil.copyfile(
            output / "results" / "batch_composition" / "plot.png", IMAGES / "demo_plot.png"
        )
    # The folder is of no interest, and differs each time.
    lines = told.replace(str(output), "demo-output").splitlines()
    console = Console(record=True, width=DEMO_WIDTH, file=io.StringIO())
    console.print(Text("$ make demo", style="bold"))
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    picture = console.export_svg(title="make demo")
    (IMAGES / "demo.svg").write_text(FONT_FACE.sub("", picture), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", metavar="HOST:PORT", help="record this master's feed")
    parser.add_argument("--demo", action="store_true", help="run the demo and draw it")
    arguments = parser.parse_args()
    if arguments.demo:
        draw_demo()
    elif arguments.record is not None:
        asyncio.run(record(arguments.record))
    else:
        asyncio.run(draw())


if __name__ == "__main__":
    main()
