"""The mix of a batch is held exactly, and no sample comes twice before all came once."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.training.batches import (
    STEPS_PER_EPOCH_MIN,
    BatchSampler,
    ShuffledPool,
    steps_per_epoch,
)

shares = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0]), st.floats(0.0, 1.0)
)


@given(
    share=shares,
    batch_size=st.integers(1, 200),
    target_samples=st.integers(1, 50),
    base_samples=st.integers(1, 50),
    batches=st.integers(1, 60),
)
def test_running_total_of_target_samples_is_never_off_by_one(
    share: float, batch_size: int, target_samples: int, base_samples: int, batches: int
) -> None:
    sampler = BatchSampler(
        target_samples=target_samples,
        base_samples=base_samples,
        batch_size=batch_size,
        target_share=share,
        seed=7,
    )
    exact_share = Fraction(repr(share))
    given_out = 0
    for made in range(1, batches + 1):
        batch = sampler.next_batch()
        assert batch.target.size + batch.base.size == batch_size
        assert abs(batch.target.size - batch_size * exact_share) < 1
        given_out += batch.target.size
        assert abs(given_out - made * batch_size * exact_share) <= Fraction(1, 2)


@given(
    size=st.integers(1, 40), counts=st.lists(st.integers(0, 90), max_size=20), seed=st.integers(0)
)
def test_a_pool_is_used_up_before_any_sample_comes_again(
    size: int, counts: list[int], seed: int
) -> None:
    pool = ShuffledPool(size, seed)
    drawn: list[int] = []
    for count in counts:
        positions = pool.draw(count)
        assert positions.size == count
        drawn += positions.tolist()
    for start in range(0, len(drawn), size):
        round_of_draws = drawn[start : start + size]
        assert len(set(round_of_draws)) == len(round_of_draws)
        assert set(round_of_draws) <= set(range(size))


@given(share=shares, seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_batches(share: float, seed: int) -> None:
    def made() -> list[list[int]]:
        sampler = BatchSampler(
            target_samples=9, base_samples=20, batch_size=8, target_share=share, seed=seed
        )
        batches = [sampler.next_batch() for _ in range(6)]
        return [[*batch.target.tolist(), -1, *batch.base.tolist()] for batch in batches]

    assert made() == made()


@given(samples=st.integers(1, 10**7), batch_size=st.integers(1, 10**5))
def test_an_epoch_passes_over_every_sample_and_is_never_short(
    samples: int, batch_size: int
) -> None:
    steps = steps_per_epoch(samples, batch_size)
    assert steps * batch_size >= samples
    assert steps >= STEPS_PER_EPOCH_MIN
    assert steps == STEPS_PER_EPOCH_MIN or (steps - 1) * batch_size < samples


def test_over_a_run_all_samples_are_drawn_equally_often() -> None:
    sampler = BatchSampler(
        target_samples=10, base_samples=30, batch_size=8, target_share=0.25, seed=0
    )
    batches = [sampler.next_batch() for _ in range(50)]
    assert set(Counter(np.concatenate([b.target for b in batches]).tolist()).values()) == {10}
    assert set(Counter(np.concatenate([b.base for b in batches]).tolist()).values()) == {10}
