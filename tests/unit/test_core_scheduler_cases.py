"""Courses of events that once stopped the scheduler, hung a job or gave a GPU out twice."""

from __future__ import annotations

import pytest
from scheduler_mesh import LEASE_S, LOST, MODEL, RECIPE, Mesh

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.bases import REBUILD
from meshtrain.core.changes import Note
from meshtrain.core.invariants import check
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import BaseState, Failure, FailureClass, JobState
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.retry import LOSSES_MAX
from meshtrain.core.roster import NODES_MAX
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import OUTBOX_MAX, Loaded, SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, SweepSpec


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


def live(given: cmd.AssignAttempt, **fields: bool) -> ev.LiveAttempt:
    return ev.LiveAttempt(given.attempt_id, given.epoch, started=True, **fields)


def commands(effects: list[fx.Effect]) -> list[cmd.Command]:
    return [effect.command for effect in effects if isinstance(effect, fx.SendCommand)]


def reply(effects: list[fx.Effect]) -> fx.Reply:
    return next(effect for effect in effects if isinstance(effect, fx.Reply))


def test_the_word_of_another_node_about_an_attempt_does_not_count(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit()
    (given,) = mesh.place()
    mesh.hello("n2", "other/0", [live(given)])
    mesh.end(given, "n2")
    mesh.do(ev.AttemptStarted("n2", given.attempt_id, given.epoch))
    assert mesh.job("s-0").state is JobState.ASSIGNED
    mesh.end(given, "n1")
    assert mesh.job("s-0").state is JobState.SUCCEEDED


def test_a_heartbeat_from_the_future_does_not_keep_a_lease_for_ever(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit()
    mesh.place()
    mesh.beat(sent_s=1e15, seen=1)
    mesh.pass_time(LEASE_S + 1)
    assert mesh.job("s-0").state is JobState.WAITING


def test_a_hello_that_gives_one_gpu_to_two_attempts_loses_one_of_them(mesh: Mesh) -> None:
    mesh.hello(gpus=1)
    mesh.submit(jobs=2, gpus=1)
    (first,) = mesh.place()
    mesh.end(first, artifact_id=MODEL)
    (second,) = mesh.place()
    mesh.start()
    effects = mesh.hello(session="new/0", attempts=[live(first), live(second)], gpus=1)
    assert mesh.job("s-0").state.is_leased
    assert mesh.job("s-1").state is JobState.WAITING
    assert cmd.EndAttempt(second.attempt_id) in commands(effects)


def test_a_result_on_its_way_holds_no_slot_after_a_new_session(mesh: Mesh) -> None:
    mesh.hello(gpus=1)
    mesh.submit(jobs=2, gpus=1)
    (first,) = mesh.place()
    mesh.end(first, artifact_id=MODEL)
    (second,) = mesh.place()
    mesh.hello(session="life/1", attempts=[live(first), live(second)], gpus=1)
    assert mesh.state.nodes["n1"].gpus_used == {0}
    assert mesh.job("s-0").state is JobState.COLLECTING
    assert mesh.job("s-1").state.is_leased


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_being_cancelled_is_ended_in_a_new_session_too(mesh: Mesh, restarted: bool) -> None:
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    mesh.do(ev.CancelRequested("c", sweep_ids=("s",)))
    if restarted:
        mesh.start()
    effects = mesh.hello(session="life/1", attempts=[live(given)])
    assert commands(effects) == [cmd.EndAttempt(given.attempt_id)]
    mesh.end(given, cancelled=True)
    assert mesh.job("s-0").state is JobState.CANCELLED


def test_a_job_that_ran_on_while_its_base_failed_ends_with_it(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit(base=True)
    (training,) = mesh.place()
    mesh.end(training, artifact_id=MODEL)
    (given,) = mesh.place()
    mesh.do(ev.RebuildRequested("r", RECIPE))
    (again,) = mesh.place()
    mesh.end(again, failure=Failure(FailureClass.USER_ERROR, "no data"))
    assert mesh.job("s-0").state is JobState.ASSIGNED
    mesh.end(given, failure=LOST)
    job = mesh.job("s-0")
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.failure_class is FailureClass.BASE_FAILED
    mesh.do(ev.RetryRequested("r", (mesh.state.bases[RECIPE].job_id,)))
    assert mesh.job("s-0").state is JobState.WAITING


def test_a_base_that_is_retried_by_itself_is_kept_over_a_restart_and_can_be_cancelled(
    mesh: Mesh,
) -> None:
    mesh.hello()
    mesh.submit(base=True)
    mesh.do(ev.CancelRequested("c", sweep_ids=("s",)))
    base = mesh.state.bases[RECIPE]
    assert base.state is BaseState.CANCELLED
    mesh.do(ev.RetryRequested("r", (base.job_id,)))
    assert mesh.state.bases[RECIPE].state is BaseState.NEEDED
    mesh.start()
    check(mesh.state)
    assert mesh.state.requesters[RECIPE] == {REBUILD}
    told = reply(mesh.do(ev.CancelRequested("c", job_ids=(base.job_id,))))
    assert told.done == (base.job_id,)
    assert mesh.job(base.job_id).state is JobState.CANCELLED


def test_a_base_that_others_wait_on_is_not_cancelled_and_says_who_waits(mesh: Mesh) -> None:
    mesh.submit(base=True, jobs=3)
    base = mesh.state.bases[RECIPE]
    told = reply(mesh.do(ev.CancelRequested("c", job_ids=(base.job_id,))))
    assert told.done == () and "3 jobs wait on it, cancel those" in told.notes[0]
    mesh.do(ev.CancelRequested("c", sweep_ids=("s",)))
    only = SweepSpec("only", "only-bases", (), (BaseSpec(RECIPE, {}, "r", CommandWork("train")),))
    mesh.do(ev.SweepSubmitted("r", only))
    told = reply(mesh.do(ev.CancelRequested("c", job_ids=(base.job_id,))))
    assert "sweep only-bases asks for it, cancel that" in told.notes[0]


def test_a_master_that_stood_still_gives_leases_a_full_term(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit()
    mesh.place()
    mesh.tick()
    mesh.tick(after_s=10 * LEASE_S)
    assert mesh.job("s-0").state is JobState.ASSIGNED
    assert mesh.state.nodes["n1"].connected
    mesh.pass_time(LEASE_S + 1)
    assert mesh.job("s-0").state is JobState.WAITING
    assert not mesh.state.nodes["n1"].connected


def test_a_node_can_not_see_commands_that_were_never_sent(mesh: Mesh) -> None:
    mesh.hello()
    mesh.beat(seen=2**62)
    mesh.submit()
    mesh.place()
    assert len(mesh.state.nodes["n1"].outbox) == 1
    mesh.beat(seen=0)
    assert mesh.job("s-0").state is JobState.RUNNING


def test_what_a_node_lists_without_end_does_not_fill_the_memory(mesh: Mesh) -> None:
    mesh.hello()
    node = mesh.state.nodes["n1"]
    for start in range(0, OUTBOX_MAX + 2000, 2000):
        listed = tuple(ev.LiveAttempt(f"junk{start + i}", 1, True) for i in range(2000))
        mesh.beats += 1
        mesh.do(ev.NodeBeat("n1", node.session, mesh.beats, 0.0, 0, 1000, listed))
    assert len(node.outbox) == OUTBOX_MAX
    mesh.submit()
    assert len(mesh.place()) == 1
    assert [seq for seq, _ in node.outbox] == list(range(1, OUTBOX_MAX + 2))


def test_names_of_nodes_are_not_remembered_without_end(mesh: Mesh) -> None:
    mesh.hello()
    for number in range(NODES_MAX - 1):
        mesh.state.nodes[f"other{number}"] = mesh.state.nodes["n1"]
    assert not any(isinstance(e, fx.WelcomeNode) for e in mesh.hello("one-more", "x/0"))
    assert any(isinstance(e, fx.WelcomeNode) for e in mesh.hello("n1", "life/1"))


def test_a_node_that_came_back_without_that_gpu_is_not_asked_how_much_memory_it_had(
    mesh: Mesh,
) -> None:
    mesh.hello(gpus=1)
    mesh.submit(gpus=1)
    (given,) = mesh.place()
    mesh.hello(session="new/0", attempts=[live(given, over=True)], gpus=0)
    mesh.end(given, failure=Failure(FailureClass.OUT_OF_MEMORY, "CUDA out of memory"))
    assert mesh.job("s-0").state is JobState.WAITING


def test_a_node_that_came_back_smaller_loses_what_it_has_no_place_for(mesh: Mesh) -> None:
    mesh.hello(gpus=1)
    mesh.submit(gpus=1)
    (given,) = mesh.place()
    effects = mesh.hello(session="new/0", attempts=[live(given)], gpus=0)
    assert cmd.EndAttempt(given.attempt_id) in commands(effects)
    assert mesh.job("s-0").state is JobState.WAITING


def test_a_job_given_up_after_many_losses_says_so_and_what_to_do(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit()
    for _ in range(LOSSES_MAX):
        given = mesh.place()
        while not given:
            mesh.tick(2.0)
            mesh.beat()
            given = mesh.place()
        mesh.end(given[0], failure=LOST)
    job = mesh.job("s-0")
    assert job.state is JobState.FAILED and job.failure is not None
    assert f"given up after {LOSSES_MAX} lost attempts" in job.failure.message
    assert "meshtrain retry" in job.failure.message


def test_a_drained_node_that_is_away_can_be_undrained_after_a_restart(mesh: Mesh) -> None:
    mesh.hello()
    mesh.do(ev.DrainRequested("d", "n1", True))
    mesh.start()
    assert reply(mesh.do(ev.DrainRequested("d", "n1", False))).error == ""
    assert mesh.store.load().drained == ()
    assert "known: none yet" in reply(mesh.do(ev.DrainRequested("d", "n1", True))).error


def test_a_base_counts_as_durable_once_a_second_node_brings_it_along(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit(base=True)
    (training,) = mesh.place()
    mesh.end(training, artifact_id=MODEL)
    assert not mesh.state.bases[RECIPE].durable
    mesh.hello("n2", "other/0", holds=(MODEL,))
    assert mesh.state.bases[RECIPE].durable


def test_the_master_stops_asking_for_a_result_that_nobody_wants_any_more(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    mesh.end(given, artifact_id=MODEL)
    mesh.do(ev.CollectFailed(MODEL, "no route"))
    assert MODEL in mesh.state.collect_again_s
    mesh.do(ev.CancelRequested("c", sweep_ids=("s",)))
    mesh.pass_time(5)
    assert not mesh.state.collect_again_s


def test_a_session_with_an_absurd_number_is_a_session(mesh: Mesh) -> None:
    effects = mesh.hello(session="life/" + "9" * 10_000)
    assert any(isinstance(effect, fx.WelcomeNode) for effect in effects)


def test_two_jobs_with_the_same_result_end_together(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit(jobs=2)
    for given in mesh.place():
        mesh.end(given, artifact_id=MODEL)
    assert {job.state for job in mesh.state.jobs.values()} == {JobState.COLLECTING}
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (MODEL,)))
    assert {job.state for job in mesh.state.jobs.values()} == {JobState.SUCCEEDED}


def test_an_empty_store_makes_an_empty_mesh() -> None:
    assert Scheduler(SchedulerConfig(), Loaded()).handle(ev.PlaceJobs(), 0.0) == []


def test_p7_the_node_of_a_job_that_goes_on_elsewhere_is_told_when_it_may_leave(mesh: Mesh) -> None:
    safe = cmd.CheckpointSafe(MODEL)
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    told = mesh.end(given, handed_back=True, checkpoint=MODEL)
    assert fx.CollectArtifact in map(type, told)
    assert safe not in commands(told), "nobody else has it yet"
    assert safe in commands(mesh.do(ev.ArtifactHeld("master", (MODEL,))))
    # What the master had already, and what it doesn't want, is told at the end of the attempt.
    (given,) = mesh.place()
    assert safe in commands(mesh.end(given, handed_back=True, checkpoint=MODEL))
    assert safe in commands(mesh.end(given, handed_back=True, checkpoint=MODEL)), "repeated"
    other = cmd.CheckpointSafe(digest(b"of an attempt that was lost"))
    assert other in commands(mesh.end(given, handed_back=True, checkpoint=other.artifact_id))


def test_short_jobs_wait_on_a_node_for_slots_that_are_soon_free_and_for_no_others(
    mesh: Mesh,
) -> None:
    def places() -> list[str]:
        given = [mesh.attempt(one.attempt_id).node_id for one in mesh.place()]
        return sorted(node_id for node_id in given if node_id is not None)

    mesh.hello("n1")
    mesh.submit("long", jobs=2)
    assert places() == ["n1", "n1"]
    mesh.hello("n2")
    mesh.submit("short", jobs=8)
    for given in mesh.place():
        mesh.end(given, "n2", run_s=0.01)
    # Two run there and two wait for these; on n1 they might wait for days.
    assert places() == ["n2"] * 4


def test_p1_a_late_heartbeat_makes_nobody_a_holder_of_a_checkpoint_that_is_gone(
    mesh: Mesh,
) -> None:
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    node, former, newest = mesh.state.nodes["n1"], digest(b"former"), digest(b"newest")
    held = tuple(InventoryChange(one, Holding.HELD, 10) for one in (former, newest))
    gone = InventoryChange(former, Holding.GONE)

    def beat(number: int, checkpoint: str, changes: tuple[InventoryChange, ...]) -> None:
        attempts = (ev.LiveAttempt(given.attempt_id, given.epoch, True, checkpoint=checkpoint),)
        mesh.do(
            ev.NodeBeat("n1", "life/0", number, 0.0, 1, 1000, attempts, first=1, changes=changes)
        )

    mesh.do(ev.InventoryTold("n1", "life/0", 1, (*held, gone)))
    assert node.holds == {newest}
    beat(1, former, held[:1])
    assert node.holds == {newest}
    beat(2, newest, (*held, gone))
    assert node.holds == {newest}
    assert mesh.job("s-0").checkpoint == newest


def test_p1_how_long_a_job_ran_is_known_though_the_master_started_anew_meanwhile(
    mesh: Mesh,
) -> None:
    mesh.tick()
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    mesh.beat()
    mesh.tick(40.0)
    mesh.start()
    mesh.tick()
    mesh.hello(session="life/1", attempts=[live(given)])
    mesh.tick(1.0)
    mesh.end(given, run_s=41.5)
    attempt = mesh.job("s-0").attempt
    assert attempt is not None and attempt.started_wall_s is not None
    assert attempt.ended_wall_s == pytest.approx(attempt.started_wall_s + 41.5)


def test_an_end_that_is_told_late_makes_no_job_start_later_than_it_did(mesh: Mesh) -> None:
    mesh.tick()
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    mesh.do(ev.AttemptStarted("n1", given.attempt_id, given.epoch))
    started_wall_s = mesh.state.wall_s
    mesh.tick(20.0)
    mesh.beat()
    mesh.tick(20.0)
    mesh.end(given, run_s=3.0)
    attempt = mesh.job("s-0").attempt
    assert attempt is not None and attempt.started_wall_s == started_wall_s


def test_a_sweep_that_has_ended_is_not_cancelled_afterwards(mesh: Mesh) -> None:
    mesh.hello()
    mesh.submit()
    (given,) = mesh.place()
    mesh.end(given)
    assert mesh.job("s-0").state.is_terminal
    mesh.do(ev.CancelRequested("c", sweep_ids=("s",)))
    assert not mesh.state.sweeps["s"].cancelled
    assert not mesh.store.load().sweeps[0].cancelled


def test_a_node_that_was_away_and_has_a_new_daemon_is_told_to_be_back(mesh: Mesh) -> None:
    mesh.hello()
    mesh.pass_time(LEASE_S + 2)
    assert not mesh.state.nodes["n1"].connected
    mesh.hello(session="other/0")
    effects = mesh.do(ev.PlaceJobs())
    notes = [
        c.text
        for e in effects
        if isinstance(e, fx.Publish)
        for c in e.changes
        if isinstance(c, Note)
    ]
    assert "node n1 is back" in notes
