"""Metrics as they come, and the charts that are drawn of them."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain_tui.metrics import series as series_module
from meshtrain_tui.metrics.chart import LABEL_WIDTH, chart, number
from meshtrain_tui.metrics.series import POINTS_MAX, MetricSeries, Point, Series

FEW = settings(max_examples=60, deadline=None)
VALUES = st.floats(allow_nan=False, allow_infinity=False)


@FEW
@given(st.lists(st.tuples(st.integers(0, 99), st.floats(-1e6, 1e6)), max_size=40), st.data())
def test_pieces_of_any_size_make_the_same_series(
    values: list[tuple[int, float]], cuts: st.DataObject
) -> None:
    data = b"".join(json.dumps({"step": x, "loss": y}).encode() + b"\n" for x, y in values)
    metrics = MetricSeries()
    at = 0
    while at < len(data):
        size = cuts.draw(st.integers(1, 200))
        metrics.feed(data[at : at + size])
        at += size
    points = list(metrics.series["loss"].points()) if values else []
    assert points == [Point(float(x), y, y, y) for x, y in values]
    assert metrics.lines == len(values)


@FEW
@given(st.lists(VALUES, min_size=1, max_size=50))
def test_a_series_that_is_thinned_keeps_its_extremes(values: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series_module, "POINTS_MAX", 8)
        series = Series("loss")
        for x, value in enumerate(values):
            series.add(float(x), value)
        points = list(series.points())
        assert len(points) <= 8
        assert min(p.low for p in points) == min(values)
        assert max(p.high for p in points) == max(values)
        assert all(p.low <= p.high and math.isfinite(p.mean) for p in points)
        assert [p.x for p in points] == sorted(p.x for p in points)
        assert points[-1].x == len(values) - 1
        assert series.count == len(values)
        assert series.last == values[-1]


def test_whatever_a_program_writes_is_met() -> None:
    metrics = MetricSeries()
    metrics.feed(b'{"epoch": 1, "loss": 0.5, "val": {"acc": 0.25}, "ok": true, "note": "x"}\n')
    metrics.feed(b'no json\n[1]\n\n{"epoch": 2, "loss": NaN}\n{"epoch": 3, "loss": 1e999}\n')
    metrics.feed(b"x" * (series_module.LINE_BYTES_MAX + 9))
    metrics.feed(
        b'y\n{"epoch": 4, "loss": 0.25, "big": ' + b"9" * 400 + b"}\n" + b"[" * 50_000 + b"\n"
    )
    assert metrics.bad_lines == 4
    assert metrics.x_name == "epoch"
    loss, acc, big = (metrics.series[name] for name in ("loss", "val.acc", "big"))
    assert [(p.x, p.mean) for p in loss.points()] == [(1.0, 0.5), (4.0, 0.25)]
    assert loss.odd == 2
    assert [(p.x, p.mean) for p in acc.points()] == [(1.0, 0.25)]
    assert (big.odd, len(big)) == (1, 0)
    assert set(metrics.series) == {"loss", "val.acc", "big"}
    many = MetricSeries()
    many.feed(json.dumps({f"m{index}": 1 for index in range(500)}).encode() + b"\n")
    assert len(many.series) == series_module.SERIES_MAX
    assert many.left_out
    assert [p.x for p in many.series["m0"].points()] == [1.0], "lines are counted"


def test_when_a_line_was_written_is_no_metric() -> None:
    metrics = MetricSeries()
    metrics.feed(b'{"epoch": 1, "time": 1795274259.5, "timestamp": 3, "seconds": 0.5}\n')
    assert set(metrics.series) == {"seconds"}


def test_a_long_training_takes_no_more_memory() -> None:
    series = Series("loss")
    for step in range(3 * POINTS_MAX):
        series.add(float(step), 1.0 / (step + 1))
    assert len(series) <= POINTS_MAX
    assert next(iter(series.points())).high == 1.0


def dots(rows: list[str]) -> int:
    return sum(
        bin(ord(cell) - 0x2800).count("1")
        for row in rows
        for cell in row
        if cell >= "⠀" and cell <= "⣿"
    )


@FEW
@given(
    st.lists(st.tuples(VALUES, VALUES), max_size=20),
    st.integers(0, 40),
    st.integers(0, 8),
    st.booleans(),
    st.booleans(),
)
def test_a_chart_has_its_size_whatever_is_drawn(
    values: list[tuple[float, float]], width: int, height: int, log_x: bool, log_y: bool
) -> None:
    points = [Point(x, y, y, y) for x, y in values]
    drawn = chart(points, width, height, log_x=log_x, log_y=log_y)
    assert len(drawn.rows) == height
    assert all(len(row) == width for row in drawn.rows)
    left_out = [p for p in points if (log_x and p.x <= 0) or (log_y and p.low <= 0)]
    assert drawn.left_out == len(left_out)
    if width >= 14 and height >= 2:
        assert bool(dots(drawn.rows)) == (len(left_out) < len(points))


def test_a_line_goes_from_corner_to_corner() -> None:
    drawn = chart([Point(0, 0, 0, 0), Point(10, 1, 1, 1)], 14, 3)
    assert drawn.rows[0].startswith("        1┤")
    assert drawn.rows[1].startswith("        0┤")
    assert drawn.rows[2].split() == ["0", "10"]
    top, low = drawn.rows[0][10:], drawn.rows[1][10:]
    assert top[-1] != " "
    assert low[0] != " "
    assert top[0] == " "
    assert low[-1] == " "


def test_a_logarithmic_axis_draws_powers_of_ten_as_a_straight_line() -> None:
    points = [Point(x, 10.0**x, 10.0**x, 10.0**x) for x in range(5)]
    straight = chart([Point(x, x, x, x) for x in range(5)], 40, 9).rows
    logged = chart(points, 40, 9, log_y=True).rows
    assert [row[10:] for row in logged[:-1]] == [row[10:] for row in straight[:-1]]
    assert logged != chart(points, 40, 9).rows


@FEW
@given(st.floats(-1e300, 1e300))
def test_a_number_fits_its_label(value: float) -> None:
    text = number(value)
    assert len(text) <= LABEL_WIDTH
    near = 0.05 if abs(value) >= 1e99 or abs(value) < 1e-98 else 0.006
    assert float(text.replace(",", "")) == pytest.approx(value, rel=near, abs=1e-323)
