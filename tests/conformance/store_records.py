"""What the stores of these tests keep, and a store of either kind to keep it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from meshtrain.core.effects import AddJobs, AddSweep, Save, SaveBase
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    Attempt,
    AttemptState,
    Base,
    Failure,
    FailureClass,
    Job,
    JobKind,
    Placement,
    Sweep,
    attempt_id_of,
)
from meshtrain.spec.jobs import (
    BaseSpec,
    CommandWork,
    JobSpec,
    Limits,
    Resources,
    ResultsSpec,
    TrainingWork,
)
from meshtrain.store.base import Store
from meshtrain.store.memory import MemoryStore
from meshtrain.store.sqlite import SqliteStore

FIRST_EPOCH = EPOCHS_PER_INCARNATION + 1
OUT_OF_MEMORY = Failure(FailureClass.OUT_OF_MEMORY, "8 GB were not enough", "node-1", 137)


def a_sweep(sweep_id: str = "s0", **fields: Any) -> Sweep:
    return Sweep(
        **{
            "sweep_id": sweep_id,
            "name": "batch_composition",
            "job_ids": ("j0", "j1"),
            "recipe_hashes": ("r0",),
            "results": ResultsSpec(metric="accuracy", over=("fold",)),
            "source": "name: batch_composition\n# écrit à la main\n",
            "submitted_wall_s": 1.75e9,
            "reused": ("r0",),
            **fields,
        }
    )


def a_job(number: int, **fields: Any) -> Job:
    spec = JobSpec(
        job_id=f"j{number}",
        name=f"batch_composition/fold={number}",
        cell={"fold": number, "target_batch_pct": 0.25, "note": None, "shuffled": True},
        work=TrainingWork({"mode": "full_fine_tuning", "recipe": {"participants": ["p01"]}}),
        recipe_hash="r0",
        resources=Resources(gpus=1, gpu_memory_bytes=1 << 34),
        limits=Limits(retries_max=3, timeout_s=60.0),
        priority=5,
        group="base alone",
    )
    return Job(
        **{
            "spec": spec,
            "kind": JobKind.EXPERIMENT,
            "order": number + 1,
            "sweep_id": "s0",
            "priority": 5,
            "submitted_wall_s": 1.75e9,
            **fields,
        }
    )


def a_base_job(**fields: Any) -> Job:
    spec = JobSpec("base-r0", "base/r0", {}, CommandWork("python base.py", env={"A": "1"}))
    return Job(**{"spec": spec, "kind": JobKind.BASE, "order": 0, **fields})


def a_base(**fields: Any) -> Base:
    spec = BaseSpec("r0", {"base": {"lr": "0.001"}}, "cnn · p01", CommandWork("python base.py"))
    return Base(**{"spec": spec, "job_id": "base-r0", **fields})


def an_attempt(job_id: str = "j0", number: int = 0, **fields: Any) -> Attempt:
    epoch = FIRST_EPOCH + number
    return Attempt(
        **{
            "attempt_id": attempt_id_of(job_id, epoch),
            "job_id": job_id,
            "generation": 1,
            "epoch": epoch,
            "placements": (Placement("node-1", (0, 1), 0, 4096), Placement("node-2", (), 2)),
            "base_artifact": "a" * 32,
            "assigned_wall_s": 1.75e9,
            **fields,
        }
    )


def ended(attempt: Attempt, state: AttemptState = AttemptState.SUCCEEDED, **fields: Any) -> Attempt:
    return replace(attempt, state=state, started_wall_s=1.75e9, ended_wall_s=1.75e9 + 5, **fields)


BEGINNING: tuple[Save, ...] = (
    AddSweep(a_sweep()),
    AddJobs((a_base_job(), a_job(0), a_job(1))),
    SaveBase(a_base()),
)


class Bench:
    """A store of one kind, which can be left as by a crash and opened again."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.store: Store = MemoryStore() if kind == "memory" else SqliteStore(folder)

    def reopen(self) -> Store:
        """Drops what is not committed."""
        before = self.store
        if isinstance(before, MemoryStore):
            self.store = before.reopened()
        before.close()
        if self.kind == "sqlite":
            self.store = SqliteStore(self.folder)
        return self.store

    def write(self, *effects: Save) -> None:
        self.store.save(effects)
        self.store.commit()


Reopen = Callable[[Store], Store]
"""Gives a store again, as after a crash."""
