"""A job file to a sweep: jobs, the bases that they start from, and stable ids.

The same content, code digest included, gives the same sweep id and job ids on
every machine; `again` makes another sweep of it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import xxhash

from meshtrain.errors import UserError
from meshtrain.ids import digest
from meshtrain.spec.expand_command import CommandExpansion
from meshtrain.spec.expand_training import TrainingExpansion, expand_flat
from meshtrain.spec.expansion import (
    CodeDigests,
    Digests,
    Expansion,
    JobDraft,
    code_of,
    data_folder_of,
    parent_of,
)
from meshtrain.spec.forms import CommandSweep, SweepKeys, TrainingSweep
from meshtrain.spec.inputs import references
from meshtrain.spec.jobfile import JobFile
from meshtrain.spec.jobs import BudgetSpec, JobSpec, ResultsSpec, SweepSpec
from meshtrain.spec.matrix import point_name
from meshtrain.spec.notify import notify_of
from meshtrain.spec.notify_kinds import NotifySpec
from meshtrain.spec.recipe import TRAINER_VERSION, canonical
from meshtrain.spec.validate import Findings

__all__ = ["CodeDigests", "Digests", "Needed", "expand", "needed"]

AFFINITY_GROUPS_MAX = 1000
"""Groups of one sweep's affinity: placement looks at each of them."""
EXPANSION_VERSION = 1
"""Raised when the same job file would come to other jobs."""


class Needed(msgspec.Struct, frozen=True):
    """The digests that a caller must find before a job file can be expanded."""

    code: tuple[str, ...] = ()
    """Folders to snapshot, as the file writes them."""
    data_folder: str | None = None
    """The folder of `.npz` files; None where the data is built in."""
    participants: tuple[str, ...] = ()
    """Whose file in `data_folder` is needed."""
    parent: str | None = None
    """The base that the sweep's base continues from, as the file writes it."""
    inputs: tuple[str, ...] = ()
    """Data sets and paths on shares that jobs read: `pascal5i`, `pascal5i@2`, `/mnt/coco`."""


def needed(job_file: JobFile) -> Needed:
    """What `expand` needs to be told about code, data, inputs and the parent of bases."""
    form = job_file.form
    code = code_of(job_file)
    folder = data_folder_of(form)
    if folder is None or not isinstance(form, TrainingSweep):
        inputs = references(form.inputs, job_file.matrix) if isinstance(form, CommandSweep) else ()
        parent = parent_of(job_file)
        return Needed(code=(code,) if code else (), parent=parent, inputs=inputs)
    names = set(form.base.participants or ()) if form.base else set()
    if form.target is not None and form.target.participant is not None:
        names.add(form.target.participant)
    for axis in ("participant", "target.participant"):
        names |= {str(name) for name in job_file.matrix.values_of(axis)}
    return Needed(data_folder=folder, participants=tuple(sorted(names)), parent=parent_of(job_file))


def expand(
    job_file: JobFile, digests: Digests, *, again: int = 0, bases_only: bool = False
) -> SweepSpec:
    """The sweep of a job file.

    Args:
        digests: of everything that `needed(job_file)` names.
        again: 0, or which rerun of the same content this is.
        bases_only: leaves every job out and keeps the bases.

    Raises JobFileError for what only digests show: code or data that isn't there.
    """
    findings = job_file.findings()
    form = job_file.form
    expansion: Expansion
    if isinstance(form, TrainingSweep):
        expansion = TrainingExpansion(form, job_file.matrix, digests, findings).expand()
    elif isinstance(form, CommandSweep):
        expansion = CommandExpansion(form, job_file.matrix, digests, findings).expand()
    else:
        expansion = expand_flat(form)
    _refuse_many_groups(job_file, expansion, findings)
    if findings:
        raise findings.error()
    if bases_only and not expansion.bases:
        raise UserError(
            f"{job_file.file_name} starts from no base, so there is no base to train; "
            "submit it without --bases-only"
        )
    content = _content_digest(job_file, digests, again=again, bases_only=bases_only)
    return SweepSpec(
        sweep_id=f"{job_file.name}-{content[:8]}",
        name=job_file.name,
        jobs=() if bases_only else _jobs(expansion, job_file, content),
        bases=tuple(expansion.bases.values()),
        results=msgspec.structs.replace(_results(form), notify=_notify(form)),
        source=job_file.text,
        budget=_budget(form),
    )


def _jobs(expansion: Expansion, job_file: JobFile, content: str) -> tuple[JobSpec, ...]:
    form = job_file.form
    priority, axes = (form.priority, form.affinity) if isinstance(form, SweepKeys) else (0, ())
    return tuple(
        JobSpec(
            job_id=xxhash.xxh3_64_hexdigest(canonical([content, draft.name])),
            name=f"{job_file.name}/{draft.name}",
            cell=draft.cell,
            work=draft.work,
            recipe_hash=draft.recipe_hash,
            resources=expansion.resources,
            limits=expansion.limits,
            priority=priority,
            group=draft.group,
            affinity=_affinity(draft, axes),
        )
        for draft in expansion.jobs
    )


def _affinity(draft: JobDraft, axes: tuple[str, ...]) -> str:
    """A reference run has not all axes: it is with those that are equal on the ones it has."""
    return point_name({axis: draft.cell[axis] for axis in axes if axis in draft.cell})


def _refuse_many_groups(job_file: JobFile, expansion: Expansion, findings: Findings) -> None:
    form = job_file.form
    axes = form.affinity if isinstance(form, SweepKeys) else ()
    groups = {_affinity(draft, axes) for draft in expansion.jobs} if axes else set()
    if len(groups) > AFFINITY_GROUPS_MAX:
        findings.at_value(
            f"{len(groups):,} groups of jobs; at most {AFFINITY_GROUPS_MAX:,}: name axes with "
            "fewer values",
            ("affinity",),
        )


def _content_digest(job_file: JobFile, digests: Digests, *, again: int, bases_only: bool) -> str:
    wanted = needed(job_file)
    content: dict[str, Any] = {
        "version": EXPANSION_VERSION,
        "name": job_file.name,
        "file": job_file.tree,
        "code": {path: digests.code[path].artifact_id for path in wanted.code},
        "data": {name: digests.data[name] for name in wanted.participants},
        "again": again,
        "bases_only": bases_only,
    }
    if wanted.parent is not None:
        content["from"] = digests.parents[wanted.parent].parent.document()
    if wanted.inputs:
        content["inputs"] = {name: digests.inputs[name].digest for name in wanted.inputs}
    if not isinstance(job_file.form, CommandSweep):
        content["trainer_version"] = TRAINER_VERSION
    return digest(canonical(content))


def _budget(form: Any) -> BudgetSpec:
    budget = form.budget if isinstance(form, SweepKeys) else None
    return BudgetSpec() if budget is None else BudgetSpec(budget.gpu_hours, budget.money)


def _notify(form: Any) -> NotifySpec | None:
    return notify_of(form.notify) if isinstance(form, SweepKeys) else None


def _results(form: Any) -> ResultsSpec:
    results = form.results if isinstance(form, SweepKeys) else None
    if results is None:
        return ResultsSpec()
    return ResultsSpec(
        metric=results.metric, over=results.over, file=results.file, better=results.better
    )
