"""Bases that are lost on all hosts and kept in the archive: brought back, not trained anew."""

from __future__ import annotations

from meshtrain.core import effects as fx
from meshtrain.core.events import BasesArchived, RestoreFailed
from meshtrain.core.job import Base
from meshtrain.core.state import MeshState
from meshtrain.ids import short


def on_archived(state: MeshState, event: BasesArchived) -> None:
    """Note which bases can be brought back."""
    state.archived.update(event.artifact_ids)


def may_come_back(state: MeshState, base: Base) -> bool:
    """Whether a lost base is being brought back from the archive, or begins to be just now."""
    artifact_id = base.artifact_id
    if artifact_id is None:
        return False
    return artifact_may_come_back(state, base.recipe_hash, artifact_id)


def artifact_may_come_back(state: MeshState, recipe_hash: str, artifact_id: str) -> bool:
    """The same of any model of a base, also of an earlier generation."""
    if artifact_id not in state.archived:
        return False
    if artifact_id not in state.restoring:
        state.restoring.add(artifact_id)
        state.note(
            f"base {short(recipe_hash)} is on no host that is there: it is fetched from the archive"
        )
        state.out.append(fx.RestoreArtifact(artifact_id))
    return True


def on_failed(state: MeshState, event: RestoreFailed) -> None:
    """The archive doesn't give it: it is not waited for again, but trained anew where needed."""
    state.restoring.discard(event.artifact_id)
    state.archived.discard(event.artifact_id)
