"""Bases that continue from earlier ones: what `base.from` names, and what it is pinned to.

A job file names the parent by the beginning of its recipe hash, or by the id of
one artifact. When it is submitted the name becomes a pin: a recipe hash and an
artifact id, which are part of the child's recipe. So the child stays what it is
when its parent is trained anew, and nobody can train it from other weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshtrain.ids import short

PARENT_KEY = "from"
"""The key of a recipe that holds the pin; recipes that begin from nothing don't have it."""
CHAIN_MAX = 64
"""Bases that may stand above one another."""


class Parent(msgspec.Struct, frozen=True):
    """The pin: the one model that a base continues from."""

    recipe_hash: str
    artifact_id: str

    def document(self) -> dict[str, str]:
        """As a recipe and a training's configuration hold it."""
        return {"recipe": self.recipe_hash, "artifact": self.artifact_id}


class ResolvedParent(msgspec.Struct, frozen=True):
    """What a master knows of the base that a job file continues from."""

    parent: Parent
    label: str
    training: bool
    """Whether the built-in training made it; else a command did."""
    model: str | None = None
    """The network, where the built-in training made it."""
    participants: tuple[str, ...] = ()
    """Whose data it has seen, and those that it continues from."""
    depth: int = 1
    """How many bases it stands on, itself included."""


def parent_in(document: Mapping[str, Any] | None) -> Parent | None:
    """The pin that a recipe holds, or None."""
    pin = None if document is None else document.get(PARENT_KEY)
    if not isinstance(pin, Mapping):
        return None
    return Parent(str(pin.get("recipe", "")), str(pin.get("artifact", "")))


def from_words(parent: Parent) -> str:
    """The part of a base's label that names its parent."""
    return f"from {short(parent.recipe_hash)}"
