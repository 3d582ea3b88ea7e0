"""Whether jobs start sooner where their base is, on nodes that are busy now, than on a free one."""

from __future__ import annotations

from meshtrain.core.job import Job
from meshtrain.core.placement import gpus_needed, why_never
from meshtrain.core.queue import Shape
from meshtrain.core.state import MeshState

LACKING_S_MIN = 5.0
"""What a free node has in less time is not worth waiting for another one."""


def is_sooner_elsewhere(state: MeshState, job: Job, shape: Shape, lacking_s: float) -> bool:
    """Whether those who hold the base will have started all its jobs before it could be fetched.

    The jobs of a sweep are taken to run as long as those before them. Whatever
    comes, nobody waits longer than fetching would have taken.

    Args:
        lacking_s: how long the best free node would fetch what the job needs.
    """
    recipe_hash, held_back_s = shape.recipe_hash, state.copies.held_back_s
    run_s = state.run_s_mean.get(job.sweep_id or "")
    if recipe_hash is None or run_s is None or lacking_s < LACKING_S_MIN:
        return False
    artifact_id = state.bases[recipe_hash].artifact_id or ""
    at_once = 0
    for node_id in state.copies.directory.holders(artifact_id):
        node = state.nodes[node_id]
        away = not node.connected or node.drained or not node.accepting or node.paused
        if away or why_never(node.spec, shape.needs) is not None:
            continue
        gpus = gpus_needed(node.spec, shape.needs)
        if gpus:
            at_once += (len(node.spec.gpus) - len(node.gpus_out)) // gpus
        else:
            at_once += node.spec.cpu_slots // max(1, shape.needs.cpus)
    if not at_once or len(state.waiters[recipe_hash]) / at_once * run_s >= lacking_s:
        return False
    since_s = held_back_s.setdefault(recipe_hash, state.now_s)
    return state.now_s - since_s < lacking_s
