import math
import random

import pytest

from meshtrain.errors import NotFoundError
from meshtrain.results.axes import axis_key, ordered_keys
from meshtrain.results.merge import (
    CellResult,
    cell_result,
    higher_is_better,
    merge,
    rows_within_spread_of_best,
)
from meshtrain.results.metrics import Metrics
from meshtrain.spec.jobs import CommandWork, JobSpec, ResultsSpec

OVER_FOLD = ResultsSpec(metric="accuracy", over=("fold",))


def done(index: int, cell: dict[str, object], value: float, group: str = "") -> CellResult:
    name = "s/" + ",".join(f"{axis}={scalar}" for axis, scalar in cell.items())
    return CellResult(
        f"j{index}", name, dict(cell), group, "succeeded", {"accuracy": value}, index=index
    )


def sweep() -> list[CellResult]:
    cells = [
        done(3 * i + fold, {"share": share, "fold": fold}, share + fold / 100)
        for i, share in enumerate([0.5, 0.1])
        for fold in range(3)
    ]
    return [*cells, *(done(6 + f, {"fold": f}, 0.3 + f / 10, "base alone") for f in range(3))]


def test_mean_sample_std_and_counts() -> None:
    table = merge(sweep(), OVER_FOLD)
    assert table.axes == ("share",)
    assert table.over == ("fold",)
    assert [row.axes for row in table.rows] == [{"share": 0.5}, {"share": 0.1}]
    first = table.rows[0]
    assert first.mean == pytest.approx(0.51)
    assert first.std == pytest.approx(0.01)
    assert (first.n, first.expected, first.missing) == (3, 3, ())
    (reference,) = table.references
    assert (reference.group, reference.axes, reference.mean) == ("base alone", {}, 0.4)
    assert table.best == 0


def test_a_single_value_has_no_std() -> None:
    (row,) = merge([done(0, {"lr": 1}, 0.5)], ResultsSpec()).rows
    assert (row.mean, row.std, row.n) == (0.5, None, 1)


def test_missing_cells_are_named_and_not_averaged() -> None:
    cells = sweep()
    cells[0] = CellResult("j0", "s/a", cells[0].cell, state="failed", reason="boom", index=0)
    cells[1] = CellResult("j1", "s/b", cells[1].cell, state="waiting", index=1)
    cells[2] = CellResult(
        "j2",
        "s/c",
        cells[2].cell,
        state="succeeded",
        metrics={"loss": 1.0},
        absent={"accuracy": "accuracy is NaN"},
        index=2,
    )
    row = merge(cells, OVER_FOLD).rows[0]
    assert (row.mean, row.std, row.n, row.expected) == (None, None, 0, 3)
    assert [(c.name, c.state, c.reason) for c in row.missing] == [
        ("s/a", "failed", "boom"),
        ("s/b", "waiting", "waiting"),
        ("s/c", "no value", "accuracy is NaN"),
    ]


def test_metrics_of_a_job_that_did_not_succeed_do_not_count() -> None:
    running = CellResult("a", "s/a", {"lr": 1}, state="running", metrics={"accuracy": 0.9})
    (row,) = merge([running], ResultsSpec()).rows
    assert (row.n, row.missing[0].state) == (0, "running")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_missing(value: float) -> None:
    (row,) = merge([done(0, {"lr": 1}, value), done(1, {"lr": 1}, 0.5)], ResultsSpec()).rows
    assert (row.mean, row.n, row.expected) == (0.5, 1, 2)


def test_huge_values_do_not_overflow() -> None:
    cells = [done(i, {}, value) for i, value in enumerate([1.7e308, -1.7e308, 1.7e308])]
    (row,) = merge(cells, ResultsSpec()).rows
    assert row.mean is not None
    assert math.isfinite(row.mean)


def test_no_cells_is_an_empty_table() -> None:
    table = merge([], OVER_FOLD, by=["share"])
    assert (table.rows, table.references, table.best) == ((), (), None)


def test_by_chooses_the_rows() -> None:
    table = merge(sweep(), OVER_FOLD, by=["fold"])
    assert [row.axes for row in table.rows] == [{"fold": 0}, {"fold": 1}, {"fold": 2}]
    assert table.over == ("share",)
    assert [row.axes for row in table.references] == [{"fold": 0}, {"fold": 1}, {"fold": 2}]


def test_an_unknown_axis_in_by_lists_the_axes() -> None:
    with pytest.raises(NotFoundError, match="no axis lr in this sweep; its axes are share, fold"):
        merge(sweep(), OVER_FOLD, by=["lr"])


def test_an_unknown_axis_in_over_is_noted() -> None:
    table = merge(sweep(), ResultsSpec(over=("fold", "seed")))
    assert table.notes == ("results.over names seed, which is no axis of this sweep",)


def test_the_default_metric_is_the_one_most_cells_have() -> None:
    def cell(i: int, *names: str) -> CellResult:
        metrics = dict.fromkeys(names, 1.0)
        return CellResult(f"{i}", f"s/{i}", {"i": i}, "", "succeeded", metrics, index=i)

    table = merge([cell(0, "b", "a"), cell(1, "a"), cell(2, "c")], ResultsSpec())
    assert table.metric == "a"
    assert merge([cell(0, "epoch", "miou")], ResultsSpec()).metric == "miou"
    assert merge([cell(0, "epoch")], ResultsSpec()).metric == "epoch"
    assert merge([cell(0, "b", "a")], ResultsSpec()).metric == "b"


def test_a_short_name_is_resolved_once_for_all_cells() -> None:
    one = CellResult("a", "s/a", {"i": 0}, "", "succeeded", {"val.miou": 1.0})
    other = CellResult("b", "s/b", {"i": 1}, "", "succeeded", {"test.miou": 9.0})
    assert merge([one], ResultsSpec(metric="miou")).metric == "val.miou"
    table = merge([one, other], ResultsSpec(metric="miou"))
    assert [row.n for row in table.rows] == [0, 0]
    assert "test.miou or val.miou" in table.rows[0].missing[0].reason
    assert "test.miou or val.miou" in table.notes[0]


def test_a_metric_that_no_cell_has_leaves_gaps() -> None:
    table = merge(sweep(), OVER_FOLD, metric="acuracy")
    assert all(row.n == 0 for row in table.rows)
    assert table.rows[0].missing[0].reason == "no acuracy; did you mean accuracy?"


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("accuracy", True),
        ("val.miou", True),
        ("val_loss", False),
        ("valLoss", False),
        ("test.RMSE", False),
        ("error_rate", False),
        ("glossary", True),
    ],
)
def test_direction_by_name(metric: str, higher: bool) -> None:
    assert higher_is_better(metric) is higher


def test_direction_can_be_overridden() -> None:
    assert merge(sweep(), OVER_FOLD, higher_better=False).best == 1


def test_one_and_true_and_text_are_different_values() -> None:
    values: list[object] = [1, True, "1", None, 1.0]
    table = merge([done(i, {"x": v}, 0.1 * i) for i, v in enumerate(values)], ResultsSpec())
    assert [row.n for row in table.rows] == [2, 1, 1, 1]


def test_values_no_json_number_can_hold_become_text() -> None:
    cells = [done(0, {"x": 2**70}, 1.0), done(1, {"x": ["a", {"b": 1}]}, 2.0)]
    rows = merge(cells, ResultsSpec()).rows
    assert [row.axes["x"] for row in rows] == [str(2**70), '["a", {"b": 1}]']


def test_an_axis_that_some_cells_lack_stands_last() -> None:
    table = merge([done(0, {"a": 1}, 0.1), done(1, {"a": 1, "b": 2}, 0.2)], ResultsSpec())
    assert [row.axes for row in table.rows] == [{"a": 1, "b": 2}, {"a": 1}]


def test_excluded_cells_do_not_hide_the_order_of_an_axis() -> None:
    cells = [{"a": a, "b": b} for a in ("x", "y") for b in ("low", "mid", "high")]
    keys = ordered_keys(cells[1:], "b", in_sweep_order=True)
    assert keys == [axis_key({"b": b}, "b") for b in ("low", "mid", "high")]


def test_contradicting_order_falls_back_to_the_first_seen() -> None:
    cells = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 2, "b": 1}]
    assert [key.text for key in ordered_keys(cells, "b", in_sweep_order=True)] == ["1.0", "2.0"]


def test_without_an_index_values_are_sorted_naturally() -> None:
    cells = [
        CellResult(str(i), f"s/{name}", {"p": name}) for i, name in enumerate(["p10", "p9", "p1"])
    ]
    assert [row.axes["p"] for row in merge(cells, ResultsSpec()).rows] == ["p1", "p9", "p10"]


def test_a_job_told_twice_counts_once() -> None:
    cells = sweep()
    stale = CellResult("j0", "s/old", cells[0].cell, state="running", index=0)
    expected = merge(cells, OVER_FOLD)
    assert merge([stale, *cells], OVER_FOLD) == expected
    assert merge([*cells, stale], OVER_FOLD) == expected


def test_references_with_axes_of_their_own_get_rows_of_their_own() -> None:
    cells = [done(i, {"dataset": d, "lr": 1}, 0.5) for i, d in enumerate("ab")]
    cells += [done(2 + i, {"dataset": d}, 0.1 * i, "base") for i, d in enumerate("ab")]
    table = merge(cells, ResultsSpec())
    assert [(row.group, row.axes) for row in table.references] == [
        ("base", {"dataset": "a"}),
        ("base", {"dataset": "b"}),
    ]


def test_the_order_of_jobs_does_not_matter() -> None:
    cells = sweep()
    expected = merge(cells, OVER_FOLD)
    for seed in range(5):
        random.Random(seed).shuffle(cells)
        assert merge(cells, OVER_FOLD) == expected


def test_rows_within_the_spread_of_the_best() -> None:
    cells = [
        done(4 * i + k, {"x": x}, mean + (k - 1) * 0.1)
        for i, (x, mean) in enumerate([("a", 0.9), ("b", 0.85), ("c", 0.2)])
        for k in range(3)
    ]
    assert rows_within_spread_of_best(merge(cells, ResultsSpec(metric="accuracy"))) == 1


def test_cell_result_of_a_job() -> None:
    job = JobSpec("id", "s/lr=1", {"lr": 1}, CommandWork("true"), group="base alone")
    metrics = Metrics(absent={"x": "x is NaN"}, reason="")
    cell = cell_result(job, "succeeded", metrics, index=4)
    assert (cell.job_id, cell.group, cell.index, cell.absent) == (
        "id",
        "base alone",
        4,
        {"x": "x is NaN"},
    )
    assert cell_result(job, "succeeded", Metrics(reason="gone"), index=0).reason == "gone"
