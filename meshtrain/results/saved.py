"""What sharing bases saved: trainings that did not have to run, and their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from meshtrain.results.sweep_results import Base, SweepResults


class BaseSaved(msgspec.Struct, frozen=True):
    """One recipe: who starts from it, and what that saved."""

    base: Base
    jobs: int
    """Cells that start from it."""
    trained: int
    """How often it was trained for these sweeps."""
    avoided: int
    """Trainings that would have run, had each cell trained its own base."""
    saved_s: float | None
    """Their time, at what one took; None where that isn't known."""


class Saved(msgspec.Struct, frozen=True):
    """The sum over recipes."""

    by_base: tuple[BaseSaved, ...]
    avoided: int
    saved_s: float
    unknown: int
    """Trainings avoided whose time isn't known: `saved_s` leaves them out."""
    spent_s: float
    """What bases and cells took, as far as known."""


def saved(sweeps: Iterable[SweepResults]) -> Saved:
    """What the bases of the sweeps saved. A recipe of several sweeps or masters counts once."""
    sweeps = list(sweeps)
    jobs: Counter[str] = Counter()
    bases: dict[str, list[Base]] = {}
    spent_s = 0.0
    for sweep in sweeps:
        for base in sweep.bases:
            bases.setdefault(base.recipe_hash, []).append(base)
        for cell in sweep.cells:
            run = sweep.runs.get(cell.job_id)
            if run is None:
                continue
            if run.recipe_hash is not None:
                jobs[run.recipe_hash] += 1
            spent_s += run.took_s or 0.0
    rows = [_of_base(found, jobs[recipe_hash]) for recipe_hash, found in bases.items()]
    spent_s += sum((row.base.trained_s or 0.0) * row.trained for row in rows)
    return Saved(
        by_base=tuple(rows),
        avoided=sum(row.avoided for row in rows),
        saved_s=sum(row.saved_s or 0.0 for row in rows),
        unknown=sum(row.avoided for row in rows if row.saved_s is None),
        spent_s=spent_s,
    )


def _of_base(found: list[Base], jobs: int) -> BaseSaved:
    # One model is one training, however many folders tell of it.
    models = {base.artifact_id for base in found if not base.reused and base.artifact_id}
    ready = any(base.artifact_id for base in found)
    trained = len(models)
    reused_only = ready and not trained
    avoided = jobs if reused_only else max(jobs - max(trained, 1), 0)
    known = [base for base in found if base.trained_s is not None]
    base = known[0] if known else found[0]
    saved_s = None if base.trained_s is None else base.trained_s * avoided
    return BaseSaved(base, jobs, trained, avoided if ready else 0, saved_s if ready else None)
