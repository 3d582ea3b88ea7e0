"""What is kept of preparations: never what is used, of the rest what was used last."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from worker_records import assignment

from meshtrain.ids import digest
from meshtrain.spec.jobs import CommandWork, TrainingWork
from meshtrain_daemon.worker.preparation import GONE_PREFIX, Prepared, key_of

A, B, C = (digest(letter) for letter in (b"a", b"b", b"c"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "prepared"


def put(prepared: Prepared, key: str, size_bytes: int, used_s: float, *, done: bool = True) -> None:
    prepared.take(key)
    tree = Path(prepared.tree(key))
    tree.mkdir()
    (tree / "x").write_bytes(b"x" * size_bytes)
    tree.chmod(0o555)
    if done:
        record = b'{"size_bytes":%d,"files_count":1,"took_s":1.0}' % size_bytes
        (Path(prepared.folder(key)) / "done").write_bytes(record)
    os.utime(prepared.folder(key), (used_s, used_s))


def kept(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_only_commands_that_prepare_have_a_key() -> None:
    assert key_of(assignment(work=CommandWork("x"))) is None
    assert key_of(assignment(work=TrainingWork({}))) is None
    key = key_of(assignment(work=CommandWork("x", prepare="y")))
    assert key is not None and len(key) == 32


def test_what_was_unused_longest_goes_first(root: Path) -> None:
    prepared = Prepared(root, 25)
    for key, used_s in ((A, 100.0), (B, 300.0), (C, 200.0)):
        put(prepared, key, 10, used_s)
    assert prepared.trim(tuple) == [A]
    assert kept(root) == {B, C}
    assert prepared.take(C)
    assert Prepared(root, 10).trim(tuple) == [B]


def test_what_an_attempt_uses_or_waits_for_stays(root: Path) -> None:
    prepared = Prepared(root, 0)
    put(prepared, A, 10, 100.0)
    put(prepared, B, 10, 200.0, done=False)
    assert prepared.trim(lambda: {A, B}) == []
    assert sorted(prepared.trim(tuple)) == sorted([A, B])


def test_one_that_somebody_is_at_stays_though_nobody_told_of_it(root: Path) -> None:
    prepared = Prepared(root, 0)
    put(prepared, A, 10, 100.0, done=False)
    with (root / A / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prepared.trim(tuple) == []
    assert prepared.trim(tuple) == [A]


def test_what_a_crash_left_is_cleared_and_what_is_no_preparation_is_left(root: Path) -> None:
    prepared = Prepared(root, 1000)
    assert prepared.trim(tuple) == []
    put(prepared, A, 10, 100.0)
    put(prepared, B, 10, 100.0, done=False)
    (root / f"{GONE_PREFIX}x" / "tree").mkdir(parents=True)
    (root / "notes").mkdir()
    assert prepared.trim(tuple) == [B]
    assert kept(root) == {A, "notes"}


@pytest.mark.parametrize("record", [b"", b"{", b"[" * 100_000, b'{"size_bytes":"x"}', b"\xff"])
def test_p11_a_record_that_makes_no_sense_counts_as_none(root: Path, record: bytes) -> None:
    prepared = Prepared(root, 1000)
    put(prepared, A, 10, 100.0)
    (root / A / "done").write_bytes(record)
    assert not prepared.is_done(A)
    assert not prepared.take(A)
    assert prepared.trim(tuple) == [A]
