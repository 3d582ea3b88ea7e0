"""Names for data sets: given, kept, and never given to other bytes."""

from __future__ import annotations

from meshtrain.core import effects as fx
from meshtrain.core.events import InputPublished
from meshtrain.core.named_input import NamedInput
from meshtrain.core.state import MeshState

NAMES_MAX = 10_000
VERSIONS_MAX = 10_000


def on_published(state: MeshState, event: InputPublished) -> None:
    """Give a name to an artifact: a new version, unless one has the same bytes."""
    versions = state.named_inputs.get(event.name, ())
    same = next((one for one in versions if one.artifact_id == event.artifact_id), None)
    if same is not None:
        newest = versions[-1]
        note = f"the same bytes are {same.reference} already"
        if newest is not same:
            note += f"; {event.name} alone stands for {newest.reference}"
        state.out.append(fx.Reply(event.request_id, done=(same.reference,), notes=(note,)))
        return
    error = ""
    if not versions and len(state.named_inputs) >= NAMES_MAX:
        error = (
            f"{NAMES_MAX:,} data sets have a name, which is the limit: publish under a known one"
        )
    elif len(versions) >= VERSIONS_MAX:
        error = f"{event.name} has {VERSIONS_MAX:,} versions, which is the limit: take another name"
    if error:
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    new = NamedInput(
        name=event.name,
        version=versions[-1].version + 1 if versions else 1,
        artifact_id=event.artifact_id,
        size_bytes=event.size_bytes,
        files_count=event.files_count,
        published_by=event.published_by,
        published_wall_s=state.wall_s,
    )
    state.named_inputs[event.name] = (*versions, new)
    state.out.append(fx.AddInput(new))
    state.out.append(fx.Reply(event.request_id, done=(new.reference,)))
    by = f" by {event.published_by}" if event.published_by else ""
    state.note(f"data set {new.reference} was published{by}")


def is_named(state: MeshState, artifact_id: str) -> bool:
    """Whether an artifact is a data set that has a name."""
    return any(
        one.artifact_id == artifact_id
        for versions in state.named_inputs.values()
        for one in versions
    )
