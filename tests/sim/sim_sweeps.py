"""What is submitted to the simulated mesh, and what an attempt of it is."""

from __future__ import annotations

from meshtrain.core.commands import AssignAttempt
from meshtrain.ids import digest
from meshtrain.spec.jobs import (
    BaseSpec,
    CommandWork,
    InputData,
    JobSpec,
    Limits,
    Resources,
    SweepSpec,
)
from meshtrain.spec.lineage import Parent

DATA = InputData("voc@1", digest(b"voc"), size_bytes=100, files_count=1)
"""A data set with a name, that the master holds."""
SHARE = InputData("/mnt/coco", digest(b"listing"), on_share=True, size_bytes=100, files_count=1)
"""A folder of a share, that a node has or hasn't."""


def make_sweep(
    name: str,
    *,
    jobs: int,
    recipes: tuple[str, ...] = ("r1",),
    priority: int = 0,
    resources: Resources = Resources(),
    retries_max: int = 2,
    offset: int = 0,
    checkpoint_every_s: float | None = None,
    inputs: tuple[InputData, ...] = (),
    groups: int = 0,
    parent: Parent | None = None,
) -> SweepSpec:
    """A sweep of commands whose jobs take turns on the recipes; an empty recipe is no base.

    Args:
        groups: of its affinity; 0 for none.
        parent: the model that its bases continue from.
    """
    above = "" if parent is None else f" from {parent.artifact_id}"
    hashes = {recipe: digest((recipe + above).encode()) for recipe in recipes if recipe}
    limits = Limits(retries_max=retries_max, checkpoint_every_s=checkpoint_every_s)
    return SweepSpec(
        sweep_id=name,
        name=name,
        jobs=tuple(
            JobSpec(
                job_id=f"{name}-{i + offset}",
                name=f"{name}/i={i + offset}",
                cell={"i": i + offset},
                work=CommandWork("true", inputs={data.source: data for data in inputs}),
                recipe_hash=hashes.get(recipes[i % len(recipes)]) if recipes else None,
                resources=resources,
                limits=limits,
                priority=priority,
                affinity=f"group={i % groups}" if groups else "",
            )
            for i in range(jobs)
        ),
        bases=tuple(
            BaseSpec(h, {"name": r}, r, CommandWork("train"), resources, limits, parent)
            for r, h in hashes.items()
        ),
    )


def reads_of(assignment: AssignAttempt) -> list[InputData]:
    """What an attempt reads."""
    work = assignment.work
    return list(work.inputs.values()) if isinstance(work, CommandWork) else []


def trains_base(assignment: AssignAttempt) -> bool:
    """Whether an attempt trains a base, from nothing or from another one's model."""
    return assignment.job_id.startswith("base-")
