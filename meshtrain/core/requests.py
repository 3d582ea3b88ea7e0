"""What people ask for: submit, cancel, retry, reprioritise, drain, rebuild."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meshtrain.core import bases, budget, shares
from meshtrain.core import effects as fx
from meshtrain.core.events import (
    BudgetRequested,
    CancelRequested,
    DrainRequested,
    PriorityRequested,
    RebuildRequested,
    RetryRequested,
    SweepSubmitted,
)
from meshtrain.core.job import Base as BaseRecord
from meshtrain.core.job import BaseState, FailureClass, Job, JobKind, JobState, Sweep
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.placement import needs_of, why_never
from meshtrain.core.refusal import text_of
from meshtrain.core.spending import Spending
from meshtrain.core.state import MeshState
from meshtrain.ids import short
from meshtrain.spec.jobs import BudgetSpec, Resources, SweepSpec

NOTES_MAX = 10
"""Of one reply to a request for many jobs."""


def on_submitted(state: MeshState, event: SweepSubmitted) -> None:
    spec = event.sweep
    if spec.sweep_id in state.sweeps:
        state.out.append(
            fx.Reply(
                event.request_id,
                done=(spec.sweep_id,),
                notes=("it was submitted before, and is not run again: --again runs it anew",),
            )
        )
        return
    error = _why_impossible(state, spec)
    if error and not event.allow_pending:
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    strangers = [
        base.parent.recipe_hash
        for base in spec.bases
        if base.parent is not None and base.parent.recipe_hash not in state.bases
    ]
    if strangers:
        told = f"no base has the recipe hash {strangers[0]}, which base.from names"
        state.out.append(fx.Reply(event.request_id, error=told))
        return
    taken = [job.job_id for job in spec.jobs if job.job_id in state.jobs]
    if taken:
        state.out.append(
            fx.Reply(event.request_id, error=f"a job with the id {taken[0]} is there already")
        )
        return
    reused = tuple(
        base.recipe_hash
        for base in spec.bases
        if (known := state.bases.get(base.recipe_hash)) is not None
        and known.state in (BaseState.NEEDED, BaseState.COMMITTED)
    )
    sweep = Sweep(
        sweep_id=spec.sweep_id,
        name=spec.name,
        job_ids=tuple(job.job_id for job in spec.jobs),
        recipe_hashes=tuple(base.recipe_hash for base in spec.bases),
        results=spec.results,
        source=spec.source,
        submitted_wall_s=state.wall_s,
        reused=reused,
    )
    state.sweeps[sweep.sweep_id] = sweep
    state.sweep_open.setdefault(sweep.sweep_id, 0)
    state.touched_sweeps[sweep.sweep_id] = None
    state.out.append(fx.AddSweep(sweep))
    if spec.budget != BudgetSpec():
        limits = Spending(
            sweep.sweep_id,
            gpu_hours_max=spec.budget.gpu_hours,
            money_max=spec.budget.money,
        )
        budget.keep(state, limits)
    jobs = [
        Job(
            spec=job,
            kind=JobKind.EXPERIMENT,
            order=state.next_order(),
            sweep_id=sweep.sweep_id,
            priority=job.priority,
            submitted_wall_s=state.wall_s,
        )
        for job in spec.jobs
    ]
    for job in jobs:
        state.register(job)
    new_bases = []
    needed = {job.recipe_hash for job in spec.jobs}
    for base in spec.bases:
        if base.recipe_hash not in needed:
            state.requesters.setdefault(base.recipe_hash, set()).add(sweep.sweep_id)
        new_job = bases.ensure(state, base)
        if new_job is not None:
            new_bases.append((base, new_job))
    added = tuple(job for _, job in new_bases) + tuple(jobs)
    if added:
        state.out.append(fx.AddJobs(added))
    for base, job in new_bases:
        state.keep_base(BaseRecord(spec=base, job_id=job.job_id))
        state.enqueue(job)
    for base in spec.bases:
        _raise_base(state, base.recipe_hash)
    for job in jobs:
        state.enqueue(job)
    budget.check(state)
    state.out.append(
        fx.Reply(
            event.request_id,
            done=(sweep.sweep_id,),
            notes=(error,) if error else (),
        )
    )
    on = f" on {_count(len(spec.bases), 'base')}" if spec.bases else ""
    state.note(f"sweep {sweep.name}: {_count(len(jobs), 'job')}{on}")


def _why_impossible(state: MeshState, spec: SweepSpec) -> str:
    """Why no known node could ever run one of the jobs; empty where one could, or none is known."""
    needs: dict[Resources, str] = {}
    for job in spec.jobs:
        needs.setdefault(needs_of(job.resources, job.work), job.name)
    for base in spec.bases:
        needs.setdefault(needs_of(base.resources, base.work), f"base {short(base.recipe_hash)}")
    for resources, name in needs.items():
        if resources.nodes > 1:
            return (
                f"{name} asks for {resources.nodes} nodes: one attempt runs on one node as yet, "
                "write nodes: 1"
            )
        told = _refused_by_all(state, resources)
        if told:
            return (
                f"no known node could ever run {name}: {told}. Ask for less under resources:, "
                "or submit with --allow-pending to let it wait for a larger node"
            )
    return ""


def _refused_by_all(state: MeshState, needs: Resources) -> str:
    """Why each known node could never run it; empty where one could, or none is known."""
    reasons = {}
    for node in state.nodes.values():
        reason = why_never(node.spec, needs)
        if reason is None:
            return ""
        reasons[node.node_id] = text_of(reason)
    return "; ".join(f"{node_id} {why}" for node_id, why in sorted(reasons.items())[:5])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _raise_base(state: MeshState, recipe_hash: str) -> None:
    """A base that waits has the priority of the most urgent job that waits on it."""
    base = state.bases[recipe_hash]
    job = state.jobs[base.job_id]
    if job.state is JobState.WAITING and job.job_id in state.queue:
        state.enqueue(job)


def on_cancel(state: MeshState, event: CancelRequested) -> None:
    asked = list(event.job_ids)
    for sweep_id in event.sweep_ids:
        sweep = state.sweeps[sweep_id]
        if not sweep.cancelled and _is_open(state, sweep):
            sweep = msgspec.structs.replace(sweep, cancelled=True)
            state.sweeps[sweep_id] = sweep
            state.touched_sweeps[sweep_id] = None
            state.out.append(fx.UpdateSweep(sweep))
        asked.extend(sweep.job_ids)
        for recipe_hash in sweep.recipe_hashes:
            state.requesters.get(recipe_hash, set()).discard(sweep_id)
    done = []
    refused = []
    for job_id in asked:
        job = state.jobs[job_id]
        if job.state.is_terminal or job.cancelling:
            continue
        trained = state.base_of_job.get(job_id)
        if trained is not None:
            # Whoever asks to cancel it asks no more for it to be trained anew.
            state.requesters.get(trained, set()).discard(bases.REBUILD)
            if state.is_wanted(trained):
                refused.append(f"{job.name} is not cancelled: {_who_waits(state, trained)}")
                continue
            bases.cancel_if_unwanted(state, trained)
            done.append(job_id)
            continue
        bases.cancel_job(state, job)
        done.append(job_id)
    for sweep_id in event.sweep_ids:
        for recipe_hash in state.sweeps[sweep_id].recipe_hashes:
            bases.cancel_if_unwanted(state, recipe_hash)
    state.out.append(fx.Reply(event.request_id, done=tuple(done), notes=tuple(refused)))


def _is_open(state: MeshState, sweep: Sweep) -> bool:
    """Whether there is anything of it to cancel: what has ended stays what it is."""
    if state.sweep_open.get(sweep.sweep_id):
        return True
    return any(sweep.sweep_id in state.requesters.get(base, ()) for base in sweep.recipe_hashes)


def _who_waits(state: MeshState, recipe_hash: str) -> str:
    waiting = len(state.waiters.get(recipe_hash, ()))
    if waiting:
        return f"{waiting} jobs wait on it, cancel those"
    names = sorted(state.sweeps[s].name for s in state.requesters[recipe_hash])
    return f"sweep {names[0]} asks for it, cancel that"


def on_retry(state: MeshState, event: RetryRequested) -> None:
    """New generations of jobs that failed or were cancelled.

    A base takes with it those that ended because of it, and a job its base. With
    a change of their needs, those that wait are changed too.
    """
    asked: dict[str, None] = {}
    for job_id in event.job_ids:
        asked[job_id] = None
        recipe_hash = state.base_of_job.get(job_id)
        if recipe_hash is not None:
            for job in state.jobs.values():
                if (
                    job.spec.recipe_hash == recipe_hash
                    and job.failure is not None
                    and job.state is JobState.FAILED
                    and job.failure.failure_class is FailureClass.BASE_FAILED
                ):
                    asked[job.job_id] = None
    change = event.change
    if told := _why_not_changed(state, asked, change):
        state.out.append(fx.Reply(event.request_id, error=told))
        return
    done = []
    revived = []
    notes = []
    for job_id in asked:
        job = state.jobs[job_id]
        if job.state is JobState.WAITING and not change.is_empty:
            done.append(job_id)
            job = _ask(state, job, change)
            if job_id in state.queue:
                state.passed_over.pop(job_id, None)
                state.enqueue(job)
            continue
        if job.state not in (JobState.FAILED, JobState.CANCELLED):
            if job.state.is_leased and not change.is_empty:
                notes.append(f"{job.name} is {job.state}: what it needs is not changed")
            continue
        done.append(job_id)
        shares.forget(state, job)
        if not change.is_empty:
            job = _ask(state, job, change)
        recipe_hash = state.base_of_job.get(job_id)
        if recipe_hash is not None:
            bases.revive(state, state.bases[recipe_hash])
            revived.append(recipe_hash)
            continue
        job = state.reopen(job)
        if job.sweep_id is not None:
            state.touched_sweeps[job.sweep_id] = None
            sweep = state.sweeps[job.sweep_id]
            if sweep.cancelled:
                state.sweeps[sweep.sweep_id] = sweep = msgspec.structs.replace(
                    sweep, cancelled=False
                )
                state.out.append(fx.UpdateSweep(sweep))
        if job.spec.recipe_hash is not None:
            bases.revive(state, state.bases[job.spec.recipe_hash])
        state.enqueue(job)
    for recipe_hash in revived:
        if not state.is_wanted(recipe_hash):
            # Asked for by itself: nobody who waits on it would keep it alive.
            state.requesters.setdefault(recipe_hash, set()).add(bases.REBUILD)
    budget.check(state)
    shown = tuple(notes[:NOTES_MAX])
    if len(notes) > NOTES_MAX:
        shown += (f"… and {len(notes) - NOTES_MAX} more",)
    state.out.append(fx.Reply(event.request_id, done=tuple(done), notes=shown))


def _why_not_changed(state: MeshState, job_ids: Iterable[str], change: NeedsChange) -> str:
    """Why nobody could run one of the jobs after the change; empty where all could be run."""
    if change.is_empty:
        return ""
    seen: set[Resources] = set()
    for job_id in job_ids:
        job = state.jobs[job_id]
        needs = needs_of(_changed(job, change), job.spec.work)
        if needs in seen or job.state.is_leased or job.state is JobState.SUCCEEDED:
            continue
        seen.add(needs)
        if told := _refused_by_all(state, needs):
            return f"nothing was changed: no known node could ever run {job.name} then: {told}"
    return ""


def _changed(job: Job, change: NeedsChange) -> Resources:
    return change.applied_to(job.asked or job.spec.resources)


def _ask(state: MeshState, job: Job, change: NeedsChange) -> Job:
    """Note what a job needs from now on; a memory of its GPUs that is given holds as it is."""
    if change.gpu_memory_bytes is not None:
        return state.keep_job(job, asked=_changed(job, change), gpu_memory_bytes=0)
    return state.keep_job(job, asked=_changed(job, change))


def on_budget(state: MeshState, event: BudgetRequested) -> None:
    """Set what a sweep may use, or lift it."""
    known = state.spending.get(event.sweep_id) or Spending(event.sweep_id)
    hours_max, money_max = known.gpu_hours_max, known.money_max
    if event.unlimited:
        hours_max = money_max = None
    was_limited = known.has_limit
    spending = msgspec.structs.replace(
        known,
        gpu_hours_max=hours_max if event.gpu_hours is None else event.gpu_hours,
        money_max=money_max if event.money is None else event.money,
    )
    budget.keep(state, spending)
    if spending.has_limit != was_limited:
        # They compete in other shapes than before.
        sweep = state.sweeps[event.sweep_id]
        base_jobs = [state.bases[recipe_hash].job_id for recipe_hash in sweep.recipe_hashes]
        for job_id in (*base_jobs, *sweep.job_ids):
            if job_id in state.queue:
                state.enqueue(state.jobs[job_id])
    state.out.append(fx.Reply(event.request_id, done=(event.sweep_id,)))


def on_priority(state: MeshState, event: PriorityRequested) -> None:
    done = []
    for job_id in event.job_ids:
        job = state.jobs[job_id]
        if job.state.is_terminal or job.kind is JobKind.BASE:
            continue
        job = state.keep_job(job, priority=event.priority)
        done.append(job_id)
        if job_id in state.queue:
            state.enqueue(job)
    for needed in {state.jobs[job_id].spec.recipe_hash for job_id in done}:
        if needed is not None:
            _raise_base(state, needed)
    state.out.append(fx.Reply(event.request_id, done=tuple(done)))


def on_drain(state: MeshState, event: DrainRequested) -> None:
    node = state.nodes.get(event.node_id)
    # A drained node that is away since the master started is known by that alone.
    if node is None and event.node_id not in state.drained:
        known = ", ".join(sorted(state.nodes)) or "none yet"
        error = f"no node is called {event.node_id}; known: {known}"
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    if node is not None:
        node.drained = event.drained
        state.touched_nodes[event.node_id] = None
    state.drain_at_s.pop(event.node_id, None)
    state.drains_due.discard(event.node_id)
    state.drains_due_wall_s.pop(event.node_id, None)
    due_wall_s = None
    if event.drained:
        state.drained.add(event.node_id)
        if event.within_s is not None:
            state.drain_at_s[event.node_id] = state.now_s + event.within_s
            due_wall_s = state.wall_s + event.within_s
    else:
        state.drained.discard(event.node_id)
    state.out.append(fx.SaveDrained(event.node_id, event.drained, due_wall_s))
    state.out.append(fx.Reply(event.request_id, done=(event.node_id,)))


def on_rebuild(state: MeshState, event: RebuildRequested) -> None:
    base = state.bases.get(event.recipe_hash)
    error = ""
    if base is None:
        error = f"no base has the recipe hash {event.recipe_hash}"
    elif not state.jobs[base.job_id].state.is_terminal:
        error = f"base {short(event.recipe_hash)} is being made already"
    if base is None or error:
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    bases.open_generation(state, base)
    state.requesters.setdefault(event.recipe_hash, set()).add(bases.REBUILD)
    state.out.append(fx.Reply(event.request_id, done=(event.recipe_hash,)))
