"""Lays out results in folders: one a job below its sweep's, one a base under its recipe."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core.job import Base, Job, JobState, Sweep
from meshtrain.core.state import MeshState
from meshtrain.results.folder import folder_name, place_result, sweep_folder
from meshtrain.results.metrics import Metrics, read_metrics
from meshtrain.spec.jobs import CommandWork
from meshtrain_daemon.master.hidden_values import without_secrets
from meshtrain_daemon.master.logbook import Logbook


class ResultFolders:
    """Where results lie, and what lies there.

    Args:
        results: the folder of results.
        bases: the folder of the readable view of bases.
        state: the scheduler's, only read.
    """

    def __init__(
        self,
        *,
        results: Path,
        bases: Path,
        state: MeshState,
        artifacts: ArtifactStore,
        logbook: Logbook,
    ) -> None:
        self._results = results
        self._bases = bases
        self._state = state
        self._artifacts = artifacts
        self._logbook = logbook

    def folder(self, sweep: Sweep) -> Path:
        """Where a sweep's results lie: under its name; later sweeps of one name under their id."""
        # A copy: merging asks from its own thread, while sweeps come in.
        for other in list(self._state.sweeps.values()):
            if other.name == sweep.name:
                name = sweep.name if other.sweep_id == sweep.sweep_id else sweep.sweep_id
                return sweep_folder(self._results, name)
        return sweep_folder(self._results, sweep.sweep_id)

    def left_something(self, job: Job) -> bool:
        """Whether there is more of an ended job than the table has."""
        attempt = job.attempt
        if attempt is None or not job.state.is_terminal:
            return False
        return (
            attempt.artifact_id is not None
            or self._logbook.size_bytes(attempt.attempt_id, "log") > 0
        )

    def lay_out(self, job: Job, sweep: Sweep) -> None:
        """Make the folder of a job that ended, or bring to it what came late.

        Raises ArtifactError when its result isn't held, OSError as the disk has it.
        """
        folder = self.folder(sweep)
        attempt = job.attempt
        log = None
        if attempt is not None:
            log = self._logbook.path(job.job_id, attempt.attempt_id, "log")
            if not log.exists():
                log = None
        artifact_id = attempt.artifact_id if attempt is not None else None
        cell = folder / cell_name(job, sweep)
        if cell.exists() and (cell / "job.json").exists() and _is_of(cell, job):
            _link_log(log, cell)
            return

        def fill(path: Path) -> None:
            if artifact_id is not None and job.state is JobState.SUCCEEDED:
                self._artifacts.materialise(artifact_id, path)

        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, bytes | Path] = {"job.json": _readable(describe_job(job))}
        if isinstance(job.spec.work, CommandWork):
            # The built-in training writes its own.
            config = {"command": job.spec.work.command, "params": job.spec.cell}
            files["config.json"] = msgspec.json.format(msgspec.json.encode(config))
        place_result(cell, fill, files=files)
        _link_log(log, cell)

    def show_base(self, base: Base) -> None:
        """Show a base that the master holds under its recipe hash, with its recipe."""
        folder = self._bases / base.recipe_hash
        if base.artifact_id is None or not self._artifacts.has(base.artifact_id):
            return
        marker = folder / "recipe.json"
        content = _readable(describe_base(base))
        if marker.exists() and marker.read_bytes() == content:
            return
        artifact_id = base.artifact_id

        def fill(path: Path) -> None:
            self._artifacts.materialise(artifact_id, path)

        self._bases.mkdir(parents=True, exist_ok=True)
        place_result(folder, fill, files={"recipe.json": content})

    def metrics_of(self, job: Job) -> Metrics:
        """What a job left that succeeded and sent no metrics: mostly, why it has none."""
        if job.sweep_id is None:
            return Metrics(reason="it is a base")
        sweep = self._state.sweeps[job.sweep_id]
        cell = self.folder(sweep) / cell_name(job, sweep)
        if not cell.exists():
            return Metrics(reason="it left no result")
        work = job.spec.work
        return read_metrics(cell, work.result_file if isinstance(work, CommandWork) else None)


def cell_name(job: Job, sweep: Sweep) -> str:
    """The name of a job's folder below that of its sweep."""
    return folder_name(job.name.removeprefix(f"{sweep.name}/"))


def describe_job(job: Job) -> dict[str, Any]:
    """What is told of a job beside its result: others may read that, and an archive has it."""
    attempt = job.attempt
    told = {
        "job": job.job_id,
        "name": job.name,
        "cell": job.spec.cell,
        "group": job.spec.group,
        "state": job.state,
        "generation": job.generation,
        "work": msgspec.to_builtins(job.spec.work),
        "base": job.spec.recipe_hash,
        "attempt": attempt.attempt_id if attempt is not None else None,
        "base_artifact": attempt.base_artifact if attempt is not None else None,
        "node": attempt.node_id if attempt is not None else None,
        "started_wall_s": attempt.started_wall_s if attempt is not None else None,
        "ended_wall_s": job.ended_wall_s,
        "failure": job.failure if job.state is JobState.FAILED else None,
        "metrics": job.metrics,
    }
    return without_secrets(told)


def describe_base(base: Base) -> dict[str, Any]:
    """What is told of a base beside its files."""
    return {
        "recipe_hash": base.recipe_hash,
        "generation": base.generation,
        "artifact_id": base.artifact_id,
        "trained_on": base.node_id,
        "trained_s": base.trained_s,
        "recipe": base.spec.recipe,
    }


def _is_of(cell: Path, job: Job) -> bool:
    attempt_id = job.attempt.attempt_id if job.attempt is not None else None
    try:
        known = msgspec.json.decode((cell / "job.json").read_bytes())
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return False
    return isinstance(known, dict) and known.get("attempt") == attempt_id


def _link_log(log: Path | None, cell: Path) -> None:
    target = cell / "log"
    if log is None or target.exists():
        return
    try:
        target.hardlink_to(log)
    except OSError:
        with contextlib.suppress(FileExistsError):
            target.symlink_to(log)


def _readable(told: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(told))
