"""The stores that the tests here are run with: one in memory, one in SQLite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtrain.store.base import Store
from meshtrain.store.memory import MemoryStore
from meshtrain.store.sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parent))

from store_records import Bench, Reopen


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A store of each kind."""
    made = Bench(request.param, tmp_path / "state")
    yield made
    made.store.close()


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Reopen]]:
    """A store, and what gives it again as after a crash."""
    living: list[Store] = []

    def open_again(before: Store | None) -> Store:
        if isinstance(before, MemoryStore):
            store: Store = before.reopened()
        elif request.param == "memory":
            store = MemoryStore()
        else:
            if before is not None:
                before.close()
            store = SqliteStore(tmp_path / "state")
        living.append(store)
        return store

    yield open_again(None), open_again
    living[-1].close()
