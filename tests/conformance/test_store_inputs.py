"""What every job store keeps of data sets that have a name."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from store_records import Reopen

from meshtrain.core.effects import AddInput
from meshtrain.core.named_input import NamedInput
from meshtrain.store.base import Store
from meshtrain.store.failures import StoreRuleError

ONE = NamedInput("pascal5i", 1, "a" * 32, 10, 2, "ada", 1.75e9)
TWO = NamedInput("pascal5i", 2, "b" * 32, 1 << 40, 3, "bob", 1.75e9 + 60)
OTHER = NamedInput("coco20i", 1, "a" * 32)


def test_p1_a_version_that_was_committed_is_known_after_a_crash(
    opened: tuple[Store, Reopen],
) -> None:
    store, reopen = opened
    assert store.load().named_inputs == ()
    store.save([AddInput(ONE), AddInput(OTHER)])
    store.commit()
    store.save([AddInput(TWO)])
    store.commit()
    store.save([AddInput(replace(TWO, version=3, artifact_id="c" * 32))])
    store = reopen(store)
    assert store.load().named_inputs == (ONE, OTHER, TWO)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ONE, artifact_id="c" * 32),
        replace(TWO, artifact_id=ONE.artifact_id),
        replace(TWO, version=0),
        replace(TWO, size_bytes=-1),
        replace(TWO, files_count=-1),
    ],
    ids=["the same version", "the same bytes", "version 0", "a size below 0", "files below 0"],
)
def test_a_broken_rule_leaves_the_last_commit(
    opened: tuple[Store, Reopen], wrong: NamedInput
) -> None:
    store, _ = opened
    store.save([AddInput(ONE)])
    store.commit()
    store.save([AddInput(wrong)])
    with pytest.raises(StoreRuleError):
        store.commit()
    assert store.load().named_inputs == (ONE,)


def test_two_in_one_batch_are_held_to_the_same_rules(opened: tuple[Store, Reopen]) -> None:
    store, _ = opened
    with pytest.raises(StoreRuleError):
        store.save([AddInput(ONE), AddInput(ONE)])
    store.save([AddInput(ONE), AddInput(replace(TWO, artifact_id=ONE.artifact_id))])
    with pytest.raises(StoreRuleError):
        store.commit()
    assert store.load().named_inputs == ()
