"""Models that bases continue from, and what happens when nobody has one any more.

A pin names one model. Its base may be trained anew, but that makes another one:
so a base whose parent is lost waits for its hosts as long as jobs wait for a lost
base, is given it by the archive where that has it, and fails with a word else.
"""

from __future__ import annotations

from meshtrain.core import attempts, restoring
from meshtrain.core.job import BaseState, Failure, FailureClass, JobState
from meshtrain.core.state import MeshState
from meshtrain.ids import short


def check_lost(state: MeshState) -> None:
    """End the trainings whose parent nobody has had for too long."""
    missed: set[str] = set()
    for base in list(state.bases.values()):
        pin = base.spec.parent
        if base.state is not BaseState.NEEDED or pin is None or state.is_held(pin.artifact_id):
            continue
        job = state.jobs[base.job_id]
        if job.state is not JobState.WAITING:
            continue
        missed.add(pin.artifact_id)
        since_s = state.parents_unheld_since_s.setdefault(pin.artifact_id, state.now_s)
        if state.now_s - since_s < state.config.base_lost_s:
            continue
        if restoring.artifact_may_come_back(state, pin.recipe_hash, pin.artifact_id):
            continue
        failure = Failure(
            FailureClass.BASE_FAILED,
            f"it continues from {short(pin.artifact_id)}, a model of base "
            f"{short(pin.recipe_hash)}, which is on no host that is there: bring its host back "
            f"and `meshtrain retry {job.name}`, or name another model in base.from",
        )
        attempts.finish(state, job, JobState.FAILED, failure=failure)
    for artifact_id in state.parents_unheld_since_s.keys() - missed:
        del state.parents_unheld_since_s[artifact_id]
