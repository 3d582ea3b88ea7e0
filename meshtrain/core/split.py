"""A sweep dealt out to servers that run no daemon: whole groups, as evenly as they go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from meshtrain.errors import UserError
from meshtrain.spec.jobs import JobSpec
from meshtrain.spec.matrix import point_name
from meshtrain.spec.problems import hint

PARTS_MAX = 1000
"""Servers that a sweep is dealt out to."""


class Part(msgspec.Struct, frozen=True):
    """What one server does."""

    jobs: tuple[JobSpec, ...]
    """Group by group, in the sweep's order."""
    groups: tuple[str, ...]
    """The names of its groups, in the order in which they came."""

    @property
    def recipe_hashes(self) -> tuple[str, ...]:
        """The bases that its jobs start from, each once, as they come to be needed."""
        return tuple(dict.fromkeys(j.recipe_hash for j in self.jobs if j.recipe_hash is not None))


def split(jobs: Sequence[JobSpec], parts: int, by: Sequence[str] = ()) -> tuple[Part, ...]:
    """Deals jobs out: the largest group first, each to the part that has least.

    That leaves the fullest part at most one largest group above the emptiest,
    and at most 4/3 of the best there is (R. L. Graham, Bounds on multiprocessing
    timing anomalies, 1969). A group is never parted.

    Args:
        parts: how many there are to be; each gets a job at least.
        by: axes; jobs that are equal on them are a group. None: each job is one.

    Raises UserError for axes that no job has, and where there are fewer groups than parts.
    """
    axes = list(dict.fromkeys(axis for job in jobs for axis in job.cell))
    for axis in by:
        if axis not in axes:
            offered = hint(axis, axes) or f"; axes: {', '.join(axes) or 'none'}"
            raise UserError(f"--by: {axis} is no axis of the sweep{offered}")
    if not 1 <= parts <= PARTS_MAX:
        raise UserError(f"--split {parts}: a sweep is dealt out to 1 to {PARTS_MAX} servers")
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, job in enumerate(jobs):
        groups.setdefault(_key(job, by) if by else (place,), []).append(place)
    if len(groups) < parts:
        told = f"groups by {', '.join(by)}" if by else "jobs"
        raise UserError(
            f"--split {parts}: there are {len(groups)} {told}, too few for {parts} servers; "
            f"{'say --by with more axes, or ' if by else ''}--split {max(len(groups), 1)} or less"
        )
    shares: list[list[list[int]]] = [[] for _ in range(parts)]
    counts = [0] * parts
    for places in sorted(groups.values(), key=lambda places: (-len(places), places[0])):
        emptiest = min(range(parts), key=lambda number: (counts[number], number))
        shares[emptiest].append(places)
        counts[emptiest] += len(places)
    return tuple(_part(jobs, by, share) for share in shares)


def _part(jobs: Sequence[JobSpec], by: Sequence[str], share: list[list[int]]) -> Part:
    in_order = sorted(share, key=lambda places: places[0])
    names = [group_name(jobs[places[0]], by) for places in in_order] if by else []
    # Group by group, so that what one has read the next job finds.
    return Part(
        jobs=tuple(jobs[place] for places in in_order for place in places),
        groups=tuple(names),
    )


def group_name(job: JobSpec, by: Sequence[str]) -> str:
    """A group as people read it: `dataset=coco20i,backbone=resnet50`; a reference has less."""
    return point_name({axis: job.cell[axis] for axis in by if axis in job.cell}) or "references"


def _key(job: JobSpec, by: Sequence[str]) -> tuple[Any, ...]:
    # 1 and true are equal as keys, and are two values.
    return tuple(
        (type(job.cell[axis]).__name__, job.cell[axis]) if axis in job.cell else None for axis in by
    )
