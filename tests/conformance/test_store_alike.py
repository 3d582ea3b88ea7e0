"""Both job stores accept, refuse and show the same, whatever comes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from store_records import (
    BEGINNING,
    OUT_OF_MEMORY,
    Bench,
    a_base,
    a_base_job,
    a_job,
    a_sweep,
    an_attempt,
)

from meshtrain.core.effects import (
    AddAttempt,
    AddJobs,
    AddSweep,
    Save,
    SaveBase,
    SaveDrained,
    SaveGpuFaults,
    SaveSpending,
    UpdateAttempt,
    UpdateJob,
    UpdateSweep,
)
from meshtrain.core.job import Attempt, AttemptState, Base, BaseState, Job, JobState
from meshtrain.core.spending import Spending
from meshtrain.errors import StoreError
from meshtrain.store.base import Store

JOB_IDS = ["j0", "j1", "j2", "base-r0"]
_generations = st.sampled_from([1, 1, 1, 2, 3, 0])
_walls = st.sampled_from([None, 1.0, 2.5])
_artifacts = st.sampled_from([None, "a" * 32, "b" * 32])
_failures = st.sampled_from([None, OUT_OF_MEMORY])


@st.composite
def _jobs(draw: st.DrawFn) -> Job:
    number = draw(st.integers(0, 3))
    state = draw(st.sampled_from(JobState))
    fields = {
        "state": state,
        "generation": draw(_generations),
        "failure": draw(_failures),
        "metrics": draw(st.dictionaries(st.text("ab", max_size=2), st.floats(0, 1), max_size=2)),
        "ended_wall_s": 1.0 if state.is_terminal else draw(_walls),
        "losses": draw(st.integers(0, 2)),
    }
    if number == 3:
        return a_base_job(**fields)
    return a_job(number, sweep_id=draw(st.sampled_from(["s0", "s0", "s0", "s1"])), **fields)


@st.composite
def _attempts(draw: st.DrawFn) -> Attempt:
    state = draw(st.sampled_from(AttemptState))
    return an_attempt(
        draw(st.sampled_from(JOB_IDS)),
        draw(st.integers(0, 7)),
        state=state,
        generation=draw(_generations),
        ended_wall_s=draw(_walls) if state is AttemptState.LIVE else 3.0,
        failure=draw(_failures),
    )


@st.composite
def _bases(draw: st.DrawFn) -> Base:
    return a_base(
        state=draw(st.sampled_from(BaseState)),
        generation=draw(_generations),
        artifact_id=draw(_artifacts),
        job_id=draw(st.sampled_from(["base-r0", "base-r0", "base-r0", "j0", "j2"])),
        size_bytes=draw(st.integers(0, 9)),
    )


_sweeps = st.builds(
    a_sweep, st.sampled_from(["s0", "s1"]), cancelled=st.booleans(), name=st.text(max_size=3)
)
_saves: st.SearchStrategy[Save] = st.one_of(
    st.builds(AddSweep, _sweeps),
    st.builds(UpdateSweep, _sweeps),
    st.builds(AddJobs, st.tuples(_jobs())),
    st.builds(UpdateJob, _jobs()),
    st.builds(UpdateJob, _jobs()),
    st.builds(AddAttempt, _attempts()),
    st.builds(AddAttempt, _attempts()),
    st.builds(UpdateAttempt, _attempts()),
    st.builds(UpdateAttempt, _attempts()),
    st.builds(SaveBase, _bases()),
    st.builds(
        SaveSpending,
        st.builds(
            Spending,
            st.sampled_from(["s0", "s1"]),
            st.sampled_from([0.0, 2.5, -1.0]),
            gpu_hours_max=st.sampled_from([None, 1.0]),
        ),
    ),
    st.builds(
        SaveDrained, st.sampled_from(["n", "m"]), st.booleans(), st.sampled_from([None, 1.0, 2.5])
    ),
    st.builds(
        SaveGpuFaults,
        st.sampled_from(["n", "m"]),
        st.integers(0, 1),
        st.integers(-1, 2),
        st.booleans(),
    ),
)
Step = Callable[[Bench], None]


def _save(saves: list[Save]) -> Step:
    return lambda bench: bench.store.save(saves)


def _stream(attempt: Attempt, stream: str, size_bytes: int) -> Step:
    return lambda bench: bench.store.set_stream_size(
        attempt.attempt_id, attempt.job_id, stream, size_bytes
    )


_steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(_save, st.lists(_saves, min_size=1, max_size=3)),
    st.builds(_save, st.lists(_saves, min_size=1, max_size=3)),
    st.builds(_stream, _attempts(), st.sampled_from(["log", "metrics"]), st.integers(-1, 9)),
    st.sampled_from(
        [
            lambda bench: bench.store.commit(),
            lambda bench: bench.store.commit(),
            lambda bench: bench.store.rollback(),
            lambda bench: bench.store.bump_incarnation(),
            lambda bench: bench.reopen(),
        ]
    ),
)


def _seen(store: Store) -> tuple[object, ...]:
    return (
        store.load(),
        [store.attempts_of(job_id) for job_id in JOB_IDS],
        store.all_stream_sizes(),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(_steps, max_size=25))
def test_both_stores_accept_refuse_and_show_the_same(steps: list[Step]) -> None:
    def outcome(bench: Bench, step: Step) -> str:
        try:
            step(bench)
        except StoreError as error:
            return type(error).__name__
        return "done"

    with tempfile.TemporaryDirectory() as folder:
        memory, sqlite = Bench("memory", Path()), Bench("sqlite", Path(folder))
        try:
            memory.write(*BEGINNING)
            sqlite.write(*BEGINNING)
            for step in steps:
                assert outcome(memory, step) == outcome(sqlite, step)
                assert _seen(memory.store) == _seen(sqlite.store)
        finally:
            sqlite.store.close()
