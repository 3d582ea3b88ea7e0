"""P11: the inputs that fuzzing starts from, and all that once went wrong, are taken or refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit")]

import fuzz_base  # noqa: E402
from fuzz_all import BY_NAME  # noqa: E402
from fuzz_base import CORPUS, GrowthError, Target, TooSlowError, Watched  # noqa: E402


@pytest.mark.parametrize("name", BY_NAME)
def test_P11_seeds_and_what_once_went_wrong_are_survived(name: str) -> None:
    target = BY_NAME[name]
    run = Watched(target)
    for data in target.seeds():
        run(data)
    for path in target.kept():
        run(path.read_bytes())


@pytest.mark.parametrize("name", BY_NAME)
def test_P11_cut_and_spoilt_seeds_are_survived(name: str) -> None:
    """The nearest neighbours of sound inputs; `make fuzz` goes further."""
    target = BY_NAME[name]
    run = Watched(target)
    for number, data in enumerate(target.seeds()):
        if number >= 12 or not data:
            continue
        place = (number * 7919) % len(data)
        run(data[:place])
        run(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        run(data[:place] + data[place + 1 :])


def test_no_corpus_is_left_over() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(BY_NAME)


def test_a_target_that_is_slow_or_grows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fuzz_base, "INPUT_S_MAX", 0.001)
        with pytest.raises(TooSlowError):
            Watched(_target(lambda data: sum(range(1_000_000))))(b"x")
    kept: list[object] = []
    # What other tests of this process left is freed whenever it likes.
    monkeypatch.setattr(fuzz_base, "_blocks", lambda: len(kept))
    growing = Watched(_target(lambda data: kept.append(object())), runs=20_000)
    with pytest.raises(GrowthError):
        for _ in range(20_000):
            growing(b"x")


def _target(one: object) -> Target:
    return Target("none", one, list, (), share=1.0)  # type: ignore[arg-type]
