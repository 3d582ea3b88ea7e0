"""Bases as a tree: what each continues from, and the sweeps that start from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from meshtrain.core.changes import BaseRow


class SweepUse(msgspec.Struct, frozen=True):
    """A sweep that starts from some bases."""

    sweep_id: str
    name: str
    bases: int
    """How many bases it starts from in all."""


class TreeLine(msgspec.Struct, frozen=True):
    """One line of the tree: a base, or a sweep below one."""

    key: str
    """What tells the line from all others."""
    stem: str
    """The branches before it: `│  ├─ `."""
    base: BaseRow
    use: SweepUse | None = None
    below: int = 0
    """Lines that hang on it."""
    folded: bool = False


def uses_by_base(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[SweepUse]]:
    """Recipe hash → the sweeps that start from it, of the rows of the master's query `sweeps`."""
    uses: dict[str, list[SweepUse]] = {}
    for row in rows:
        hashes: Sequence[str] = row["recipe_hashes"]
        if not row["jobs"]:
            continue
        for recipe_hash in hashes:
            use = SweepUse(row["sweep_id"], row["name"], len(hashes))
            uses.setdefault(recipe_hash, []).append(use)
    return uses


def tree_of(
    bases: Mapping[str, BaseRow],
    uses: Mapping[str, Sequence[SweepUse]],
    folded: Collection[str] = (),
) -> list[TreeLine]:
    """All lines from the top, the oldest base first; what hangs on a folded one is left out."""
    children: dict[str | None, list[str]] = {}
    for recipe_hash, base in bases.items():
        # One whose parent isn't known any more begins a tree of its own.
        parent = base.parent if base.parent in bases else None
        children.setdefault(parent, []).append(recipe_hash)
    lines: list[TreeLine] = []
    seen: set[str] = set()

    def hang(recipe_hash: str, before: str, stem: str) -> None:
        # No recipe can name one that names it; what claims to must not end the screen.
        if recipe_hash in seen:
            return
        seen.add(recipe_hash)
        below: list[str | SweepUse] = [*children.get(recipe_hash, ()), *uses.get(recipe_hash, ())]
        is_folded = recipe_hash in folded
        lines.append(
            TreeLine(
                recipe_hash,
                before + stem,
                bases[recipe_hash],
                below=len(below),
                folded=is_folded and bool(below),
            )
        )
        if is_folded:
            return
        if stem:
            before += "   " if stem.startswith("└") else "│  "
        for index, child in enumerate(below):
            branch = "└─ " if index == len(below) - 1 else "├─ "
            if isinstance(child, str):
                hang(child, before, branch)
            else:
                key = f"{recipe_hash} {child.sweep_id}"
                lines.append(TreeLine(key, before + branch, bases[recipe_hash], child))

    for root in children.get(None, ()):
        hang(root, "", "")
    for recipe_hash in bases:
        # Those in a ring, if there are such, are nobody's children.
        if recipe_hash not in seen and not _under_folded(recipe_hash, bases, folded):
            hang(recipe_hash, "", "")
    return lines


def _under_folded(recipe_hash: str, bases: Mapping[str, BaseRow], folded: Collection[str]) -> bool:
    """Whether a base is left out because something above it is folded."""
    passed: set[str] = set()
    at = bases[recipe_hash].parent
    while at is not None and at in bases and at not in passed:
        if at in folded:
            return True
        passed.add(at)
        at = bases[at].parent
    return False
