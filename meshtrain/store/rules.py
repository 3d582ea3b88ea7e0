"""The rules that the rows keep, for a store that has no schema to hold them.

The schema holds the same ones in its constraints; the conformance tests hold
the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from meshtrain.core.job import Attempt, AttemptState, Base, BaseState, Job, JobKind, JobState
from meshtrain.core.named_input import NamedInput
from meshtrain.core.node import GpuFaults
from meshtrain.core.spending import Spending
from meshtrain.store.base import ArchiveEntry, ArchiveState
from meshtrain.store.failures import rule_broken


def check_job(job: Job) -> None:
    """Raises StoreRuleError when the job, by itself, breaks a rule."""
    _demand(job.kind is JobKind.EXPERIMENT or job.sweep_id is None, "a base's job has a sweep", job)
    _demand(job.generation >= 1, "its generation is below 1", job)
    _demand(min(job.retries_used, job.losses, job.gpu_memory_bytes) >= 0, "a count is < 0", job)
    _demand(not job.state.is_terminal or job.ended_wall_s is not None, "it ended at no time", job)
    _demand(
        job.state is not JobState.FAILED or job.failure is not None, "it failed for no reason", job
    )


def check_job_change(old: Job, new: Job) -> None:
    """Raises StoreRuleError when what is stored of a job can't become the other."""
    _demand(old.kind is new.kind and old.sweep_id == new.sweep_id, "its kind or sweep changed", new)
    _demand(new.generation >= old.generation, "its generation fell", new)
    _demand(
        new.generation > old.generation or not old.state.is_terminal or new.state is old.state,
        "it has ended already in this generation",
        new,
    )


def check_attempt(attempt: Attempt) -> None:
    """Raises StoreRuleError when the attempt, by itself, breaks a rule."""
    if attempt.epoch < 1 or attempt.generation < 1:
        raise rule_broken(f"attempt {attempt.attempt_id}: an epoch or generation below 1")
    if attempt.state is not AttemptState.LIVE and attempt.ended_wall_s is None:
        raise rule_broken(f"attempt {attempt.attempt_id} ended at no time")


def check_base(base: Base) -> None:
    """Raises StoreRuleError when the base, by itself, breaks a rule."""
    where = f"base {base.recipe_hash}"
    if base.generation < 1 or base.size_bytes < 0:
        raise rule_broken(f"{where}: a generation below 1, or a size below 0")
    if (base.state is BaseState.COMMITTED or base.durable) and base.artifact_id is None:
        raise rule_broken(f"{where} is committed, or durable, without an artifact")


def check_base_change(old: Base, new: Base) -> None:
    """Raises StoreRuleError when what is stored of a base can't become the other."""
    if new.generation < old.generation:
        raise rule_broken(f"base {new.recipe_hash}: its generation fell")
    kept = (new.state, new.artifact_id) == (old.state, old.artifact_id)
    if new.generation == old.generation and old.state is BaseState.COMMITTED and not kept:
        raise rule_broken(f"base {new.recipe_hash} is committed already in this generation")


def check_gpu_faults(known: GpuFaults) -> None:
    """Raises StoreRuleError when what is known of a GPU breaks a rule."""
    if known.gpu < 0 or known.faults < 0:
        raise rule_broken(f"GPU {known.gpu} of {known.node_id} with {known.faults} faults")


def check_spending(spending: Spending) -> None:
    """Raises StoreRuleError when what a sweep has used, or may use, breaks a rule."""
    amounts = [spending.gpu_s, spending.money]
    amounts += [a for a in (spending.gpu_hours_max, spending.money_max) if a is not None]
    if not all(isfinite(amount) and amount >= 0 for amount in amounts):
        raise rule_broken(f"sweep {spending.sweep_id} has used, or may use, less than nothing")


def check_input(new: NamedInput, known: Mapping[tuple[str, int], NamedInput]) -> None:
    """Raises StoreRuleError when a version of a data set can't be added to those that are known."""
    if new.version < 1 or new.size_bytes < 0 or new.files_count < 0:
        raise rule_broken(f"the data set {new.reference} has a number below what it can be")
    if (new.name, new.version) in known:
        raise rule_broken(f"the data set {new.reference} is there already")
    if any(o.name == new.name and o.artifact_id == new.artifact_id for o in known.values()):
        raise rule_broken(f"the bytes of {new.reference} are another version already")


def check_archived(old: ArchiveEntry | None, new: ArchiveEntry) -> None:
    """Raises StoreRuleError when what goes to an archive can't come to stand like that."""
    if new.size_bytes < 0:
        raise rule_broken(f"{new.place} of an archive has a size below 0")
    if old is None or old.state is not ArchiveState.DONE:
        return
    if new.state is not ArchiveState.DONE or new.artifact_id != old.artifact_id:
        raise rule_broken(f"{new.place} is archived already, and stays so")


def _demand(held: bool, broken: str, job: Job) -> None:
    if not held:
        raise rule_broken(f"job {job.job_id}: {broken}")
