"""The interval against printed tables; the property tests hold it against scipy."""

import math

import pytest

from meshtrain.results.interval import half_width, t_critical, welch, within

# NIST/SEMATECH e-Handbook, 1.3.6.7.2: upper critical values, 0.975 one-sided.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 19: 2.093,
         30: 2.042, 60: 2.000, 100: 1.984}  # fmt: skip


@pytest.mark.parametrize(("freedom", "critical"), TABLE.items())
def test_t_is_the_tables(freedom: int, critical: float) -> None:
    assert t_critical(freedom) == pytest.approx(critical, abs=5e-4)


def test_t_of_99_percent() -> None:
    assert t_critical(4, 0.99) == pytest.approx(4.604, abs=5e-4)
    assert t_critical(1, 0.99) == pytest.approx(63.657, abs=5e-4)


def test_many_degrees_are_the_normal_distribution() -> None:
    assert t_critical(1_000_000) == pytest.approx(1.959964, abs=1e-5)


def test_one_degree_is_cauchys() -> None:
    for t in (0.1, 1.0, 7.0, 1e4):
        assert within(t, 1) == pytest.approx(2 * math.atan(t) / math.pi, rel=1e-12)


def test_a_worked_example() -> None:
    # Three folds: t(2) = 4.303, s = 0.02, so 4.303 · 0.02 / √3.
    assert half_width(0.02, 3) == pytest.approx(0.049682, abs=1e-6)


def test_too_few_values_have_no_interval() -> None:
    assert half_width(None, 1) is None
    assert half_width(0.1, 1) is None
    assert half_width(0.1, 0) is None
    assert welch(0.1, 1, 0.1, 5) is None
    assert half_width(1e308, 2) is None


def test_no_spread_is_an_interval_of_nothing() -> None:
    assert half_width(0.0, 3) == 0
    assert welch(0.0, 3, 0.0, 2) == 0


def test_welch_of_tiny_and_huge_spreads_is_a_number() -> None:
    assert welch(1e-200, 3, 1e-200, 3) is not None
    assert welch(1e300, 3, 1e300, 3) is None
    lopsided = welch(1.0, 5, 1e-9, 50)
    assert lopsided == pytest.approx(half_width(1.0, 5), rel=1e-6)


@pytest.mark.parametrize("freedom", [0, -1, math.nan, math.inf])
def test_no_t_without_degrees_of_freedom(freedom: float) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        t_critical(freedom)
