"""What a recipe differs in from the one most like it: why a base has to be trained anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from meshtrain.spec.recipe import canonical

DIFFERENCES_MAX = 4
"""Recipes that differ in more are not alike."""


class Difference(msgspec.Struct, frozen=True):
    """One field in which two recipes differ."""

    field: str
    """As a job file writes it: `lr`, `params.backbone`; a file of code; data of somebody."""
    ours: Any
    """None: it isn't in ours."""
    theirs: Any


class Nearest(msgspec.Struct, frozen=True):
    """The known recipe that is most like ours."""

    recipe_hash: str
    differences: tuple[Difference, ...]


def nearest_recipe(
    ours: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]]
) -> Nearest | None:
    """The recipe that ours differs least from; among equals the first. None where none is alike."""
    best: Nearest | None = None
    for recipe_hash, theirs in recipes.items():
        if theirs.get("kind") != ours.get("kind"):
            continue
        differences = []
        for difference in differences_of(ours, theirs):
            differences.append(difference)
            if len(differences) > DIFFERENCES_MAX:
                break
        if 0 < len(differences) <= DIFFERENCES_MAX and (
            best is None or len(differences) < len(best.differences)
        ):
            best = Nearest(recipe_hash, tuple(differences))
    return best


def differences_of(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    """The fields that differ; keys of the sections `base`, `params` and the like one by one."""
    for key in dict.fromkeys([*ours, *theirs]):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            for name in dict.fromkeys([*mine, *other]):
                # Whose data it is tells the participants already.
                if key == "data" and not (name in mine and name in other):
                    continue
                if not _same(mine.get(name), other.get(name)):
                    yield Difference(_field(key, name), mine.get(name), other.get(name))
        elif not _same(mine, other):
            yield Difference(key, mine, other)


def _field(section: str, name: str) -> str:
    if section == "base":
        return name
    return f"data of {name}" if section == "data" else f"{section}.{name}"


def _same(ours: Any, theirs: Any) -> bool:
    if type(ours) is type(theirs) and isinstance(ours, str | int | float):
        return bool(ours == theirs)
    return canonical(ours) == canonical(theirs)
