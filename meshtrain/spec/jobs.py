"""What a job file comes to once it is expanded: jobs, and the bases that they start from.

These records are immutable and hold plain data only, so that they travel on
the wire and lie in the store as they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from meshtrain.spec.lineage import Parent
from meshtrain.spec.notify_kinds import NotifySpec


class Resources(msgspec.Struct, frozen=True):
    """What one slot of a job needs on its node."""

    gpus: int | None = None
    """Whole GPUs; None means one where the node has GPUs, and none elsewhere."""
    gpu_memory_bytes: int = 0
    """Memory that each of its GPUs must have."""
    cpus: int = 1
    """CPU slots; counted only where the job takes no GPU."""
    memory_bytes: int = 0
    """Main memory."""
    nodes: int = 1
    """How many nodes one attempt spans."""
    trainer: bool = False
    """Whether the built-in training must be installed on the node."""
    alone: bool = False
    """Whether nothing else may run on the node meanwhile."""
    labels: tuple[tuple[str, str], ...] = ()
    """Name and text of each label that the node must have."""


class TrainingWork(msgspec.Struct, frozen=True, tag="training"):
    """One run of the built-in training.

    `config` is the whole configuration, as `meshtrain.training.config` parses it.
    A base's config holds its recipe under `recipe`; its hash must be `recipe_hash`
    of the job.
    """

    config: dict[str, Any]


class InputData(msgspec.Struct, frozen=True):
    """Data that a job reads: a published data set, or a path on a mounted share."""

    source: str
    """`pascal5i@2`, or the absolute path."""
    digest: str
    """The id of the artifact; of a share, the digest of what was listed there."""
    on_share: bool = False
    """Whether it is used in place, and doesn't travel."""
    size_bytes: int = 0
    files_count: int = 0


class CommandWork(msgspec.Struct, frozen=True, tag="command"):
    """One run of a person's own program.

    `command` is a shell line whose matrix placeholders are filled; `{output}`,
    `{base}`, `{code}`, `{prepared}` and `{inputs.NAME}` are filled on the node.
    `code` is the artifact that holds the snapshot the command runs in, or None.
    """

    command: str
    code: str | None = None
    env: dict[str, str] = {}
    result_file: str | None = None
    """A file below `{output}` that holds the metrics, instead of `metrics.json`."""
    inputs: dict[str, InputData] = {}
    """Name in the job file → what it was when the sweep was submitted."""
    prepare: str | None = None
    """A shell line that fills `{prepared}`, once for a node, its text, the code and the inputs."""


Work = TrainingWork | CommandWork


class Limits(msgspec.Struct, frozen=True):
    """When to give up on a job, and when not to."""

    retries_max: int = 2
    """Reruns after a failure of the job's own making that may pass (out of memory)."""
    timeout_s: float | None = None
    """Wall time of one attempt; None is no limit."""
    checkpoint_every_s: float | None = None
    """How often what lies in the checkpoint folder is kept, so that a lost job goes on from it."""
    user: str | None = None
    """The account on the node that the job runs as; None is the daemon's own."""


class BaseSpec(msgspec.Struct, frozen=True):
    """A base that jobs start from."""

    recipe_hash: str
    recipe: dict[str, Any]
    """The document that was hashed, for people and for the trainer's own check."""
    label: str
    """How people recognise it: `cnn · p01 p02 · batch 64 · lr 0.001 · shift`."""
    work: Work
    resources: Resources = Resources()
    limits: Limits = Limits()
    parent: Parent | None = None
    """The model that it continues from; None begins from nothing."""


class JobSpec(msgspec.Struct, frozen=True):
    """One cell of a sweep, ready to run."""

    job_id: str
    name: str
    """`sweep/axis=value,axis=value`; unique within a mesh's live sweeps."""
    cell: dict[str, Any]
    """The cell's point of the matrix: axis → scalar."""
    work: Work
    recipe_hash: str | None = None
    """The base it starts from; None starts from scratch."""
    resources: Resources = Resources()
    limits: Limits = Limits()
    priority: int = 0
    """Higher runs sooner."""
    group: str = ""
    """Set on reference runs (`base alone`, `target only`, …): the row they fill."""
    affinity: str = ""
    """Its values on the axes of `affinity`: jobs with the same are best on one node."""


class Better(StrEnum):
    """Which way a metric is better."""

    HIGHER = "higher"
    LOWER = "lower"


class ResultsSpec(msgspec.Struct, frozen=True):
    """How a sweep's results are merged, and who is told of them."""

    metric: str | None = None
    """The metric shown; None takes the first one found."""
    over: tuple[str, ...] = ()
    """Axes that are averaged over (folds, seeds)."""
    file: str | None = None
    better: Better | None = None
    """Which way the metric is better; None leaves it to the metric's name."""
    notify: NotifySpec | None = None
    """None is as the master's settings say."""


class BudgetSpec(msgspec.Struct, frozen=True):
    """What a sweep may use; None is no limit."""

    gpu_hours: float | None = None
    money: float | None = None


class SweepSpec(msgspec.Struct, frozen=True):
    """A whole submission."""

    sweep_id: str
    name: str
    jobs: tuple[JobSpec, ...]
    bases: tuple[BaseSpec, ...]
    results: ResultsSpec = ResultsSpec()
    source: str = ""
    """The text of the job file as it was submitted."""
    budget: BudgetSpec = BudgetSpec()


class CodeDigests(msgspec.Struct, frozen=True):
    """A snapshot of a folder of code."""

    artifact_id: str
    files: dict[str, str] = {}
    """Path below the folder, with `/` → digest."""


class DataSource(StrEnum):
    """Where built-in training takes its participants from."""

    DIGITS = "digits"
    FOLDER = "folder"
