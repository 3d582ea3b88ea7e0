"""Reads results folders back: the records that a master keeps beside its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.errors import NotFoundError, UserError
from meshtrain.results.copies import Copies, Copy, Settled, Twice, copies_of, settle, union
from meshtrain.results.machines import Machine
from meshtrain.results.merge import CellResult, CellState
from meshtrain.results.records import BASES_FILE, EXPERIMENTS_FILE, REUSED
from meshtrain.results.sweep_results import Base, Run, SweepResults
from meshtrain.results.table import TABLE_JSON, read_results
from meshtrain.spec.jobs import ResultsSpec

RECORD_BYTES_MAX = 256 * 1024 * 1024
JOB_FILE = "sweep.txt"
JOB_FILE_BYTES_MAX = 4 * 1024 * 1024
SWEEPS_MAX = 10_000
"""Folders of sweeps that are looked at below one folder."""
NAMES_SHOWN_MAX = 8

_STATES = {"assigned": CellState.RUNNING, "collecting": CellState.RUNNING}


class Gathered(msgspec.Struct, frozen=True):
    """One sweep as several folders have it."""

    results: SweepResults
    twice: tuple[Twice, ...] = ()


class _Attempt(msgspec.Struct, frozen=True):
    nodes: tuple[str, ...] = ()


class _StartedFrom(msgspec.Struct, frozen=True):
    recipe_hash: str
    artifact_id: str | None = None


class _Experiment(msgspec.Struct, frozen=True):
    job_id: str
    name: str
    cell: dict[str, Any]
    state: str
    group: str | None = None
    metrics: dict[str, float] = {}
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    started: str | None = None
    ended: str | None = None
    attempts: tuple[_Attempt, ...] = ()
    base: _StartedFrom | None = None


class _Experiments(msgspec.Struct, frozen=True):
    sweep: dict[str, str]
    experiments: tuple[_Experiment, ...]
    machines: tuple[Machine, ...] = ()


class _Base(msgspec.Struct, frozen=True):
    recipe_hash: str
    label: str = ""
    state: str = ""
    origin: str = ""
    artifact_id: str | None = None
    generation: int = 1
    node: str | None = None
    duration_s: float | None = None
    ended: str | None = None
    recipe: dict[str, Any] = {}


class _Bases(msgspec.Struct, frozen=True):
    bases: tuple[_Base, ...] = ()


class _Folder(msgspec.Struct, frozen=True):
    """What one folder holds of a sweep."""

    path: str
    name: str
    sweep_id: str
    subject: str
    spec: ResultsSpec
    copies: tuple[Copy, ...]
    bases: tuple[Base, ...]
    machines: tuple[Machine, ...]
    job_file: str

    @property
    def newest_s(self) -> float:
        return max((copy.run.ended_s or 0.0 for copy in self.copies), default=0.0)


_decode_experiments = msgspec.json.Decoder(_Experiments).decode
_decode_bases = msgspec.json.Decoder(_Bases).decode


def gather_folders(folders: Sequence[Path], names: Sequence[str] = ()) -> list[Gathered]:
    """The sweeps that lie in `folders`, each once, in the order in which they are first met.

    Args:
        folders: of one sweep each, or of many: a master's folder of results.
        names: the sweeps wanted, by name or id; none means all.

    Raises ResultsError or UserError for what can't be read, NotFoundError for a
    name that no folder has.
    """
    read: dict[str, list[_Folder]] = {}
    seen: set[Path] = set()
    for folder in folders:
        for path in _sweeps_in(folder):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            found = _read(path)
            if names and found.name not in names and found.sweep_id not in names:
                continue
            read.setdefault(found.name, []).append(found)
    known = {name for found in read.values() for one in found for name in (one.name, one.sweep_id)}
    absent = [name for name in names if name not in known]
    if absent:
        listed = ", ".join(str(folder) for folder in folders)
        raise NotFoundError(f"no results of {', '.join(absent)} in {listed}")
    return [_gathered(found) for found in read.values()]


def _sweeps_in(folder: Path) -> Iterator[Path]:
    """The folder itself where it is a sweep's, else the sweeps' folders right below it."""
    if (folder / EXPERIMENTS_FILE).exists() or (folder / TABLE_JSON).exists():
        yield folder
        return
    try:
        below = sorted(path for path in folder.iterdir() if (path / EXPERIMENTS_FILE).exists())
    except OSError:
        below = []
    if len(below) > SWEEPS_MAX:
        raise UserError(f"{folder} holds more than {SWEEPS_MAX:,} sweeps: name one below it")
    if not below:
        # Tells what is wrong with it as a sweep's folder.
        read_results(folder)
    yield from below


def _read(folder: Path) -> _Folder:
    path = folder / EXPERIMENTS_FILE
    record = _decoded(path, _decode_experiments)
    bases = _Bases()
    if (folder / BASES_FILE).exists():
        bases = _decoded(folder / BASES_FILE, _decode_bases)
    spec, subject = _how_merged(folder)
    source = str(folder)
    return _Folder(
        path=source,
        name=record.sweep.get("name", folder.name),
        sweep_id=record.sweep.get("id", ""),
        subject=subject,
        spec=spec,
        copies=tuple(
            _copy(experiment, index, source) for index, experiment in enumerate(record.experiments)
        ),
        bases=tuple(
            Base(
                recipe_hash=base.recipe_hash,
                label=base.label,
                state=base.state,
                reused=base.origin == REUSED,
                artifact_id=base.artifact_id,
                generation=base.generation,
                node=base.node,
                trained_s=base.duration_s,
                ended_s=_seconds(base.ended),
                recipe=base.recipe,
                source=source,
            )
            for base in bases.bases
        ),
        machines=record.machines,
        job_file=_text_of(folder / JOB_FILE),
    )


def _how_merged(folder: Path) -> tuple[ResultsSpec, str]:
    """How the folder's own table was merged, and whose values it shows."""
    if not (folder / TABLE_JSON).exists():
        return ResultsSpec(), ""
    document = read_results(folder)
    table = document.table
    subject = document.header.removeprefix(table.metric).removeprefix(" on ")
    return ResultsSpec(metric=table.metric or None, over=table.over, better=table.better), subject


def _decoded(path: Path, decode: Any) -> Any:
    try:
        if path.stat().st_size > RECORD_BYTES_MAX:
            raise UserError(f"{path} is larger than {RECORD_BYTES_MAX:,} bytes")
        return decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}; have the sweep written again") from error


def _copy(experiment: _Experiment, index: int, source: str) -> Copy:
    state = _STATES.get(experiment.state, experiment.state)
    cell = CellResult(
        job_id=experiment.job_id,
        name=experiment.name,
        cell=experiment.cell,
        group=experiment.group or "",
        state=str(state),
        metrics=experiment.metrics,
        reason=experiment.reason or "",
        index=index,
    )
    start = experiment.base
    run = Run(
        nodes=experiment.nodes,
        started_s=_seconds(experiment.started),
        ended_s=_seconds(experiment.ended),
        attempts=len(experiment.attempts),
        recipe_hash=start.recipe_hash if start is not None else None,
        base_artifact=start.artifact_id if start is not None else None,
    )
    return Copy(source, cell, run)


def _seconds(iso: str | None) -> float | None:
    if iso is None:
        return None
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return None
    # A time without a zone would be read as this host's.
    return moment.timestamp() if moment.tzinfo is not None else None


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(JOB_FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""


# --- several folders of one sweep -------------------------------------------------------


def _gathered(folders: Sequence[_Folder]) -> Gathered:
    """One sweep's folders as one. The order of the folders changes the order of sources alone."""
    copies: Copies = {}
    for folder in folders:
        copies = union(copies, copies_of(folder.copies))
    settled = settle(copies)
    # How it is merged is what the newest says: the same folder whatever the order.
    newest = max(folders, key=lambda folder: (folder.newest_s, folder.path))
    machines = {
        machine.node: machine
        for folder in sorted(folders, key=lambda folder: (folder.newest_s, folder.path))
        for machine in folder.machines
    }
    return Gathered(
        SweepResults(
            name=newest.name,
            spec=newest.spec,
            cells=tuple(copy.cell for copy in settled.kept),
            sources=tuple(folder.path for folder in folders),
            subject=newest.subject,
            sweep_ids=tuple(sorted({folder.sweep_id for folder in folders if folder.sweep_id})),
            runs={copy.cell.job_id: copy.run for copy in settled.kept},
            bases=tuple(base for folder in folders for base in folder.bases),
            machines=tuple(machines[node] for node in sorted(machines)),
            job_file=newest.job_file,
            cell_sources={copy.cell.name: copy.source for copy in settled.kept},
            notes=tuple(_notes(folders, newest, settled)),
        ),
        settled.twice,
    )


def _notes(folders: Sequence[_Folder], newest: _Folder, settled: Settled) -> Iterator[str]:
    ids = sorted({folder.sweep_id for folder in folders if folder.sweep_id})
    if len(ids) > 1:
        shown = ", ".join(ids[:NAMES_SHOWN_MAX])
        yield (
            f"the folders are of {len(ids)} states of the job file, its code or its data "
            f"({shown}): cells are matched by their parameters alone"
        )
    ways = {(folder.spec.metric, folder.spec.over) for folder in folders}
    if len(ways) > 1:
        over = ", ".join(newest.spec.over) or "nothing"
        yield (
            f"the folders' own tables are merged in {len(ways)} ways; here as in {newest.path}: "
            f"{newest.spec.metric or 'value'} over {over}"
        )
