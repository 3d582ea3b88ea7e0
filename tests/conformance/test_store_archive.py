"""What every job store keeps of archives: whose they are, what goes there, what has gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from store_records import Reopen

from meshtrain.store.base import ArchiveEntry, ArchiveState, Store
from meshtrain.store.failures import StoreRuleError

TARGET = "s3://lab/mesh"
RESULT = ArchiveEntry("results/s/c/j1.1", "a" * 32, "j1", ArchiveState.QUEUED, 10)
BASE = ArchiveEntry("bases/r0/1", "b" * 32, "r0", ArchiveState.QUEUED, 20)


def test_an_archive_that_never_was_has_no_mark_and_nothing_in_it(
    opened: tuple[Store, Reopen],
) -> None:
    store, _ = opened
    assert store.archive_mark(TARGET) is None
    assert store.archive_entries(TARGET) == ()


def test_p1_what_is_queued_and_what_is_done_is_known_after_a_crash(
    opened: tuple[Store, Reopen],
) -> None:
    store, reopen = opened
    store.mark_archive(TARGET, "word")
    store.save_archived(TARGET, [RESULT, BASE])
    store.commit()
    store.save_archived(TARGET, [replace(RESULT, state=ArchiveState.DONE)])
    store.commit()
    store.save_archived(TARGET, [replace(BASE, state=ArchiveState.DONE)])
    store = reopen(store)
    assert store.archive_mark(TARGET) == "word"
    assert store.archive_entries(TARGET) == (replace(RESULT, state=ArchiveState.DONE), BASE)


def test_each_archive_has_its_own(opened: tuple[Store, Reopen]) -> None:
    store, reopen = opened
    other = "/mnt/share/mesh"
    store.mark_archive(TARGET, "word")
    store.mark_archive(other, "other word")
    store.save_archived(TARGET, [replace(BASE, state=ArchiveState.DONE)])
    store.save_archived(other, [BASE])
    store.commit()
    store = reopen(store)
    assert store.archive_mark(other) == "other word"
    assert store.archive_entries(other) == (BASE,)
    assert store.archive_entries(TARGET) == (replace(BASE, state=ArchiveState.DONE),)


def test_what_was_lost_may_be_queued_again(opened: tuple[Store, Reopen]) -> None:
    store, _ = opened
    store.mark_archive(TARGET, "word")
    store.save_archived(TARGET, [replace(BASE, state=ArchiveState.LOST)])
    store.commit()
    store.save_archived(TARGET, [BASE])
    store.commit()
    assert store.archive_entries(TARGET) == (BASE,)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda store: store.mark_archive(TARGET, "another word"),
        lambda store: store.save_archived("s3://nobody/knows", [BASE]),
        lambda store: store.save_archived(TARGET, [replace(BASE, size_bytes=-1)]),
        lambda store: store.save_archived(TARGET, [RESULT]),
        lambda store: store.save_archived(
            TARGET, [replace(RESULT, state=ArchiveState.DONE, artifact_id="c" * 32)]
        ),
    ],
    ids=["a second mark", "no archive", "a size below 0", "sent again", "another artifact"],
)
def test_a_broken_rule_leaves_the_last_commit(
    opened: tuple[Store, Reopen], wrong: Callable[[Store], None]
) -> None:
    store, _ = opened
    done = replace(RESULT, state=ArchiveState.DONE)
    store.mark_archive(TARGET, "word")
    store.save_archived(TARGET, [done])
    store.commit()
    wrong(store)
    with pytest.raises(StoreRuleError):
        store.commit()
    assert store.archive_mark(TARGET) == "word"
    assert store.archive_entries(TARGET) == (done,)
