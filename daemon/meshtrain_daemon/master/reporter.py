"""Lays out results as jobs end: a folder a job, the merged table, the records, the plot."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core.job import Attempt, Base, BaseState, Job, JobKind, JobState, Sweep
from meshtrain.core.state import MeshState
from meshtrain.errors import MeshtrainError
from meshtrain.results.folder import folder_name, place_result, sweep_folder
from meshtrain.results.machines import machines_that_ran
from meshtrain.results.merge import CellResult, CellState, cell_result, merge
from meshtrain.results.metrics import Metrics, read_metrics
from meshtrain.results.records import (
    EXPERIMENTS_FILE,
    AttemptRecord,
    BaseRecord,
    ExperimentRecord,
    write_records,
)
from meshtrain.results.table import write_results
from meshtrain.spec.jobs import CommandWork, TrainingWork
from meshtrain.store.base import ReadableStore
from meshtrain_daemon.master.logbook import Logbook

MERGE_DELAY_S = 0.5
"""Ends of jobs within this time are merged in one go."""
MERGE_SHARE_MAX = 0.05
"""Merging may take this share of the time: large sweeps are merged less often."""
MERGE_S_MAX = 60.0
"""A merge surely takes less: a job that ended longer before a table was written is in it."""
PLOT_TIMEOUT_S = 120.0


class Reporter:
    """Writes the results of sweeps.

    Args:
        results: the folder of results.
        bases: the folder of the readable view of bases.
        state: the scheduler's, only read.
        say: shows a line to people.
    """

    def __init__(
        self,
        *,
        results: Path,
        bases: Path,
        state: MeshState,
        artifacts: ArtifactStore,
        logbook: Logbook,
        store: ReadableStore,
        say: Callable[[str], None],
    ) -> None:
        self._results = results
        self._bases = bases
        self._state = state
        self._artifacts = artifacts
        self._logbook = logbook
        self._store = store
        self._say = say
        #: called with each job that ended, and with a base's when the master holds the base
        self.on_ended: Callable[[Job], None] = lambda job: None
        self._ended: dict[str, None] = {}
        self._dirty: dict[str, None] = {}
        self._to_plot: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._wake_plot = asyncio.Event()

    def folder(self, sweep: Sweep) -> Path:
        """Where a sweep's results lie: under its name; later sweeps of one name under their id."""
        # A copy: merging asks from its own thread, while sweeps come in.
        for other in list(self._state.sweeps.values()):
            if other.name == sweep.name:
                name = sweep.name if other.sweep_id == sweep.sweep_id else sweep.sweep_id
                return sweep_folder(self._results, name)
        return sweep_folder(self._results, sweep.sweep_id)

    def catch_up(self) -> None:
        """Take up again what a master that was killed had not laid out or merged."""
        for sweep in self._state.sweeps.values():
            jobs = [self._state.jobs[job_id] for job_id in sweep.job_ids]
            ended = [job for job in jobs if job.ended_wall_s is not None]
            if not ended:
                continue
            record = self.folder(sweep) / EXPERIMENTS_FILE
            merged_wall_s = record.stat().st_mtime if record.exists() else 0.0
            newest_wall_s = max(job.ended_wall_s or 0.0 for job in ended)
            if merged_wall_s < newest_wall_s + MERGE_S_MAX:
                for job in ended:
                    self.job_ended(job)
        for base in self._state.bases.values():
            self.job_ended(self._state.jobs[base.job_id])

    def job_ended(self, job: Job) -> None:
        """A job came to its end, or something of an ended one came late."""
        self._ended[job.job_id] = None
        self._wake.set()
        self.on_ended(job)

    def base_held(self, artifact_id: str) -> None:
        """The master holds a base: show it under its recipe hash."""
        for base in self._state.bases.values():
            if base.artifact_id == artifact_id:
                self.job_ended(self._state.jobs[base.job_id])

    async def run(self) -> None:
        """Lay out and merge for ever."""
        pause_s = MERGE_DELAY_S
        while True:
            await self._wake.wait()
            await asyncio.sleep(pause_s)
            self._wake.clear()
            started_s = time.monotonic()
            await self._lay_out_all()
            await self._merge_all()
            took_s = time.monotonic() - started_s
            pause_s = max(MERGE_DELAY_S, took_s / MERGE_SHARE_MAX)

    async def plot(self) -> None:
        """Draw sweeps that are done for ever; beside `run`, since a drawing takes seconds."""
        while True:
            await self._wake_plot.wait()
            self._wake_plot.clear()
            await self._plot_all()

    # --- a job's folder ------------------------------------------------------------------

    async def _lay_out_all(self) -> None:
        ended, self._ended = self._ended, {}
        for job_id in ended:
            job = self._state.jobs[job_id]
            try:
                if job.kind is JobKind.BASE:
                    base = self._state.bases[self._state.base_of_job[job_id]]
                    await asyncio.to_thread(self._show_base, base)
                elif job.sweep_id is not None and self._left_something(job):
                    sweep = self._state.sweeps[job.sweep_id]
                    await asyncio.to_thread(self._lay_out, job, sweep, self.folder(sweep))
            except (MeshtrainError, OSError) as error:
                self._say(f"the result of {job.name} can't be laid out: {error}")
            for sweep in self._sweeps_of(job):
                self._dirty[sweep.sweep_id] = None

    def _left_something(self, job: Job) -> bool:
        """Whether there is more of an ended job than the table has."""
        attempt = job.attempt
        if attempt is None or not job.state.is_terminal:
            return False
        return (
            attempt.artifact_id is not None
            or self._logbook.size_bytes(attempt.attempt_id, "log") > 0
        )

    def _sweeps_of(self, job: Job) -> list[Sweep]:
        if job.sweep_id is not None:
            return [self._state.sweeps[job.sweep_id]]
        recipe_hash = self._state.base_of_job[job.job_id]
        return [s for s in self._state.sweeps.values() if recipe_hash in s.recipe_hashes]

    def _lay_out(self, job: Job, sweep: Sweep, folder: Path) -> None:
        attempt = job.attempt
        log = None
        if attempt is not None:
            log = self._logbook.path(job.job_id, attempt.attempt_id, "log")
            if not log.exists():
                log = None
        artifact_id = attempt.artifact_id if attempt is not None else None
        cell = self._cell_folder(job, sweep, folder)
        if cell.exists() and (cell / "job.json").exists() and self._is_of(cell, job):
            self._link_log(log, cell)
            return

        def fill(path: Path) -> None:
            if artifact_id is not None and job.state is JobState.SUCCEEDED:
                self._artifacts.materialise(artifact_id, path)

        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, bytes | Path] = {"job.json": _readable(self.describe(job))}
        if isinstance(job.spec.work, CommandWork):
            # The built-in training writes its own.
            config = {"command": job.spec.work.command, "params": job.spec.cell}
            files["config.json"] = msgspec.json.format(msgspec.json.encode(config))
        place_result(cell, fill, files=files)
        self._link_log(log, cell)

    def _is_of(self, cell: Path, job: Job) -> bool:
        attempt_id = job.attempt.attempt_id if job.attempt is not None else None
        try:
            known = msgspec.json.decode((cell / "job.json").read_bytes())
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            return False
        return isinstance(known, dict) and known.get("attempt") == attempt_id

    def _link_log(self, log: Path | None, cell: Path) -> None:
        target = cell / "log"
        if log is None or target.exists():
            return
        try:
            target.hardlink_to(log)
        except OSError:
            with contextlib.suppress(FileExistsError):
                target.symlink_to(log)

    def describe(self, job: Job) -> dict[str, Any]:
        """What is told of a job beside its result."""
        attempt = job.attempt
        return {
            "job": job.job_id,
            "name": job.name,
            "cell": job.spec.cell,
            "group": job.spec.group,
            "state": job.state,
            "generation": job.generation,
            "work": job.spec.work,
            "base": job.spec.recipe_hash,
            "attempt": attempt.attempt_id if attempt is not None else None,
            "base_artifact": attempt.base_artifact if attempt is not None else None,
            "node": attempt.node_id if attempt is not None else None,
            "started_wall_s": attempt.started_wall_s if attempt is not None else None,
            "ended_wall_s": job.ended_wall_s,
            "failure": job.failure if job.state is JobState.FAILED else None,
            "metrics": job.metrics,
        }

    def describe_base(self, base: Base) -> dict[str, Any]:
        """What is told of a base beside its files."""
        return {
            "recipe_hash": base.recipe_hash,
            "generation": base.generation,
            "artifact_id": base.artifact_id,
            "trained_on": base.node_id,
            "trained_s": base.trained_s,
            "recipe": base.spec.recipe,
        }

    def _show_base(self, base: Base) -> None:
        folder = self._bases / base.recipe_hash
        if base.artifact_id is None or not self._artifacts.has(base.artifact_id):
            return
        marker = folder / "recipe.json"
        content = _readable(self.describe_base(base))
        if marker.exists() and marker.read_bytes() == content:
            return
        artifact_id = base.artifact_id

        def fill(path: Path) -> None:
            self._artifacts.materialise(artifact_id, path)

        self._bases.mkdir(parents=True, exist_ok=True)
        place_result(folder, fill, files={"recipe.json": content})

    # --- a sweep's table and records --------------------------------------------------------

    async def _merge_all(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for sweep_id in dirty:
            sweep = self._state.sweeps[sweep_id]
            folder = self.folder(sweep)
            jobs = [self._state.jobs[job_id] for job_id in sweep.job_ids]
            bases = [self._state.bases[r] for r in sweep.recipe_hashes]
            try:
                await asyncio.to_thread(self._merge, sweep, folder, jobs, bases)
            except (MeshtrainError, OSError) as error:
                self._say(f"the results of {sweep.name} can't be merged: {error}")
            if self._state.sweep_open.get(sweep_id) == 0 and jobs:
                self._to_plot[sweep_id] = None
                self._wake_plot.set()

    def _cell(self, job: Job, index: int) -> CellResult:
        state, reason, metrics = str(job.state), "", Metrics()
        if job.state is JobState.SUCCEEDED:
            metrics = Metrics(values=job.metrics) if job.metrics else self.metrics_of(job)
        elif job.failure is not None:
            reason = f"{job.failure.failure_class}: {job.failure.message}"
        if job.state.is_leased:
            state = str(CellState.RUNNING)
        return cell_result(job.spec, state, metrics, reason=reason, index=index)

    def metrics_of(self, job: Job) -> Metrics:
        """What a job left that succeeded and sent no metrics: mostly, why it has none."""
        if job.sweep_id is None:
            return Metrics(reason="it is a base")
        sweep = self._state.sweeps[job.sweep_id]
        cell = self._cell_folder(job, sweep, self.folder(sweep))
        if not cell.exists():
            return Metrics(reason="it left no result")
        work = job.spec.work
        return read_metrics(cell, work.result_file if isinstance(work, CommandWork) else None)

    def _cell_folder(self, job: Job, sweep: Sweep, folder: Path) -> Path:
        return folder / cell_name(job, sweep)

    def _merge(self, sweep: Sweep, folder: Path, jobs: list[Job], bases: list[Base]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if jobs:
            cells = [self._cell(job, index) for index, job in enumerate(jobs)]
            table = merge(cells, sweep.results)
            write_results(
                folder, table, cells, title=sweep.name, header=_header(table.metric or "", jobs)
            )
        write_records(
            folder,
            sweep_id=sweep.sweep_id,
            sweep_name=sweep.name,
            bases=[self._base_record(base, sweep, jobs) for base in bases],
            experiments=[self._experiment_record(job) for job in jobs],
            machines=machines_that_ran(jobs, self._state.nodes),
        )
        (folder / "sweep.txt").write_text(sweep.source, encoding="utf-8")

    def _base_record(self, base: Base, sweep: Sweep, jobs: list[Job]) -> BaseRecord:
        ended_s = base.committed_wall_s
        started_s = None
        if ended_s is not None and base.trained_s is not None:
            started_s = ended_s - base.trained_s
        job = self._state.jobs[base.job_id]
        reason = ""
        if base.state is not BaseState.COMMITTED:
            reason = job.failure.message if job.failure is not None else str(base.state)
        return BaseRecord(
            recipe_hash=base.recipe_hash,
            label=base.spec.label,
            recipe=base.spec.recipe,
            state=str(base.state),
            reused=base.recipe_hash in sweep.reused,
            jobs=sum(1 for job in jobs if job.spec.recipe_hash == base.recipe_hash),
            artifact_id=base.artifact_id,
            generation=base.generation,
            node=base.node_id,
            started_s=started_s,
            ended_s=ended_s,
            reason=reason,
        )

    def _experiment_record(self, job: Job) -> ExperimentRecord:
        attempt = job.attempt
        work = job.spec.work
        history: tuple[Attempt, ...] = (attempt,) if attempt is not None else ()
        if job.retries_used or job.losses or job.generation > 1:
            history = self._store.attempts_of(job.job_id)
        mode = str(work.config["mode"]) if isinstance(work, TrainingWork) else "command"
        return ExperimentRecord(
            job_id=job.job_id,
            name=job.name,
            cell=job.spec.cell,
            work=mode,
            state=str(job.state),
            group=job.spec.group,
            base_recipe_hash=job.spec.recipe_hash,
            base_artifact_id=attempt.base_artifact if attempt is not None else None,
            started_s=attempt.started_wall_s if attempt is not None else None,
            ended_s=job.ended_wall_s,
            attempts=tuple(
                AttemptRecord(
                    epoch=past.epoch,
                    outcome=str(past.state),
                    nodes=tuple(p.node_id for p in past.placements),
                    started_s=past.started_wall_s,
                    ended_s=past.ended_wall_s,
                    failure_class=(
                        str(past.failure.failure_class) if past.failure is not None else None
                    ),
                    reason=past.failure.message if past.failure is not None else "",
                )
                for past in history
            ),
            result_artifact_id=attempt.artifact_id if attempt is not None else None,
            metrics=job.metrics,
            reason=job.failure.message
            if job.failure is not None and job.state is JobState.FAILED
            else "",
        )

    # --- the plot ------------------------------------------------------------------------------

    async def _plot_all(self) -> None:
        """Draw in a process of its own: the daemon never loads matplotlib."""
        to_plot, self._to_plot = self._to_plot, {}
        if importlib.util.find_spec("matplotlib") is None:
            return
        for sweep_id in to_plot:
            sweep = self._state.sweeps[sweep_id]
            if not sweep.job_ids:
                continue
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "meshtrain.results.plots",
                    str(self.folder(sweep)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env={**os.environ, "MPLBACKEND": "Agg"},
                )
            except OSError as error:
                self._say(f"no plot of {sweep.name}: no process for it: {error.strerror}")
                continue
            try:
                async with asyncio.timeout(PLOT_TIMEOUT_S):
                    _, told = await process.communicate()
            except TimeoutError:
                _kill(process)
                await process.wait()
                self._say(f"the plot of {sweep.name} took over {PLOT_TIMEOUT_S:g} s: given up")
                continue
            except asyncio.CancelledError:
                _kill(process)
                await process.wait()
                raise
            if process.returncode:
                last = told.decode("utf-8", "replace").strip().splitlines()[-1:]
                self._say(f"no plot of {sweep.name}: {' '.join(last)}")


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _header(metric: str, jobs: list[Job]) -> str:
    """What the values are: `accuracy on p07`, where all jobs have one target."""
    targets = {
        job.spec.work.config.get("target")
        for job in jobs
        if isinstance(job.spec.work, TrainingWork)
    }
    if len(targets) == 1 and (target := targets.pop()):
        return f"{metric} on {target}"
    return metric


def cell_name(job: Job, sweep: Sweep) -> str:
    """The name of a job's folder below that of its sweep."""
    return folder_name(job.name.removeprefix(f"{sweep.name}/"))


def _readable(told: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(told))
