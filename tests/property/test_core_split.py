"""Dealing a sweep out to servers: each cell exactly once, groups whole, as even as they go."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core.split import PARTS_MAX, Part, group_name, split
from meshtrain.errors import UserError
from meshtrain.spec.jobs import CommandWork, JobSpec

AXES = ("dataset", "backbone", "fold")
CELLS = st.lists(
    st.fixed_dictionaries(
        {"dataset": st.sampled_from(["a", "b", "c"]), "backbone": st.sampled_from([1, True, "1"])},
        optional={"fold": st.integers(0, 3)},
    ),
    min_size=1,
    max_size=40,
)
BY = st.lists(st.sampled_from(AXES[:2]), unique=True, max_size=2).map(tuple)


def jobs_of(cells: list[dict[str, object]]) -> list[JobSpec]:
    return [
        JobSpec(
            job_id=f"j{number}",
            name=f"s/{number}",
            cell=cell,
            work=CommandWork("true"),
            recipe_hash=None if number % 3 == 0 else f"r{number % 2}",
        )
        for number, cell in enumerate(cells)
    ]


def typed(job: JobSpec, by: tuple[str, ...]) -> tuple[object, ...]:
    if not by:
        return (job.job_id,)
    return tuple((type(job.cell[axis]), job.cell[axis]) for axis in by)


@given(CELLS, st.integers(1, 6), BY)
def test_each_cell_is_dealt_out_once_and_groups_stay_whole(
    cells: list[dict[str, object]], parts: int, by: tuple[str, ...]
) -> None:
    jobs = jobs_of(cells)
    sizes = Counter(typed(job, by) for job in jobs)
    if len(sizes) < parts:
        with pytest.raises(UserError, match="too few"):
            split(jobs, parts, by)
        return
    dealt = split(jobs, parts, by)
    assert len(dealt) == parts
    assert Counter(job.job_id for part in dealt for job in part.jobs) == Counter(
        job.job_id for job in jobs
    )
    owner: dict[tuple[object, ...], Part] = {}
    for part in dealt:
        assert part.jobs
        for job in part.jobs:
            assert owner.setdefault(typed(job, by), part) is part
    counts = [len(part.jobs) for part in dealt]
    # The fullest got its last group when it was the emptiest.
    assert max(counts) - min(counts) <= max(sizes.values())
    best = max(-(-len(jobs) // parts), max(sizes.values()))
    assert max(counts) <= best * 4 / 3 + 1
    assert split(jobs, parts, by) == dealt


@given(CELLS, st.integers(1, 3))
def test_the_jobs_of_a_group_come_after_one_another_in_the_sweeps_order(
    cells: list[dict[str, object]], parts: int
) -> None:
    jobs = jobs_of(cells)
    if len({typed(job, ("dataset",)) for job in jobs}) < parts:
        return
    place = {job.job_id: number for number, job in enumerate(jobs)}
    for part in split(jobs, parts, ("dataset",)):
        seen = list(dict.fromkeys(typed(job, ("dataset",)) for job in part.jobs))
        in_order = sorted(
            part.jobs, key=lambda j: (seen.index(typed(j, ("dataset",))), place[j.job_id])
        )
        assert list(part.jobs) == in_order
        assert len(part.groups) == len(seen)
        assert set(part.recipe_hashes) == {j.recipe_hash for j in part.jobs if j.recipe_hash}


def test_single_cells_are_dealt_out_evenly() -> None:
    jobs = jobs_of([{"dataset": "a", "backbone": 1}] * 14)
    assert sorted(len(part.jobs) for part in split(jobs, 4)) == [3, 3, 4, 4]


@pytest.mark.parametrize(
    ("parts", "by", "says"),
    [
        (2, ("datasett",), 'did you mean "dataset"'),
        (2, ("nothing",), "axes: dataset, backbone"),
        (0, (), "1 to 1000 servers"),
        (PARTS_MAX + 1, (), "1 to 1000 servers"),
        (3, ("dataset",), "there are 2 groups by dataset, too few for 3 servers"),
        (5, (), "there are 4 jobs"),
    ],
)
def test_what_cannot_be_dealt_out_is_told(parts: int, by: tuple[str, ...], says: str) -> None:
    cells: list[dict[str, object]] = [{"dataset": d, "backbone": b} for d in "ab" for b in (1, 2)]
    with pytest.raises(UserError) as refused:
        split(jobs_of(cells), parts, by)
    assert says in str(refused.value)


def test_a_reference_is_grouped_by_the_axes_that_it_has() -> None:
    jobs = jobs_of([{"dataset": "a", "fold": 0}, {"fold": 0}, {"dataset": "a", "fold": 1}])
    first, second = split(jobs, 2, ("dataset",))
    assert [job.job_id for job in first.jobs] == ["j0", "j2"]
    assert [job.job_id for job in second.jobs] == ["j1"]
    assert (group_name(jobs[0], ("dataset",)), second.groups) == ("dataset=a", ("references",))
