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

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from meshtrain.core import (
    attempts,
    bases,
    checkpoints,
    collecting,
    eviction,
    gpu_health,
    parents,
    patience,
    pins,
    publishing,
    reports,
    requests,
    reserve,
    restoring,
    roster,
    rows,
    shares,
    warm,
)
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.affinity import AT_HOME
from meshtrain.core.job import BaseState, JobState, Placement
from meshtrain.core.node import Node
from meshtrain.core.placement import choose
from meshtrain.core.queue import Shape
from meshtrain.core.state import Loaded, MeshState, SchedulerConfig

_HANDLERS: Mapping[type, Callable[[MeshState, Any], None]] = MappingProxyType(
    {
        ev.SweepSubmitted: requests.on_submitted,
        ev.CancelRequested: requests.on_cancel,
        ev.RetryRequested: requests.on_retry,
        ev.PriorityRequested: requests.on_priority,
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

    def __init__(self, config: SchedulerConfig, loaded: Loaded, now_s: float = 0.0) -> None:
        state = MeshState(config, loaded.incarnation, loaded.epoch_counter)
        self.state = state
        state.now_s = now_s
        state.ticked_s = now_s
        state.drained = set(loaded.drained)
        state.copies.pins = set(loaded.pins)
        for faults in loaded.gpu_faults:
            state.gpu_faults.setdefault(faults.node_id, {})[faults.gpu] = faults
        for named in loaded.named_inputs:
            state.named_inputs[named.name] = (*state.named_inputs.get(named.name, ()), named)
            state.collect_again_s[named.artifact_id] = now_s + config.collect_retry_s
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
        if not len(state.queue):
            return
        ahead = bool(state.short_sweeps)
        free = {
            node.node_id: node
            for node in state.nodes.values()
            if node.takes_jobs and node.has_room(ahead=ahead)
        }
        if not free:
            return
        kept: set[str] = set()
        fitted_nowhere: set[tuple[Shape, bool]] = set()
        for job_id, shape, turn in state.queue.in_order(self._is_open):
            if not free:
                return
            job = state.jobs[job_id]
            lacking_s = self._lacking_s(shape)
            short = job.sweep_id in state.short_sweeps
            there: Iterable[Node] = free.values()
            if shape.shares:
                there = [n for n in there if shares.has_all(state, n, shape.shares)]
            if shape.group is not None and (_ungrouped(shape), short) in fitted_nowhere:
                continue
            placement = choose(
                there,
                shape.needs,
                lacking_s,
                ahead=short,
                run_s=state.run_s_mean.get(job.sweep_id or "", 0.0),
                is_home=self._is_home(shape),
            )
            if placement is None:
                if shape.group is not None:
                    fitted_nowhere.add((_ungrouped(shape), short))
                if reserve.is_wide(shape.needs):
                    node_id = reserve.node_for(state, job, shape.needs, kept)
                    if node_id is not None:
                        kept.add(node_id)
                        free.pop(node_id, None)
                continue
            node = state.nodes[placement.node_id]
            if patience.is_sooner_elsewhere(state, job, shape, lacking_s(node)):
                continue
            state.copies.held_back_s.pop(shape.recipe_hash or "", None)
            kin = self._kin(job_id, shape, placement, there, ahead=short)
            if kin is None:
                turn.take()
            else:
                # It is at home there; this one finds another place, or waits for the next.
                turn.give_to(kin[0])
                job, placement = state.jobs[kin[0]], kin[1]
            attempts.assign(state, job, (placement,))
            node = state.nodes[placement.node_id]
            if not (node.takes_jobs and node.has_room(ahead=ahead)):
                del free[node.node_id]

    def _is_home(self, shape: Shape) -> Callable[[Node], bool] | None:
        group, homes = shape.group, self.state.homes
        if group is None:
            return None
        return lambda node: homes.rank(group, node.node_id) == AT_HOME

    def _kin(
        self,
        job_id: str,
        shape: Shape,
        placement: Placement,
        there: Iterable[Node],
        *,
        ahead: bool,
    ) -> tuple[str, Placement] | None:
        """A job of the same sweep that is rather at home where this one would go, and its place."""
        homes, node_id = self.state.homes, placement.node_id
        rank = homes.rank(shape.group, node_id)
        found = None
        if rank == AT_HOME:
            return None
        node = self.state.nodes[node_id]
        here_s = self._lacking_s(shape)(node)
        for other_id, other in self.state.queue.kin(job_id):
            nearer = homes.rank(other.group, node_id)
            if nearer >= rank or not self._is_open(other):
                continue
            if not shares.has_all(self.state, self.state.nodes[node_id], other.shares):
                continue
            lacking_s = self._lacking_s(other)
            if lacking_s(node) > here_s:
                # What it starts from would have to come first.
                continue
            place = choose(there, other.needs, lacking_s, ahead=ahead, is_home=self._is_home(other))
            if place is None or place.node_id != node_id:
                continue
            rank, found = nearer, (other_id, place)
            if rank == AT_HOME:
                break
        return found

    def _is_open(self, shape: Shape) -> bool:
        state = self.state
        if shape.parent is not None and not state.is_held(shape.parent):
            return False
        return shape.recipe_hash is None or state.is_ready(shape.recipe_hash)

    def _lacking_s(self, shape: Shape) -> Callable[[Node], float]:
        """How long a node would fetch what it lacks, by what it fetched lately."""
        wanted = list(shape.datasets)
        if shape.recipe_hash is not None:
            base = self.state.bases[shape.recipe_hash]
            if base.artifact_id is not None:
                wanted.append((base.artifact_id, base.size_bytes))
        if shape.parent is not None:
            wanted.append((shape.parent, 1))
        if not wanted:
            return lambda node: 0.0
        rates = self.state.copies.rates

        def lacking_s(node: Node) -> float:
            total = 0
            for artifact_id, size_bytes in wanted:
                if artifact_id not in node.holds:
                    # Half a way: it is coming already.
                    is_coming = artifact_id in node.fetching
                    total += size_bytes // 2 if is_coming else max(1, size_bytes)
            return total / rates.of_node(node.node_id) if total else 0.0

        return lacking_s


def _ungrouped(shape: Shape) -> Shape:
    """What all groups of a sweep have in common."""
    return msgspec.structs.replace(shape, group=None)
