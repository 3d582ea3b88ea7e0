"""Whether all that a store's records name is there: nothing could go on from half of it."""

from __future__ import annotations

from pathlib import Path

from meshtrain.core.state import Loaded
from meshtrain.store.failures import damaged


def demand_complete(loaded: Loaded, path: Path) -> Loaded:
    """What was loaded, when every job, base and sweep that it names is in it.

    Raises StoreError, as for a damaged file, when one is gone.

    Args:
        path: the store's file.
    """
    job_ids = {job.job_id for job in loaded.jobs}
    sweep_ids = {sweep.sweep_id for sweep in loaded.sweeps}
    recipe_hashes = {base.recipe_hash for base in loaded.bases}
    for sweep in loaded.sweeps:
        if gone := set(sweep.job_ids) - job_ids:
            raise damaged(path, f"{len(gone)} jobs of the sweep {sweep.sweep_id} are gone")
        if gone := set(sweep.recipe_hashes) - recipe_hashes:
            raise damaged(path, f"{len(gone)} bases of the sweep {sweep.sweep_id} are gone")
    for job in loaded.jobs:
        recipe_hash = job.spec.recipe_hash
        if recipe_hash is not None and recipe_hash not in recipe_hashes:
            raise damaged(path, f"the base {recipe_hash} of the job {job.job_id} is gone")
        if job.sweep_id is not None and job.sweep_id not in sweep_ids:
            raise damaged(path, f"the sweep {job.sweep_id} of the job {job.job_id} is gone")
    for base in loaded.bases:
        if base.job_id not in job_ids:
            raise damaged(path, f"the job {base.job_id} of the base {base.recipe_hash} is gone")
    return loaded
