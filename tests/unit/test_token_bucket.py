"""No more than a rate goes out, whoever sends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core.token_bucket import TokenBucket


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    bucket = TokenBucket(1000.0, burst_s=0.5)
    assert bucket.delay_s(500, 10.0) == 0.0
    assert bucket.delay_s(1000, 10.0) == pytest.approx(1.0)
    # Another one waits behind it.
    assert bucket.delay_s(1000, 10.5) == pytest.approx(1.5)


def test_a_rest_saves_no_more_than_a_burst() -> None:
    bucket = TokenBucket(1000.0, burst_s=0.5)
    bucket.delay_s(500, 0.0)
    assert bucket.delay_s(1500, 1000.0) == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 3)), min_size=1, max_size=50))
def test_over_any_time_no_more_than_the_rate_and_a_burst_goes_out(
    sends: list[tuple[int, float]],
) -> None:
    bucket = TokenBucket(1000.0, burst_s=0.5)
    now_s, sent = 0.0, []
    for size_bytes, rest_s in sends:
        now_s += rest_s
        sent.append((now_s + bucket.delay_s(size_bytes, now_s), size_bytes))
    for first, (begun_s, _) in enumerate(sent):
        total_bytes = 0
        for at_s, size_bytes in sent[first + 1 :]:
            total_bytes += size_bytes
            assert total_bytes <= 1000.0 * (at_s - begun_s + 0.5) + 1e-6
