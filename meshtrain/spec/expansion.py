"""What the expansion of every form comes to, before ids are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from meshtrain.spec.forms import (
    BaseRunKeys,
    CommandSweep,
    ResourcesSection,
    SweepKeys,
    TrainingSweep,
)
from meshtrain.spec.jobfile import JobFile
from meshtrain.spec.jobs import BaseSpec, CodeDigests, InputData, Limits, Resources, Work
from meshtrain.spec.lineage import ResolvedParent

__all__ = [
    "CodeDigests",
    "Digests",
    "Expansion",
    "JobDraft",
    "code_of",
    "data_folder_of",
    "limits_of",
    "parent_of",
    "resources_of",
]


class Digests(msgspec.Struct, frozen=True):
    """What a caller found out about code, data and inputs."""

    code: dict[str, CodeDigests] = {}
    """Folder as the job file writes it → its snapshot."""
    data: dict[str, str] = {}
    """Participant → digest; only where the data lies in a folder."""
    parents: dict[str, ResolvedParent] = {}
    """What `base.from` says → the base that it means."""
    inputs: dict[str, InputData] = {}
    """Reference, as `needed` names it → what it is."""


@dataclass(frozen=True, slots=True)
class JobDraft:
    """One run; its name is unique within the sweep."""

    name: str
    cell: dict[str, Any]
    work: Work
    recipe_hash: str | None = None
    group: str = ""


@dataclass(slots=True)
class Expansion:
    """Jobs in the order of the matrix, and bases by recipe hash."""

    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    jobs: list[JobDraft] = field(default_factory=list)
    bases: dict[str, BaseSpec] = field(default_factory=dict)


def resources_of(section: ResourcesSection | None) -> Resources:
    """What a section asks for; no section asks for the defaults."""
    if section is None:
        return Resources()
    return Resources(
        gpus=section.gpus,
        gpu_memory_bytes=section.gpu_memory or 0,
        cpus=section.cpus,
        memory_bytes=section.memory or 0,
        nodes=section.nodes,
        labels=section.labels,
    )


def limits_of(
    sweep: SweepKeys, base: BaseRunKeys | None = None, *, checkpoint_every_s: float | None = None
) -> Limits:
    """When to give up on the jobs of a sweep, or on its `base`.

    Args:
        sweep: the keys that hold for all of it.
        base: the base's own keys; not given for the jobs.
        checkpoint_every_s: what holds where nothing is written.
    """
    every_s = base.checkpoint_every if base is not None else None
    if every_s is None:
        every_s = sweep.checkpoint_every
    return Limits(
        retries_max=sweep.retries,
        timeout_s=sweep.timeout if base is None else base.timeout,
        checkpoint_every_s=checkpoint_every_s if every_s is None else every_s,
        user=sweep.user,
    )


def code_of(job_file: JobFile) -> str | None:
    """The folder of code that travels with a sweep, as written."""
    return job_file.form.code if isinstance(job_file.form, CommandSweep) else None


def parent_of(job_file: JobFile) -> str | None:
    """The base that a sweep's base continues from, as written."""
    form = job_file.form
    base = form.base if isinstance(form, TrainingSweep | CommandSweep) else None
    return None if base is None else base.from_


def data_folder_of(form: Any) -> str | None:
    """The folder that participants' data lies in; None for built-in data."""
    if not isinstance(form, TrainingSweep):
        return None
    return form.data or (form.base.data if form.base is not None else None) or None
