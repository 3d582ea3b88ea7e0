"""What was saved since the last commit: of each record, the last word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, assert_never

from meshtrain.core.effects import (
    AddAttempt,
    AddInput,
    AddJobs,
    AddSweep,
    Save,
    SaveBase,
    SaveDrained,
    SaveGpuFaults,
    SavePin,
    SaveSpending,
    UpdateAttempt,
    UpdateJob,
    UpdateSweep,
)
from meshtrain.core.job import Attempt, Base, Job, Sweep, attempt_id_of
from meshtrain.core.named_input import NamedInput
from meshtrain.core.node import GpuFaults
from meshtrain.core.spending import Spending
from meshtrain.spec.jobs import JobSpec
from meshtrain.store.base import ArchiveEntry, job_and_epoch_of
from meshtrain.store.failures import StoreRuleError, rule_broken

_Record = TypeVar("_Record", Sweep, Job, Attempt)


class Batch:
    """Changes that wait for a commit.

    A record that is added and then changed within one batch is added as it
    came to be, and one changed twice is written once: a job that starts and
    ends between two commits costs one row, not four.
    """

    __slots__ = (
        "archived",
        "archives",
        "attempts",
        "bases",
        "drained",
        "gpu_faults",
        "incarnation_bumps",
        "inputs",
        "jobs",
        "new_attempts",
        "new_jobs",
        "new_specs",
        "new_sweeps",
        "pins",
        "spending",
        "streams",
        "sweeps",
    )

    def __init__(self) -> None:
        #: The maps called new_ hold what is added, those beside them what is changed.
        self.new_sweeps: dict[str, Sweep] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.new_jobs: dict[str, Job] = {}
        self.jobs: dict[str, Job] = {}
        #: The specs as they were added: later changes to a job don't touch them.
        self.new_specs: dict[str, JobSpec] = {}
        self.new_attempts: dict[str, Attempt] = {}
        self.attempts: dict[str, Attempt] = {}
        self.bases: dict[str, Base] = {}
        #: node id → what was saved of it last
        self.drained: dict[str, SaveDrained] = {}
        #: by (node id, GPU)
        self.gpu_faults: dict[tuple[str, int], GpuFaults] = {}
        #: by (recipe hash, node id): whether it is pinned there
        self.pins: dict[tuple[str, str], bool] = {}
        self.spending: dict[str, Spending] = {}
        #: (job id, epoch, stream) → size in bytes
        self.streams: dict[tuple[str, int, str], int] = {}
        self.incarnation_bumps = 0
        #: (name, version) → the data set
        self.inputs: dict[tuple[str, int], NamedInput] = {}
        #: target → mark
        self.archives: dict[str, str] = {}
        #: (target, place) → what goes there
        self.archived: dict[tuple[str, str], ArchiveEntry] = {}

    def __bool__(self) -> bool:
        return bool(
            self.new_jobs
            or self.jobs
            or self.new_attempts
            or self.attempts
            or self.streams
            or self.new_sweeps
            or self.sweeps
            or self.bases
            or self.drained
            or self.gpu_faults
            or self.pins
            or self.spending
            or self.incarnation_bumps
            or self.inputs
            or self.archives
            or self.archived
        )

    def add_all(self, effects: Iterable[Save]) -> None:
        """Takes changes in; raises StoreRuleError when one contradicts those before it."""
        for effect in effects:
            match effect:
                case UpdateJob(job=job):
                    _change(job.job_id, job, self.new_jobs, self.jobs)
                case UpdateAttempt(attempt=attempt):
                    if attempt.attempt_id != attempt_id_of(attempt.job_id, attempt.epoch):
                        raise _wrong_id(attempt)
                    _change(attempt.attempt_id, attempt, self.new_attempts, self.attempts)
                case AddAttempt(attempt=attempt):
                    if attempt.attempt_id != attempt_id_of(attempt.job_id, attempt.epoch):
                        raise _wrong_id(attempt)
                    _add(attempt.attempt_id, attempt, self.new_attempts, self.attempts)
                case AddJobs(jobs=jobs):
                    for job in jobs:
                        _add(job.job_id, job, self.new_jobs, self.jobs)
                        self.new_specs[job.job_id] = job.spec
                case AddSweep(sweep=sweep):
                    _add(sweep.sweep_id, sweep, self.new_sweeps, self.sweeps)
                case UpdateSweep(sweep=sweep):
                    _change(sweep.sweep_id, sweep, self.new_sweeps, self.sweeps)
                case SaveBase(base=base):
                    self.bases[base.recipe_hash] = base
                case SaveDrained(node_id=node_id):
                    self.drained[node_id] = effect
                case SaveGpuFaults(node_id=node_id, gpu=gpu, faults=faults, out_of_use=out):
                    self.gpu_faults[node_id, gpu] = GpuFaults(node_id, gpu, faults, out)
                case SavePin(recipe_hash=recipe_hash, node_id=node_id, pinned=pinned):
                    self.pins[recipe_hash, node_id] = pinned
                case SaveSpending(spending=spending):
                    self.spending[spending.sweep_id] = spending
                case AddInput(named=named):
                    if (named.name, named.version) in self.inputs:
                        raise rule_broken(f"the data set {named.reference} was added twice")
                    self.inputs[named.name, named.version] = named
                case _:
                    assert_never(effect)

    def set_stream_size(self, attempt_id: str, job_id: str, stream: str, size_bytes: int) -> None:
        """Takes a size in; raises StoreRuleError when the attempt can't be the job's."""
        key = job_and_epoch_of(attempt_id)
        if key is None or key[0] != job_id:
            raise rule_broken(f"{attempt_id} is no attempt of the job {job_id}")
        self.streams[job_id, key[1], stream] = size_bytes

    def save_archived(self, target: str, entries: Sequence[ArchiveEntry]) -> None:
        """Takes in where things stand that go to an archive."""
        for entry in entries:
            self.archived[target, entry.place] = entry


def _wrong_id(attempt: Attempt) -> StoreRuleError:
    return rule_broken(
        f"{attempt.attempt_id} is not the id of an attempt of {attempt.job_id} "
        f"under epoch {attempt.epoch}"
    )


def _add(key: str, record: _Record, new: dict[str, _Record], changed: dict[str, _Record]) -> None:
    if key in new or key in changed:
        raise rule_broken(f"{key} was added twice, or changed before it was added")
    new[key] = record


def _change(
    key: str, record: _Record, new: dict[str, _Record], changed: dict[str, _Record]
) -> None:
    if key in new:
        new[key] = record
    else:
        changed[key] = record
