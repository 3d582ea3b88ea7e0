"""How long `meshtrain results` takes over a large sweep, part by part, in one process.

    python benchmarks/results.py                     100,000 cells
    python benchmarks/results.py --cells 5000 --runs 1

The parts: the master's answers, a page at a time, as bytes; reading them; merging; the
table as text; a second sweep beside it; two masters' folders merged; the HTML report;
Parquet, where pyarrow is installed. Processor time of this process: what waits for
others doesn't count. The longest of the master's answers is told too, since the master
does nothing else meanwhile.

Exit code 0: all was measured. 2: wrong use.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.core.events import SweepSubmitted
from meshtrain.core.job import JobState
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, MeshState, SchedulerConfig
from meshtrain.results.compare import compare
from meshtrain.results.copies import Copy, copies_of, settle, union
from meshtrain.results.merge import CellResult, CellState, MergedTable, merge
from meshtrain.results.merged import Merged
from meshtrain.results.report import Made, report
from meshtrain.results.rerun import reruns
from meshtrain.results.sweep_results import Run, SweepResults
from meshtrain.results.text import render_text
from meshtrain.spec.jobs import CommandWork, JobSpec, ResultsSpec, SweepSpec
from meshtrain.spec.settings import MasterSettings
from meshtrain.wire.codec import encode
from meshtrain.wire.messages import Query
from meshtrain_daemon.master.archiving import Archiving
from meshtrain_daemon.master.queries import answer

FOLDS = 5
SEEDS = 20
PAGE_CELLS = 5000
CELLS_MAX = 1_000_000
SPEC = ResultsSpec("accuracy", ("fold", "seed"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=100_000, help="cells (default 100,000)")
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3): the median counts")
    options = parser.parse_args(arguments)
    if not (1 <= options.cells <= CELLS_MAX and 1 <= options.runs <= 100):
        parser.error(f"--cells: 1 to {CELLS_MAX:,}; --runs: 1 to 100")
    took: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for part, seconds in _round(options.cells).items():
            took.setdefault(part, []).append(seconds)
    print(f"{options.cells:,} cells, seconds of processor time, median of {options.runs}")
    for part, seconds in took.items():
        print(f"  {part:<34} {statistics.median(seconds):8.3f}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {'peak memory of all of it, MiB':<34} {peak_mib:8.0f}")
    return 0


class _Timer:
    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    def __call__(self, part: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        self.took[part] = time.process_time() - start
        return result


class _NothingBeside:
    """What the master's answer asks its surroundings for; there are no files here."""

    archiving = Archiving(MasterSettings())

    def results_folder(self, sweep: Any) -> str:
        return f"results/{sweep.name}"


def _round(count: int) -> dict[str, float]:
    timer = _Timer()
    cells = _cells(count, "large", 0.0)
    state = _state(cells)
    pages, longest_s = timer("the master's answers", lambda: _answers(state))
    timer.took["  the longest of them"] = longest_s
    read = timer("reading them", lambda: _read(pages))
    table: MergedTable = timer("merging", lambda: merge(read, SPEC))
    assert sum(row.expected for row in table.rows) == count, "a cell was lost"
    timer("the table as text", lambda: render_text(table))
    one = _sweep("large", cells)
    other = _sweep("other", _cells(count, "other", 0.01))
    timer("a second sweep beside it", lambda: compare(one, other))
    folders = [[Copy(f"master-{n}", cell, Run()) for cell in cells] for n in (1, 2)]
    settled = timer("two masters' folders", lambda: _merged_folders(folders))
    assert len(settled.kept) == count, "a cell was counted twice"
    merged = Merged(one, table, "accuracy", (), reruns("large", table))
    timer("the HTML report", lambda: report([merged], [], Made(0.0, "0.1.0")))
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        print("pyarrow isn't installed: no Parquet", file=sys.stderr)
        return timer.took
    from meshtrain.results.parquet import write_parquet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.parquet"
        # pyarrow loads parts of itself at its first table.
        write_parquet(path, [], version="0.1.0")
        timer("Parquet", lambda: write_parquet(path, [one], version="0.1.0"))
    return timer.took


def _cells(count: int, name: str, plus: float) -> list[CellResult]:
    cells = []
    for index in range(count):
        rest, fold = divmod(index, FOLDS)
        point, seed = divmod(rest, SEEDS)
        cell = {"lr": (point % 25) / 1000, "batch": point // 25, "seed": seed, "fold": fold}
        good = index % 17 != 0
        value = 0.5 + (index * 2_654_435_761 % 1000) / 2500 + plus
        cells.append(
            CellResult(
                job_id=f"{name}-{index:07}",
                name=f"{name}/{','.join(f'{axis}={v}' for axis, v in cell.items())}",
                cell=cell,
                state=CellState.SUCCEEDED if good else CellState.FAILED,
                metrics={"accuracy": value, "loss": 1 - value} if good else {},
                reason="" if good else "user error: exit code 1",
                index=index,
            )
        )
    return cells


def _sweep(name: str, cells: list[CellResult]) -> SweepResults:
    return SweepResults(name, SPEC, tuple(cells), sources=(f"results/{name}",))


def _state(cells: list[CellResult]) -> MeshState:
    """A master's state with the sweep in it, its jobs as they ended."""
    scheduler = Scheduler(SchedulerConfig(), Loaded())
    jobs = tuple(JobSpec(c.job_id, c.name, c.cell, CommandWork("true")) for c in cells)
    scheduler.handle(SweepSubmitted("1", SweepSpec("large-1", "large", jobs, (), SPEC)), 0.0)
    for cell in cells:
        job = scheduler.state.jobs[cell.job_id]
        scheduler.state.jobs[cell.job_id] = msgspec.structs.replace(
            job, state=JobState(cell.state), metrics=cell.metrics
        )
    return scheduler.state


def _answers(state: MeshState) -> tuple[list[bytes], float]:
    pages: list[bytes] = []
    offset, total, longest_s = 0, 1, 0.0
    surroundings: Any = _NothingBeside()
    while offset < total:
        start = time.process_time()
        page = answer(state, Query("1", "results", ("large",), offset, PAGE_CELLS), surroundings)
        assert not page.error, page.error
        pages.append(encode(page))
        longest_s = max(longest_s, time.process_time() - start)
        offset += len(page.rows[0]["cells"])
        total = page.total
    return pages, longest_s


def _read(pages: list[bytes]) -> list[CellResult]:
    cells: list[Any] = []
    for page in pages:
        cells += msgspec.msgpack.decode(page)["rows"][0]["cells"]
    return msgspec.convert(cells, list[CellResult])


def _merged_folders(folders: list[list[Copy]]) -> Any:
    return settle(union(copies_of(folders[0]), copies_of(folders[1])))


if __name__ == "__main__":
    sys.exit(main())
