import itertools
import json
import math
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from meshtrain.results.compare import compare
from meshtrain.results.compare_text import comparisons_csv, render_comparison
from meshtrain.results.folder import NAME_LEN_MAX, folder_name
from meshtrain.results.merge import CellResult, MergedTable, merge
from meshtrain.results.merged import Merged
from meshtrain.results.metrics import read_metrics
from meshtrain.results.plot_data import plot_data, spread_apart
from meshtrain.results.report import Made, report
from meshtrain.results.rerun import reruns
from meshtrain.results.sweep_results import SweepResults
from meshtrain.results.table import cells_csv, table_csv, table_json
from meshtrain.results.text import render_text
from meshtrain.spec.jobs import ResultsSpec

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
AXES = ("lr", "model", "fold", "a.very.long.axis.name")
STATES = ["waiting", "running", "succeeded", "failed", "cancelled", "odd"]
TEXTS = [
    "",
    "a",
    "fold=2",
    "fold=10",
    "a\nb",
    "\x1b[2J",
    "実験の名前",
    "é" * 40,
    "=1",
    "9" * 30,
    " ",
    ",",
]
texts = st.sampled_from(TEXTS)
scalars = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.1, 0.25, 1.0, 1e-4, math.nan, 2**70]),
    st.booleans(),
    st.none(),
    texts,
    st.just([1, "x"]),
)
values = st.one_of(st.floats(), st.integers(0, 3).map(float))
metrics = st.dictionaries(
    st.sampled_from(["accuracy", "val.accuracy", "loss", ""]), values, max_size=3
)


@st.composite
def sweeps(draw: st.DrawFn) -> list[CellResult]:
    indexed = draw(st.booleans())
    count = draw(st.integers(0, 9))
    return [
        CellResult(
            job_id=str(i),
            name=draw(texts),
            cell=draw(st.dictionaries(st.sampled_from(AXES), scalars, max_size=3)),
            group=draw(st.sampled_from(["", "", "", "base alone", "a b" * 20])),
            state=draw(st.sampled_from([*STATES, "succeeded", "succeeded", "succeeded"])),
            metrics=draw(metrics),
            reason=draw(texts),
            absent=draw(st.sampled_from([{}, {}, {"accuracy": "accuracy is NaN"}, {"x": ""}])),
            index=i if indexed else None,
        )
        for i in range(count)
    ]


specs = st.builds(
    ResultsSpec,
    metric=st.sampled_from([None, "accuracy", "loss", "nothing"]),
    over=st.sampled_from([(), ("fold",), ("fold", "model"), ("absent",)]),
)


@FEW
@given(sweeps(), specs, st.randoms(use_true_random=False))
def test_the_order_of_jobs_changes_nothing(cells, spec, random) -> None:
    before = merge(cells, spec)
    shuffled = list(cells)
    random.shuffle(shuffled)
    assert msgspec.json.encode(merge(shuffled, spec)) == msgspec.json.encode(before)
    assert cells_csv(before, shuffled) == cells_csv(before, cells)


@FEW
@given(sweeps(), specs)
def test_counts_add_up_and_means_stay_in_range(cells, spec) -> None:
    table = merge(cells, spec)
    rows = (*table.rows, *table.references)
    assert sum(row.expected for row in rows) == len(cells)
    assert sum(row.expected for row in table.references) == sum(bool(c.group) for c in cells)
    for row in rows:
        assert row.n + len(row.missing) == row.expected
        assert row.n == len(row.measured)
        assert (row.mean is None) == (row.n == 0)
        assert row.std is None or row.n > 1
        if row.mean is not None:
            found = [cell.value for cell in row.measured]
            assert min(found) <= row.mean <= max(found)
            assert row.std is None or row.std >= 0
        assert all(cell.reason or cell.state for cell in row.missing)
    if table.best is None:
        assert all(row.mean is None for row in table.rows)
    else:
        means = [row.mean for row in table.rows if row.mean is not None]
        best = max(means) if table.higher_is_better else min(means)
        assert table.rows[table.best].mean == best


@FEW
@given(sweeps(), specs)
def test_by_all_axes_or_none_keeps_every_cell(cells, spec) -> None:
    axes = [axis for axis in AXES if any(axis in cell.cell for cell in cells)]
    for by in ([], axes, axes[::-1]):
        table = merge(cells, spec, by=by)
        rows = (*table.rows, *table.references)
        assert sum(row.expected for row in rows) == len(cells)


@FEW
@given(sweeps(), specs, st.integers(60, 140), texts)
def test_no_table_breaks_its_renderings(cells, spec, width, header) -> None:
    table = merge(cells, spec)
    for line in render_text(table, header=header, width=width).split("\n"):
        assert cell_len(line) <= width
        assert line == "" or line.isprintable()
    assert table_csv(table)
    document = msgspec.json.decode(table_json(table))
    assert msgspec.convert(document["table"], MergedTable) == table
    data = plot_data(table)
    assert sum(len(series.rows) for series in data.series) == len(table.rows)


@FEW
@given(sweeps(), sweeps(), specs, st.integers(60, 140), texts)
def test_any_two_sweeps_compare_and_have_a_report(one, other, spec, width, name) -> None:
    """P11"""
    sides = [SweepResults("one", spec, tuple(one)), SweepResults(name, spec, tuple(other))]
    found = compare(*sides)
    for line in render_comparison(found, width=width).split("\n"):
        assert cell_len(line) <= width
        assert line == "" or line.isprintable()
    assert comparisons_csv([found])
    assert msgspec.json.encode(found)
    rows = [row for row in found.rows if row.pairs]
    assert all(row.pairs <= min(row.one.n, row.other.n) for row in rows)
    merged = [Merged(s, t := merge(s.cells, spec), "", (), reruns(s.name, t)) for s in sides]
    text = report(merged, [found], Made(0.0, "0.1.0"))
    assert text.isprintable() or not set("\x00\x1b") & set(text)
    assert text.count("<svg") == text.count("</svg>")
    assert text.count("<table") == text.count("</table>")
    missing = {cell.name for m in merged for row in (*m.table.rows, *m.table.references)
               for cell in row.missing}  # fmt: skip
    assert {name for m in merged for again in m.rerun for name in again.cells} == missing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@FEW
@given(st.one_of(st.binary(max_size=200), json_values), st.sampled_from(["m.json", "m.csv"]))
def test_no_file_crashes_the_reader(content, name) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        found = read_metrics(Path(folder), name)
    assert all(math.isfinite(value) for value in found.values.values())
    assert found.values or found.absent or found.reason
    assert not found.values.keys() & found.absent.keys()


@FEW
@given(st.text(), st.text())
def test_folder_names_are_safe_and_keep_apart(one, other) -> None:
    for name in (one, other):
        made = folder_name(name)
        assert made.isascii()
        assert "/" not in made
        assert not made.startswith(".")
        assert 0 < len(made) <= NAME_LEN_MAX
    assert (folder_name(one) == folder_name(other)) == (one == other)


@FEW
@given(st.lists(st.floats(-1, 2), max_size=12), st.floats(0.01, 0.5))
def test_labels_are_spread_apart_in_order(wanted, gap) -> None:
    placed = spread_apart(wanted, gap, 0.0, 1.0)
    assert len(placed) == len(wanted)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in placed)
    least = min(gap, 1 / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for low, high in itertools.pairwise(order):
        assert placed[high] - placed[low] >= least - 1e-9


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=1))
def test_a_label_with_room_stays(wanted) -> None:
    assert spread_apart(wanted, 0.1, 0.0, 1.0) == pytest.approx(wanted)
