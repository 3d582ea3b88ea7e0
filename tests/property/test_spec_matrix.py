"""What a matrix expands to: how many cells, under which names, at what cost."""

from __future__ import annotations

import itertools
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.errors import UserError
from meshtrain.spec.expand import Digests, expand
from meshtrain.spec.jobfile import JobFile, JobFileError, parse_job_file
from meshtrain.spec.jobs import SweepSpec
from meshtrain.spec.matrix import Axis, Cell, Matrix, cells, cells_count_max, scalar_text

SCALARS = (
    st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
)
VALUES = st.lists(SCALARS, min_size=1, max_size=4, unique_by=scalar_text)
AXES = st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=4)


def parsed(matrix: Any, **options: Any) -> JobFile:
    tree = {"command": "true", "matrix": matrix}
    return parse_job_file(json.dumps(tree).encode(), "x.json", **options)


def cells_of(matrix: Any, **options: Any) -> list[Cell]:
    return cells(parsed(matrix, **options).matrix, **options)


def same(one: Any, other: Any) -> bool:
    """As people write it: 1 and 1.0 are the same value, 1 and true are not."""
    return scalar_text(one) == scalar_text(other)


@given(AXES)
@settings(deadline=None)
def test_every_combination_is_there_once_under_a_name_of_its_own(axes: dict[str, Any]) -> None:
    found = cells_of(axes)
    assert len(found) == math.prod(len(values) for values in axes.values())
    assert len({cell.name for cell in found}) == len(found)
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    assert [cell.values for cell in found] == points
    for cell in found:
        assert cell.name.isascii()
        assert len(cell.name) <= 200
        assert "/" not in cell.name
        assert cell.name.isprintable()


@given(AXES)
@settings(deadline=None)
def test_names_and_ids_do_not_hang_on_the_spelling(axes: dict[str, Any]) -> None:
    one = _sweep({"command": "true", "matrix": axes})
    spelled = {
        axis: [
            float(value)
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**50
            else value
            for value in values
        ]
        for axis, values in axes.items()
    }
    other = _sweep({"matrix": spelled, "command": "true"})
    assert [job.name for job in one.jobs] == [job.name for job in other.jobs]
    assert [job.job_id for job in one.jobs] == [job.job_id for job in other.jobs]
    assert one.sweep_id == other.sweep_id
    assert len({job.job_id for job in one.jobs}) == len(one.jobs)


def test_ids_are_the_same_on_every_machine() -> None:
    sweep = _sweep({"name": "s", "command": "run {a}", "matrix": {"a": [1, "x y"], "b": [0.25]}})
    assert sweep.sweep_id == "s-ad5f451c"
    assert [(job.job_id, job.name) for job in sweep.jobs] == [
        ("334a51e6800e0783", "s/a=1,b=0.25"),
        ("524ac67d5ea57bee", "s/a=x%20y,b=0.25"),
    ]


def test_another_run_of_the_same_content_has_other_ids() -> None:
    job_file = parsed({"a": [1, 2]})
    first, second = (expand(job_file, Digests(), again=again) for again in (0, 1))
    assert first.sweep_id != second.sweep_id
    assert not {job.job_id for job in first.jobs} & {job.job_id for job in second.jobs}
    assert [job.name for job in first.jobs] == [job.name for job in second.jobs]


def _sweep(tree: Any) -> SweepSpec:
    return expand(parse_job_file(json.dumps(tree).encode(), "x.json"), Digests())


@given(AXES.filter(bool), st.data())
@settings(deadline=None)
def test_exclude_takes_what_matches_and_include_adds_what_is_not_there(
    axes: dict[str, Any], data: st.DataObject
) -> None:
    def entries(values_of: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        entry = st.fixed_dictionaries({}, optional=values_of).filter(bool)
        return st.lists(entry, max_size=3)

    on_lists = {axis: st.sampled_from(values) for axis, values in axes.items()}
    off_lists = {axis: st.sampled_from(values) | SCALARS for axis, values in axes.items()}
    exclude = data.draw(entries(on_lists))
    include = data.draw(entries(off_lists))

    lattice = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    wanted = [
        point
        for point in lattice
        if not any(all(same(point[axis], v) for axis, v in entry.items()) for entry in exclude)
    ]
    for entry in include:
        run_over = [[entry[axis]] if axis in entry else axes[axis] for axis in axes]
        for values in itertools.product(*run_over):
            point = dict(zip(axes, values, strict=True))
            if not any(all(same(point[a], known[a]) for a in axes) for known in wanted):
                wanted.append(point)

    matrix = {**axes, "exclude": exclude, "include": include}
    if not wanted:
        with pytest.raises(JobFileError, match="every cell is excluded"):
            parsed(matrix)
        return
    found = cells_of(matrix)
    assert [cell.values for cell in found] == wanted
    assert len({cell.name for cell in found}) == len(found)
    assert len(found) <= cells_count_max(parsed(matrix).matrix)


def test_include_alone_is_a_list_of_cells() -> None:
    found = cells_of({"include": [{"a": 1, "b": 2}, {"b": 3, "a": 1}, {"a": 1, "b": 2}]})
    assert [cell.name for cell in found] == ["a=1,b=2", "a=1,b=3"]


def test_no_matrix_is_one_cell() -> None:
    assert cells_of(None) == [Cell("1", {})]
    assert cells_of({}) == [Cell("1", {})]


@given(st.integers(-200, 200), st.integers(-200, 200), st.integers(-20, 20).filter(bool))
@settings(deadline=None)
def test_a_range_of_whole_numbers_is_pythons(start: int, stop: int, step: int) -> None:
    expected = list(range(start, stop, step))
    matrix = {"a": {"range": [start, stop, step]}}
    if not expected:
        with pytest.raises(JobFileError, match="the range is empty"):
            parsed(matrix)
        return
    values = [cell.values["a"] for cell in cells_of(matrix)]
    assert values == expected
    assert all(type(value) is int for value in values)


@given(st.integers(-100, 100), st.integers(1, 50), st.integers(1, 300), st.integers(0, 3))
@settings(deadline=None)
def test_a_range_of_fractions_is_exact(start: int, step: int, count: int, digits: int) -> None:
    unit = 10**digits
    written = [start / unit, (start + step * count) / unit, step / unit]
    values = [cell.values["a"] for cell in cells_of({"a": {"range": written}})]
    assert values == [(start + step * index) / unit for index in range(count)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 300))
@settings(deadline=None)
def test_the_limit_is_the_limit(sizes: list[int], cells_max: int) -> None:
    matrix = {f"a{index}": list(range(size)) for index, size in enumerate(sizes)}
    count = math.prod(sizes)
    if count <= cells_max:
        assert len(cells_of(matrix, cells_max=cells_max)) == count
        if count > 1:
            with pytest.raises(UserError, match="and the limit is"):
                cells(parsed(matrix).matrix, cells_max=count - 1)
        return
    with pytest.raises(JobFileError) as caught:
        parsed(matrix, cells_max=cells_max)
    assert f"{count:,} cells, and the limit is {cells_max:,}" in str(caught.value)


def test_the_limit_is_looked_at_before_anything_is_made() -> None:
    """A matrix of 10^62 cells: making even a fraction of them would never end."""
    axes = {f"a{index}": list(range(100)) for index in range(31)}
    with pytest.raises(JobFileError, match="and the limit is 100,000"):
        parsed(axes)
    matrix = Matrix(tuple(Axis(name, tuple(values)) for name, values in axes.items()))
    with pytest.raises(UserError, match="and the limit is 100,000"):
        cells(matrix)
    with pytest.raises(JobFileError, match="and the limit is 100,000"):
        parsed({"a": {"range": [0, 1e300, 1e-5]}})
    with pytest.raises(JobFileError, match="and the limit is 100,000"):
        parsed({**{f"a{i}": list(range(10)) for i in range(5)}, "include": [{"a0": 77}]})


def test_a_hundred_thousand_cells() -> None:
    matrix = {"a": {"range": [0, 1000]}, "b": {"range": [0, 100]}}
    sweep = _sweep({"command": "run {a} {b}", "matrix": matrix})
    assert len(sweep.jobs) == len({job.job_id for job in sweep.jobs}) == 100_000
    assert sweep.jobs[-1].name == "x/a=999,b=99"


def _calls(matrix: Any) -> int:
    """How many functions are called to read and expand a sweep; the same each time."""
    data = json.dumps({"command": "run {a} {b}", "matrix": matrix}).encode()
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        expand(parse_job_file(data, "x.json"), Digests())
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("edits", ["", "exclude", "include"])
def test_twice_the_cells_are_at_most_twice_the_work(edits: str) -> None:
    def of_size(size: int) -> dict[str, Any]:
        matrix: dict[str, Any] = {"a": list(range(size)), "b": list(range(10))}
        if edits:
            off = 0 if edits == "exclude" else size
            matrix[edits] = [{"a": off + index, "b": 3} for index in range(size // 2)]
        return matrix

    _calls(of_size(10))
    assert _calls(of_size(160)) < 2.1 * _calls(of_size(80))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=5, unique=True))
def test_long_and_odd_values_keep_names_apart(values: list[str]) -> None:
    matrix = Matrix(
        tuple(Axis(f"axis_{number}", tuple(values)) for number in range(4)),
    )
    found = cells(matrix)
    assert len({cell.name for cell in found}) == len(values) ** 4
    assert max(len(cell.name) for cell in found) <= 200
