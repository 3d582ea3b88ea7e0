"""What every job store does, whatever it is made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshtrain.core.copies import Pin
from meshtrain.core.effects import (
    AddAttempt,
    AddJobs,
    AddSweep,
    Save,
    SaveBase,
    SaveDrained,
    SaveGpuFaults,
    SavePin,
    UpdateAttempt,
    UpdateJob,
    UpdateSweep,
)
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    Attempt,
    AttemptState,
    Base,
    BaseState,
    Failure,
    FailureClass,
    Job,
    JobKind,
    JobState,
    Placement,
    Sweep,
    attempt_id_of,
)
from meshtrain.core.node import GpuFaults
from meshtrain.errors import StoreError
from meshtrain.spec.jobs import (
    BaseSpec,
    CommandWork,
    JobSpec,
    Limits,
    Resources,
    ResultsSpec,
    TrainingWork,
)
from meshtrain.store.base import Store, StreamSize
from meshtrain.store.failures import StoreRuleError
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


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path / "state")
    yield made
    made.store.close()


# --- what is kept --------------------------------------------------------------------


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


def test_pins_are_kept_until_they_are_taken_away(bench: Bench) -> None:
    bench.write(AddJobs((a_base_job(),)), SaveBase(a_base()), SavePin("r0", "n", True))
    bench.write(SavePin("r0", "n", True), SavePin("r0", "", True))
    assert bench.reopen().load().pins == (Pin("r0", ""), Pin("r0", "n"))
    bench.write(SavePin("r0", "", False), SavePin("unknown", "n", False))
    assert bench.reopen().load().pins == (Pin("r0", "n"),)
    with pytest.raises(StoreRuleError):
        bench.write(SavePin("unknown", "n", True))


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


# --- one like the other ---------------------------------------------------------------------

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
    st.builds(SaveDrained, st.sampled_from(["n", "m"]), st.booleans()),
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
