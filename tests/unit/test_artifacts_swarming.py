"""Several nodes that fetch one artifact at once, from its holder and from each other."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from even_chunks import cut_evenly
from member_keys import MASTER, identity, roll, security

from meshtrain.artifacts import asks, chunking, news
from meshtrain.artifacts.fetch import Fetcher, FetchReport, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core import offers
from meshtrain.core.manifest import Manifest, artifact_id
from meshtrain.core.member import MemberKind
from meshtrain.core.swarm import SwarmLimits
from meshtrain.security.signing import HttpSecurity

CHUNK = 1024
CHUNKS = 60
CONTENT = random.Random(4).randbytes(CHUNK * CHUNKS)
PATIENT = SwarmLimits(
    backoff_s=0.001,
    backoff_max_s=0.002,
    refollow_s=0.01,
    fast_chunk_s=0.0,
    # Never reached, however slow the machine: what these tests see is no matter of time.
    last_resort_after_s=60.0,
    slow_after_s=60.0,
    endgame_min_s=60.0,
)

Gate = Callable[[web.Request, int], Awaitable[web.StreamResponse | None]]
"""Called with the chunk that is asked for; may wait, or answer in the server's place."""


@dataclass
class Node:
    """A host that serves, and fetches."""

    name: str
    store: ArtifactStore
    server: ArtifactServer
    fetcher: Fetcher
    gate: Gate | None = None
    url: str = ""
    asked: list[int] = field(default_factory=list)
    sent_bytes: int = 0
    """Of chunks that went out whole."""

    def source(self, *, last_resort: bool = False) -> Source:
        return Source(self.name, self.url, last_resort)

    @property
    def followers(self) -> int:
        return self.server._desk._count

    async def until_followed_by(self, count: int) -> None:
        while self.followers < count:
            await asyncio.sleep(0.001)


NODE = web.AppKey("node", Node)


@web.middleware
async def _interfere(request: web.Request, handler: Any) -> web.StreamResponse:
    node: Node = request.app[NODE]
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if found is not None:
        chunk = int(found[1]) // CHUNK
        node.asked.append(chunk)
        if node.gate is not None:
            answer = await node.gate(request, chunk)
            if answer is not None:
                return answer
    response: web.StreamResponse = await handler(request)
    if found is not None and response.status == 206:
        node.sent_bytes += int(found[2]) - int(found[1]) + 1
    return response


Mesh = Callable[..., Awaitable[Node]]


@pytest.fixture(autouse=True)
def small_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_evenly(monkeypatch, CHUNK)
    # Each chunk by a request of its own, so that they can be counted and held back.
    monkeypatch.setattr(asks, "REQUEST_BYTES_MAX", CHUNK)
    monkeypatch.setattr(news, "_EXPIRE_S", 0.01)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "weights").write_bytes(CONTENT)
    return folder


@pytest.fixture
def manifest(tree: Path) -> Manifest:
    made = chunking.build_manifest(tree)
    assert made.chunk_count == CHUNKS
    return made


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    nodes: list[Node] = []

    async def start(
        name: str,
        *,
        holds: Path | None = None,
        limits: SwarmLimits = PATIENT,
        per_peer: int = 4,
        of: HttpSecurity | None = None,
    ) -> Node:
        store = ArtifactStore(tmp_path / name)
        if holds is not None:
            store.add_tree(holds)
        server = ArtifactServer(store, "127.0.0.1", security=of)
        limits = msgspec.structs.replace(limits, requests_per_peer_max=per_peer)
        fetcher = Fetcher(store, limits=limits, seed=len(nodes), security=of)
        node = Node(name, store, server, fetcher)
        server.app[NODE] = node
        server.app.middlewares.append(_interfere)
        node.url = await server.start()
        await fetcher.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        await node.fetcher.close()
    for node in nodes:
        await node.server.stop()


def give_part(node: Node, manifest: Manifest, chunks: range) -> None:
    coming = node.store.begin(manifest)
    for chunk in chunks:
        coming.write_chunk(0, chunk, CONTENT[chunk * CHUNK : (chunk + 1) * CHUNK])


async def fetch_all(nodes: list[Node], manifest: Manifest, *sources: Source) -> list[FetchReport]:
    """All at once: from the sources, and from each other."""
    reports = await asyncio.gather(
        *(
            node.fetcher.fetch(
                artifact_id(manifest),
                [*sources, *(other.source() for other in nodes if other is not node)],
            )
            for node in nodes
        )
    )
    for node in nodes:
        assert node.store.verify(artifact_id(manifest))
    return reports


@pytest.mark.parametrize("link", ["clear", "signed", "tls"])
async def test_the_first_holder_sends_little_more_than_one_copy(
    mesh: Mesh, tree: Path, manifest: Manifest, link: str
) -> None:
    names = ["holder", *(f"node{n}" for n in range(5))]
    of: dict[str, HttpSecurity | None] = dict.fromkeys(names)
    if link != "clear":
        keys = [identity(MemberKind.NODE, name) for name in names]
        of_roll = roll(MASTER, *keys)
        of = {key.member.name: security(key, of_roll, encrypt=link == "tls") for key in keys}
    holder = await mesh("holder", holds=tree, of=of["holder"])
    nodes = [await mesh(name, of=of[name]) for name in names[1:]]
    all_follow = asyncio.Event()

    async def when_all_follow(request: web.Request, chunk: int) -> None:
        if not all_follow.is_set():
            await holder.until_followed_by(len(nodes))
            all_follow.set()

    holder.gate = when_all_follow
    reports = await fetch_all(nodes, manifest, holder.source())
    assert holder.sent_bytes <= 1.1 * len(CONTENT)
    for report in reports:
        assert sum(report.bytes_by_node.values()) == len(CONTENT)
    assert sum(report.bytes_by_node.get("holder", 0) for report in reports) <= holder.sent_bytes


async def test_a_seeder_that_dies_halfway_is_missed_by_nobody(
    mesh: Mesh, tree: Path, manifest: Manifest
) -> None:
    """What it had not sent yet is with two who hold a half each."""
    seeder = await mesh("seeder", holds=tree)
    halves = [await mesh("half0"), await mesh("half1")]
    for number, half in enumerate(halves):
        give_part(half, manifest, range(number * CHUNKS // 2, (number + 1) * CHUNKS // 2))
    nodes = [await mesh(f"node{n}") for n in range(3)]
    dead = asyncio.Event()

    async def die_halfway(request: web.Request, chunk: int) -> None:
        if dead.is_set() or len(seeder.asked) > 10:
            dead.set()
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError

    async def wait_for_the_death(request: web.Request, chunk: int) -> None:
        await dead.wait()

    seeder.gate = die_halfway
    for half in halves:
        half.gate = wait_for_the_death
    reports = await fetch_all(nodes, manifest, seeder.source(), *(half.source() for half in halves))
    assert dead.is_set()
    assert seeder.sent_bytes <= 10 * CHUNK
    for report in reports:
        assert sum(report.bytes_by_node.values()) == len(CONTENT)
        assert report.banned == ()


async def test_a_node_that_dies_takes_no_chunk_with_it(
    mesh: Mesh, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the only one that had been sent some chunks, and served none of them."""
    monkeypatch.setattr(offers, "ALL_AFTER_S", 0.02)
    holder, dying = await mesh("holder", holds=tree), await mesh("dying")
    nodes = [await mesh(f"node{n}") for n in range(2)]

    async def serve_nothing(request: web.Request, chunk: int) -> web.Response:
        return web.Response(status=503)

    async def when_all_follow(request: web.Request, chunk: int) -> None:
        if not died.done():
            await holder.until_followed_by(3)

    died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    holder.gate, dying.gate = when_all_follow, serve_nothing

    def die_after_some(progress: Any) -> None:
        if progress.bytes_done >= 5 * CHUNK and not died.done():
            died.set_result(None)
            doomed.cancel()

    doomed = asyncio.create_task(
        dying.fetcher.fetch(artifact_id(manifest), [holder.source()], die_after_some)
    )
    await fetch_all(nodes, manifest, holder.source(), dying.source())
    await asyncio.wait({doomed})
    assert doomed.cancelled()
    assert died.done()


async def test_p4_a_peer_that_corrupts_is_banned_by_all_at_its_first_bad_chunk(
    mesh: Mesh, tree: Path, manifest: Manifest
) -> None:
    liar, honest = await mesh("liar", holds=tree), await mesh("honest", holds=tree)
    nodes = [await mesh(f"node{n}", per_peer=1) for n in range(3)]
    all_lied_to = asyncio.Event()

    async def corrupt(request: web.Request, chunk: int) -> web.Response:
        if len(liar.asked) == len(nodes):
            all_lied_to.set()
        body = bytearray(CONTENT[chunk * CHUNK : (chunk + 1) * CHUNK])
        body[chunk] ^= 1
        return web.Response(status=206, body=bytes(body))

    async def wait_for_the_lies(request: web.Request, chunk: int) -> None:
        await all_lied_to.wait()
        while liar.followers:
            # Nor does anybody listen to what else it tells.
            await asyncio.sleep(0.001)

    liar.gate, honest.gate = corrupt, wait_for_the_lies
    reports = await fetch_all(nodes, manifest, liar.source(), honest.source())
    assert len(liar.asked) == len(nodes), "once by each, and never again"
    for report in reports:
        assert report.banned == ("liar",)
        assert "liar" not in report.bytes_by_node


@pytest.mark.parametrize("kind", ["late", "endgame"])
async def test_a_slow_peer_does_not_hold_up_the_end(
    mesh: Mesh, tree: Path, manifest: Manifest, kind: str
) -> None:
    """What is late with it is asked elsewhere, and it is told that nobody waits any more."""
    slow_after_s, endgame_min_s = {"late": (0.01, 60.0), "endgame": (60.0, 0.01)}[kind]
    limits = SwarmLimits(
        refollow_s=0.01, slow_after_s=slow_after_s, endgame_min_s=endgame_min_s, endgame_factor=0.0
    )
    slow, quick = await mesh("slow", holds=tree), await mesh("quick", holds=tree)
    node = await mesh("node", limits=limits)
    slow_asked, dropped = asyncio.Event(), asyncio.Event()

    async def be_slow(request: web.Request, chunk: int) -> None:
        slow_asked.set()
        while request.transport is not None:
            await asyncio.sleep(0.001)
        dropped.set()
        raise ConnectionResetError

    async def wait_for_the_slow(request: web.Request, chunk: int) -> None:
        await slow_asked.wait()

    slow.gate, quick.gate = be_slow, wait_for_the_slow
    report = await node.fetcher.fetch(artifact_id(manifest), [slow.source(), quick.source()])
    assert node.store.verify(artifact_id(manifest))
    assert report.bytes_by_node == {"quick": len(CONTENT)}
    assert slow.asked
    assert set(slow.asked) <= set(quick.asked), "each was asked elsewhere too"
    await dropped.wait()


async def test_the_master_sends_nothing_while_nodes_have_it(
    mesh: Mesh, tree: Path, manifest: Manifest
) -> None:
    master, holder = await mesh("master", holds=tree), await mesh("holder", holds=tree)
    nodes = [await mesh(f"node{n}") for n in range(3)]
    reports = await fetch_all(nodes, manifest, master.source(last_resort=True), holder.source())
    assert master.asked == []
    assert all("master" not in report.bytes_by_node for report in reports)


async def test_two_holders_that_show_each_their_part_are_enough_for_all(
    mesh: Mesh, tree: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one promises what the other has sent, who sees nothing of use follows it anew."""
    firsts = iter((0, CHUNKS // 2))
    monkeypatch.setattr(secrets, "randbelow", lambda count: next(firsts))
    holders = [await mesh(f"holder{n}", holds=tree) for n in range(2)]
    nodes = [await mesh(f"node{n}") for n in range(3)]

    async def when_all_follow(request: web.Request, chunk: int) -> None:
        if not begun.is_set():
            for holder in holders:
                await holder.until_followed_by(len(nodes))
            begun.set()

    begun = asyncio.Event()
    for holder in holders:
        holder.gate = when_all_follow
    await fetch_all(nodes, manifest, *(holder.source() for holder in holders))
    assert min(holder.sent_bytes for holder in holders) >= 0.1 * len(CONTENT)


async def test_who_comes_late_gets_it_from_those_who_were_there(
    mesh: Mesh, tree: Path, manifest: Manifest
) -> None:
    holder = await mesh("holder", holds=tree)
    early, late = await mesh("early"), await mesh("late")
    half_here, late_done = asyncio.Event(), asyncio.Event()

    async def stop_at_half(request: web.Request, chunk: int) -> None:
        if len(holder.asked) > CHUNKS // 2:
            await late_done.wait()

    def note(progress: Any) -> None:
        if progress.bytes_done >= CHUNKS // 2 * CHUNK:
            half_here.set()

    holder.gate = stop_at_half
    of_early = asyncio.create_task(
        early.fetcher.fetch(artifact_id(manifest), [holder.source()], note)
    )
    await half_here.wait()

    def note_late(progress: Any) -> None:
        if progress.bytes_done >= CHUNKS // 2 * CHUNK:
            late_done.set()

    report = await late.fetcher.fetch(artifact_id(manifest), [early.source()], note_late)
    await of_early
    assert report.bytes_by_node == {"early": len(CONTENT)}
    assert holder.sent_bytes == len(CONTENT)
