"""`meshtrain demo`: one sweep on a mesh of this host's own, from the dropped file to the plot."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

import meshtrain
from meshtrain.cli import words
from meshtrain.cli.local_mesh import LocalMesh, LocalMeshError
from meshtrain.cli.output import print_json
from meshtrain.cli.progress import MeshProgress
from meshtrain.core.changes import BaseRow, JobRow, SweepRow, TransferRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.ids import short
from meshtrain.net.zmq_feed import FeedClient

MARK = ".meshtrain-demo"
"""Lies in every folder that a demo made: only such a folder is ever replaced."""
REFRESH_S = 0.2
RESULTS_TIMEOUT_S = 60.0
SUBMIT_TIMEOUT_S = 30.0


def command(
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for the state and the results.")
    ] = Path("demo-output"),
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=16, help="How many worker daemons.")
    ] = 3,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another sweep than the built-in one.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON; the rest goes to stderr.")
    ] = False,
) -> None:
    """Train one base and 24 experiments on a mesh of four processes, and show what came out.

    \b
    Examples:
      meshtrain demo
      meshtrain demo --workers 2 --output try-it
    """
    console = Console(stderr=as_json)
    output = output.absolute()
    sweep_file = file.absolute() if file is not None else example("batch_composition.yaml")
    if not sweep_file.is_file():
        raise UserError(f"there is no file {sweep_file}: name a sweep file with --file")
    _make_room(output)
    started_s = time.monotonic()
    with LocalMesh(output, workers=workers) as mesh:
        told = f"mesh of 1 master and {workers} workers on this host, state in {mesh.home}"
        console.print(told, highlight=False, soft_wrap=True)
        dropped = mesh.inbox / sweep_file.name
        shutil.copyfile(sweep_file, mesh.inbox / f"{sweep_file.name}.tmp")
        (mesh.inbox / f"{sweep_file.name}.tmp").rename(dropped)
        console.print(
            f"dropped {sweep_file.name} into {mesh.inbox}", highlight=False, soft_wrap=True
        )
        view = asyncio.run(_watch(mesh, console, dropped))
        console.print("\ntearing down …", end="")
    console.print(" done\n")
    sweep = next(iter(view.sweeps.values()))
    wall_s = time.monotonic() - started_s
    _report(console, view, sweep, mesh.results / sweep.name, wall_s)
    if as_json:
        print_json(_document(view, sweep, mesh.results / sweep.name, wall_s))
    failed = [job for job in _jobs(view, sweep) if job.state is not JobState.SUCCEEDED]
    if failed:
        raise typer.Exit(1)


def example(name: str) -> Path:
    """An example that comes with meshtrain; installed beside the package, or in the checkout."""
    package = Path(meshtrain.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "examples" / name).exists():
            return folder / "examples" / name
    raise UserError(f"the example {name} is not installed: name a sweep file with --file")


def _make_room(output: Path) -> None:
    if output.exists():
        if not (output / MARK).exists() and any(output.iterdir()):
            raise UserError(
                f"{output} is there already and was made by no demo: name another folder "
                "with --output"
            )
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARK).touch()


async def _watch(mesh: LocalMesh, console: Console, dropped: Path) -> MeshView:
    """Follow the mesh until its sweep has ended and its results are written."""
    feed = FeedClient(mesh.address)
    following = asyncio.create_task(_follow(feed))
    try:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            await _until_done(mesh, feed, live, dropped, following)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        feed.close()
    return feed.view


async def _follow(feed: FeedClient) -> None:
    async for _ in feed.batches():
        pass


async def _until_done(
    mesh: LocalMesh, feed: FeedClient, live: Live, dropped: Path, following: asyncio.Task[None]
) -> None:
    began_s = time.monotonic()
    ended_s: float | None = None
    while True:
        mesh.check()
        if following.done():
            following.result()
        # A new snapshot brings a new picture: never keep the old one.
        view = feed.view
        live.update(MeshProgress(view), refresh=True)
        if not view.sweeps and time.monotonic() - began_s > SUBMIT_TIMEOUT_S:
            told = mesh.inbox / "rejected" / f"{dropped.name}.error.txt"
            raise LocalMeshError(
                told.read_text() if told.exists() else f"{dropped} was not taken; see its log"
            )
        rejected = mesh.inbox / "rejected" / f"{dropped.name}.error.txt"
        if not view.sweeps and rejected.exists():
            raise UserError(rejected.read_text())
        for sweep in view.sweeps.values():
            jobs = _jobs(view, sweep)
            if len(jobs) < sweep.jobs or not all(job.state.is_terminal for job in jobs):
                continue
            ended_s = ended_s or time.monotonic()
            folder = mesh.results / sweep.name
            waited_s = time.monotonic() - ended_s
            if (folder / "plot.png").exists() or waited_s > RESULTS_TIMEOUT_S:
                live.update(MeshProgress(view), refresh=True)
                return
        await asyncio.sleep(REFRESH_S)


def _jobs(view: MeshView, sweep: SweepRow) -> list[JobRow]:
    return [job for job in view.jobs.values() if job.sweep_id == sweep.sweep_id]


def _report(console: Console, view: MeshView, sweep: SweepRow, folder: Path, wall_s: float) -> None:
    table = folder / "table.txt"
    if table.exists():
        console.print(table.read_text().rstrip(), markup=False, highlight=False)
    console.print()
    for base in view.bases.values():
        came = [t for t in view.transfers if t.artifact_id == base.artifact_id]
        console.print(_base_line(base, came), markup=False, highlight=False, soft_wrap=True)
    files = [name for name in ("table.csv", "plot.png", "report.html")
             if (folder / name).exists()]  # fmt: skip
    console.print(f"results  {folder}/   {'   '.join(files)}", highlight=False, soft_wrap=True)
    plot = folder / "plot.png"
    if plot.exists():
        console.print(f"plot     {plot}", highlight=False, soft_wrap=True)
    jobs = list(view.jobs.values())
    console.print(_time_line(jobs, len(view.nodes), wall_s, sweep.jobs), highlight=False)
    trained, avoided = _trainings(jobs)
    console.print(
        f"\nbases trained: {trained}  avoided: {avoided}  "
        f"fetched from peers: {_fetched_from_peers(view)}",
        highlight=False,
    )
    console.print(_bytes_line(view.transfers), highlight=False, soft_wrap=True)


def _trainings(jobs: list[JobRow]) -> tuple[int, int]:
    """How many bases were trained, and how many trainings one each would have taken more."""
    trained = sum(1 for job in jobs if job.kind is JobKind.BASE and job.state is JobState.SUCCEEDED)
    needing = sum(
        1 for job in jobs if job.kind is JobKind.EXPERIMENT and job.recipe_hash is not None
    )
    return trained, max(0, needing - trained)


def _fetched_from_peers(view: MeshView) -> int:
    models = {base.artifact_id for base in view.bases.values()}
    return sum(
        1
        for transfer in view.transfers
        if transfer.artifact_id in models
        and transfer.to_node != MASTER_NODE_ID
        and _peers_of(transfer)
    )


def _document(view: MeshView, sweep: SweepRow, folder: Path, wall_s: float) -> dict[str, Any]:
    """The outcome as `--json` prints it."""
    trained, avoided = _trainings(list(view.jobs.values()))
    states = Counter(str(job.state) for job in _jobs(view, sweep))
    return {
        "sweep_id": sweep.sweep_id,
        "sweep": sweep.name,
        "jobs": sweep.jobs,
        "states": dict(states),
        "results": str(folder),
        "bases_trained": trained,
        "trainings_avoided": avoided,
        "fetched_from_peers": _fetched_from_peers(view),
        "wall_s": round(wall_s, 3),
    }


def _base_line(base: BaseRow, came: list[TransferRow]) -> str:
    name = f"base {short(base.recipe_hash)}"
    if base.state is not BaseState.COMMITTED:
        return f"{name} is {base.state}"
    line = f"{name} trained once on {base.node_id} in {base.trained_s or 0.0:.1f} s"
    fetched = [
        f"{t.to_node} from {' and '.join(_peers_of(t)) or MASTER_NODE_ID}"
        for t in came
        if t.to_node != MASTER_NODE_ID
    ]
    return f"{line}, then fetched: {', '.join(fetched)}" if fetched else line


def _bytes_line(transfers: Iterable[TransferRow]) -> str:
    """How much each host gave the others."""
    given: Counter[str] = Counter()
    reused_bytes = 0
    for transfer in transfers:
        given.update(transfer.bytes_by_node)
        reused_bytes += transfer.bytes_reused
    told = [f"{words.size(given[node])} from {node}" for node in sorted(given)]
    if MASTER_NODE_ID not in given:
        told.append(f"none from {MASTER_NODE_ID}")
    if reused_bytes:
        told.append(f"{words.size(reused_bytes)} were there in other artifacts")
    return f"bytes by source: {', '.join(told)}"


def _peers_of(transfer: TransferRow) -> list[str]:
    return sorted(node for node in transfer.bytes_by_node if node != MASTER_NODE_ID)


def _time_line(jobs: list[JobRow], nodes: int, wall_s: float, count: int) -> str:
    spans = [
        (job.started_wall_s, job.ended_wall_s)
        for job in jobs
        if job.started_wall_s is not None and job.ended_wall_s is not None
    ]
    busy_s = sum(end - start for start, end in spans)
    span_s = max((end for _, end in spans), default=0.0) - min(
        (start for start, _ in spans), default=0.0
    )
    busy = busy_s / span_s if span_s > 0 else 0.0
    minutes, seconds = divmod(round(wall_s), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"time     {took}, {count} jobs, {busy:.1f} of {nodes} nodes busy on average"
