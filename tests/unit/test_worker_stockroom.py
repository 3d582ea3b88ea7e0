"""A node's artifacts on its disk: sizes and last uses, removals, who holds what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from meshtrain.artifacts.cached import cached, note_use
from meshtrain.artifacts.fetch import Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.tree import MANIFEST_NAME
from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactSource
from meshtrain.core.manifest import artifact_id
from meshtrain.core.source_book import KnownSources
from meshtrain.errors import ArtifactError, FetchError
from meshtrain_daemon.worker.aside import DiskWork
from meshtrain_daemon.worker.stockroom import SOURCES_NAME, Stockroom, read_sources

WALL_S = 2e9


class Room:
    """A stockroom over a store, and the events that it posts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = ArtifactStore(home / "artifacts")
        self.posted: list[io.AgentEvent] = []
        self.said: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.stock = Stockroom(
            node_id="n1",
            home=home,
            store=self.store,
            fetcher=None,  # type: ignore[arg-type]
            disk=DiskWork(),
            master_host="127.0.0.1",
            post=self.posted.append,
            spawn=self.spawn,
            say=self.said.append,
        )

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        self.tasks.append(asyncio.create_task(coroutine))
        return self.tasks[-1]

    async def settle(self) -> None:
        while self.tasks:
            await self.tasks.pop(0)

    def add(self, name: str, size_bytes: int, used_s: float) -> str:
        folder = self.home / name
        folder.mkdir()
        (folder / "weights").write_bytes(name.encode() * size_bytes)
        added = artifact_id(self.store.add_tree(folder))
        manifest = self.store.root / "artifacts" / added / MANIFEST_NAME
        os.utime(manifest, (used_s, used_s))
        return added


class Fetches:
    """A fetcher that knows of no fetch before it has begun, as the real one, and fails each."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def add_source(self, artifact_id: str, source: Source) -> bool:
        return False

    async def fetch(self, artifact_id: str, sources: list[Source]) -> None:
        self.asked.append([source.node_id for source in sources])
        raise FetchError("nobody has it")


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_sizes_and_last_uses_are_found_again(room: Room) -> None:
    old = room.add("a", 100, WALL_S - 500)
    new = room.add("b", 7, WALL_S + 500)
    found = {one.artifact_id: one for one in cached(room.store, WALL_S)}
    assert (found[old].size_bytes, found[old].idle_s) == (100, 500.0)
    # A clock that went back makes nothing used in the future.
    assert (found[new].size_bytes, found[new].idle_s) == (7, 0.0)
    room.stock.note_use(old)
    (again,) = [one for one in cached(room.store, WALL_S) if one.artifact_id == old]
    assert again.idle_s != 500.0
    assert room.store.verify(old)
    note_use(room.store, "ff" * 16)


async def test_a_holder_that_is_told_before_its_fetch_has_begun_is_asked_too(room: Room) -> None:
    """Both may be told in one turn of the loop; the first of them may be gone by then."""
    fetches = Fetches()
    room.stock._fetcher = fetches  # type: ignore[assignment]
    gone, master = ArtifactSource("n2", "http://n2"), ArtifactSource("master", "http://m")
    room.stock.fetch("aa" * 16, (gone,))
    room.stock.add_sources("aa" * 16, (master,))
    room.stock.add_sources("bb" * 16, (master,))
    await room.settle()
    assert fetches.asked == [["n2", "master"]]
    room.stock.fetch("aa" * 16, (gone,))
    await room.settle()
    assert fetches.asked[1:] == [["n2"]]


def test_a_damaged_artifact_ends_no_start(room: Room) -> None:
    added = room.add("a", 100, WALL_S)
    manifest = room.store.root / "artifacts" / added / MANIFEST_NAME
    manifest.chmod(0o600)
    manifest.write_bytes(b"{")
    (one,) = cached(ArtifactStore(room.store.root), WALL_S)
    assert (one.artifact_id, one.size_bytes) == (added, 0)


async def test_what_is_removed_is_told_as_gone_and_what_is_not_is_told_too(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = room.add("a", 100, WALL_S)
    room.stock.remove(added)
    await room.settle()
    assert room.posted == [io.ArtifactRemoved(added)]
    assert not room.store.has(added)

    def refuse(artifact_id: str) -> None:
        raise ArtifactError("read-only file system")

    monkeypatch.setattr(room.store, "remove", refuse)
    room.stock.remove(added)
    await room.settle()
    assert room.posted[-1] == io.ArtifactRemoved(added, "read-only file system")


def lines(count: int) -> tuple[KnownSources, ...]:
    sources = (ArtifactSource("n2", "http://n2"),)
    return tuple(KnownSources(f"{i:032x}", sources, i, unfinished=True) for i in range(count))


async def test_who_holds_what_is_read_by_the_next_daemon(room: Room) -> None:
    for count in (1, 2, 3):
        room.stock.keep_sources(lines(count))
    await room.settle()
    assert read_sources(room.home, room.said.append) == lines(3)
    room.stock.keep_sources(lines(1))
    await room.settle()
    assert read_sources(room.home, room.said.append) == lines(1)
    assert room.said == []


async def test_a_disk_that_refuses_the_list_ends_nothing(room: Room) -> None:
    (room.home / "sources.tmp").mkdir()
    room.stock.keep_sources(lines(1))
    await room.settle()
    assert "can't be written" in room.said[0]


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x93\x01\x02\x03", bytes(range(99))])
def test_p11_a_list_that_can_not_be_read_is_told_and_left_out(
    tmp_path: Path, content: bytes
) -> None:
    said: list[str] = []
    assert read_sources(tmp_path, said.append) == ()
    assert said == []
    (tmp_path / SOURCES_NAME).write_bytes(content)
    assert read_sources(tmp_path, said.append) == ()
    assert "is not read" in said[0]
