"""The record of a sweep: where its bases came from, and what each experiment ran on.

`phase1_base_models.json` and `phase2_experiments.json` are written for people
and for their own scripts: keys keep their order, times are ISO 8601 in UTC,
and `version` rises when a key changes its meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.results.atomic import write_atomic
from meshtrain.results.axes import plain_value
from meshtrain.results.machines import Machine

BASES_FILE = "phase1_base_models.json"
EXPERIMENTS_FILE = "phase2_experiments.json"
RECORD_VERSION = 1

TRAINED = "trained for this sweep"
REUSED = "reused"
NOT_READY = "not ready"


class BaseRecord(msgspec.Struct, frozen=True):
    """One base model of a sweep."""

    recipe_hash: str
    label: str
    recipe: dict[str, Any]
    state: str
    """`committed`, or how far its training is."""
    reused: bool
    """Whether it was there before this sweep."""
    jobs: int
    """How many jobs of this sweep start from it."""
    artifact_id: str | None = None
    generation: int = 1
    node: str | None = None
    """The node that trained it."""
    started_s: float | None = None
    """Seconds since 1970."""
    ended_s: float | None = None
    reason: str = ""
    """Why there is no artifact."""


class AttemptRecord(msgspec.Struct, frozen=True):
    """One execution of a job."""

    epoch: int
    outcome: str
    nodes: tuple[str, ...] = ()
    started_s: float | None = None
    ended_s: float | None = None
    failure_class: str | None = None
    """User error, out of memory, host lost, preempted, disk; None when it did not fail."""
    reason: str = ""


class ExperimentRecord(msgspec.Struct, frozen=True):
    """One job of a sweep."""

    job_id: str
    name: str
    cell: dict[str, Any]
    work: str
    """The mode of the built-in training, or `command`."""
    state: str
    group: str = ""
    """The reference row that it fills; empty for a cell of the matrix."""
    base_recipe_hash: str | None = None
    base_artifact_id: str | None = None
    """The base that it really started from; None before it started, or without a base."""
    started_s: float | None = None
    ended_s: float | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    result_artifact_id: str | None = None
    metrics: dict[str, float] = {}
    reason: str = ""
    """Why there are no metrics."""


def write_records(
    folder: Path,
    *,
    sweep_id: str,
    sweep_name: str,
    bases: Sequence[BaseRecord],
    experiments: Sequence[ExperimentRecord],
    machines: Sequence[Machine] = (),
) -> None:
    """Writes both record files below `folder`, each whole or not at all.

    `machines` are the nodes that the experiments ran on. Raises ResultsError when
    the folder can't be written.
    """
    sweep = {"id": sweep_id, "name": sweep_name}
    write_atomic(folder / BASES_FILE, bases_json(sweep, bases), durable=True)
    write_atomic(
        folder / EXPERIMENTS_FILE, experiments_json(sweep, experiments, machines), durable=True
    )


def bases_json(sweep: dict[str, str], bases: Sequence[BaseRecord]) -> bytes:
    """The document of `phase1_base_models.json`."""
    trained = sum(_origin(base) == TRAINED for base in bases)
    reused = sum(base.reused for base in bases)
    return _json(
        {
            "version": RECORD_VERSION,
            "sweep": sweep,
            "totals": {
                "bases": len(bases),
                "trained": trained,
                "reused": reused,
                "not_ready": len(bases) - trained - reused,
                "jobs_on_a_base": sum(base.jobs for base in bases),
                "base_trainings_avoided": sum(_avoided(base) for base in bases),
            },
            "bases": [_base(base) for base in bases],
        }
    )


def experiments_json(
    sweep: dict[str, str],
    experiments: Sequence[ExperimentRecord],
    machines: Sequence[Machine] = (),
) -> bytes:
    """The document of `phase2_experiments.json`."""
    states: dict[str, int] = {}
    for experiment in experiments:
        states[str(experiment.state)] = states.get(str(experiment.state), 0) + 1
    return _json(
        {
            "version": RECORD_VERSION,
            "sweep": sweep,
            "totals": {"jobs": len(experiments), "by_state": dict(sorted(states.items()))},
            "machines": [msgspec.to_builtins(machine) for machine in machines],
            "experiments": [_experiment(experiment) for experiment in experiments],
        }
    )


def _origin(base: BaseRecord) -> str:
    if base.reused:
        return REUSED
    return TRAINED if base.artifact_id else NOT_READY


def _avoided(base: BaseRecord) -> int:
    """Trainings that would have run, had each job trained its own base, and did not."""
    return base.jobs if base.reused else max(base.jobs - 1, 0)


def _base(base: BaseRecord) -> dict[str, Any]:
    return {
        "recipe_hash": base.recipe_hash,
        "label": base.label,
        "state": str(base.state),
        "origin": _origin(base),
        "jobs": base.jobs,
        "artifact_id": base.artifact_id,
        "generation": base.generation,
        "node": base.node,
        **_times(base.started_s, base.ended_s),
        "reason": base.reason or None,
        "recipe": _sorted(base.recipe),
    }


def _experiment(experiment: ExperimentRecord) -> dict[str, Any]:
    last = experiment.attempts[-1] if experiment.attempts else None
    return {
        "job_id": experiment.job_id,
        "name": experiment.name,
        "group": experiment.group or None,
        "cell": {axis: plain_value(value) for axis, value in experiment.cell.items()},
        "work": experiment.work,
        "state": str(experiment.state),
        "base": None
        if experiment.base_recipe_hash is None
        else {
            "recipe_hash": experiment.base_recipe_hash,
            "artifact_id": experiment.base_artifact_id,
        },
        "nodes": list(last.nodes) if last else [],
        **_times(experiment.started_s, experiment.ended_s),
        "attempts": [_attempt(attempt) for attempt in experiment.attempts],
        "result_artifact_id": experiment.result_artifact_id,
        "metrics": experiment.metrics,
        "reason": experiment.reason or None,
    }


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "epoch": attempt.epoch,
        "nodes": list(attempt.nodes),
        **_times(attempt.started_s, attempt.ended_s),
        "outcome": str(attempt.outcome),
        "failure_class": str(attempt.failure_class) if attempt.failure_class else None,
        "reason": attempt.reason or None,
    }


def _times(started_s: float | None, ended_s: float | None) -> dict[str, Any]:
    both = started_s is not None and ended_s is not None
    return {
        "started": _iso(started_s),
        "ended": _iso(ended_s),
        # The host's clock may have been set back meanwhile.
        "duration_s": round(max((ended_s or 0.0) - (started_s or 0.0), 0.0), 3) if both else None,
    }


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sorted(value: Any) -> Any:
    """`value` with the keys of its maps sorted, so that equal recipes read equal."""
    if isinstance(value, dict):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return plain_value(value)


def _json(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
