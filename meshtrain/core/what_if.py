"""A copy of the scheduler's state to try things on, cheap enough to be made often.

What a pass over the queue changes is copied; what it only looks at is shared,
and may go on changing in the original: the copy may be read in another thread.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import msgspec

from meshtrain.core.job import BaseState, Job, JobState
from meshtrain.core.node import Node
from meshtrain.core.state import MeshState


class WhatIf(MeshState):
    """A copy: what changes in it is kept, told and counted nowhere."""

    def change_job(self, job: Job, state: JobState | None = None, **changes: Any) -> Job:
        if state is not None:
            changes["state"] = state
        job = msgspec.structs.replace(job, **changes)
        self.jobs[job.job_id] = job
        return job


def copy_of(state: MeshState) -> MeshState:
    """The same jobs, nodes, bases and queue; no change of it reaches the original."""
    twin = WhatIf.__new__(WhatIf)
    twin.__dict__.update(state.__dict__)
    twin.jobs = dict(state.jobs)
    twin.sweeps = dict(state.sweeps)
    twin.sweep_open = dict(state.sweep_open)
    twin.bases = dict(state.bases)
    twin.base_of_job = dict(state.base_of_job)
    twin.run_s_mean = dict(state.run_s_mean)
    twin.short_sweeps = set(state.short_sweeps)
    twin.spending = dict(state.spending)
    twin.limited = set(state.limited)
    twin.spent = set(state.spent)
    twin.unpaid = set(state.unpaid)
    twin.waiters = {recipe: set(jobs) for recipe, jobs in state.waiters.items()}
    twin.requesters = {recipe: set(sweeps) for recipe, sweeps in state.requesters.items()}
    twin.nodes = {node_id: copy_of_node(node) for node_id, node in state.nodes.items()}
    twin.homes = state.homes.copy(twin._is_there)
    twin.drained = set(state.drained)
    twin.paused_until_s = dict(state.paused_until_s)
    twin.lacking_shares = {share: dict(nodes) for share, nodes in state.lacking_shares.items()}
    twin.passed_over = dict(state.passed_over)
    twin.live = dict(state.live)
    twin.leases = dict(state.leases)
    twin.queue = state.queue.copy()
    twin.delayed = list(state.delayed)
    twin.copies = copy.copy(state.copies)
    twin.copies.directory = state.copies.directory.only(_artifacts_waited_for(state))
    twin.copies.held_back_s = dict(state.copies.held_back_s)
    twin.finished = deque()
    twin.out = []
    twin.notes = []
    twin.touched_jobs = {}
    twin.touched_bases = {}
    twin.touched_nodes = {}
    twin.touched_sweeps = {}
    return twin


def copy_of_node(node: Node) -> Node:
    """The same node; what is taken of it may change."""
    twin = Node.__new__(Node)
    for name in Node.__slots__:
        setattr(twin, name, getattr(node, name))
    twin.live = set(node.live)
    twin.long = set(node.long)
    twin.gpus_used = set(node.gpus_used)
    twin.gpus_out = set(node.gpus_out)
    return twin


def _artifacts_waited_for(state: MeshState) -> set[str]:
    """The models that jobs start from: who holds them decides where they go."""
    found = set()
    for recipe_hash, base in state.bases.items():
        if base.artifact_id is not None and state.waiters.get(recipe_hash):
            found.add(base.artifact_id)
        if base.state is BaseState.NEEDED and base.spec.parent is not None:
            found.add(base.spec.parent.artifact_id)
    return found


def hold(state: MeshState, node: Node, artifact_id: str, size_bytes: int = 0) -> None:
    """In a copy, let a node hold an artifact: what it holds is the original's until then."""
    node.holds = set(node.holds)
    state.copies.directory.add(node, artifact_id, size_bytes)
