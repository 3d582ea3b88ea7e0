"""The data that a sweep reads, as the master knows it: data sets by name, shares by listing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.listing import share_data
from meshtrain.core.manifest import Manifest, is_digest
from meshtrain.core.named_input import NamedInput, Versions, version_of
from meshtrain.core.state import MeshState
from meshtrain.errors import NotFoundError, UserError
from meshtrain.ids import short
from meshtrain.spec import kinds
from meshtrain.spec.inputs import is_share, split_reference
from meshtrain.spec.jobs import InputData
from meshtrain.spec.problems import hint, shown
from meshtrain.wire.messages import Query


def find_inputs(
    references: Iterable[str],
    known: Mapping[str, Versions],
    sent: Mapping[str, InputData],
) -> dict[str, InputData]:
    """What each reference of a sweep is; lists shares that its sender didn't, which may take long.

    Args:
        references: as `spec.expand.needed` names them.
        known: the data sets that have names.
        sent: what whoever submits the sweep found: a name may have got a newer version since.

    Raises UserError when a data set or a share isn't there.
    """
    found = {}
    for reference in references:
        if is_share(reference):
            found[reference] = _share(reference, sent.get(reference))
            continue
        found[reference] = _named(reference, known, sent.get(reference)).data
    return found


def demand_held(state: MeshState, inputs: Mapping[str, InputData]) -> None:
    """Raises UserError for a data set that nobody who is there has."""
    for data in inputs.values():
        if not data.on_share and not state.is_held(data.digest):
            raise UserError(
                f"the data set {data.source} is on no host that is there. Start the hosts that "
                "have it, or publish its files again under the same name"
            )


def _named(reference: str, known: Mapping[str, Versions], sent: InputData | None) -> NamedInput:
    name, version = split_reference(reference)
    if sent is not None:
        try:
            sent_name, version = split_reference(sent.source)
        except ValueError as error:
            raise UserError(f"what was sent as {reference}: {error}. Submit again") from None
        if sent_name != name:
            raise UserError(f"{shown(sent.source)} was sent as what {reference} is. Submit again")
    named = version_of(known, name, version)
    if named is None:
        raise not_found(reference, known)
    if sent is not None and sent.digest != named.artifact_id:
        raise UserError(
            f"{named.reference} is other data than what was sent as it. Submit again; if that "
            "doesn't help, see that both sides run the same version"
        )
    return named


def not_found(reference: str, known: Mapping[str, Versions]) -> NotFoundError:
    """The error for a name, or a version, that isn't there."""
    name, version = split_reference(reference)
    versions = known.get(name)
    if versions:
        newest = versions[-1].version
        there = "version 1" if newest == 1 else f"versions 1 to {newest}"
        return NotFoundError(f"{name} has no version {version}: it has {there}")
    close = hint(name, known) or "."
    return NotFoundError(
        f"no data set is called {shown(name)}{close} List them: meshtrain inputs. "
        f"Publish one: meshtrain publish PATH --name {name}"
    )


def _share(path: str, sent: InputData | None) -> InputData:
    if sent is not None:
        is_listing = sent.on_share and is_digest(sent.digest)
        if sent.source != path or not is_listing or min(sent.size_bytes, sent.files_count) < 0:
            raise UserError(f"what was sent as the listing of {path} is none. Submit again")
        return sent
    return share_data(path, "the master's host")


def checked_name(name: str) -> str:
    """The name of a data set. Raises UserError when it can't be one."""
    try:
        checked: str = kinds.NAME.check(name)
    except ValueError as error:
        raise UserError(f"a data set can't be called so: {error}") from None
    return checked


def published_manifest(store: ArtifactStore, artifact_id: str) -> Manifest:
    """The manifest of what is to get a name. Raises UserError when it isn't here, whole."""
    if not is_digest(artifact_id) or not store.has(artifact_id):
        raise UserError(f"the data {short(artifact_id[:64])} didn't arrive whole: publish it again")
    return store.manifest(artifact_id)


def answer_inputs(
    state: MeshState, query: Query, surroundings: object
) -> tuple[Iterable[Any], int]:
    """The versions of the data sets asked for, the newest first; without names, of all of them.

    Raises NotFoundError for one that isn't there.
    """
    found = _asked(state, query.names)
    return (_row(state, named) for named in found[query.offset :]), len(found)


def _asked(state: MeshState, names: Iterable[str]) -> list[NamedInput]:
    known = state.named_inputs
    asked = list(dict.fromkeys(names))
    if not asked:
        everything = [one for versions in known.values() for one in versions]
        return sorted(everything, key=lambda one: (one.name, -one.version))
    found: list[NamedInput] = []
    for reference in asked:
        try:
            name, version = split_reference(reference)
        except ValueError as error:
            raise UserError(str(error)) from None
        if version is None:
            if name not in known:
                raise not_found(reference, known)
            found += reversed(known[name])
            continue
        named = version_of(known, name, version)
        if named is None:
            raise not_found(reference, known)
        found.append(named)
    return found


def _row(state: MeshState, named: NamedInput) -> dict[str, Any]:
    row = msgspec.to_builtins(named)
    assert isinstance(row, dict)
    return {**row, "reference": named.reference, "holders": state.holders(named.artifact_id)}
