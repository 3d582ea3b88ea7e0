"""Keeps results up with the jobs that end: their folders, the merged table, the records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from meshtrain.core.job import Attempt, Base, Job, JobKind, JobState, Sweep
from meshtrain.core.state import MeshState
from meshtrain.errors import MeshtrainError
from meshtrain.results.machines import machines_that_ran
from meshtrain.results.merge import CellResult, CellState, cell_result, merge
from meshtrain.results.metrics import Metrics
from meshtrain.results.records import EXPERIMENTS_FILE, write_records
from meshtrain.results.table import write_results
from meshtrain.spec.jobs import TrainingWork
from meshtrain.store.base import ReadableStore
from meshtrain_daemon.master.plotter import Plotter
from meshtrain_daemon.master.result_folders import ResultFolders
from meshtrain_daemon.master.result_records import base_record, experiment_record

MERGE_DELAY_S = 0.5
"""Ends of jobs within this time are merged in one go."""
MERGE_SHARE_MAX = 0.05
"""Merging may take this share of the time: large sweeps are merged less often."""
RETRY_S = 60.0
"""Until what could not be written is tried again."""
MERGE_S_MAX = 60.0
"""A merge surely takes less: a job that ended longer before a table was written is in it."""


class Reporter:
    """Writes the results of sweeps.

    Args:
        state: the scheduler's, only read.
        say: shows a line to people.
    """

    def __init__(
        self,
        *,
        folders: ResultFolders,
        plotter: Plotter,
        state: MeshState,
        store: ReadableStore,
        say: Callable[[str], None],
    ) -> None:
        self.folders = folders
        self._plotter = plotter
        self._state = state
        self._store = store
        self._say = say
        #: called with each job that ended, and with a base's when the master holds the base
        self.on_ended: Callable[[Job], None] = lambda job: None
        self._ended: dict[str, None] = {}
        self._dirty: dict[str, None] = {}
        #: what could not be written, on a full disk, say, and why: tried again, told once
        self._failed_jobs: dict[str, str] = {}
        self._failed_sweeps: dict[str, str] = {}
        self._again: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()

    def catch_up(self) -> None:
        """Take up again what a master that was killed had not laid out or merged."""
        for sweep in self._state.sweeps.values():
            jobs = [self._state.jobs[job_id] for job_id in sweep.job_ids]
            ended = [job for job in jobs if job.ended_wall_s is not None]
            if not ended:
                continue
            record = self.folders.folder(sweep) / EXPERIMENTS_FILE
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
            if (self._failed_jobs or self._failed_sweeps) and self._again is None:
                self._again = asyncio.get_running_loop().call_later(RETRY_S, self.try_again)
            took_s = time.monotonic() - started_s
            pause_s = max(MERGE_DELAY_S, took_s / MERGE_SHARE_MAX)

    def try_again(self) -> None:
        """Take up what could not be written."""
        self._again = None
        self._ended.update(dict.fromkeys(self._failed_jobs))
        self._dirty.update(dict.fromkeys(self._failed_sweeps))
        self._wake.set()

    # --- folders ---------------------------------------------------------------------------

    async def _lay_out_all(self) -> None:
        ended, self._ended = self._ended, {}
        for job_id in ended:
            job = self._state.jobs[job_id]
            try:
                if job.kind is JobKind.BASE:
                    base = self._state.bases[self._state.base_of_job[job_id]]
                    await asyncio.to_thread(self.folders.show_base, base)
                elif job.sweep_id is not None and self.folders.left_something(job):
                    sweep = self._state.sweeps[job.sweep_id]
                    await asyncio.to_thread(self.folders.lay_out, job, sweep)
                self._failed_jobs.pop(job_id, None)
            except (MeshtrainError, OSError) as error:
                if self._failed_jobs.get(job_id) != str(error):
                    self._say(f"the result of {job.name} can't be laid out: {error}")
                self._failed_jobs[job_id] = str(error)
            for sweep in self._sweeps_of(job):
                self._dirty[sweep.sweep_id] = None

    def _sweeps_of(self, job: Job) -> list[Sweep]:
        if job.sweep_id is not None:
            return [self._state.sweeps[job.sweep_id]]
        recipe_hash = self._state.base_of_job[job.job_id]
        return [s for s in self._state.sweeps.values() if recipe_hash in s.recipe_hashes]

    # --- tables and records ------------------------------------------------------------------

    async def _merge_all(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for sweep_id in dirty:
            sweep = self._state.sweeps[sweep_id]
            folder = self.folders.folder(sweep)
            jobs = [self._state.jobs[job_id] for job_id in sweep.job_ids]
            bases = [self._state.bases[r] for r in sweep.recipe_hashes]
            try:
                await asyncio.to_thread(self._merge, sweep, folder, jobs, bases)
                self._failed_sweeps.pop(sweep_id, None)
            except (MeshtrainError, OSError) as error:
                if self._failed_sweeps.get(sweep_id) != str(error):
                    self._say(f"the results of {sweep.name} can't be merged: {error}")
                self._failed_sweeps[sweep_id] = str(error)
                continue
            if self._state.sweep_open.get(sweep_id) == 0 and jobs:
                self._plotter.take(folder, sweep.name)

    def _cell(self, job: Job, index: int) -> CellResult:
        state, reason, metrics = str(job.state), "", Metrics()
        if job.state is JobState.SUCCEEDED:
            metrics = Metrics(values=job.metrics) if job.metrics else self.folders.metrics_of(job)
        elif job.failure is not None:
            reason = f"{job.failure.failure_class}: {job.failure.message}"
        if job.state.is_leased:
            state = str(CellState.RUNNING)
        return cell_result(job.spec, state, metrics, reason=reason, index=index)

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
            bases=[base_record(base, self._state.jobs[base.job_id], sweep, jobs) for base in bases],
            experiments=[experiment_record(job, self._attempts_of(job)) for job in jobs],
            machines=machines_that_ran(jobs, self._state.nodes),
        )
        (folder / "sweep.txt").write_text(sweep.source, encoding="utf-8")

    def _attempts_of(self, job: Job) -> Sequence[Attempt]:
        """All of them; the store is asked only for a job that can have had more than one."""
        if job.retries_used or job.losses or job.generation > 1:
            return self._store.attempts_of(job.job_id)
        return (job.attempt,) if job.attempt is not None else ()


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
