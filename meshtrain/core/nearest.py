"""What a recipe differs in from the one most like it: why a base has to be trained anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from meshtrain.spec.lineage import PARENT_KEY
from meshtrain.spec.recipe import canonical

ALIKE_MAX = 4
"""Recipes that differ in more fields are not alike: one tells nothing of the other's time."""
DIFFERENCES_MAX = 64
"""Recipes that differ in more fields have nothing to do with each other."""


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

    @property
    def is_alike(self) -> bool:
        """Whether time and size of the one can be guessed from the other's."""
        return len(self.differences) <= ALIKE_MAX


def nearest_recipe(
    ours: Mapping[str, Any], recipes: Mapping[str, Mapping[str, Any]]
) -> Nearest | None:
    """The recipe that ours differs from in the fewest fields. None where none is of its kind.

    Args:
        recipes: by recipe hash, the newest first: among equals the first one is taken.
    """
    best: Nearest | None = None
    fields_max = DIFFERENCES_MAX
    for recipe_hash, theirs in recipes.items():
        if theirs.get("kind") != ours.get("kind"):
            continue
        if fields_max == 0:
            break
        differences = []
        for difference in differences_of(ours, theirs):
            differences.append(difference)
            if len(differences) > fields_max:
                break
        if 0 < len(differences) <= fields_max:
            best = Nearest(recipe_hash, tuple(differences))
            # A later one has to be nearer than this.
            fields_max = len(differences) - 1
    return best


def differences_of(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Difference]:
    """The fields that differ; keys of the sections `base`, `params` and the like one by one."""
    for key in dict.fromkeys([*ours, *theirs]):
        mine, other = ours.get(key), theirs.get(key)
        # What it continues from is one thing, and told as one.
        if key != PARENT_KEY and isinstance(mine, Mapping) and isinstance(other, Mapping):
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
