"""The job store in memory: the same promises but durability, for simulations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from meshtrain.core.copies import Pin
from meshtrain.core.effects import Save
from meshtrain.core.job import Attempt, AttemptState, Base, Job, Sweep
from meshtrain.core.named_input import NamedInput
from meshtrain.core.node import GpuFaults
from meshtrain.core.spending import Spending
from meshtrain.core.state import Loaded
from meshtrain.errors import StoreError
from meshtrain.spec.jobs import JobSpec
from meshtrain.store import rules
from meshtrain.store.base import (
    INCARNATION_MAX,
    ArchiveEntry,
    StreamSize,
    epoch_counter_of,
    is_forgotten,
    job_and_epoch_of,
    state_shown,
)
from meshtrain.store.batch import Batch
from meshtrain.store.failures import StoreFullError, rule_broken

_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(JobSpec).decode
_decode_sweep = msgspec.msgpack.Decoder(Sweep).decode
_decode_base = msgspec.msgpack.Decoder(Base).decode


@dataclass(slots=True)
class _Disk:
    """What was committed. Records with dicts in them are kept as bytes, as on a disk."""

    incarnation: int = 1
    sweeps: dict[str, bytes] = field(default_factory=dict)
    specs: dict[str, bytes] = field(default_factory=dict)
    #: their specs and attempts are beside
    jobs: dict[str, Job] = field(default_factory=dict)
    #: job id → epoch → attempt
    attempts: dict[str, dict[int, Attempt]] = field(default_factory=dict)
    epochs: set[int] = field(default_factory=set)
    bases: dict[str, bytes] = field(default_factory=dict)
    #: node id → when what runs there is moved elsewhere, if ever
    drained: dict[str, float | None] = field(default_factory=dict)
    #: (job id, epoch, stream) → size in bytes
    streams: dict[tuple[str, int, str], int] = field(default_factory=dict)
    gpu_faults: dict[tuple[str, int], GpuFaults] = field(default_factory=dict)
    pins: set[tuple[str, str]] = field(default_factory=set)
    spending: dict[str, Spending] = field(default_factory=dict)
    #: (name, version) → the data set
    inputs: dict[tuple[str, int], NamedInput] = field(default_factory=dict)
    #: target → mark
    archives: dict[str, str] = field(default_factory=dict)
    #: (target, place) → what goes there
    archived: dict[tuple[str, str], ArchiveEntry] = field(default_factory=dict)


class MemoryStore:
    """A store that lives as long as its object, or those made of it by `reopened`."""

    def __init__(self) -> None:
        self._disk = _Disk()
        self._batch = Batch()

    def reopened(self) -> MemoryStore:
        """What a master finds after a crash of this one: all that was committed, nothing else."""
        store = MemoryStore()
        store._disk = self._disk
        return store

    # --- reading ----------------------------------------------------------------------

    def load(self) -> Loaded:
        disk = self._disk
        jobs = [self._job(job) for job in disk.jobs.values()]
        return Loaded(
            incarnation=disk.incarnation,
            epoch_counter=epoch_counter_of(disk.incarnation, max(disk.epochs, default=None)),
            sweeps=tuple(_decode_sweep(blob) for blob in disk.sweeps.values()),
            jobs=tuple(sorted(jobs, key=lambda job: job.order)),
            bases=tuple(_decode_base(blob) for blob in disk.bases.values()),
            drained=tuple(sorted(disk.drained)),
            drains_due_wall_s={
                node_id: due_s for node_id, due_s in disk.drained.items() if due_s is not None
            },
            gpu_faults=tuple(disk.gpu_faults[key] for key in sorted(disk.gpu_faults)),
            named_inputs=tuple(disk.inputs.values()),
            pins=tuple(Pin(*key) for key in sorted(disk.pins)),
            spending=tuple(disk.spending[key] for key in disk.sweeps if key in disk.spending),
        )

    def attempts_of(self, job_id: str) -> tuple[Attempt, ...]:
        attempts = self._disk.attempts.get(job_id, {})
        return tuple(attempts[epoch] for epoch in sorted(attempts))

    def stream_sizes(self, attempt_id: str) -> dict[str, int]:
        key = job_and_epoch_of(attempt_id)
        return {
            stream: size_bytes
            for (job_id, epoch, stream), size_bytes in self._disk.streams.items()
            if (job_id, epoch) == key
        }

    def all_stream_sizes(self) -> tuple[StreamSize, ...]:
        by_age = sorted(self._disk.streams.items(), key=lambda item: item[0][1:])
        return tuple(
            StreamSize(self._disk.attempts[job_id][epoch].attempt_id, job_id, stream, size_bytes)
            for (job_id, epoch, stream), size_bytes in by_age
        )

    def archive_mark(self, target: str) -> str | None:
        return self._disk.archives.get(target)

    def archive_entries(self, target: str) -> tuple[ArchiveEntry, ...]:
        return tuple(entry for key, entry in self._disk.archived.items() if key[0] == target)

    def _job(self, job: Job) -> Job:
        attempts = self._disk.attempts.get(job.job_id, {})
        live = [a for a in attempts.values() if a.state is AttemptState.LIVE]
        attempt = live[0] if live else attempts[max(attempts)] if attempts else None
        return msgspec.structs.replace(
            job,
            spec=_decode_spec(self._disk.specs[job.job_id]),
            state=state_shown(job.state, attempt),
            attempt=attempt,
            metrics=dict(job.metrics),
        )

    # --- writing ----------------------------------------------------------------------

    def save(self, effects: Sequence[Save]) -> None:
        try:
            self._batch.add_all(effects)
        except StoreError:
            self._batch = Batch()
            raise

    def set_stream_size(self, attempt_id: str, job_id: str, stream: str, size_bytes: int) -> None:
        try:
            self._batch.set_stream_size(attempt_id, job_id, stream, size_bytes)
        except StoreError:
            self._batch = Batch()
            raise

    def mark_archive(self, target: str, mark: str) -> None:
        self._batch.archives[target] = mark

    def save_archived(self, target: str, entries: Sequence[ArchiveEntry]) -> None:
        self._batch.save_archived(target, entries)

    def bump_incarnation(self, by: int = 1) -> None:
        self._batch.incarnation_bumps += by

    def lacks_room(self) -> StoreFullError | None:
        return None

    def rollback(self) -> None:
        self._batch = Batch()

    def commit(self) -> None:
        batch, self._batch = self._batch, Batch()
        self._check_jobs(batch)
        self._check_attempts(batch)
        self._check_rest(batch)
        try:
            sweeps = {
                key: _encode(sweep) for key, sweep in (batch.new_sweeps | batch.sweeps).items()
            }
            specs = {key: _encode(spec) for key, spec in batch.new_specs.items()}
            bases = {key: _encode(base) for key, base in batch.bases.items()}
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise rule_broken(f"a value that can't be stored ({error})") from error
        disk = self._disk
        disk.sweeps.update(sweeps)
        disk.specs.update(specs)
        disk.bases.update(bases)
        for job_id, job in (batch.new_jobs | batch.jobs).items():
            disk.jobs[job_id] = msgspec.structs.replace(
                job, attempt=None, metrics=dict(job.metrics)
            )
        for attempt in (batch.new_attempts | batch.attempts).values():
            disk.attempts.setdefault(attempt.job_id, {})[attempt.epoch] = attempt
            disk.epochs.add(attempt.epoch)
        for node_id, saved in batch.drained.items():
            if saved.drained:
                disk.drained[node_id] = saved.due_wall_s
            else:
                disk.drained.pop(node_id, None)
        disk.streams.update(batch.streams)
        for key, known in batch.gpu_faults.items():
            if is_forgotten(known):
                disk.gpu_faults.pop(key, None)
            else:
                disk.gpu_faults[key] = known
        for pin, pinned in batch.pins.items():
            (disk.pins.add if pinned else disk.pins.discard)(pin)
        disk.spending.update(batch.spending)
        disk.inputs.update(batch.inputs)
        disk.archives.update(batch.archives)
        disk.archived.update(batch.archived)
        disk.incarnation += batch.incarnation_bumps

    def close(self) -> None:
        self._batch = Batch()

    # --- the rules --------------------------------------------------------------------

    def _check_jobs(self, batch: Batch) -> None:
        disk = self._disk
        _demand_new(batch.new_sweeps.keys() & disk.sweeps.keys(), "sweep")
        _demand_there(batch.sweeps.keys() - disk.sweeps.keys(), "sweep")
        _demand_new(batch.new_jobs.keys() & disk.jobs.keys(), "job")
        _demand_there(batch.jobs.keys() - disk.jobs.keys(), "job")
        for job in batch.new_jobs.values():
            rules.check_job(job)
            if job.sweep_id is not None and not self._has_sweep(batch, job.sweep_id):
                raise rule_broken(f"the sweep {job.sweep_id} of job {job.job_id} is not there")
        for job in batch.jobs.values():
            rules.check_job(job)
            rules.check_job_change(disk.jobs[job.job_id], job)

    def _check_attempts(self, batch: Batch) -> None:
        disk = self._disk
        touched: dict[str, dict[int, Attempt]] = {}

        def of_job(job_id: str) -> dict[int, Attempt]:
            return touched.setdefault(job_id, dict(disk.attempts.get(job_id, {})))

        for attempt in batch.attempts.values():
            rules.check_attempt(attempt)
            attempts = of_job(attempt.job_id)
            if attempt.epoch not in attempts:
                raise rule_broken(f"attempt {attempt.attempt_id} is not there")
            attempts[attempt.epoch] = attempt
        given: set[int] = set()
        for attempt in sorted(batch.new_attempts.values(), key=lambda new: new.epoch):
            rules.check_attempt(attempt)
            if attempt.job_id not in disk.jobs and attempt.job_id not in batch.new_jobs:
                raise rule_broken(f"the job of attempt {attempt.attempt_id} is not there")
            attempts = of_job(attempt.job_id)
            taken = attempt.epoch in given or attempt.epoch in disk.epochs
            if taken or attempt.epoch <= max(attempts, default=0):
                raise rule_broken(f"attempt {attempt.attempt_id} needs a new, higher epoch")
            given.add(attempt.epoch)
            attempts[attempt.epoch] = attempt
        for job_id, attempts in touched.items():
            if sum(attempt.state is AttemptState.LIVE for attempt in attempts.values()) > 1:
                raise rule_broken(f"two attempts of job {job_id} are live")

    def _check_rest(self, batch: Batch) -> None:
        disk = self._disk
        for base in batch.bases.values():
            rules.check_base(base)
            if base.job_id not in disk.jobs and base.job_id not in batch.new_jobs:
                raise rule_broken(f"the job {base.job_id} of base {base.recipe_hash} is not there")
            if base.recipe_hash in disk.bases:
                rules.check_base_change(_decode_base(disk.bases[base.recipe_hash]), base)
        new = {(attempt.job_id, attempt.epoch) for attempt in batch.new_attempts.values()}
        for (job_id, epoch, stream), size_bytes in batch.streams.items():
            if (job_id, epoch) not in new and epoch not in disk.attempts.get(job_id, {}):
                raise rule_broken(f"the attempt of stream {stream}, of job {job_id}, is not there")
            if size_bytes < 0:
                raise rule_broken(f"stream {stream} of job {job_id} has a size below 0")
        for recipe_hash, _ in (pin for pin, pinned in batch.pins.items() if pinned):
            if recipe_hash not in disk.bases and recipe_hash not in batch.bases:
                raise rule_broken(f"the base {recipe_hash} of a pin is not there")
        for spending in batch.spending.values():
            rules.check_spending(spending)
            if not self._has_sweep(batch, spending.sweep_id):
                raise rule_broken(f"the sweep {spending.sweep_id} of a budget is not there")
        for known in batch.gpu_faults.values():
            rules.check_gpu_faults(known)
        known_inputs = disk.inputs.copy()
        for key, named in batch.inputs.items():
            rules.check_input(named, known_inputs)
            known_inputs[key] = named
        _demand_new(batch.archives.keys() & disk.archives.keys(), "archive")
        for (target, place), entry in batch.archived.items():
            _demand_there({target} - disk.archives.keys() - batch.archives.keys(), "archive")
            rules.check_archived(disk.archived.get((target, place)), entry)
        if disk.incarnation + batch.incarnation_bumps > INCARNATION_MAX:
            raise rule_broken("the incarnation can rise no more")

    def _has_sweep(self, batch: Batch, sweep_id: str) -> bool:
        return sweep_id in self._disk.sweeps or sweep_id in batch.new_sweeps


def _demand_new(twice: set[str], what: str) -> None:
    if twice:
        raise rule_broken(f"{what} {min(twice)} is there already")


def _demand_there(missing: set[str], what: str) -> None:
    if missing:
        raise rule_broken(f"{what} {min(missing)} is not there")
