"""Folds part the samples evenly, whatever their order; shares are nested."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.training.data import Participant, in_canonical_order, keep_share, split_folds


def participant_of(labels: list[int]) -> Participant:
    x = np.arange(len(labels), dtype=np.float32).reshape(-1, 1)
    return Participant("p", x, np.array(labels, dtype=np.int64))


labels = st.lists(st.integers(0, 5), min_size=12, max_size=80)


@given(labels=labels, folds=st.integers(2, 6))
def test_every_sample_is_tested_in_exactly_one_fold(labels: list[int], folds: int) -> None:
    whole = participant_of(labels)
    tested: list[float] = []
    sizes = []
    for fold in range(folds):
        split = split_folds(whole, fold=fold, folds=folds)
        assert not set(split.train.x.ravel()) & set(split.test.x.ravel())
        assert split.train.y.size + split.test.y.size == len(labels)
        tested += split.test.x.ravel().tolist()
        sizes.append(split.test.y.size)
    assert sorted(tested) == whole.x.ravel().tolist()
    assert max(sizes) - min(sizes) <= 1


@given(labels=labels, folds=st.integers(2, 6))
def test_folds_hold_each_class_evenly(labels: list[int], folds: int) -> None:
    whole = participant_of(labels)
    tests = [split_folds(whole, fold=fold, folds=folds).test for fold in range(folds)]
    for label in set(labels):
        counts = [int((test.y == label).sum()) for test in tests]
        assert max(counts) - min(counts) <= 1


@given(labels=labels, shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_a_larger_share_holds_the_smaller(labels: list[int], shares: tuple[float, float]) -> None:
    whole = participant_of(labels)
    smaller, larger = (keep_share(whole, share) for share in sorted(shares))
    assert set(smaller.x.ravel()) <= set(larger.x.ravel())


@given(labels=labels, share=st.floats(0.01, 1))
def test_a_share_is_stratified_and_has_every_class(labels: list[int], share: float) -> None:
    whole = participant_of(labels)
    kept = keep_share(whole, share)
    classes = set(labels)
    assert set(kept.y.tolist()) == classes
    assert kept.y.size == min(len(labels), max(round(share * len(labels)), len(classes)))
    if kept.y.size > 2 * len(classes):
        for label in classes:
            due = labels.count(label) * kept.y.size / len(labels)
            assert int((kept.y == label).sum()) >= int(due) - 1


@given(labels=labels, order=st.randoms(use_true_random=False))
def test_canonical_order_forgets_the_order_of_the_file(labels: list[int], order) -> None:
    whole = participant_of(labels)
    positions = list(range(len(labels)))
    order.shuffle(positions)
    shuffled = whole.take(np.array(positions, dtype=np.int64))
    np.testing.assert_array_equal(in_canonical_order(whole).x, in_canonical_order(shuffled).x)
