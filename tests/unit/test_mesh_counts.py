"""The sums that are kept are those that a count of everything comes to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from master_double import BASE_BYTES, MasterDouble, small_sweep, user_error

from meshtrain.core import events as ev
from meshtrain.core.changes import NodeRow, Note, TransferRow
from meshtrain.core.job import BaseState, FailureClass, Job, JobKind, JobState
from meshtrain.core.mesh_counts import NodeCounts
from meshtrain.core.rows import base_row, job_row
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.core.tally import Tally
from meshtrain_daemon.master.published_counts import NOTES_KEPT_MAX, PublishedCounts


def assert_true(state: Any) -> None:
    """Holds all sums against a count of everything there is."""
    counts = state.counts
    jobs = Counter((job.kind, job.state) for job in state.jobs.values())
    assert +counts.jobs == jobs
    assert +counts.bases == Counter(base.state for base in state.bases.values())
    held = [b.size_bytes for b in state.bases.values() if b.state is BaseState.COMMITTED]
    assert counts.base_bytes == sum(held)
    tally = Tally()
    for job in state.jobs.values():
        tally.replace(None, job_row(state, job))
    rows = [base_row(state, recipe_hash) for recipe_hash in state.bases]
    assert counts.trainings_avoided == sum(tally.avoided(row) for row in rows)
    assert counts.avoided_s == sum(tally.avoided(row) * (row.trained_s or 0.0) for row in rows)


def test_the_sums_are_true_through_runs_failures_and_retries() -> None:
    master = MasterDouble()
    waits: list[tuple[JobKind, float]] = []
    runs: list[tuple[JobKind, float]] = []
    master.state.counts.on_started = lambda kind, seconds: waits.append((kind, seconds))
    master.state.counts.on_ended = lambda kind, seconds: runs.append((kind, seconds))
    master.add_node("node-1")
    master.outcome = lambda job: (
        user_error() if job.spec.cell.get("fold") == 1 else {"accuracy": 0.5}
    )
    master.submit(small_sweep())
    assert_true(master.state)
    while master.assigned:
        master.run_once()
        assert_true(master.state)
    counts = master.state.counts
    experiment = JobKind.EXPERIMENT
    assert counts.ended == {
        (JobKind.BASE, JobState.SUCCEEDED): 1,
        (experiment, JobState.SUCCEEDED): 2,
        (experiment, JobState.FAILED): 2,
    }
    assert counts.failed == {FailureClass.USER_ERROR: 2}
    assert counts.base_bytes == BASE_BYTES
    # Four jobs started from one training.
    assert counts.bases_trained == 1 and counts.trainings_avoided == 3
    assert counts.avoided_s == 3 * master.run_s
    # The base at once; two jobs once it was there, and two a run later.
    assert Counter(waits) == {(JobKind.BASE, 0.0): 1, (experiment, 60.0): 2, (experiment, 120.0): 2}
    assert Counter(runs) == {(JobKind.BASE, 60.0): 1, (experiment, 60.0): 2}
    failed = [job.job_id for job in master.state.jobs.values() if job.state is JobState.FAILED]
    master.outcome = lambda job: {"accuracy": 0.5}
    master.tell(ev.RetryRequested("again", tuple(failed)))
    assert_true(master.state)
    master.run_all()
    assert_true(master.state)
    assert counts.ended[experiment, JobState.SUCCEEDED] == 4
    # A wait for a retry is no wait of a submission.
    assert len(waits) == 5


def test_what_a_store_brings_back_counts_as_there_and_not_as_news() -> None:
    master = MasterDouble()
    master.add_node("node-1")
    master.submit(small_sweep())
    master.run_once()
    state = master.state
    loaded = Loaded(
        sweeps=tuple(state.sweeps.values()),
        jobs=tuple(state.jobs.values()),
        bases=tuple(state.bases.values()),
    )
    again = Scheduler(SchedulerConfig(), loaded).state
    assert_true(again)
    assert again.counts.ended == {} and again.counts.failed == {}
    assert again.counts.bases_trained == 1


def test_a_cancelled_sweep_leaves_no_open_job_counted() -> None:
    master = MasterDouble()
    master.add_node("node-1")
    sweep = small_sweep()
    master.submit(sweep)
    master.tell(ev.CancelRequested("c", (), (sweep.sweep_id,)))
    assert_true(master.state)
    open_states = [state for state in JobState if not state.is_terminal]
    counts = master.state.counts
    assert sum(counts.jobs[JobKind.EXPERIMENT, state] for state in open_states) == 0


def _row(node_id: str, **changes: Any) -> NodeRow:
    told: dict[str, Any] = {
        "connected": True,
        "drained": False,
        "accepting": True,
        "cpu_slots": 4,
        "cpus_used": 1,
        "gpus": ("A100", "A100"),
        "gpus_used": (0,),
        "memory_bytes": 1,
        "holds": 0,
        "cache_used_bytes": 100,
    }
    return NodeRow(node_id, **(told | changes))


def test_a_node_counts_as_its_last_row_says() -> None:
    counts = NodeCounts()
    counts.take(_row("n1"))
    counts.take(_row("n2", drained=True))
    counts.take(_row("n1", gpus_used=(0, 1), cpus_used=4))
    assert (counts.there, counts.away, counts.drained, counts.taking_jobs) == (2, 0, 1, 1)
    assert (counts.gpus, counts.gpus_used) == (4, 3)
    assert (counts.cpu_slots, counts.cpu_slots_used, counts.cache_bytes) == (8, 5, 200)
    counts.take(_row("n1", connected=False))
    counts.take(_row("n2", connected=False))
    assert (counts.there, counts.away, counts.taking_jobs) == (0, 2, 0)
    assert (counts.gpus, counts.gpus_used, counts.cpu_slots, counts.cache_bytes) == (0, 0, 0, 0)


def test_what_is_published_is_summed_up() -> None:
    feed = PublishedCounts()
    feed.take(
        (_row("n1"), Note(1.0, "a"), TransferRow("a" * 32, "n1", {"n2": 5, "master": 2}, 1.0))
    )
    feed.take([Note(float(number), "b") for number in range(NOTES_KEPT_MAX)])
    assert feed.nodes.there == 1 and feed.changes == 3 + NOTES_KEPT_MAX
    assert (feed.moved.between_nodes_bytes, feed.moved.from_master_bytes) == (5, 2)
    assert feed.notes_count == NOTES_KEPT_MAX + 1
    assert {note.text for note in feed.notes} == {"b"}


def test_a_job_that_never_changes_counts_once() -> None:
    master = MasterDouble()
    master.submit(small_sweep())
    job: Job = next(iter(master.state.jobs.values()))
    before = Counter(master.state.counts.jobs)
    master.state.counts.replace_job(job, job)
    assert master.state.counts.jobs == before
