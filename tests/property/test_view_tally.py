"""Sums kept row by row are those of counting anew."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core.changes import JobRow
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.view import MeshView

moments = st.none() | st.integers(0, 1000).map(float)
rows = st.builds(
    JobRow,
    job_id=st.sampled_from("abcdef"),
    name=st.just("name"),
    kind=st.sampled_from(JobKind),
    state=st.sampled_from(JobState),
    sweep_id=st.sampled_from([None, "s1", "s2"]),
    node_id=st.sampled_from([None, "n1", "n2"]),
    recipe_hash=st.sampled_from([None, "r1", "r2"]),
    failure=st.sampled_from(["", "out of memory: 24 GB", "user error: exit code 1"]),
    started_wall_s=moments,
    ended_wall_s=moments,
)


@given(st.lists(rows, max_size=60))
def test_sums_don_t_depend_on_how_the_rows_came_to_be(history: list[JobRow]) -> None:
    lived, fresh = MeshView(), MeshView()
    for row in history:
        lived.apply(row)
    for row in lived.jobs.values():
        fresh.apply(row)
    for sweep_id in ("s1", "s2"):
        ours, counted = lived.progress(sweep_id), fresh.progress(sweep_id)
        assert +ours.states == +counted.states
        assert +ours.failures == +counted.failures
        assert +ours.waiting_for == +counted.waiting_for
        assert ours.ended == counted.ended
        assert ours.ran == counted.ran
        assert math.isclose(ours.ran_s, counted.ran_s)
        assert math.isclose(ours.running_since_s, counted.running_since_s)
    for node_id in ("n1", "n2"):
        held = {row.job_id for row in lived.running_on(node_id)}
        assert held == {row.job_id for row in fresh.running_on(node_id)}
        assert held == {
            row.job_id
            for row in lived.jobs.values()
            if row.node_id == node_id and row.state.is_leased
        }
    assert +lived.tally.started == +fresh.tally.started
