"""Records the run that the film of the README shows: a mesh of its own, and three sweeps.

python docs/record_run.py        writes docs/recording/run.jsonl; some minutes, and no GPU

The sweeps lie beside it. It is a recording as `meshtrain record` makes it, with more
answers: all of a base's training and of one that fails, so that their logs and curves
can be looked at.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from meshtrain.cli.local_mesh import LocalMesh
from meshtrain.clock import wall_now_s
from meshtrain.core.changes import JobRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.view import MeshView
from meshtrain.errors import MeshtrainError
from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_feed import FeedClient
from meshtrain_tui.asking import row_of
from meshtrain_tui.recorder import Recorder
from meshtrain_tui.recording import Answered, Moment, RecordingFile
from meshtrain_tui.standing_line import StandingLine

FOLDER = Path(__file__).parent / "recording"
RECORDING = FOLDER / "run.jsonl"
BYTES_MAX = 4_000_000
NEWLINE = b"\n"
WORKERS = 3
LOOK_S = 0.3
ASK_EVERY_S = 14.0
AFTER_S = 3.0
"""Recorded on after the last job: its result comes to the master."""
TIMEOUT_S = 900.0
STREAM_BYTES_MAX = 100_000
SECOND_AFTER_ENDED = 6
"""The second sweep comes when so many jobs of the first have ended."""


class Watch:
    """Writes what the screen of a job asks, for two jobs: a base's training, and one that fails."""

    def __init__(self, file: RecordingFile, line: StandingLine) -> None:
        self._file = file
        self._ask = row_of(line.ask)
        self._stands: dict[str, JobRow] = {}

    async def look(self, view: MeshView) -> None:
        """Ask about each of them that stands otherwise than before."""
        for row in _watched(view.jobs.values()):
            if self._stands.get(row.job_id) == row:
                continue
            with contextlib.suppress(MeshtrainError):
                self._note("job", (row.job_id,), await self._ask("job", (row.job_id,)))
                self._stands[row.job_id] = row

    async def finish(self) -> None:
        """Write their logs and metrics, whole, with when which bytes came."""
        for job_id in self._stands:
            row = await self._ask("job", (job_id,))
            self._note("job", (job_id,), row)
            for attempt in row["attempts"]:
                for stream in ("log", "metrics"):
                    names = (job_id, stream, attempt["attempt_id"])
                    told = await self._ask("log", names, limit=STREAM_BYTES_MAX)
                    data = base64.b64encode(told["data"]).decode()
                    self._note("log", names, {**told, "data": data})
                    self._note("times", names, await self._ask("times", names))

    def _note(self, what: str, names: tuple[str, ...], row: dict[str, Any]) -> None:
        self._file.write(Moment(wall_now_s(), answered=Answered(what, names, [row], 1)))


def _watched(jobs: Iterable[JobRow]) -> list[JobRow]:
    """The first base that was trained, and the first job that failed."""
    bases = [row for row in jobs if row.kind is JobKind.BASE]
    failed = [row for row in jobs if row.state is JobState.FAILED]
    failed.sort(key=lambda row: row.ended_wall_s or 0.0)
    return bases[:1] + failed[:1]


def drop(name: str, mesh: LocalMesh, base: str = "") -> None:
    """Put a sweep into the watched folder."""
    text = (FOLDER / name).read_text(encoding="utf-8").replace("BASE", base)
    part = mesh.inbox / f"{name}.tmp"
    part.write_text(text, encoding="utf-8")
    part.rename(mesh.inbox / name)


async def play(mesh: LocalMesh, feed: FeedClient, watch: Watch) -> None:
    """Drop the sweeps one after another, and wait until all their jobs have ended."""
    begun_s = time.monotonic()
    waiting = ["shares.yaml", "continued.yaml", "seeds.yaml"]
    while True:
        mesh.check()
        view = feed.view
        ended = sum(job.state.is_terminal for job in view.jobs.values())
        trained = [base for base in view.bases.values() if base.state is BaseState.COMMITTED]
        if len(waiting) == 3 and len(view.nodes) == WORKERS:
            drop(waiting.pop(0), mesh)
        elif len(waiting) == 2 and trained and ended >= SECOND_AFTER_ENDED:
            drop(waiting.pop(0), mesh, trained[0].recipe_hash)
        elif len(waiting) == 1 and len(view.sweeps) == 2 and ended >= 2 * SECOND_AFTER_ENDED:
            drop(waiting.pop(0), mesh)
        await watch.look(view)
        if not waiting and len(view.sweeps) == 3 and ended == len(view.jobs):
            return
        if time.monotonic() - begun_s > TIMEOUT_S:
            raise SystemExit(f"it took more than {TIMEOUT_S:g} s: {ended} jobs have ended")
        await asyncio.sleep(LOOK_S)


async def record(mesh: LocalMesh, file: RecordingFile) -> None:
    line = StandingLine(partial(MasterClient, mesh.address))
    feed = FeedClient(mesh.address)
    recorder = Recorder(feed, file, address=mesh.address, bytes_max=BYTES_MAX)
    watch = Watch(file, line)

    async def ask_on() -> None:
        while True:
            await recorder.ask_again(line.ask)
            await asyncio.sleep(ASK_EVERY_S)

    others = [asyncio.create_task(recorder.run()), asyncio.create_task(ask_on())]
    try:
        await play(mesh, feed, watch)
        await asyncio.sleep(AFTER_S)
        await recorder.ask_again(line.ask)
        await watch.finish()
    finally:
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        line.close()


def without_this_host(data: bytes, home: Path) -> bytes:
    """The recording without paths of the host that it was made on: they are of no interest."""
    for path, shown in ((home, "/home/you/mesh"), (Path(sys.prefix), "/home/you/.venv")):
        data = data.replace(str(path).encode(), shown.encode())
    left = re.search(rb'"(/(?!home/you)[a-z][^"]*)"', data)
    if left:
        raise SystemExit(f"a path of this host is still there: {left[1].decode()}")
    return data


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, written = Path(folder) / "mesh", Path(folder) / "run.jsonl"
        home.mkdir()
        with LocalMesh(home, workers=WORKERS) as mesh, RecordingFile(written) as file:
            asyncio.run(record(mesh, file))
        data = without_this_host(written.read_bytes(), home)
        RECORDING.write_bytes(data)
    print(f"{RECORDING}: {len(data):,} bytes, {data.count(NEWLINE)} lines")


if __name__ == "__main__":
    main()
