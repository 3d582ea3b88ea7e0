"""What every job store commits whole or not at all, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from store_records import BEGINNING, Bench, a_base, a_base_job, a_job, a_sweep, an_attempt, ended

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
from meshtrain.core.job import AttemptState, BaseState, JobKind, JobState
from meshtrain.core.spending import Spending
from meshtrain.store.failures import StoreRuleError

# --- commits --------------------------------------------------------------------------


def test_nothing_shows_before_it_is_committed(bench: Bench) -> None:
    before = bench.store.load()
    bench.store.save(BEGINNING)
    assert bench.store.load() == before
    bench.store.commit()
    assert len(bench.store.load().jobs) == 3


def test_what_is_not_committed_is_gone(bench: Bench) -> None:
    bench.write(*BEGINNING)
    bench.store.save([UpdateJob(a_job(0, priority=9))])
    bench.reopen().commit()
    bench.store.save([UpdateJob(a_job(1, priority=9))])
    bench.store.rollback()
    bench.store.commit()
    assert bench.store.load().jobs == (a_base_job(), a_job(0), a_job(1))


def test_a_job_may_come_and_go_within_a_commit(bench: Bench) -> None:
    done = a_job(0, state=JobState.SUCCEEDED, metrics={"a": 1.0}, ended_wall_s=2.0)
    bench.write(
        *BEGINNING,
        AddAttempt(an_attempt()),
        UpdateAttempt(ended(an_attempt())),
        UpdateJob(done),
        SaveBase(a_base(state=BaseState.FAILED)),
        UpdateSweep(a_sweep(cancelled=True)),
    )
    loaded = bench.reopen().load()
    assert loaded.jobs[1] == replace(done, attempt=ended(an_attempt()))
    assert loaded.bases == (a_base(state=BaseState.FAILED),)
    assert loaded.sweeps == (a_sweep(cancelled=True),)


def test_it_does_not_matter_in_which_order_one_commit_was_saved(bench: Bench) -> None:
    bench.write(SaveBase(a_base()), AddAttempt(an_attempt()), *reversed(BEGINNING[:2]))
    assert bench.store.load().jobs[1].attempt == an_attempt()


# --- rules ------------------------------------------------------------------------------

COMMITTED = a_base(state=BaseState.COMMITTED, artifact_id="a" * 32, generation=2)
SUCCEEDED = a_job(1, state=JobState.SUCCEEDED, ended_wall_s=1.0, generation=2)
HELD: tuple[Save, ...] = (
    *BEGINNING,
    AddAttempt(an_attempt("j0", 5)),
    UpdateJob(SUCCEEDED),
    SaveBase(COMMITTED),
)
BROKEN: dict[str, Sequence[Save]] = {
    "a sweep added twice": [AddSweep(a_sweep())],
    "a sweep added twice at once": [AddSweep(a_sweep("s1")), AddSweep(a_sweep("s1"))],
    "an unknown sweep changed": [UpdateSweep(a_sweep("s1"))],
    "a job added twice": [AddJobs((a_job(0),))],
    "a job changed before it is added": [UpdateJob(a_job(2)), AddJobs((a_job(2),))],
    "an unknown job changed": [UpdateJob(a_job(2))],
    "an unknown sweep's job": [AddJobs((a_job(2, sweep_id="s1"),))],
    "a job's other sweep": [AddSweep(a_sweep("s1")), UpdateJob(a_job(0, sweep_id="s1"))],
    "a job that leaves its sweep": [UpdateJob(a_job(0, sweep_id=None))],
    "a job of another kind": [UpdateJob(a_job(0, kind=JobKind.BASE, sweep_id=None))],
    "a base's job in a sweep": [AddJobs((a_job(2, kind=JobKind.BASE),))],
    "generation 0": [AddJobs((a_job(2, generation=0),))],
    "a falling generation": [UpdateJob(a_job(1, generation=1))],
    "retries below 0": [UpdateJob(a_job(0, retries_used=-1))],
    "losses below 0": [UpdateJob(a_job(0, losses=-1))],
    "memory below 0": [UpdateJob(a_job(0, gpu_memory_bytes=-1))],
    "an end at no time": [UpdateJob(a_job(0, state=JobState.CANCELLED))],
    "a failure for no reason": [UpdateJob(a_job(0, state=JobState.FAILED, ended_wall_s=1.0))],
    "a second end, P2": [UpdateJob(replace(SUCCEEDED, state=JobState.CANCELLED))],
    "a revival without a new generation, P2": [UpdateJob(a_job(1, generation=2))],
    "an unknown job's attempt": [AddAttempt(an_attempt("j2", 6))],
    "an attempt added twice": [AddAttempt(an_attempt("j0", 5))],
    "an unknown attempt changed": [UpdateAttempt(an_attempt("j0", 6))],
    "another job's attempt": [UpdateAttempt(an_attempt("j1", 5))],
    "an epoch given twice, P2": [AddAttempt(an_attempt("j1", 5))],
    "an epoch given twice at once, P2": [
        AddAttempt(an_attempt("j1", 6)),
        AddAttempt(an_attempt("base-r0", 6)),
    ],
    "a lower epoch": [
        UpdateAttempt(ended(an_attempt("j0", 5))),
        AddAttempt(an_attempt("j0", 4)),
    ],
    "epoch 0": [AddAttempt(an_attempt("j1", epoch=0, attempt_id="j1.0"))],
    "an attempt's id that isn't its own": [AddAttempt(an_attempt("j1", attempt_id="j1.x"))],
    "an attempt of generation 0": [AddAttempt(an_attempt("j1", 6, generation=0))],
    "two live attempts, P3": [AddAttempt(an_attempt("j0", 6))],
    "two live attempts at once, P3": [
        AddAttempt(an_attempt("j1", 6)),
        AddAttempt(an_attempt("j1", 7)),
    ],
    "an attempt that ended at no time": [
        UpdateAttempt(an_attempt("j0", 5, state=AttemptState.LOST))
    ],
    "an unknown job's base": [SaveBase(a_base(job_id="j9"))],
    "a base without an artifact": [SaveBase(a_base(generation=3, state=BaseState.COMMITTED))],
    "durable without an artifact": [SaveBase(a_base(generation=3, durable=True))],
    "a base of size -1": [SaveBase(replace(COMMITTED, size_bytes=-1))],
    "a second artifact, P3": [SaveBase(replace(COMMITTED, artifact_id="b" * 32))],
    "a base uncommitted, P3": [SaveBase(a_base(generation=2))],
    "a base's falling generation": [SaveBase(replace(COMMITTED, generation=1))],
    "faults below 0": [SaveGpuFaults("n", 0, -1, False)],
    "a GPU below 0": [SaveGpuFaults("n", -1, 1, False)],
    "a budget of an unknown sweep": [SaveSpending(Spending("s1"))],
    "less than nothing used": [SaveSpending(Spending("s0", -1.0))],
    "a cost that is no number": [SaveSpending(Spending("s0", 1.0, float("nan")))],
    "a limit without end": [SaveSpending(Spending("s0", gpu_hours_max=float("inf")))],
    "a limit below 0": [SaveSpending(Spending("s0", money_max=-1.0))],
    "a spec that can't be stored": [
        AddJobs((a_job(2, spec=replace(a_job(2).spec, cell={"a": object()})),))
    ],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_leaves_the_last_commit(bench: Bench, name: str) -> None:
    bench.write(*HELD)
    before = bench.store.load()
    with pytest.raises(StoreRuleError, match="the job store refused a change"):
        bench.write(SaveDrained("n", True), UpdateJob(a_job(0, losses=7)), *BROKEN[name])
    assert bench.store.load() == before
    bench.store.commit()
    assert bench.reopen().load() == before
    bench.write(SaveDrained("n", True))
    assert bench.store.load().drained == ("n",)


@pytest.mark.parametrize(
    ("attempt_id", "job_id", "size_bytes"),
    [
        ("j0.1099511627800", "j0", 5),
        ("nonsense", "j0", 5),
        (an_attempt().attempt_id, "j1", 5),
        (an_attempt().attempt_id, "j0", -1),
    ],
)
def test_a_stream_needs_its_attempt(
    bench: Bench, attempt_id: str, job_id: str, size_bytes: int
) -> None:
    bench.write(*BEGINNING, AddAttempt(an_attempt()))

    def write() -> None:
        bench.store.save([SaveDrained("n", True)])
        bench.store.set_stream_size(attempt_id, job_id, "log", size_bytes)
        bench.store.commit()

    with pytest.raises(StoreRuleError):
        write()
    bench.store.commit()
    assert bench.store.load().drained == ()
    assert bench.store.all_stream_sizes() == ()
