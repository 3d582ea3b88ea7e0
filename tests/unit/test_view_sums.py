"""What a view sums up, told by examples."""

from __future__ import annotations

import pytest

from meshtrain.core.changes import BaseRow, JobRow, Moved, TransferRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.view import MeshView, Saved


def row(
    number: int,
    state: JobState,
    started_wall_s: float | None = None,
    ended_wall_s: float | None = None,
    recipe_hash: str | None = "r",
) -> JobRow:
    return JobRow(
        job_id=f"j{number}",
        name=f"s/{number}",
        kind=JobKind.EXPERIMENT,
        state=state,
        sweep_id="s",
        node_id="n" if state.is_leased else None,
        recipe_hash=recipe_hash,
        started_wall_s=started_wall_s,
        ended_wall_s=ended_wall_s,
    )


def view_of(*rows: JobRow) -> MeshView:
    view = MeshView()
    for job in rows:
        view.apply(job)
    return view


def test_the_time_left_is_the_mean_so_far_on_the_slots_that_run() -> None:
    view = view_of(
        row(0, JobState.SUCCEEDED, 0.0, 10.0),
        row(1, JobState.SUCCEEDED, 0.0, 20.0),
        row(2, JobState.RUNNING, 20.0),
        row(3, JobState.RUNNING, 25.0),
        row(4, JobState.WAITING),
        row(5, JobState.WAITING),
    )
    # 4 left at 15 s each, of which 10 + 5 s are done, on 2 slots.
    assert view.progress("s").left_s(6, now_wall_s=30.0) == (4 * 15 - 15) / 2
    assert view.progress("s").left_s(6, now_wall_s=1e6) == 15.0, "what runs over is nearly done"


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.RUNNING])
def test_the_time_left_is_unknown_without_a_measure(state: JobState) -> None:
    view = view_of(row(0, state, 0.0, 10.0 if state.is_terminal else None))
    assert view.progress("s").left_s(2, now_wall_s=30.0) is None
    assert view.progress("nobody").left_s(2, now_wall_s=30.0) is None


def test_trainings_are_avoided_by_every_start_beyond_those_that_were_trained() -> None:
    view = view_of(row(0, JobState.RUNNING, 1.0), row(1, JobState.WAITING))
    view.apply(BaseRow("r", "cnn", BaseState.COMMITTED, artifact_id="a", trained_s=60.0))
    assert view.saved() == Saved(0, 0.0)
    view.apply(row(1, JobState.RUNNING, 2.0))
    view.apply(row(2, JobState.SUCCEEDED, 2.0, 3.0))
    view.apply(row(3, JobState.RUNNING, 2.0, recipe_hash=None))
    assert view.saved() == Saved(2, 120.0)
    view.apply(
        BaseRow("r", "cnn", BaseState.COMMITTED, artifact_id="b", trained_s=60.0, generation=2)
    )
    assert view.saved().trainings == 1
    view.apply(BaseRow("unused", "cnn", BaseState.COMMITTED, artifact_id="c", trained_s=60.0))
    assert view.saved().trainings == 1, "a base that nobody used yet takes nothing away"


def test_bytes_are_counted_by_who_sent_and_who_took_them() -> None:
    view = MeshView()
    view.apply(TransferRow("a", "n1", {"n2": 5, "n3": 6, "master": 7}, 1.0))
    view.apply(TransferRow("a", "master", {"n1": 100}, 1.0))
    moved = view.moved
    assert moved.between_nodes_bytes == 11
    assert moved.from_master_bytes == 7
    assert moved.to_master_bytes == 100


def test_a_snapshot_brings_the_sums_that_its_transfers_are_a_part_of() -> None:
    view = MeshView()
    view.apply(TransferRow("a", "n1", {"n2": 5}, 1.0))
    view.apply(Moved(since_wall_s=10.0, between_nodes_bytes=500))
    assert view.moved.between_nodes_bytes == 500
    view.apply(TransferRow("a", "n1", {"n2": 5}, 1.0))
    assert view.moved == Moved(since_wall_s=10.0, between_nodes_bytes=505)
