"""Merging folders: in any order, in any grouping, and nothing twice."""

import functools
import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshtrain.results.compare import compare
from meshtrain.results.copies import Copy, Verdict, cell_key, copies_of, settle, union
from meshtrain.results.interval import half_width, t_critical, welch
from meshtrain.results.merge import CellResult, merge
from meshtrain.results.sweep_results import Run, SweepResults
from meshtrain.spec.jobs import ResultsSpec

FEW = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
SPEC = ResultsSpec(metric="accuracy", over=("fold",))


@st.composite
def folders(draw: st.DrawFn) -> list[list[Copy]]:
    """Folders of one sweep: each has each cell at most once."""
    made = []
    points = [{"lr": lr, "fold": fold} for lr in (0.1, 0.2) for fold in (0, 1, 2)]
    for number in range(draw(st.integers(1, 4))):
        copies = []
        for index, point in enumerate(points):
            if not draw(st.booleans()):
                continue
            state = draw(st.sampled_from(["succeeded", "succeeded", "failed", "waiting"]))
            value = draw(st.sampled_from([0.1, 0.2, 0.3]))
            # A sweep whose file names the axes the other way round has the same cells.
            cell = dict(reversed(point.items())) if draw(st.booleans()) else dict(point)
            copies.append(
                Copy(
                    f"folder-{number}",
                    CellResult(
                        job_id=draw(st.sampled_from([f"j{index}", f"k{number}{index}"])),
                        name=f"s/{','.join(f'{k}={v}' for k, v in cell.items())}",
                        cell=cell,
                        state=state,
                        metrics={"accuracy": value} if state == "succeeded" else {},
                        index=draw(st.sampled_from([index, None])),
                    ),
                    Run(ended_s=draw(st.sampled_from([None, 1.0, 2.0]))),
                )
            )
        made.append(copies)
    return made


def settled(parts):
    return settle(functools.reduce(union, map(copies_of, parts), {}))


@FEW
@given(folders(), st.randoms(use_true_random=False))
def test_the_order_of_folders_changes_nothing(parts, shuffler: random.Random) -> None:
    shuffled = [list(part) for part in parts]
    shuffler.shuffle(shuffled)
    for part in shuffled:
        shuffler.shuffle(part)
    one, other = settled(parts), settled(shuffled)
    assert one == other
    assert merge([c.cell for c in one.kept], SPEC) == merge([c.cell for c in other.kept], SPEC)


@FEW
@given(folders(), folders(), folders())
def test_union_is_associative_and_the_same_twice_is_once(one, two, three) -> None:
    a, b, c = (copies_of([copy for part in parts for copy in part]) for parts in (one, two, three))
    assert settle(union(union(a, b), c)) == settle(union(a, union(b, c)))
    assert settle(union(a, b)) == settle(union(b, a))
    assert settle(union(a, a)) == settle(a)


@FEW
@given(folders())
def test_each_cell_counts_once_with_a_value_that_a_folder_has(parts) -> None:
    copies = [copy for part in parts for copy in part]
    found = settled(parts)
    keys = [cell_key(copy.cell) for copy in found.kept]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {cell_key(copy.cell) for copy in copies}
    table = merge([copy.cell for copy in found.kept], SPEC)
    assert sum(row.expected for row in table.rows) == len(keys)
    assert sum(row.n for row in table.rows) == len(
        {cell_key(c.cell) for c in copies if c.cell.state == "succeeded"}
    )
    for copy in found.kept:
        same = [other for other in copies if cell_key(other.cell) == cell_key(copy.cell)]
        assert copy.cell.metrics in [other.cell.metrics for other in same]
        if copy.cell.state == "succeeded":
            ended = [o.run.ended_s or -1 for o in same if o.cell.state == "succeeded"]
            assert (copy.run.ended_s or -1) == max(ended), "the newest that succeeded is kept"
    for twice in found.twice:
        told = {copy.source for copy in (twice.kept, *twice.left_out)}
        same = {c.source for c in copies if cell_key(c.cell) == cell_key(twice.kept.cell)}
        assert told == same


@FEW
@given(folders())
def test_what_differs_at_one_time_is_a_contradiction(parts) -> None:
    for twice in settled(parts).twice:
        best = [
            copy
            for copy in (twice.kept, *twice.left_out)
            if copy.cell.state == twice.kept.cell.state == "succeeded"
            and copy.run.ended_s == twice.kept.run.ended_s
        ]
        if twice.verdict is Verdict.SAME:
            assert all(c.cell.metrics == twice.kept.cell.metrics for c in twice.left_out)
        if len({str(copy.cell.metrics) for copy in best}) > 1:
            assert twice.verdict in (Verdict.CONTRADICTION, Verdict.ONLY_ONE_SUCCEEDED)


# --- intervals --------------------------------------------------------------------------


@FEW
@given(st.floats(0.5, 1e5), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999]))
def test_t_is_scipys(freedom, confidence) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert t_critical(freedom, confidence) == pytest.approx(expected, rel=1e-7)


values = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=9)


@FEW
@given(values)
def test_intervals_of_rows_are_scipys(found) -> None:
    stats = pytest.importorskip("scipy.stats")
    cells = [
        CellResult(f"j{i}", f"s/{i}", {"fold": i}, "", "succeeded", {"accuracy": v}, index=i)
        for i, v in enumerate(found)
    ]
    (row,) = merge(cells, SPEC).rows
    sem = stats.sem(found)
    if sem < 1e-9:
        assert row.half_width == pytest.approx(0, abs=1e-6)
        return
    low, high = stats.t.interval(0.95, len(found) - 1, loc=sum(found) / len(found), scale=sem)
    assert row.mean - row.half_width == pytest.approx(low, rel=1e-7, abs=1e-7)
    assert row.mean + row.half_width == pytest.approx(high, rel=1e-7, abs=1e-7)


@FEW
@given(values, values)
def test_welch_is_scipys(one, other) -> None:
    stats = pytest.importorskip("scipy.stats")
    numpy = pytest.importorskip("numpy")
    spreads = numpy.std(one, ddof=1), numpy.std(other, ddof=1)
    if min(spreads) < 1e-6:
        return
    interval = stats.ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
    half = welch(spreads[0], len(one), spreads[1], len(other))
    assert half == pytest.approx((interval.high - interval.low) / 2, rel=1e-6)


# --- comparisons ------------------------------------------------------------------------


def sweep(name: str, found: dict[int, float]) -> SweepResults:
    cells = tuple(
        CellResult(f"{name}{i}", f"{name}/fold={fold}", {"fold": fold}, "", "succeeded",
                   {"accuracy": value}, index=i)
        for i, (fold, value) in enumerate(found.items())
    )  # fmt: skip
    return SweepResults(name, SPEC, cells)


by_fold = st.dictionaries(st.integers(0, 6), st.floats(0, 1).map(lambda x: round(x, 3)), min_size=1)


@FEW
@given(by_fold, by_fold)
def test_paired_differences_are_scipys_and_turn_with_the_sides(one, other) -> None:
    stats = pytest.importorskip("scipy.stats")
    there = compare(sweep("a", one), sweep("b", other))
    back = compare(sweep("b", other), sweep("a", one))
    (row,), (reverse,) = there.rows, back.rows
    folds = sorted(one.keys() & other.keys())
    assert row.pairs == reverse.pairs == len(folds)
    assert row.difference == pytest.approx(-reverse.difference, abs=1e-12)
    assert row.half_width == (
        None if row.half_width is None else pytest.approx(reverse.half_width, abs=1e-12)
    )
    if folds:
        differences = [other[fold] - one[fold] for fold in folds]
        assert row.difference == pytest.approx(sum(differences) / len(folds), abs=1e-12)
        assert row.one.left_out == len(one) - len(folds)
        assert row.other.left_out == len(other) - len(folds)
        if len(folds) > 1 and max(differences) - min(differences) > 1e-6:
            paired = stats.ttest_rel([other[f] for f in folds], [one[f] for f in folds])
            interval = paired.confidence_interval(0.95)
            assert row.half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-6)
    assert half_width(None, 0) is None
    assert msgspec.json.encode(there)
