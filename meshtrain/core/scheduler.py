"""The master's decisions: `Scheduler.handle(event, now_s) -> list[Effect]`.

    people ──► requests ─┐                           ┌─► saves, one commit
    nodes ───► roster ───┤                           ├─► commands to nodes, replies to people
    nodes ───► reports ──┼─► attempts ─► bases ──────┼─► artifacts to collect, results to lay out
    time ────► Tick ─────┤      (MeshState)          └─► rows for dashboards
    batch ───► PlaceJobs ┘

Nothing here waits, reads a clock or draws a random number: the same events
with the same clock readings always have the same effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from meshtrain.core import (
    attempts,
    bases,
    budget,
    checkpoints,
    collecting,
    eviction,
    gpu_health,
    parents,
    pins,
    publishing,
    reports,
    requests,
    restoring,
    roster,
    rows,
    shares,
    warm,
)
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.job import BaseState, JobState
from meshtrain.core.placing import PlacePass
from meshtrain.core.state import Loaded, MeshState, SchedulerConfig

_HANDLERS: Mapping[type, Callable[[MeshState, Any], None]] = MappingProxyType(
    {
        ev.SweepSubmitted: requests.on_submitted,
        ev.CancelRequested: requests.on_cancel,
        ev.RetryRequested: requests.on_retry,
        ev.PriorityRequested: requests.on_priority,
        ev.BudgetRequested: requests.on_budget,
        ev.DrainRequested: requests.on_drain,
        ev.ReleaseRequested: gpu_health.on_release,
        ev.RebuildRequested: requests.on_rebuild,
        ev.PinRequested: pins.on_pin,
        ev.EvictRequested: eviction.on_evict,
        ev.WarmRequested: warm.on_warm,
        ev.NodeSaidHello: roster.on_hello,
        ev.NodeBeat: roster.on_beat,
        ev.NodeLeft: roster.on_left,
        ev.NodeRevoked: roster.on_revoked,
        ev.AttemptStarted: reports.on_started,
        ev.AttemptEnded: reports.on_ended,
        ev.ArtifactHeld: reports.on_held,
        ev.ArtifactDropped: reports.on_dropped,
        ev.InventoryTold: reports.on_inventory,
        ev.CollectFailed: reports.on_collect_failed,
        ev.BasesArchived: restoring.on_archived,
        ev.RestoreFailed: restoring.on_failed,
        ev.InputPublished: publishing.on_published,
    }
)


class Scheduler:
    """The state of the mesh, and what to do at each event.

    Args:
        config: terms and delays, in seconds.
        loaded: what the store held; leases that were live get a full term.
        now_s: the lease clock.
    """

    def __init__(
        self, config: SchedulerConfig, loaded: Loaded, now_s: float = 0.0, *, life: str = ""
    ) -> None:
        state = MeshState(config, loaded.incarnation, loaded.epoch_counter, life)
        self.state = state
        state.now_s = now_s
        state.ticked_s = now_s
        state.drained = set(loaded.drained)
        state.drains_due_wall_s = dict(loaded.drains_due_wall_s)
        state.copies.pins = set(loaded.pins)
        for faults in loaded.gpu_faults:
            state.gpu_faults.setdefault(faults.node_id, {})[faults.gpu] = faults
        for named in loaded.named_inputs:
            state.named_inputs[named.name] = (*state.named_inputs.get(named.name, ()), named)
            state.collect_again_s[named.artifact_id] = now_s + config.collect_retry_s
        state.spending = {spending.sweep_id: spending for spending in loaded.spending}
        state.limited = {s.sweep_id for s in loaded.spending if s.has_limit}
        for sweep in loaded.sweeps:
            state.sweeps[sweep.sweep_id] = sweep
            state.sweep_open.setdefault(sweep.sweep_id, 0)
        for base in loaded.bases:
            state.know_base(base)
            state.base_of_job[base.job_id] = base.recipe_hash
        for job in loaded.jobs:
            if job.state is JobState.COLLECTING:
                # Its node tells the end again, and the result is fetched again.
                job = msgspec.structs.replace(job, state=JobState.RUNNING)
            state.register(job)
        for sweep in loaded.sweeps:
            needed = {state.jobs[job_id].spec.recipe_hash for job_id in sweep.job_ids}
            for recipe_hash in sweep.recipe_hashes:
                if recipe_hash not in needed and not sweep.cancelled:
                    state.requesters.setdefault(recipe_hash, set()).add(sweep.sweep_id)
        for job in loaded.jobs:
            if job.state is JobState.WAITING:
                state.enqueue(job)
            elif job.state.is_leased and job.attempt is not None:
                state.live[job.attempt.attempt_id] = job.job_id
                state.leases[job.attempt.attempt_id] = now_s + config.lease_s
        for base in loaded.bases:
            if base.state is BaseState.COMMITTED and base.artifact_id is not None:
                state.collect_again_s[base.artifact_id] = now_s + config.collect_retry_s
            elif base.state is BaseState.NEEDED and not state.is_wanted(base.recipe_hash):
                # Nobody waits on it: somebody asked for it to be trained anew.
                state.requesters.setdefault(base.recipe_hash, set()).add(bases.REBUILD)
        for job in loaded.jobs:
            checkpoints.take_up(state, job)
            group = state.group_of(job)
            if group is not None and job.attempt is not None:
                state.homes.note(group, job.attempt.node_id)
        budget.judge(state, quietly=True)
        state.touched_jobs.clear()

    def handle(self, event: ev.Event, now_s: float) -> list[fx.Effect]:
        """Take in one event.

        Args:
            event: what happened.
            now_s: the lease clock, in seconds; it never goes back.
        """
        state = self.state
        state.now_s = max(state.now_s, now_s)
        if isinstance(event, ev.PlaceJobs):
            self._place()
            changes = rows.take_changes(state)
            if changes:
                state.out.append(fx.Publish(changes))
        elif isinstance(event, ev.Tick):
            state.wall_offset_s = event.wall_s - now_s
            self._on_tick()
        else:
            _HANDLERS[type(event)](state, event)
        bases.settle(state)
        out, state.out = state.out, []
        return out

    def _on_tick(self) -> None:
        state = self.state
        roster.check_silent(state)
        roster.check_deadlines(state)
        budget.check(state)
        shares.clear(state)
        bases.settle(state)
        bases.check_lost(state)
        parents.check_lost(state)
        eviction.check(state)
        warm.look(state)
        if state.delayed:
            due = [entry for entry in state.delayed if entry[0] <= state.now_s]
            state.delayed = [entry for entry in state.delayed if entry[0] > state.now_s]
            for _, job_id, generation in due:
                job = state.jobs[job_id]
                if job.state is JobState.WAITING and job.generation == generation:
                    state.enqueue(job)
        for artifact_id, at_s in list(state.collect_again_s.items()):
            if artifact_id in state.held_by_master:
                del state.collect_again_s[artifact_id]
            elif at_s <= state.now_s:
                if collecting.is_wanted_by_master(state, artifact_id):
                    collecting.collect(state, artifact_id)
                else:
                    del state.collect_again_s[artifact_id]

    def _place(self) -> None:
        """Give waiting jobs to nodes that take some, most urgent first."""
        state = self.state
        PlacePass(state, lambda job, place: attempts.assign(state, job, (place,))).run()
