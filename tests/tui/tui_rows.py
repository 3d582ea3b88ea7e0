"""Rows of a mesh that tests put on the screen."""

from __future__ import annotations

from collections.abc import Iterator

from tui_double import WALL_S

from meshtrain.core.changes import BaseRow, Change, JobRow, NodeRow, Note, SweepRow
from meshtrain.core.job import BaseState, JobKind, JobState

RECIPE = "7f3a" + "0" * 25 + "c21"


def node(node_id: str = "gpu1", **changed: object) -> NodeRow:
    given: dict[str, object] = {
        "node_id": node_id,
        "connected": True,
        "drained": False,
        "accepting": True,
        "cpu_slots": 4,
        "cpus_used": 0,
        "gpus": (),
        "gpus_used": (),
        "memory_bytes": 0,
        "holds": 0,
    }
    return NodeRow(**(given | changed))  # type: ignore[arg-type]


def job(job_id: str, state: JobState, **changed: object) -> JobRow:
    given: dict[str, object] = {
        "job_id": job_id,
        "name": f"sweep/{job_id}",
        "kind": JobKind.EXPERIMENT,
        "state": state,
        "sweep_id": "sweep",
        "recipe_hash": RECIPE,
    }
    return JobRow(**(given | changed))  # type: ignore[arg-type]


def base(**changed: object) -> BaseRow:
    given: dict[str, object] = {
        "recipe_hash": RECIPE,
        "label": "cnn",
        "state": BaseState.NEEDED,
    }
    return BaseRow(**(given | changed))  # type: ignore[arg-type]


def small_mesh() -> list[Change]:
    """Two nodes, two sweeps, jobs in every state, two events."""
    return [
        node("gpu1", gpus=("A100", "A100"), gpus_used=(0,), memory_bytes=64_000_000_000),
        node("gpu2", drained=True),
        SweepRow("sweep", "sweep", 6, 1, 0, submitted_wall_s=WALL_S),
        SweepRow("other-1a2b", "other", 1, 0, 0, submitted_wall_s=WALL_S + 1),
        job("fold=0", JobState.RUNNING, node_id="gpu1", started_wall_s=WALL_S + 60),
        job("fold=1", JobState.WAITING, reason="waits for a free slot", priority=3),
        job("fold=2", JobState.FAILED, failure="out of memory: 24 GB were not enough"),
        job(
            "fold=3",
            JobState.SUCCEEDED,
            started_wall_s=WALL_S,
            ended_wall_s=WALL_S + 90,
            metrics={"accuracy": 0.875},
        ),
        job("fold=4", JobState.CANCELLED),
        job("fold=5", JobState.ASSIGNED, node_id="gpu1"),
        job("one", JobState.WAITING, name="other/one", sweep_id="other-1a2b", submitted_wall_s=9.0),
        Note(WALL_S + 1, "node gpu1 joined"),
        Note(WALL_S + 2, "node gpu2 joined"),
    ]


def many_jobs(count: int) -> Iterator[Change]:
    """One sweep of many waiting jobs."""
    yield SweepRow("sweep", "sweep", count, 1, 0)
    for index in range(count):
        yield job(f"seed={index:06}", JobState.WAITING)
