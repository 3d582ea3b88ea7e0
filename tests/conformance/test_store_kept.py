"""What every job store keeps, whatever it is made of."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_records import (
    BEGINNING,
    OUT_OF_MEMORY,
    Bench,
    a_base,
    a_base_job,
    a_job,
    a_sweep,
    an_attempt,
    ended,
)

from meshtrain.core.copies import Pin
from meshtrain.core.effects import (
    AddAttempt,
    AddJobs,
    AddSweep,
    SaveBase,
    SaveDrained,
    SaveGpuFaults,
    SavePin,
    SaveSpending,
    UpdateAttempt,
    UpdateJob,
    UpdateSweep,
)
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    AttemptState,
    BaseState,
    JobState,
    Placement,
    attempt_id_of,
)
from meshtrain.core.node import GpuFaults
from meshtrain.core.spending import Spending
from meshtrain.spec.jobs import Resources
from meshtrain.store.base import StreamSize
from meshtrain.store.failures import StoreRuleError


def test_an_empty_store_is_the_first_incarnation(bench: Bench) -> None:
    loaded = bench.store.load()
    assert (loaded.incarnation, loaded.epoch_counter) == (1, 0)
    assert (loaded.sweeps, loaded.jobs, loaded.bases, loaded.drained) == ((), (), (), ())
    assert bench.store.attempts_of("j0") == ()
    assert bench.store.stream_sizes("j0.1") == {}
    assert bench.store.all_stream_sizes() == ()


def test_records_come_back_as_they_were_saved(bench: Bench) -> None:
    bench.write(*BEGINNING, SaveDrained("node-3", True), SaveDrained("node-2", True))
    loaded = bench.reopen().load()
    assert loaded.sweeps == (a_sweep(),)
    assert loaded.jobs == (a_base_job(), a_job(0), a_job(1))
    assert loaded.bases == (a_base(),)
    assert loaded.drained == ("node-2", "node-3")


def test_every_changing_field_of_a_job_is_kept(bench: Bench) -> None:
    bench.write(*BEGINNING)
    changed = replace(
        a_job(0),
        order=9,
        state=JobState.FAILED,
        generation=2,
        priority=-3,
        cancelling=True,
        retries_used=2,
        losses=1,
        gpu_memory_bytes=1 << 35,
        failure=OUT_OF_MEMORY,
        metrics={"accuracy": 0.1 + 0.2, "loss": float("inf")},
        submitted_wall_s=1.8e9,
        ended_wall_s=1.75e9 + 9,
        alone=True,
        checkpoint="c" * 32,
        checkpoint_safe="d" * 32,
        asked=Resources(gpus=2, labels=(("gpu", "a100"),)),
    )
    bench.write(UpdateJob(changed))
    assert bench.reopen().load().jobs == (a_base_job(), a_job(1), changed)


def test_every_changing_field_of_an_attempt_is_kept(bench: Bench) -> None:
    bench.write(*BEGINNING, AddAttempt(an_attempt()))
    over = ended(
        an_attempt(generation=2, base_artifact=None, placements=(Placement("node-4"),)),
        AttemptState.FAILED,
        failure=OUT_OF_MEMORY,
        artifact_id="b" * 32,
        resumed_from="c" * 32,
    )
    bench.write(UpdateAttempt(over))
    assert bench.reopen().attempts_of("j0") == (over,)


def test_every_changing_field_of_a_sweep_and_a_base_is_kept(bench: Bench) -> None:
    bench.write(*BEGINNING)
    sweep = a_sweep(
        name="b", job_ids=("j1",), recipe_hashes=(), source="", cancelled=True, reused=()
    )
    base = a_base(
        generation=2,
        state=BaseState.COMMITTED,
        artifact_id="a" * 32,
        size_bytes=389 << 20,
        durable=True,
        node_id="node-1",
        trained_s=8.25,
        committed_wall_s=1.75e9,
    )
    bench.write(UpdateSweep(sweep), SaveBase(base))
    loaded = bench.reopen().load()
    assert (loaded.sweeps, loaded.bases) == ((sweep,), (base,))


def test_jobs_come_by_order_and_the_rest_by_age(bench: Bench) -> None:
    bench.write(AddSweep(a_sweep("s1")), AddSweep(a_sweep("s0")))
    bench.write(AddJobs((a_job(3), a_job(1))), AddJobs((a_job(2),)))
    loaded = bench.store.load()
    assert [sweep.sweep_id for sweep in loaded.sweeps] == ["s1", "s0"]
    assert [job.job_id for job in loaded.jobs] == ["j1", "j2", "j3"]


def test_the_spec_is_the_one_that_was_added(bench: Bench) -> None:
    other = replace(a_job(0).spec, name="another")
    bench.store.save([*BEGINNING, UpdateJob(a_job(0, spec=other))])
    bench.store.commit()
    bench.write(UpdateJob(a_job(1, spec=replace(a_job(1).spec, name="another"))))
    assert [job.name for job in bench.store.load().jobs][1:] == [a_job(0).name, a_job(1).name]


def test_what_is_loaded_can_be_changed_without_harm(bench: Bench) -> None:
    metrics = {"accuracy": 0.5}
    bench.write(*BEGINNING, UpdateJob(a_job(0, metrics=metrics)))
    metrics["accuracy"] = 0.0
    for _ in range(2):
        job = bench.store.load().jobs[1]
        assert job.metrics == {"accuracy": 0.5}
        assert job.spec == a_job(0).spec
        job.metrics.clear()
        job.spec.cell.clear()


# --- attempts ------------------------------------------------------------------------


def test_a_waiting_job_with_a_live_attempt_is_assigned(bench: Bench) -> None:
    bench.write(*BEGINNING, AddAttempt(an_attempt()))
    job = bench.reopen().load().jobs[1]
    assert job == a_job(0, state=JobState.ASSIGNED, attempt=an_attempt())
    bench.write(UpdateJob(a_job(0, state=JobState.RUNNING)))
    assert bench.store.load().jobs[1].state is JobState.RUNNING


def test_a_job_has_its_live_attempt_or_else_its_last(bench: Bench) -> None:
    first, second = an_attempt(number=0), an_attempt(number=4)
    bench.write(*BEGINNING, AddAttempt(first))
    bench.write(UpdateAttempt(ended(first, AttemptState.LOST)), AddAttempt(second))
    assert bench.store.load().jobs[1].attempt == second
    bench.write(UpdateAttempt(ended(second)))
    assert bench.store.load().jobs[1] == a_job(0, attempt=ended(second))
    bench.write(UpdateAttempt(first))
    assert bench.store.load().jobs[1].attempt == first
    assert bench.store.attempts_of("j0") == (first, ended(second))
    assert bench.store.attempts_of("j1") == ()


def test_one_attempt_may_follow_another_within_a_commit(bench: Bench) -> None:
    attempts = [an_attempt(number=number) for number in range(3)]
    bench.write(
        *BEGINNING,
        AddAttempt(attempts[0]),
        UpdateAttempt(ended(attempts[0], AttemptState.LOST)),
        AddAttempt(attempts[1]),
        UpdateAttempt(ended(attempts[1], AttemptState.HANDED_BACK)),
        AddAttempt(attempts[2]),
    )
    states = [attempt.state for attempt in bench.reopen().attempts_of("j0")]
    assert states == [AttemptState.LOST, AttemptState.HANDED_BACK, AttemptState.LIVE]


def test_epochs_go_on_within_an_incarnation_and_begin_anew_with_the_next(bench: Bench) -> None:
    bench.write(*BEGINNING, AddAttempt(an_attempt(number=41)))
    assert bench.store.load().epoch_counter == 42
    bench.store.bump_incarnation()
    assert bench.store.load().incarnation == 1
    bench.store.commit()
    loaded = bench.reopen().load()
    assert (loaded.incarnation, loaded.epoch_counter) == (2, 0)
    later = 2 * EPOCHS_PER_INCARNATION + 7
    bench.write(AddAttempt(an_attempt("j1", epoch=later, attempt_id=attempt_id_of("j1", later))))
    assert bench.store.load().epoch_counter == 7


# --- streams, drained nodes, GPUs --------------------------------------------------------


def test_stream_sizes_are_kept_by_attempt(bench: Bench) -> None:
    first, second = an_attempt("j0", 0), an_attempt("j1", 1)
    bench.write(*BEGINNING, AddAttempt(first), AddAttempt(second))
    bench.store.set_stream_size(second.attempt_id, "j1", "log", 10)
    bench.store.set_stream_size(first.attempt_id, "j0", "metrics", 3)
    bench.store.set_stream_size(first.attempt_id, "j0", "log", 4)
    bench.store.set_stream_size(first.attempt_id, "j0", "log", 1 << 40)
    assert bench.store.stream_sizes(first.attempt_id) == {}
    bench.store.commit()
    bench.reopen()
    assert bench.store.stream_sizes(first.attempt_id) == {"log": 1 << 40, "metrics": 3}
    assert bench.store.all_stream_sizes() == (
        StreamSize(first.attempt_id, "j0", "log", 1 << 40),
        StreamSize(first.attempt_id, "j0", "metrics", 3),
        StreamSize(second.attempt_id, "j1", "log", 10),
    )


@pytest.mark.parametrize(
    "attempt_id", ["", "j0", "j0.", "j0.-1", "j0.01", "j0.²", "j1.1099511627777", "j0." + "9" * 19]
)
def test_no_attempt_has_no_streams(bench: Bench, attempt_id: str) -> None:
    bench.write(*BEGINNING, AddAttempt(an_attempt()))
    bench.store.set_stream_size(an_attempt().attempt_id, "j0", "log", 5)
    bench.store.commit()
    assert bench.store.stream_sizes(attempt_id) == {}
    assert bench.store.stream_sizes(an_attempt().attempt_id) == {"log": 5}


def test_a_node_is_drained_until_it_is_not(bench: Bench) -> None:
    bench.write(SaveDrained("n", True))
    bench.write(SaveDrained("n", True), SaveDrained("m", True), SaveDrained("m", False))
    assert bench.reopen().load().drained == ("n",)
    assert bench.store.load().drains_due_wall_s == {}
    bench.write(SaveDrained("n", True, 1.75e9))
    assert bench.reopen().load().drains_due_wall_s == {"n": 1.75e9}
    bench.write(SaveDrained("n", True))
    assert bench.reopen().load().drains_due_wall_s == {}
    bench.write(SaveDrained("n", False), SaveDrained("unknown", False))
    assert bench.reopen().load().drained == ()


def test_faults_of_a_gpu_are_kept_until_they_are_forgotten(bench: Bench) -> None:
    bench.write(SaveGpuFaults("n", 1, 1, False), SaveGpuFaults("m", 0, 1, False))
    bench.write(SaveGpuFaults("n", 1, 2, False), SaveGpuFaults("n", 1, 3, True))
    assert bench.reopen().load().gpu_faults == (
        GpuFaults("m", 0, 1),
        GpuFaults("n", 1, 3, out_of_use=True),
    )
    bench.write(SaveGpuFaults("n", 1, 0, True), SaveGpuFaults("m", 0, 0, False))
    bench.write(SaveGpuFaults("unknown", 7, 0, False))
    assert bench.reopen().load().gpu_faults == (GpuFaults("n", 1, 0, out_of_use=True),)


def test_what_a_sweep_has_used_and_may_use_is_kept(bench: Bench) -> None:
    bench.write(*BEGINNING, AddSweep(a_sweep("s1")), SaveSpending(Spending("s1", 3.5)))
    assert bench.reopen().load().spending == (Spending("s1", 3.5),)
    limited = Spending("s0", 7200.0, 0.1 + 0.2, 20.0, 50.0)
    bench.write(SaveSpending(limited), SaveSpending(Spending("s1", 4.0, 1.0)))
    assert bench.reopen().load().spending == (limited, Spending("s1", 4.0, 1.0))
    bench.write(SaveSpending(replace(limited, gpu_hours_max=None, money_max=0.5)))
    assert bench.reopen().load().spending[0].gpu_hours_max is None


def test_pins_are_kept_until_they_are_taken_away(bench: Bench) -> None:
    bench.write(AddJobs((a_base_job(),)), SaveBase(a_base()), SavePin("r0", "n", True))
    bench.write(SavePin("r0", "n", True), SavePin("r0", "", True))
    assert bench.reopen().load().pins == (Pin("r0", ""), Pin("r0", "n"))
    bench.write(SavePin("r0", "", False), SavePin("unknown", "n", False))
    assert bench.reopen().load().pins == (Pin("r0", "n"),)
    with pytest.raises(StoreRuleError):
        bench.write(SavePin("unknown", "n", True))
