"""What the scheduler does for nodes that are revoked, GPUs that fail, and jobs that need much."""

from __future__ import annotations

import pytest
from test_core_scheduler_cases import LEASE_S, MODEL, Mesh, commands, live, reply

from meshtrain.core import commands as cmd
from meshtrain.core import events as ev
from meshtrain.core.gpu_health import FAULTS_MAX
from meshtrain.core.job import Failure, FailureClass, JobState
from meshtrain.core.told_sources import told_sources
from meshtrain.spec.jobs import CommandWork, JobSpec, Limits, Resources, SweepSpec

BAD_GPU = Failure(FailureClass.BAD_GPU, "Xid 79", "n1")
FULL = Failure(FailureClass.DISK, "No space left", "n1")
NO_MEMORY = Failure(FailureClass.OUT_OF_MEMORY, "killed", "n1")


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def submit(mesh: Mesh, name: str, needs: Resources, jobs: int = 1) -> None:
    specs = tuple(
        JobSpec(
            f"{name}-{i}",
            f"{name}/i={i}",
            {"i": i},
            CommandWork("x"),
            None,
            needs,
            Limits(retries_max=2),
        )
        for i in range(jobs)
    )
    mesh.do(ev.SweepSubmitted("submit", SweepSpec(name, name, specs, ()), True))


# --- revoked ---------------------------------------------------------------------------------


def test_P10_what_a_revoked_node_runs_is_given_to_others_at_once(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit()
    (given,) = mesh.place()
    mesh.hello("n2")
    mesh.do(ev.NodeRevoked("n1"))
    (again,) = mesh.place()
    assert again.epoch > given.epoch
    job = mesh.job("s-0")
    assert job.attempt is not None
    assert (job.attempt.node_id, job.losses) == ("n2", 1)
    assert job.failure is not None
    assert job.failure.message == "n1 is no member any more"
    mesh.end(given, "n1")
    assert mesh.job("s-0").state is JobState.ASSIGNED, "the word of the revoked one counts no more"


def test_P10_also_when_the_master_died_just_after(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit()
    mesh.place()
    mesh.start()
    assert mesh.job("s-0").state is JobState.ASSIGNED
    mesh.do(ev.NodeRevoked("n1"))
    assert mesh.job("s-0").state is JobState.WAITING
    mesh.do(ev.NodeRevoked("nobody"))


def test_P10_a_revoked_node_gets_nothing_and_is_fetched_from_by_nobody(mesh: Mesh) -> None:
    mesh.hello("n1", holds=(MODEL,))
    mesh.submit(base=True)
    (training,) = mesh.place()
    mesh.end(training, artifact_id=MODEL)
    mesh.hello("n2")
    assert mesh.state.is_held(MODEL)
    mesh.do(ev.NodeRevoked("n1"))
    assert told_sources(mesh.state, MODEL, "n2") == ()
    assert not mesh.state.is_held(MODEL)
    assert mesh.place() == [], "the base is on no host"
    mesh.beats += 1
    mesh.do(ev.NodeBeat("n1", "life/0", mesh.beats, 0.0, 0, 1000, ()))
    assert not mesh.state.nodes["n1"].connected


def test_P10_a_result_that_only_the_revoked_node_has_is_made_anew(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit()
    (given,) = mesh.place()
    mesh.end(given, artifact_id=MODEL)
    assert mesh.job("s-0").state is JobState.COLLECTING
    mesh.do(ev.NodeRevoked("n1"))
    assert mesh.job("s-0").state is JobState.WAITING


def test_P10_a_job_that_is_being_cancelled_there_is_cancelled(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit()
    mesh.place()
    mesh.do(ev.CancelRequested("c", sweep_ids=("s",)))
    mesh.do(ev.NodeRevoked("n1"))
    assert mesh.job("s-0").state is JobState.CANCELLED


def test_P10_who_joined_anew_under_the_name_works_on_and_the_old_attempt_is_ended(
    mesh: Mesh,
) -> None:
    mesh.hello("n1")
    mesh.submit()
    (given,) = mesh.place()
    mesh.do(ev.NodeRevoked("n1"))
    effects = mesh.hello("n1", "other-life/0", [live(given)])
    assert cmd.EndAttempt(given.attempt_id) in commands(effects)
    assert len(mesh.place()) == 1


# --- GPUs that fail ---------------------------------------------------------------------------


def fail_gpu(mesh: Mesh, times: int) -> None:
    for number in range(times):
        submit(mesh, f"bad{number}", Resources(gpus=1))
        (given,) = mesh.place()
        mesh.end(given, failure=BAD_GPU)
        mesh.do(ev.CancelRequested("c", sweep_ids=(f"bad{number}",)))


def test_a_gpu_that_keeps_failing_is_out_of_use_until_it_is_released(mesh: Mesh) -> None:
    mesh.hello(gpus=1)
    fail_gpu(mesh, FAULTS_MAX)
    submit(mesh, "waits", Resources(gpus=1))
    assert mesh.place() == []
    mesh.start()
    mesh.hello(session="life/1", gpus=1)
    assert mesh.place() == [], "it is remembered over a restart"
    assert reply(mesh.do(ev.ReleaseRequested("r", "n1"))).done == ("n1",)
    (given,) = mesh.place()
    assert given.gpus == (0,)
    assert "no GPU of n1 is out of use" in reply(mesh.do(ev.ReleaseRequested("r", "n1"))).error


def test_a_gpu_on_which_a_job_ended_well_is_forgiven(mesh: Mesh) -> None:
    mesh.hello(gpus=1)
    fail_gpu(mesh, FAULTS_MAX - 1)
    submit(mesh, "well", Resources(gpus=1))
    (given,) = mesh.place()
    mesh.end(given)
    fail_gpu_again = FAULTS_MAX - 1
    for number in range(fail_gpu_again):
        submit(mesh, f"later{number}", Resources(gpus=1))
        (given,) = mesh.place()
        mesh.end(given, failure=BAD_GPU)
        mesh.do(ev.CancelRequested("c", sweep_ids=(f"later{number}",)))
    submit(mesh, "goes", Resources(gpus=1))
    assert len(mesh.place()) == 1


def test_a_gpu_that_failed_lately_is_given_out_last_and_costs_no_retry(mesh: Mesh) -> None:
    mesh.hello(gpus=2)
    submit(mesh, "s", Resources(gpus=1))
    (given,) = mesh.place()
    assert given.gpus == (0,)
    mesh.end(given, failure=BAD_GPU)
    (again,) = mesh.place()
    assert again.gpus == (1,)
    assert mesh.job("s-0").retries_used == 0


# --- pauses, and jobs alone ------------------------------------------------------------------


def test_P12_a_node_whose_disk_was_full_gets_no_jobs_for_a_while(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit(jobs=2)
    first, second = mesh.place()
    mesh.end(first, failure=FULL)
    mesh.submit("more")
    assert mesh.place() == []
    mesh.hello("n1", "life/1", [live(second)])
    assert mesh.place() == [], "a new session doesn't end the pause"
    mesh.now_s += mesh.state.config.pause_s - LEASE_S / 2
    for _ in range(40):
        mesh.beat("n1", seen=10)
        mesh.tick(0.5)
    assert len(mesh.place()) == 1, "its other slot is still taken"


def test_a_job_that_ran_out_of_main_memory_runs_again_with_the_node_to_itself(mesh: Mesh) -> None:
    mesh.hello("n1")
    submit(mesh, "s", Resources())
    (given,) = mesh.place()
    mesh.end(given, failure=NO_MEMORY)
    assert mesh.job("s-0").alone
    (alone,) = mesh.place()
    mesh.submit("small")
    assert mesh.place() == [], "nothing is put beside it"
    mesh.start()
    mesh.hello("n1", "life/1", [live(alone)])
    assert mesh.place() == [], "not after a restart either"
    mesh.end(alone)
    assert len(mesh.place()) == 1


# --- a node kept free --------------------------------------------------------------------------


def test_small_jobs_do_not_overtake_one_that_needs_the_whole_node_for_ever(mesh: Mesh) -> None:
    mesh.hello("n1")
    submit(mesh, "small", Resources(), jobs=30)
    running = mesh.place()
    assert len(running) == 2
    submit(mesh, "wide", Resources(cpus=2))
    mesh.do(ev.PriorityRequested("p", ("wide-0",), 5))
    ended = 0
    while mesh.job("wide-0").state is JobState.WAITING:
        given = running.pop(0)
        mesh.end(given)
        running += mesh.place()
        ended += 1
        mesh.now_s += mesh.state.config.reserve_after_s / 3
        mesh.beat("n1", seen=1000)
        mesh.tick(0.0)
        assert ended < 20, "it was passed over for ever"
    assert ended >= 3, "for a while the small ones go on"
    assert mesh.job("small-29").state is JobState.WAITING


def test_a_node_is_kept_free_only_for_what_it_could_run(mesh: Mesh) -> None:
    mesh.hello("n1")
    submit(mesh, "never", Resources(cpus=64))
    submit(mesh, "small", Resources(), jobs=3)
    mesh.place()
    mesh.now_s += 2 * mesh.state.config.reserve_after_s
    mesh.beat("n1", seen=10)
    mesh.tick(0.0)
    (first, *_) = [a for a in mesh.state.live if a.startswith("small")]
    attempt = mesh.attempt(first)
    mesh.do(ev.AttemptEnded("n1", attempt.attempt_id, attempt.epoch))
    assert len(mesh.place()) == 1
