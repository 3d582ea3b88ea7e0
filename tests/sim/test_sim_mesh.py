"""The production scheduler and agents under simulated weather, from seeds that replay exactly.

`MESHTRAIN_SIM_SEEDS=N` runs more of them, `MESHTRAIN_SIM_FIRST=S` starts at another.
"""

from __future__ import annotations

import os
import random

import msgspec
import pytest
from mesh_model import DATA, SHARE, SimMesh, make_sweep
from sim_weather import Weather

from meshtrain.core import agent_io as io
from meshtrain.core import events as ev
from meshtrain.core.job import Failure, FailureClass, JobKind, JobState

SEEDS = int(os.environ.get("MESHTRAIN_SIM_SEEDS", "150"))
FIRST = int(os.environ.get("MESHTRAIN_SIM_FIRST", "0"))
BLOCK = 25


def run_seed(seed: int) -> SimMesh:
    draw = random.Random(seed)
    mesh = SimMesh(
        seed, hosts=draw.randint(1, 5), slots=draw.randint(1, 3), gpus=draw.choice([0, 0, 2])
    )
    mesh.weather = Weather(
        loss=draw.choice([0, 0.05, 0.3]),
        doubling=draw.choice([0, 0.1, 0.5]),
        delay_max_s=draw.choice([0.01, 0.5, 4.0]),
        strike_every_s=draw.choice([None, 30.0, 8.0]),
        crash_point=draw.choice([0, 0, 0.002, 0.01]),
        job_failure=draw.choice([0, 0, 0.1]),
    )
    checkpoint_every_s = draw.choice([None, 1.0, 5.0])
    if draw.random() < 0.3:
        # Over in no time: such jobs are handed out ahead of free slots.
        mesh.duration_s = lambda a: mesh.random.uniform(0.01, 0.3)
    elif checkpoint_every_s is not None:
        mesh.duration_s = lambda a: mesh.random.uniform(2, 30)
    if draw.random() < 0.1:
        # Calm, but for a master that stands still now and then: nobody may lose anything by it.
        mesh.weather = Weather(
            strike_every_s=20.0, strikes=("suspend master", "pause master", "full master")
        )
        mesh.duration_s = lambda a: mesh.random.uniform(10, 60)
    if draw.random() < 0.5:
        # Caches that hold two or three artifacts: things go while others come.
        for host in mesh.hosts.values():
            host.cache_bytes = draw.choice([0, 150, 250, 350])
        mesh.weather.rename_failure = draw.choice([0, 0, 0.2])
        mesh.config = msgspec.structs.replace(mesh.config, warm_copies=draw.choice([0, 0, 2]))
        if draw.random() < 0.5:
            mesh._at(draw.uniform(1, 10), mesh.meddle_with_bases)
    # By draws of their own: all else of a seed stays as it was before there were inputs.
    reading = random.Random(f"inputs of {seed}")
    inputs = tuple(data for data in (DATA, SHARE) if reading.random() < 0.3)
    if DATA in inputs:
        mesh.publish(DATA)
    if SHARE in inputs:
        mesh.unmounted.update(name for name in mesh.hosts if reading.random() < 0.5)
        mesh._at(reading.uniform(1, 40), mesh.unmounted.clear)
    lineage = random.Random(f"lineage of {seed}")
    if lineage.random() < 0.4:
        mesh._at(lineage.uniform(5, 25), lambda: mesh.continue_a_base("continued", lineage))
    sweeps = draw.randint(1, 3)
    for number in range(sweeps):
        recipes = draw.choice([("r1",), ("r1", "r2"), ("",), ("r1", "")])
        sweep = make_sweep(
            f"s{number}",
            jobs=draw.randint(1, 8),
            recipes=recipes,
            priority=draw.randint(0, 2),
            checkpoint_every_s=checkpoint_every_s,
            inputs=inputs,
            groups=lineage.choice([0, 0, 2]),
        )
        delay_s = draw.uniform(0, 20)
        mesh._at(delay_s, lambda s=sweep: mesh.submit(s))
    if draw.random() < 0.3:
        mesh._at(
            draw.uniform(1, 30),
            lambda: mesh.tell_master(
                ev.CancelRequested(
                    "cancel",
                    sweep_ids=("s0",)
                    if mesh.master is not None and "s0" in mesh.master.state.sweeps
                    else (),
                )
            ),
        )
    mesh.run_for(draw.uniform(30, 90))
    mesh.heal()
    mesh.run_until(
        lambda: mesh.all_ended() and len(mesh.master.state.sweeps) == sweeps + bool(mesh.parents)  # type: ignore[union-attr]
    )
    mesh.run_for(LEFTOVERS_S)
    if DATA in inputs:
        (named,) = mesh.master.state.named_inputs["voc"]  # type: ignore[union-attr]
        assert named.artifact_id == DATA.digest, "P1: the data set lost its name"
        assert DATA.digest in mesh.master_holds, "a data set with a name stays with the master"
    for name, host in mesh.hosts.items():
        assert not host.running, f"P8: {name} still runs {host.running}"
        assert host.agent is not None and not host.agent.held.by_id, f"{name} forgot nothing"
        assert not host.attempts, f"{name} keeps the folders of {list(host.attempts)}"
    left = mesh.master_holds & mesh.checkpoints.keys()
    # A master that crashed between deciding to remove one and doing so keeps it.
    assert not left or mesh.master_life > 1, (
        f"the master keeps {len(left)} checkpoints that nobody needs"
    )
    return mesh


LEFTOVERS_S = 30.0


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BLOCK))
def test_P1_P2_P3_P5_P7_P8_P9_P12_every_seed_ends_with_each_promise_kept(first: int) -> None:
    for seed in range(first, min(first + BLOCK, FIRST + SEEDS)):
        try:
            run_seed(seed)
        except Exception as error:
            raise AssertionError(
                f"seed {seed} fails; replay it: MESHTRAIN_SIM_FIRST={seed} "
                "MESHTRAIN_SIM_SEEDS=1 pytest tests/sim"
            ) from error


def test_a_seed_replays_exactly() -> None:
    runs = [run_seed(7) for _ in range(2)]
    assert runs[0].now_s == runs[1].now_s
    assert runs[0].terminal == runs[1].terminal


def test_P3_one_base_for_25_jobs_on_3_nodes() -> None:
    mesh = SimMesh(1)
    mesh.submit(make_sweep("mixed", jobs=25))
    mesh.run_until(mesh.all_ended)
    assert mesh.jobs() == [JobState.SUCCEEDED] * 25
    assert len(mesh.committed) == 1


def test_P3_the_trainer_of_a_base_dies_and_another_takes_over() -> None:
    mesh = SimMesh(2)
    mesh.duration_s = lambda a: 30.0 if a.base is None else 1.0
    mesh.submit(make_sweep("s", jobs=6))
    mesh.run_until(lambda: any(host.running for host in mesh.hosts.values()))
    trainer = next(name for name, host in mesh.hosts.items() if host.running)
    mesh.crash_daemon(trainer)
    mesh.run_until(mesh.all_ended)
    assert mesh.jobs() == [JobState.SUCCEEDED] * 6
    assert len(mesh.committed) == 1
    base = next(iter(mesh.master.state.bases.values()))  # type: ignore[union-attr]
    assert base.node_id != trainer
    assert base.generation == 1


def test_two_recipes_are_trained_at_the_same_time_on_two_nodes() -> None:
    mesh = SimMesh(3, slots=1)
    mesh.duration_s = lambda a: 20.0
    mesh.submit(make_sweep("s", jobs=6, recipes=("r1", "r2")))
    mesh.run_until(lambda: sum(len(host.running) for host in mesh.hosts.values()) == 2)
    assert sum(1 for host in mesh.hosts.values() if host.running) == 2


def test_a_cancelled_sweep_leaves_the_base_to_the_others() -> None:
    mesh = SimMesh(4)
    mesh.duration_s = lambda a: 15.0
    mesh.submit(make_sweep("first", jobs=4))
    mesh.submit(make_sweep("second", jobs=2))
    mesh.run_for(5.0)
    mesh.tell_master(ev.CancelRequested("c", sweep_ids=("first",)))
    mesh.run_until(mesh.all_ended)
    states = {job.name: job.state for job in mesh.master.state.jobs.values()}  # type: ignore[union-attr]
    assert [states[f"first/i={i}"] for i in range(4)] == [JobState.CANCELLED] * 4
    assert [states[f"second/i={i}"] for i in range(2)] == [JobState.SUCCEEDED] * 2
    assert len(mesh.committed) == 1


def test_a_base_that_nobody_wants_any_more_is_cancelled() -> None:
    mesh = SimMesh(5)
    mesh.duration_s = lambda a: 100.0
    mesh.submit(make_sweep("only", jobs=3))
    mesh.run_for(5.0)
    mesh.tell_master(ev.CancelRequested("c", sweep_ids=("only",)))
    mesh.run_until(mesh.all_ended, limit_s=20.0)
    assert mesh.jobs(JobKind.BASE) == [JobState.CANCELLED]


def test_a_base_that_fails_ends_its_dependents_by_name_and_retry_revives_them() -> None:
    mesh = SimMesh(6)
    broken = True

    def fail(assignment: object) -> Failure | None:
        is_base = assignment.base is None  # type: ignore[attr-defined]
        return Failure(FailureClass.USER_ERROR, "no such layer") if is_base and broken else None

    mesh.pick_failure = fail
    mesh.submit(make_sweep("s", jobs=3))
    mesh.run_until(mesh.all_ended)
    state = mesh.master.state  # type: ignore[union-attr]
    for job in state.jobs.values():
        assert job.state is JobState.FAILED
        if job.kind is JobKind.EXPERIMENT:
            assert job.failure is not None
            assert job.failure.failure_class is FailureClass.BASE_FAILED
            assert "base/" in job.failure.message and "no such layer" in job.failure.message
    broken = False
    base_job = next(iter(state.bases.values())).job_id
    mesh.tell_master(ev.RetryRequested("r", (base_job,)))
    mesh.run_until(mesh.all_ended)
    assert mesh.jobs() == [JobState.SUCCEEDED] * 3
    assert {job.generation for job in state.jobs.values()} == {2}


def test_a_lost_base_opens_a_new_generation() -> None:
    mesh = SimMesh(8, hosts=2, slots=1)
    mesh.submit(make_sweep("s", jobs=1))
    mesh.run_until(mesh.all_ended)
    mesh.master_holds.clear()
    mesh.crash_master()
    for host in mesh.hosts.values():
        host.holds.clear()
    for name in mesh.hosts:
        mesh.crash_daemon(name)
    mesh.heal()
    mesh.submit(make_sweep("t", jobs=2))
    mesh.run_until(mesh.all_ended)
    assert {g for _, g in mesh.committed} == {1, 2}


@pytest.mark.parametrize(
    ("failure_class", "attempts"),
    [(FailureClass.OUT_OF_MEMORY, 3), (FailureClass.USER_ERROR, 1)],
)
def test_out_of_memory_is_retried_and_a_user_error_is_not(
    failure_class: FailureClass, attempts: int
) -> None:
    mesh = SimMesh(9)
    started = []

    def fail(assignment: object) -> Failure:
        started.append(assignment)
        return Failure(failure_class, "simulated")

    mesh.pick_failure = fail
    mesh.submit(make_sweep("s", jobs=1, recipes=("",)))
    mesh.run_until(mesh.all_ended)
    assert mesh.jobs() == [JobState.FAILED]
    assert len(started) == attempts


def test_a_stopping_node_hands_back_and_others_go_on() -> None:
    mesh = SimMesh(10)
    mesh.duration_s = lambda a: 20.0
    mesh.submit(make_sweep("s", jobs=6, recipes=("",)))
    mesh.run_for(5.0)
    mesh.tell_agent("node-0", io.StopAsked(finish_s=0.0))
    mesh.run_until(lambda: mesh.hosts["node-0"].agent is None, limit_s=30)
    mesh.run_until(mesh.all_ended)
    state = mesh.master.state  # type: ignore[union-attr]
    assert mesh.jobs() == [JobState.SUCCEEDED] * 6
    assert all(job.retries_used == 0 for job in state.jobs.values())


def test_a_result_that_its_node_can_not_deliver_is_made_again() -> None:
    mesh = SimMesh(11, hosts=2, slots=1)
    mesh.submit(make_sweep("s", jobs=1, recipes=("",)))
    spoiled: set[str] = set()

    def spoil() -> None:
        for host in mesh.hosts.values():
            if not spoiled and host.holds - mesh.master_holds:
                # Its disk lost it, and it doesn't know.
                spoiled.update(host.holds)
                host.holds.clear()

    def ended() -> bool:
        spoil()
        return mesh.all_ended()

    mesh.run_until(ended)
    assert spoiled
    assert mesh.jobs() == [JobState.SUCCEEDED]
    job = next(iter(mesh.master.state.jobs.values()))  # type: ignore[union-attr]
    assert job.losses == 1
    assert job.retries_used == 0


def test_jobs_that_read_a_share_end_up_where_it_is_mounted() -> None:
    mesh = SimMesh(12, slots=2)
    mesh.unmounted = {"node-0", "node-2"}
    mesh.submit(make_sweep("s", jobs=20, recipes=("",), inputs=(SHARE,)))
    mesh.run_until(mesh.all_ended)
    state = mesh.master.state  # type: ignore[union-attr]
    assert mesh.jobs() == [JobState.SUCCEEDED] * 20
    ran = {job.attempt.node_id for job in state.jobs.values() if job.attempt is not None}
    assert ran == {"node-1"}
    # As many as were started there before the first one told.
    assert all(mesh.lacked.count(name) <= 2 for name in mesh.unmounted)
    assert all(job.losses == job.retries_used == 0 for job in state.jobs.values())


def test_a_share_that_nobody_has_ends_the_jobs_and_a_retry_looks_again() -> None:
    mesh = SimMesh(13)
    mesh.unmounted = set(mesh.hosts)
    mesh.submit(make_sweep("s", jobs=4, recipes=("",), inputs=(SHARE,)))
    mesh.run_until(mesh.all_ended, limit_s=60.0)
    state = mesh.master.state  # type: ignore[union-attr]
    assert mesh.jobs() == [JobState.FAILED] * 4
    for job in state.jobs.values():
        assert job.failure is not None
        assert job.failure.failure_class is FailureClass.INPUT
    mesh.unmounted.clear()
    mesh.tell_master(ev.RetryRequested("r", tuple(state.jobs)))
    mesh.run_until(mesh.all_ended, limit_s=60.0)
    assert mesh.jobs() == [JobState.SUCCEEDED] * 4


def test_p5_a_data_set_is_fetched_once_by_each_node_and_from_peers_too() -> None:
    mesh = SimMesh(14, slots=2)
    mesh.publish(DATA)
    mesh.submit(make_sweep("s", jobs=12, recipes=("r1",), inputs=(DATA,)))
    mesh.run_until(mesh.all_ended)
    assert mesh.jobs() == [JobState.SUCCEEDED] * 12
    assert all(DATA.digest in host.holds for host in mesh.hosts.values())
