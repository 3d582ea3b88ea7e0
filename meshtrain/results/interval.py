"""The confidence interval of a mean, by Student's t.

For n values with mean m and sample standard deviation s it is
m ± t(n - 1) · s / √n, where t(n - 1) is what Student's t with n - 1 degrees of
freedom stays below in size with the wanted probability.

Sources: Student, The probable error of a mean, Biometrika 6 (1908); NIST/SEMATECH
e-Handbook of Statistical Methods, 1.3.5.2. The difference of two means whose
spreads differ: B. L. Welch, Biometrika 34 (1947).

It holds for values that are independent. The folds of one cross-validation share
training data, so their interval is narrower than it should be (Bengio and
Grandvalet, JMLR 5, 2004).
"""

from __future__ import annotations

import functools
import math

CONFIDENCE = 0.95
"""The probability that intervals are made for."""
FRACTION_STEPS_MAX = 20_000
BISECTIONS_MAX = 200
_TINY = 1e-300


def half_width(std: float | None, n: int, *, confidence: float = CONFIDENCE) -> float | None:
    """Half the width of the interval of the mean of `n` values; None for fewer than two.

    Args:
        std: their sample standard deviation (n - 1).
        n: how many values there are.
        confidence: the probability, between 0 and 1.
    """
    if std is None or n < 2:
        return None
    half = t_critical(n - 1, confidence) * (std / math.sqrt(n))
    return half if math.isfinite(half) else None


def welch(
    one_std: float, one_n: int, other_std: float, other_n: int, *, confidence: float = CONFIDENCE
) -> float | None:
    """Half the width of the interval of a difference of two means of unpaired values.

    None where one of them has fewer than two values.
    """
    if one_n < 2 or other_n < 2:
        return None
    one, other = one_std * (one_std / one_n), other_std * (other_std / other_n)
    total = one + other
    if total == 0 or not math.isfinite(total):
        return 0.0 if total == 0 else None
    # Shares of the whole: squares of tiny variances would become 0.
    freedom = 1 / ((one / total) ** 2 / (one_n - 1) + (other / total) ** 2 / (other_n - 1))
    return t_critical(freedom, confidence) * math.sqrt(total)


@functools.lru_cache(maxsize=4096)
def t_critical(freedom: float, confidence: float = CONFIDENCE) -> float:
    """What |T| stays below with that probability, for T of Student's t.

    Args:
        freedom: degrees of freedom, above 0.
        confidence: the probability, between 0 and 1.

    Raises ValueError outside of these.
    """
    if not (freedom > 0 and math.isfinite(freedom) and 0 < confidence < 1):
        raise ValueError(f"no t for {freedom} degrees of freedom at {confidence}")
    low, high = 0.0, 1.0
    while within(high, freedom) < confidence and high < 1e150:
        low, high = high, high * 2
    for _ in range(BISECTIONS_MAX):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def within(t: float, freedom: float) -> float:
    """The probability that |T| is below `t`, which is 0 or more.

    That is I_y(1/2, freedom/2) with y = t²/(freedom + t²): DLMF 8.17.
    """
    square = t * t
    whole = freedom + square
    return _incomplete_beta(0.5, freedom / 2, square / whole, freedom / whole)


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    `rest` is 1 - x: told apart, since 1 - x loses the digits that count near 1.
    """
    if x <= 0:
        return 0.0
    if rest <= 0:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        # Its continued fraction converges fast on one side only: DLMF 8.17.4.
        return 1 - _incomplete_beta(b, a, rest, x)
    log_factor = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    )
    return math.exp(log_factor) * _continued_fraction(a, b, x) / a


def _continued_fraction(a: float, b: float, x: float) -> float:
    """The fraction of DLMF 8.17.22 by Lentz's method as Thompson and Barnett changed it."""
    c = 1.0
    d = 1 / _not_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, FRACTION_STEPS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for coefficient in (even, odd):
            d = 1 / _not_zero(1 + coefficient * d)
            c = _not_zero(1 + coefficient / c)
            change = c * d
            result *= change
        if abs(change - 1) < 1e-15:
            break
    return result


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
