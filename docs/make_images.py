"""Draws what the demo prints and plots; also records the feed that tests/tui replays.

python docs/make_images.py                            docs/images/demo*, from a run of the demo
python docs/make_images.py --record 127.0.0.1:7470    records until all sweeps are done, or ctrl+c

The film of the dashboard is docs/make_recording.py's, its picture in a browser
docs/make_web_image.py's. The recorded feed is of a real run of a sweep like
configs/examples/batch_composition.yaml on three nodes of one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from meshtrain.clock import wall_now_s
from meshtrain.core.view import MeshView
from meshtrain.net.zmq_feed import FeedClient
from meshtrain_tui.recording import Moment, write_moment

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "tests" / "tui" / "batch_composition.jsonl"
IMAGES = ROOT / "docs" / "images"
DEMO_WIDTH_MIN = 110
FONT_FACE = re.compile(r"\s*@font-face\s*{[^}]*}")
"""Fonts that would be fetched from elsewhere; the reader's own monospace font does as well."""


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
    width = max(DEMO_WIDTH_MIN, *map(len, lines))
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text("$ make demo", style="bold"))
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    picture = console.export_svg(title="make demo")
    (IMAGES / "demo.svg").write_text(FONT_FACE.sub("", picture), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", metavar="HOST:PORT", help="record this master's feed")
    arguments = parser.parse_args()
    if arguments.record is not None:
        asyncio.run(record(arguments.record))
    else:
        draw_demo()


if __name__ == "__main__":
    main()
