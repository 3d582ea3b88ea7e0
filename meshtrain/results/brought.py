"""Results that scripts left on servers without a daemon, brought home and read.

FOLDER/
    sweep.json                    whose results these are
    <cell>/
        cell.json                 the cell's parameters
        exit_code                 how it ended; without it nothing counts
        output/  log  run.json
    bases/  prepared/             what the cells started from
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.errors import UserError
from meshtrain.results.folder import folder_name
from meshtrain.results.merge import CellResult, CellState, cell_result
from meshtrain.results.metrics import read_metrics
from meshtrain.spec.jobs import CommandWork, JobSpec, SweepSpec

CELL_VERSION = 1
"""Raised when what scripts leave changes its meaning."""
CELL_FILE = "cell.json"
EXIT_FILE = "exit_code"
OUTPUT_FOLDER = "output"
BASES_FOLDER = "bases"
NOT_CELLS = frozenset({BASES_FOLDER, "prepared"})
DEPTH_MAX = 6
"""How deep below a folder cells are looked for: results of several servers may lie side by side."""
FOLDERS_MAX = 1_000_000
CELL_BYTES_MAX = 1024 * 1024
EXIT_BYTES_MAX = 200
EXIT_TIMEOUT = 124
"""What `timeout` of coreutils exits with when the time is over."""
EXIT_SIGNAL = 128
"""A shell's exit code of what a signal ended is the signal's number more than this."""
MISSING = "missing"
"""The state of a cell whose result lies in none of the folders."""
NOT_BROUGHT = "no result was brought home"


class Brought(msgspec.Struct, frozen=True):
    """What folders hold of a sweep."""

    cells: tuple[CellResult, ...]
    """Of every job of the sweep, in its order."""
    missing: tuple[str, ...] = ()
    """The names of those that no folder has a result of."""
    notes: tuple[str, ...] = ()
    """What a reader should know: results of other sweeps, of another state of the code."""


class _Cell(msgspec.Struct, frozen=True):
    version: int
    sweep: str
    sweep_id: str
    job_id: str
    name: str
    cell: dict[str, Any]


_decode = msgspec.json.Decoder(_Cell).decode


def cell_path(sweep_name: str, job_name: str) -> str:
    """The name of a cell's folder."""
    return folder_name(job_name.removeprefix(f"{sweep_name}/"))


def gather(folders: Sequence[Path], sweep: SweepSpec) -> Brought:
    """The results of a sweep's jobs, wherever they lie below `folders`.

    Jobs are known by their names and their cells: the hashes in `sweep` don't count.
    Where a job has several, one that succeeded counts, and among those the one
    of the folder that is named first. Raises UserError for what is no folder.
    """
    jobs = {job.name: job for job in sweep.jobs}
    index = {job.name: place for place, job in enumerate(sweep.jobs)}
    found: dict[str, CellResult] = {}
    others: dict[str, int] = {}
    states: set[str] = set()
    unread: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name what a script of the sweep wrote to")
        for path in _cells_below(folder):
            try:
                cell = _read_cell(path)
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                unread.append(f"{path / CELL_FILE} can't be read: {error}")
                continue
            job = jobs.get(cell.name)
            if cell.sweep != sweep.name or job is None or job.cell != cell.cell:
                others[cell.sweep] = others.get(cell.sweep, 0) + 1
                continue
            states.add(cell.sweep_id)
            result = _result(path, job, index[job.name])
            known = found.get(job.name)
            if known is None or _is_better(result, known):
                found[job.name] = result
    missing = tuple(job.name for job in sweep.jobs if job.name not in found)
    cells = tuple(
        found.get(job.name) or cell_result(job, MISSING, reason=NOT_BROUGHT, index=index[job.name])
        for job in sweep.jobs
    )
    notes = [
        f"{count} results are of {name}, and are left out: not of this sweep, or of other cells"
        for name, count in sorted(others.items())
    ]
    if len(states) > 1:
        notes.append(
            f"they are of several states of the job file, its code or its data: "
            f"{', '.join(sorted(states))}"
        )
    return Brought(cells, missing, (*notes, *unread))


def _is_better(one: CellResult, other: CellResult) -> bool:
    return one.state == CellState.SUCCEEDED and other.state != CellState.SUCCEEDED


def _cells_below(folder: Path) -> Iterator[Path]:
    """Every folder with a cell.json, in the order of their names."""
    seen = 0
    root = str(folder)
    for path, names, files in os.walk(root):
        seen += 1
        if seen > FOLDERS_MAX:
            raise UserError(f"{folder} holds more than {FOLDERS_MAX:,} folders; name one below it")
        if CELL_FILE in files:
            names.clear()
            yield Path(path)
            continue
        depth = path[len(root) :].count(os.sep)
        if depth >= DEPTH_MAX:
            names.clear()
        names[:] = sorted(name for name in names if name not in NOT_CELLS)


def _read_cell(path: Path) -> _Cell:
    with (path / CELL_FILE).open("rb") as file:
        return _decode(file.read(CELL_BYTES_MAX))


def _reason(told: str, job: JobSpec) -> str:
    """Why a cell has no result, from what the script says of its end."""
    if not told.isdecimal() or len(told) > 3:
        return told
    if int(told) == EXIT_TIMEOUT and job.limits.timeout_s is not None:
        return f"timeout: it took longer than {job.limits.timeout_s:g} s"
    if int(told) > EXIT_SIGNAL:
        return f"exit code {told}: ended by signal {int(told) - EXIT_SIGNAL}"
    return f"exit code {told}"


def _result(path: Path, job: JobSpec, index: int) -> CellResult:
    """What one cell's folder says."""
    try:
        with (path / EXIT_FILE).open("rb") as file:
            told = file.read(EXIT_BYTES_MAX).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return cell_result(
            job, CellState.RUNNING, reason="it was begun and has not ended", index=index
        )
    except OSError as error:
        told = f"{EXIT_FILE} can't be read: {error.strerror}"
    if told != "0":
        return cell_result(job, CellState.FAILED, reason=_reason(told, job), index=index)
    work = job.work
    file_name = work.result_file if isinstance(work, CommandWork) else None
    metrics = read_metrics(path / OUTPUT_FOLDER, file_name)
    return cell_result(job, CellState.SUCCEEDED, metrics, index=index)
