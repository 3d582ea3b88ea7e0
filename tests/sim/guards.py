"""What keeps each promise, and how it looks when it is taken away.

Each guard is removed by a patch of the production code (of the order of the
effects, for the one that lies in how they are carried out). A simulation that
doesn't notice is no proof of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from sim_master import SimMaster

from meshtrain.core import (
    attempts,
    bases,
    checkpoints,
    collecting,
    commands,
    effects,
    events,
    eviction,
    reports,
    retry,
    roster,
    scheduler,
)
from meshtrain.core.agent import Agent
from meshtrain.core.held import HeldAttempts
from meshtrain.core.held_attempt import Phase
from meshtrain.core.inventory import InventoryLog
from meshtrain.core.job import BaseState, FailureClass, Job, JobState
from meshtrain.core.node import Node
from meshtrain.core.placing import PlacePass
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import MeshState
from meshtrain.core.stock import Stock
from meshtrain.spec.lineage import Parent

Remove = Callable[[pytest.MonkeyPatch], None]


def tell_before_commit(patch: pytest.MonkeyPatch) -> None:
    """P1: what is told is on disk before it is told."""
    apply = SimMaster.apply

    def told_first(master: SimMaster, out: list[effects.Effect]) -> None:
        saves = [effect for effect in out if isinstance(effect, effects.Save)]
        apply(master, [effect for effect in out if not isinstance(effect, effects.Save)])
        if master.is_up:
            apply(master, list(saves))

    patch.setattr(SimMaster, "apply", told_first)


def tell_results_before_they_came(patch: pytest.MonkeyPatch) -> None:
    """P1: a job has succeeded when its result is on the master."""
    on_ended = reports.on_ended

    def succeed_at_once(state: MeshState, event: events.AttemptEnded) -> None:
        on_ended(state, event)
        job = attempts.current(state, event.node_id, event.attempt_id, event.epoch)
        if job is not None and job.state is JobState.COLLECTING:
            attempts.succeed(state, job)

    handlers = {**scheduler._HANDLERS, events.AttemptEnded: succeed_at_once}
    patch.setattr(scheduler, "_HANDLERS", handlers)


def tell_changes_once(patch: pytest.MonkeyPatch) -> None:
    """P1: what a node holds is told again until the master says that it has it."""

    def confirm_all(log: InventoryLog, number: int) -> None:
        log._changes.clear()

    patch.setattr(InventoryLog, "confirm", confirm_all)


def unlist_what_stays(patch: pytest.MonkeyPatch) -> None:
    """P1: what a disk refuses to let go of is listed again."""
    on_kept = eviction.on_kept

    def on_granted(state: MeshState, node: Node, artifact_id: str, why: str) -> None:
        if node.evicting == artifact_id:
            on_kept(state, node, artifact_id, why)

    patch.setattr(eviction, "on_kept", on_granted)


def leave_what_was_needed(patch: pytest.MonkeyPatch) -> None:
    """P1: what is dropped while a job runs on it goes when that has ended."""
    patch.setattr(Stock, "drop_unwanted", lambda stock: None)


def count_any_epoch(patch: pytest.MonkeyPatch) -> None:
    """P2: a result counts only with the current epoch."""

    def any_epoch(state: MeshState, node_id: str, attempt_id: str, epoch: int) -> Job | None:
        job = state.jobs.get(attempt_id.rpartition(".")[0])
        return job if job is not None and job.state.is_leased else None

    patch.setattr(attempts, "current", any_epoch)


def take_an_attempt_twice(patch: pytest.MonkeyPatch) -> None:
    """P2: a command that comes twice is obeyed once."""

    def obey_at_once(agent: Agent, event: Any) -> None:
        if event.session == agent.session:
            agent._seen_seq = max(agent._seen_seq, event.seq)
            agent._obey(event.command)

    patch.setattr(Agent, "_on_command", obey_at_once)


def go_on_with_former_numbers(patch: pytest.MonkeyPatch) -> None:
    """P1: a session, and the numbers of its commands, are of one life of the master."""
    patch.setattr(SimMaster, "name_of_life", lambda master: "")


def believe_what_is_being_removed(patch: pytest.MonkeyPatch) -> None:
    """P1: what came before it was removed is not there."""

    def drop(state: MeshState, artifact_id: str) -> None:
        state.held_by_master.discard(artifact_id)
        state.out.append(effects.DropArtifact(artifact_id))

    patch.setattr(collecting, "drop", drop)


def forget_who_trains(patch: pytest.MonkeyPatch) -> None:
    """P3: a base that is being trained is not given out again."""

    def revive(state: MeshState, base: Any) -> bool:
        job = state.jobs[base.job_id]
        if base.state is BaseState.COMMITTED or job.state is JobState.WAITING:
            return False
        if job.state.is_leased:
            attempts.lose(state, job, "asked for again")
            return True
        bases.open_generation(state, base)
        return True

    def lose_quietly(state: MeshState, job: Job, message: str) -> None:
        attempt = job.attempt
        assert attempt is not None
        attempts.release_slots(state, attempt)
        state.queue.discard(job.job_id)
        again = state.keep_job(state.change_job(job, JobState.WAITING))
        state.enqueue(again)

    patch.setattr(bases, "revive", revive)
    patch.setattr(attempts, "lose", lose_quietly)


def start_without_needs(patch: pytest.MonkeyPatch) -> None:
    """P5: a job starts only when all that it needs is on its node."""
    take = HeldAttempts.take

    def take_and_start(held: HeldAttempts, assignment: Any, *, hand_back: bool) -> None:
        take(held, assignment, hand_back=hand_back)
        taken = held.by_id[assignment.attempt_id]
        if taken.phase is Phase.FETCHING:
            taken.missing.clear()
            held._move(taken, Phase.READY)

    patch.setattr(HeldAttempts, "take", take_and_start)


def start_without_the_base(patch: pytest.MonkeyPatch) -> None:
    """P5: a job waits until the base of its recipe is committed, and is there."""
    patch.setattr(PlacePass, "is_open", lambda place_pass, shape: True)


def name_no_data(patch: pytest.MonkeyPatch) -> None:
    """P5: a node is told of the data that an attempt reads."""
    patch.setattr(attempts, "datasets_of", lambda work: ())


def begin_anew(patch: pytest.MonkeyPatch) -> None:
    """P7: a job whose host was lost goes on from its last checkpoint."""
    patch.setattr(checkpoints, "to_resume", lambda state, job: None)


def drop_the_safe_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """P7: a checkpoint is dropped when the master holds the next one, not when there is one."""
    announce = checkpoints.announce

    def drop_early(state: MeshState, job: Job, artifact_id: Any) -> None:
        announce(state, job, artifact_id)
        safe = state.jobs[job.job_id].checkpoint_safe
        if safe is not None and safe != artifact_id and artifact_id is not None:
            state.held_by_master.discard(safe)
            state.out.append(effects.DropArtifact(safe))
            for holder in state.nodes.values():
                state.copies.directory.remove(holder, safe)

    patch.setattr(checkpoints, "announce", drop_early)


def adopt_nothing(patch: pytest.MonkeyPatch) -> None:
    """P7: a new daemon goes on with what the former one started."""
    patch.setattr(HeldAttempts, "adopt", lambda held, assignment: None)


def end_what_lost_trust(patch: pytest.MonkeyPatch) -> None:
    """P7: lost trust never ends a running job."""
    handle = Agent.handle

    def strict(agent: Agent, event: Any, now_s: float) -> Any:
        out = handle(agent, event, now_s)
        if agent.welcomed and not agent.trusted:
            for attempt_id in list(agent.held.by_id):
                agent.held.end(attempt_id)
            out.extend(agent._take_out())
        return out

    patch.setattr(Agent, "handle", strict)


def tell_ends_early(patch: pytest.MonkeyPatch) -> None:
    """P8: an end is told when nothing of the job runs any more."""
    end = HeldAttempts.end

    def end_and_tell(held: HeldAttempts, attempt_id: str) -> None:
        end(held, attempt_id)
        known = held.by_id.get(attempt_id)
        if known is not None and known.phase in (Phase.STARTING, Phase.RUNNING):
            held._end(known, held._cut_short(known))

    patch.setattr(HeldAttempts, "end", end_and_tell)


def share_gpus(patch: pytest.MonkeyPatch) -> None:
    """P9: a GPU that is taken is not given out (the second guard, on the node, is gone too)."""

    def occupy(node: Node, attempt_id: str, placement: Any, *, short: bool = False) -> None:
        node.live.add(attempt_id)
        node.cpus_used += placement.cpus

    patch.setattr(Node, "occupy", occupy)
    start_with_used_gpus(patch)


def start_with_used_gpus(patch: pytest.MonkeyPatch) -> None:
    """P9: a node waits until a GPU's former job has ended, whatever the master thinks."""

    def start_ready(held: HeldAttempts) -> None:
        from meshtrain.core import agent_io as io

        for ready in list(held._ready.values()):
            if len(held._running) < held.slots:
                held._move(ready, Phase.STARTING)
                held._do(io.LaunchProcess(ready.assignment))

    patch.setattr(HeldAttempts, "start_ready", start_ready)


def take_stalls_for_silence(patch: pytest.MonkeyPatch) -> None:
    """P12: time in which the master stood still counts against nobody."""
    patch.setattr(roster, "STALL_S_MIN", 1e9)


def give_up_at_the_first_loss(patch: pytest.MonkeyPatch) -> None:
    """P12: what befalls its hosts does not end a job, unless it does so again and again."""
    patch.setattr(retry, "LOSSES_MAX", 1)


def blame_jobs_for_their_hosts(patch: pytest.MonkeyPatch) -> None:
    """P12: the loss of a host costs a job none of its own retries."""
    blamed = msgspec.structs.replace(retry.RULES[FailureClass.HOST_LOST], blames_job=True)
    patch.setattr(retry, "RULES", {**retry.RULES, FailureClass.HOST_LOST: blamed})


def give_up_on_full_disks(patch: pytest.MonkeyPatch) -> None:
    """P12: an output that a full disk could not take waits for room."""

    def never(held: HeldAttempts) -> None:
        return

    patch.setattr(HeldAttempts, "store_again", never)


def keep_no_ends(patch: pytest.MonkeyPatch) -> None:
    """P7: what ended is told until the master says that it has it."""

    def reports_none(held: HeldAttempts) -> Iterable[Any]:
        return []

    patch.setattr(HeldAttempts, "reports", reports_none)


def keep_collecting_state(patch: pytest.MonkeyPatch) -> None:
    """P2: a job whose result was on its way when the master crashed goes on after its restart."""
    init = Scheduler.__init__

    def plain(scheduler: Scheduler, config: Any, loaded: Any, *told: Any, **named: Any) -> None:
        init(scheduler, config, loaded, *told, **named)
        for job in loaded.jobs:
            if job.state is JobState.RUNNING and job.checkpoint is not None:
                known = scheduler.state.jobs[job.job_id]
                stuck = msgspec.structs.replace(known, state=JobState.COLLECTING)
                scheduler.state.counts.replace_job(known, stuck)
                scheduler.state.jobs[job.job_id] = stuck

    patch.setattr(Scheduler, "__init__", plain)


def forget_what_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    """P8: that a job is to be cancelled is on disk before it is told."""
    cancel = bases.cancel_job

    def in_mind_only(state: MeshState, job: Job) -> None:
        attempt = job.attempt
        if job.state not in (JobState.ASSIGNED, JobState.RUNNING) or attempt is None:
            cancel(state, job)
            return
        state.jobs[job.job_id] = msgspec.structs.replace(job, cancelling=True)
        state.command(attempt.node_id, commands.EndAttempt(attempt.attempt_id))

    patch.setattr(bases, "cancel_job", in_mind_only)


def repeat_no_commands(patch: pytest.MonkeyPatch) -> None:
    """P8: a command is repeated until its node has seen it."""
    patch.setattr(roster, "RESENT_MAX", 0)


def evict_the_last_copy(patch: pytest.MonkeyPatch) -> None:
    """P12: what is evicted lies on the master, or on two other nodes."""
    patch.setattr(eviction, "COPIES_LEFT_MIN", 0)


def remove_while_storing(patch: pytest.MonkeyPatch) -> None:
    """P7: what is being stored may be the very artifact that goes; the two take turns."""
    patch.setattr(Stock, "store", lambda stock, effect: stock._do(effect))


def evict_what_is_needed(patch: pytest.MonkeyPatch) -> None:
    """P5: what an attempt needs stays (the node's own look, the second guard, is gone too)."""
    patch.setattr(eviction, "_jobs_at", lambda state, node: iter(()))
    evict_what_is_not_told(patch)


def evict_what_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """P7: a node keeps what its attempts need and left, whatever it is granted."""

    def nothing(held: HeldAttempts) -> dict[str, str]:
        return {}

    patch.setattr(HeldAttempts, "needed", nothing)


def continue_from_what_is_there(patch: pytest.MonkeyPatch) -> None:
    """P5: a base continues from the model that it is pinned to, not from the present one."""
    pinned = MeshState.parent_of

    def present(state: MeshState, job: Job) -> Parent | None:
        parent = pinned(state, job)
        base = None if parent is None else state.bases[parent.recipe_hash]
        if parent is None or base is None or base.artifact_id is None:
            return parent
        return Parent(parent.recipe_hash, base.artifact_id)

    patch.setattr(MeshState, "parent_of", present)


GUARDS: dict[str, Remove] = {
    guard.__name__: guard
    for guard in (
        tell_before_commit,
        tell_results_before_they_came,
        tell_changes_once,
        unlist_what_stays,
        leave_what_was_needed,
        count_any_epoch,
        take_an_attempt_twice,
        go_on_with_former_numbers,
        believe_what_is_being_removed,
        forget_who_trains,
        start_without_needs,
        start_without_the_base,
        name_no_data,
        begin_anew,
        drop_the_safe_checkpoint,
        adopt_nothing,
        end_what_lost_trust,
        keep_no_ends,
        tell_ends_early,
        forget_what_is_cancelled,
        repeat_no_commands,
        share_gpus,
        start_with_used_gpus,
        take_stalls_for_silence,
        give_up_at_the_first_loss,
        blame_jobs_for_their_hosts,
        give_up_on_full_disks,
        keep_collecting_state,
        evict_the_last_copy,
        remove_while_storing,
        evict_what_is_needed,
        evict_what_is_not_told,
        continue_from_what_is_there,
    )
}
