"""What the master fetches to hold it too: results, bases, checkpoints."""

from __future__ import annotations

from meshtrain.core import effects as fx
from meshtrain.core import publishing
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.state import MeshState
from meshtrain.core.told_sources import told_sources


def is_wanted_by_master(state: MeshState, artifact_id: str) -> bool:
    """Whether the master is to hold the artifact: a result, a base, a checkpoint, a data set."""
    if artifact_id in state.collecting or publishing.is_named(state, artifact_id):
        return True
    job_id = state.checkpoint_jobs.get(artifact_id)
    if job_id is not None and state.flights.get(job_id) == artifact_id:
        return True
    if any(base.artifact_id == artifact_id for base in state.bases.values()):
        return True
    return state.is_parent(artifact_id)


def drop(state: MeshState, artifact_id: str) -> None:
    """Have the master remove an artifact, and what has come of it so far.

    It may have come just now: that it was held is still to be told then, and counts no more.
    """
    state.held_by_master.discard(artifact_id)
    state.dropping[artifact_id] = state.dropping.get(artifact_id, 0) + 1
    state.out.append(fx.DropArtifact(artifact_id))


def dropped(state: MeshState, artifact_id: str) -> None:
    """One removal is carried out: what is told as held from now on is."""
    left = state.dropping.pop(artifact_id, 0) - 1
    if left > 0:
        state.dropping[artifact_id] = left


def collect(state: MeshState, artifact_id: str) -> None:
    """Have the master fetch an artifact, if anybody can give it."""
    sources = told_sources(state, artifact_id, MASTER_NODE_ID)
    if sources:
        state.collect_again_s.pop(artifact_id, None)
        state.out.append(fx.CollectArtifact(artifact_id, sources))
    else:
        state.collect_again_s[artifact_id] = state.now_s + state.config.collect_retry_s
