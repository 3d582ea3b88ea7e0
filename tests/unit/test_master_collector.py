"""What the master fetches and removes of one artifact goes one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshtrain.artifacts.fetch import FetchReport, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.commands import ArtifactSource
from meshtrain.core.manifest import artifact_id
from meshtrain.errors import ArtifactError, FetchError
from meshtrain_daemon.master.collector import Collector

WAIT_S = 10.0


class Master:
    """A collector whose fetches end when the test says so; it is the fetcher too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ArtifactStore(root / "artifacts")
        self.posted: list[ev.Event] = []
        self.notes: list[str] = []
        self.asked: list[list[str]] = []
        self.goes_on = asyncio.Event()
        self.given_up = 0
        self.tasks: list[asyncio.Task[None]] = []
        (root / "tree").mkdir()
        (root / "tree" / "result").write_text("1")
        self.name = artifact_id(ArtifactStore(root / "node").add_tree(root / "tree"))
        self.fails = False
        self.collector = Collector(
            self.store,
            self,  # type: ignore[arg-type]
            fetched=lambda name, report: None,
            post=self.posted.append,
            spawn=lambda work: self.tasks.append(asyncio.ensure_future(work)),
            note=self.notes.append,
        )

    async def fetch(self, name: str, sources: Sequence[Source]) -> FetchReport:
        self.asked.append([source.node_id for source in sources])
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.fails:
            raise FetchError("no source answered")
        self.store.add_tree(self.root / "tree")
        return FetchReport(name, {}, 0.0, chunks=1, banned=())

    def add_source(self, name: str, source: Source) -> bool:
        self.asked[-1].append(source.node_id)
        return True

    def collect(self, *nodes: str) -> None:
        sources = tuple(ArtifactSource(node, f"http://{node}") for node in nodes)
        self.collector.collect(fx.CollectArtifact(self.name, sources))

    def drop(self) -> None:
        self.collector.drop(self.name)

    async def settle(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.tasks:
                await self.tasks.pop()

    @property
    def held(self) -> bool:
        return self.store.has(self.name)

    def told(self) -> list[str]:
        """What the scheduler heard: that the artifact came, went, or didn't come."""
        kinds: dict[type[Any], str] = {
            ev.ArtifactHeld: "held",
            ev.ArtifactDropped: "dropped",
            ev.CollectFailed: "failed",
        }
        return [kinds[type(event)] for event in self.posted]


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[Master]:
    yield Master(tmp_path)


async def begun(master: Master, fetches: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while len(master.asked) < fetches:
            await asyncio.sleep(0)


async def test_one_that_is_on_its_way_gets_more_sources(master: Master) -> None:
    master.collect("n1")
    await begun(master, 1)
    master.collect("n2")
    master.goes_on.set()
    await master.settle()
    assert master.asked == [["n1", "n2"]]
    assert master.told() == ["held"] and master.held


async def test_p1_what_is_wanted_again_is_fetched_after_its_removal(master: Master) -> None:
    master.goes_on.set()
    master.collect("n1")
    await master.settle()
    master.drop()
    master.collect("n2")
    master.collect("n3")
    await master.settle()
    assert master.told() == ["held", "dropped", "held"]
    assert master.held
    # What came of sources while the removal went on isn't lost.
    assert master.asked == [["n1"], ["n2", "n3"]]


async def test_a_fetch_that_nobody_waits_for_any_more_is_given_up(master: Master) -> None:
    master.collect("n1")
    await begun(master, 1)
    master.drop()
    await master.settle()
    assert master.told() == ["dropped"]
    assert master.given_up == 1 and not master.held


async def test_of_many_orders_the_last_one_counts(master: Master) -> None:
    master.collect("n1")
    master.drop()
    master.collect("n1")
    master.drop()
    await master.settle()
    assert master.told() == ["dropped", "dropped"] and not master.held


async def test_a_fetch_that_fails_is_told_and_the_next_is_tried(master: Master) -> None:
    master.fails = True
    master.goes_on.set()
    master.collect("n1")
    await master.settle()
    master.fails = False
    master.collect("n1")
    await master.settle()
    assert master.told() == ["failed", "held"]


async def test_what_can_not_be_removed_is_told_and_holds_nothing_up(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ArtifactError("it is read-only")

    master.goes_on.set()
    monkeypatch.setattr(master.store, "remove", refuse)
    master.drop()
    master.collect("n1")
    await master.settle()
    assert master.told() == ["dropped", "held"]
    assert "still there" in master.notes[0]


async def test_a_master_that_stops_ends_its_fetches(master: Master) -> None:
    master.collect("n1")
    await begun(master, 1)
    (task,) = master.tasks
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert master.given_up == 1 and master.told() == []
