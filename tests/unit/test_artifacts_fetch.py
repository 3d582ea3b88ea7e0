"""Fetches between real servers on loopback: good peers, bad peers, and peers in between."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from even_chunks import cut_evenly

from meshtrain.artifacts import asks, chunking, partial
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.fetch import Fetcher, FetchProgress, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.artifacts.upload import UploadRetries, upload_tree
from meshtrain.core.manifest import Manifest, artifact_id, canonical_bytes
from meshtrain.core.swarm import SwarmLimits
from meshtrain.errors import ArtifactError, FetchError

CHUNK = 1024
CHUNKS = 12
CONTENT = b"".join(bytes([n]) * CHUNK for n in range(CHUNKS))
QUICK = SwarmLimits(
    backoff_s=0.001,
    backoff_max_s=0.002,
    failures_max=3,
    # Never reached, however slow the machine: what these tests see is no matter of time.
    last_resort_after_s=60.0,
    slow_after_s=60.0,
    endgame_min_s=60.0,
    refollow_s=0.005,
    fast_chunk_s=0.0,
)

Gate = Callable[[int], Awaitable[web.StreamResponse | None]]
"""Called with the chunk that is asked for; may wait, or answer in the server's place."""


@dataclass
class Node:
    """A host: its store, and a server whose answers a test may hold back or replace."""

    name: str
    store: ArtifactStore
    server: ArtifactServer
    gate: Gate | None = None
    chunks_asked: list[int] = field(default_factory=list)
    manifest_bytes: bytes | None = None
    url: str = ""

    def source(self, *, last_resort: bool = False) -> Source:
        return Source(self.name, self.url, last_resort)

    def fetcher(self, limits: SwarmLimits = QUICK, **options: Any) -> Fetcher:
        return Fetcher(self.store, limits=limits, seed=0, **options)


@web.middleware
async def _interfere(request: web.Request, handler: Any) -> web.StreamResponse:
    node: Node = request.app[NODE]
    if request.path.endswith("/manifest") and node.manifest_bytes is not None:
        return web.Response(body=node.manifest_bytes)
    if "Range" in request.headers:
        found = re.match(r"bytes=(\d+)-", request.headers["Range"])
        assert found is not None
        chunk = int(found[1]) // CHUNK
        node.chunks_asked.append(chunk)
        if node.gate is not None:
            answer = await node.gate(chunk)
            if answer is not None:
                return answer
    response: web.StreamResponse = await handler(request)
    return response


NODE = web.AppKey("node", Node)
Mesh = Callable[..., Awaitable[Node]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_evenly(monkeypatch, CHUNK)
    # Each chunk by a request of its own, so that they can be counted and held back.
    monkeypatch.setattr(asks, "REQUEST_BYTES_MAX", CHUNK)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "weights").write_bytes(CONTENT)
    return folder


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    nodes: list[Node] = []

    async def start(name: str, *, holds: Path | None = None, **options: Any) -> Node:
        store = ArtifactStore(tmp_path / name)
        if holds is not None:
            store.add_tree(holds)
        server = ArtifactServer(store, "127.0.0.1", **options)
        node = Node(name, store, server)
        server.app[NODE] = node
        server.app.middlewares.append(_interfere)
        node.url = await server.start()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        await node.server.stop()


@pytest.fixture
async def fetchers() -> AsyncIterator[list[Fetcher]]:
    started: list[Fetcher] = []
    yield started
    for fetcher in started:
        await fetcher.close()


@pytest.fixture
def name(tree: Path) -> str:
    return artifact_id(chunking.build_manifest(tree))


async def started(fetcher: Fetcher, fetchers: list[Fetcher]) -> Fetcher:
    await fetcher.start()
    fetchers.append(fetcher)
    return fetcher


def give_part(node: Node, tree: Path, chunks: range) -> None:
    coming = node.store.begin(chunking.build_manifest(tree))
    for chunk in chunks:
        coming.write_chunk(0, chunk, CONTENT[chunk * CHUNK : (chunk + 1) * CHUNK])


async def test_an_artifact_comes_from_one_holder(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)
    progress: list[FetchProgress] = []
    report = await fetcher.fetch(name, [holder.source()], progress.append)
    assert node.store.verify(name)
    assert report.bytes_by_node == {"holder": len(CONTENT)}
    assert report.chunks == CHUNKS
    assert report.banned == ()
    assert report.duration_s > 0
    assert [step.bytes_done for step in progress] == [CHUNK * n for n in range(1, CHUNKS + 1)]
    assert progress[-1] == FetchProgress(name, len(CONTENT), len(CONTENT))
    again = await fetcher.fetch(name, [])
    assert (again.bytes_by_node, again.chunks) == ({}, 0)


async def test_what_another_artifact_here_holds_is_not_fetched(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str, tmp_path: Path
) -> None:
    holder = await mesh("holder", holds=tree)
    base = tmp_path / "base"
    base.mkdir()
    (base / "weights").write_bytes(CONTENT[: 4 * CHUNK] + b"?" * CHUNK + CONTENT[5 * CHUNK :])
    node = await mesh("node", holds=base)
    fetcher = await started(node.fetcher(), fetchers)
    report = await fetcher.fetch(name, [holder.source()])
    assert holder.chunks_asked == [4]
    assert report.bytes_reused == len(CONTENT) - CHUNK
    assert report.bytes_by_node == {"holder": CHUNK}
    assert node.store.verify(name)


async def test_files_of_no_bytes_and_trees_of_no_files_come_too(
    mesh: Mesh, fetchers: list[Fetcher], tmp_path: Path
) -> None:
    holder, node = await mesh("holder"), await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)
    (tmp_path / "none").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").write_bytes(b"")
    for folder in ("none", "empty"):
        name = artifact_id(holder.store.add_tree(tmp_path / folder))
        await fetcher.fetch(name, [holder.source()])
        assert node.store.verify(name)


async def test_two_holders_share_the_work(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    one, two, node = await mesh("one", holds=tree), await mesh("two", holds=tree), await mesh("n")
    two_was_asked = asyncio.Event()

    async def wait_for_two(_: int) -> None:
        await two_was_asked.wait()

    async def tell(_: int) -> None:
        two_was_asked.set()

    one.gate, two.gate = wait_for_two, tell
    fetcher = await started(
        node.fetcher(msgspec.structs.replace(QUICK, requests_per_peer_max=2)), fetchers
    )
    report = await fetcher.fetch(name, [one.source(), two.source()])
    assert set(report.bytes_by_node) == {"one", "two"}
    assert sum(report.bytes_by_node.values()) == len(CONTENT)


async def test_two_holders_with_half_each_make_a_whole(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    one, two, node = await mesh("one"), await mesh("two"), await mesh("node")
    give_part(one, tree, range(6))
    give_part(two, tree, range(6, 12))
    fetcher = await started(node.fetcher(), fetchers)
    report = await fetcher.fetch(name, [one.source(), two.source()])
    assert node.store.verify(name)
    assert report.bytes_by_node == {"one": 6 * CHUNK, "two": 6 * CHUNK}
    assert set(one.chunks_asked) == set(range(6))
    assert set(two.chunks_asked) == set(range(6, 12))


async def test_a_peer_that_corrupts_is_banned_and_the_fetch_goes_on(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    liar, honest = await mesh("liar", holds=tree), await mesh("honest", holds=tree)
    node = await mesh("node")

    lied = asyncio.Event()

    async def corrupt(chunk: int) -> web.Response:
        lied.set()
        body = bytearray(CONTENT[chunk * CHUNK : (chunk + 1) * CHUNK])
        body[100] ^= 1
        return web.Response(status=206, body=bytes(body))

    async def wait_for_the_lie(_: int) -> None:
        await lied.wait()

    liar.gate, honest.gate = corrupt, wait_for_the_lie
    fetcher = await started(node.fetcher(), fetchers)
    report = await fetcher.fetch(name, [liar.source(), honest.source()])
    assert node.store.verify(name)
    assert report.banned == ("liar",)
    assert report.bytes_by_node == {"honest": len(CONTENT)}


async def test_a_wrong_manifest_bans_its_sender(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    liar, honest = await mesh("liar", holds=tree), await mesh("honest", holds=tree)
    node = await mesh("node")
    liar.manifest_bytes = canonical_bytes(Manifest(()))
    fetcher = await started(node.fetcher(), fetchers)
    report = await fetcher.fetch(name, [liar.source(), honest.source()])
    assert report.banned == ("liar",)
    assert liar.chunks_asked == []
    assert node.store.verify(name)


async def test_only_liars_end_the_fetch_with_their_names(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    liar, node = await mesh("liar", holds=tree), await mesh("node")

    async def corrupt(_: int) -> web.Response:
        return web.Response(status=206, body=bytes(CHUNK - 1) + b"?")

    liar.gate = corrupt
    fetcher = await started(node.fetcher(), fetchers)
    with pytest.raises(FetchError, match=r"liar .*banned: chunk .* is corrupt"):
        await fetcher.fetch(name, [liar.source()])
    assert not node.store.has(name)


async def test_a_manifest_that_leaves_its_folder_is_refused(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, tmp_path: Path
) -> None:
    holder, node = await mesh("holder"), await mesh("node")
    file = chunking.build_manifest(tree).files[0]
    evil = Manifest((type(file)("../../evil", file.size_bytes, False, file.digest, file.chunks),))
    holder.manifest_bytes = canonical_bytes(evil)
    fetcher = await started(node.fetcher(), fetchers)
    with pytest.raises(ArtifactError, match="leaves the folder"):
        await fetcher.fetch(artifact_id(evil), [holder.source()])
    assert list(tmp_path.rglob("evil")) == []


async def test_a_node_that_still_fetches_serves_what_it_has(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    """The source can't send its last chunk until the third node has one from the second."""
    source, second, third = await mesh("source", holds=tree), await mesh("2nd"), await mesh("3rd")
    third_has_one = asyncio.Event()

    async def hold_last_back(chunk: int) -> None:
        if chunk == CHUNKS - 1:
            await third_has_one.wait()

    source.gate = hold_last_back
    of_second = await started(second.fetcher(), fetchers)
    of_third = await started(third.fetcher(), fetchers)
    second_has_one = asyncio.Event()
    second_fetch = asyncio.create_task(
        of_second.fetch(name, [source.source()], lambda _: second_has_one.set())
    )
    await second_has_one.wait()
    third_report = await of_third.fetch(name, [second.source()], lambda _: third_has_one.set())
    await second_fetch
    # The gate opened, so that a chunk had passed while the second lacked the last one.
    assert third_report.bytes_by_node == {"2nd": len(CONTENT)}
    assert second.store.verify(name)
    assert third.store.verify(name)


async def test_a_source_that_dies_midway_is_replaced(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    dying, other, node = await mesh("dying", holds=tree), await mesh("other"), await mesh("node")
    fetcher = await started(
        node.fetcher(msgspec.structs.replace(QUICK, requests_per_peer_max=1)), fetchers
    )

    async def die_after_three(_: int) -> web.Response | None:
        if len(dying.chunks_asked) <= 3:
            return None
        if len(dying.chunks_asked) == 4:
            other.store.add_tree(tree)
            assert fetcher.add_source(name, other.source())
        raise ConnectionResetError

    dying.gate = die_after_three
    report = await fetcher.fetch(name, [dying.source()])
    assert node.store.verify(name)
    assert report.bytes_by_node == {"dying": 3 * CHUNK, "other": 9 * CHUNK}
    assert report.banned == ()


async def test_a_fetch_that_failed_goes_on_where_it_was(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")

    async def five_only(chunk: int) -> web.Response | None:
        return None if chunk < 5 else web.Response(status=500, reason="Broken")

    holder.gate = five_only
    fetcher = await started(
        node.fetcher(msgspec.structs.replace(QUICK, requests_per_peer_max=1)), fetchers
    )
    with pytest.raises(FetchError, match=r"holder .*given up: 500"):
        await fetcher.fetch(name, [holder.source()])
    holder.gate = None
    holder.chunks_asked.clear()
    report = await fetcher.fetch(name, [holder.source()])
    assert report.chunks == len(holder.chunks_asked) == 7
    assert node.store.verify(name)


async def test_a_fetch_goes_on_after_a_restart_without_its_manifest_being_asked_for(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    give_part(node, tree, range(10))
    holder.manifest_bytes = b"would be refused"
    restarted = ArtifactStore(node.store.root)
    restarted.recover()
    fetcher = await started(Fetcher(restarted, limits=QUICK), fetchers)
    progress: list[FetchProgress] = []
    report = await fetcher.fetch(name, [holder.source()], progress.append)
    assert sorted(holder.chunks_asked) == [10, 11]
    assert report.chunks == 2
    assert progress[0].bytes_done == 11 * CHUNK
    assert restarted.verify(name)


async def test_the_master_is_asked_last(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    master, peer, node = await mesh("master", holds=tree), await mesh("peer"), await mesh("node")
    give_part(peer, tree, range(10))
    fetcher = await started(node.fetcher(), fetchers)
    report = await fetcher.fetch(name, [master.source(last_resort=True), peer.source()])
    assert sorted(master.chunks_asked) == [10, 11]
    assert report.bytes_by_node == {"peer": 10 * CHUNK, "master": 2 * CHUNK}


async def test_each_source_and_its_reason_are_named(
    mesh: Mesh, fetchers: list[Fetcher], name: str
) -> None:
    empty, node = await mesh("empty"), await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)
    gone = Source("gone", "http://127.0.0.1:1")
    odd = Source("odd", "nonsense://")
    with pytest.raises(FetchError) as caught:
        await fetcher.fetch(name, [empty.source(), gone, odd])
    message = str(caught.value)
    assert re.search(r"empty \(http://127.*\): 404: .*not in this store", message)
    assert re.search(r"gone \(http://127.0.0.1:1\): .*onnect", message)
    assert "odd (nonsense://): " in message


async def test_without_a_source_it_fails_at_once(
    mesh: Mesh, fetchers: list[Fetcher], name: str
) -> None:
    node = await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)
    with pytest.raises(FetchError, match="no source was given"):
        await fetcher.fetch(name, [])


async def test_a_holder_with_a_part_ends_the_fetch_when_nothing_more_comes(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    part, node = await mesh("part"), await mesh("node")
    give_part(part, tree, range(11))
    limits = msgspec.structs.replace(QUICK, stall_s=0.05)
    fetcher = await started(node.fetcher(limits), fetchers)
    with pytest.raises(FetchError, match="holds none of 1 missing chunks"):
        await fetcher.fetch(name, [part.source()])


async def test_a_busy_holder_is_waited_for(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")

    async def busy_at_first(_: int) -> web.Response | None:
        return web.Response(status=503) if len(holder.chunks_asked) < 20 else None

    holder.gate = busy_at_first
    fetcher = await started(node.fetcher(), fetchers)
    await fetcher.fetch(name, [holder.source()])
    assert node.store.verify(name)


@pytest.mark.parametrize("answer", ["short", "long", "whole", "endless", "redirect"])
async def test_answers_of_the_wrong_form_are_failures(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str, answer: str
) -> None:
    odd, honest, node = await mesh("odd", holds=tree), await mesh("honest"), await mesh("node")

    async def answer_oddly(_: int) -> web.Response:
        if answer == "redirect":
            raise web.HTTPFound(honest.url)
        if answer == "whole":
            return web.Response(status=200, body=CONTENT)
        size_bytes = {"short": CHUNK - 1, "long": CHUNK + 1, "endless": 1 << 20}[answer]
        return web.Response(status=206, body=bytes(size_bytes))

    odd.gate = answer_oddly
    fetcher = await started(node.fetcher(), fetchers)
    with pytest.raises(FetchError, match=r"odd .*given up"):
        await fetcher.fetch(name, [odd.source()])
    honest.store.add_tree(tree)
    report = await fetcher.fetch(name, [odd.source(), honest.source()])
    assert report.bytes_by_node == {"honest": len(CONTENT)}


# --- several callers ------------------------------------------------------------------


async def test_concurrent_fetches_of_one_artifact_are_one(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)
    steps: list[int] = []
    reports = await asyncio.gather(
        *(
            fetcher.fetch(name, [holder.source()], lambda step: steps.append(step.bytes_done))
            for _ in range(5)
        )
    )
    assert len(holder.chunks_asked) == CHUNKS
    assert all(report == reports[0] for report in reports)
    assert len(steps) == 5 * CHUNKS


async def test_a_second_caller_brings_its_sources(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    stuck, holder, node = await mesh("stuck"), await mesh("holder", holds=tree), await mesh("node")
    give_part(stuck, tree, range(1))
    fetcher = await started(node.fetcher(), fetchers)
    has_first = asyncio.Event()
    first = asyncio.create_task(fetcher.fetch(name, [stuck.source()], lambda _: has_first.set()))
    await has_first.wait()
    report = await fetcher.fetch(name, [holder.source()])
    assert report == await first
    assert report.bytes_by_node == {"stuck": CHUNK, "holder": 11 * CHUNK}


async def test_one_caller_may_leave_and_the_last_one_ends_it(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        asked.set()
        await go_on.wait()

    holder.gate = wait
    fetcher = await started(node.fetcher(), fetchers)
    first = asyncio.create_task(fetcher.fetch(name, [holder.source()]))
    second = asyncio.create_task(fetcher.fetch(name, [holder.source()]))
    await asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert fetcher.add_source(name, holder.source())
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert not fetcher.add_source(name, holder.source())
    go_on.set()
    await fetcher.fetch(name, [holder.source()])
    assert node.store.verify(name)


async def test_closing_ends_the_fetches_with_a_word(mesh: Mesh, tree: Path, name: str) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        asked.set()
        await go_on.wait()

    holder.gate = wait
    fetcher = node.fetcher()
    await fetcher.start()
    fetch = asyncio.create_task(fetcher.fetch(name, [holder.source()]))
    await asked.wait()
    await fetcher.close()
    with pytest.raises(FetchError, match="this process stops"):
        await fetch
    go_on.set()
    with pytest.raises(FetchError, match="not started"):
        await fetcher.fetch(name, [])


async def test_fetches_at_a_time_are_bounded(
    mesh: Mesh, fetchers: list[Fetcher], tree: Path, tmp_path: Path, name: str
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").write_bytes(b"?" * CHUNK)
    other = artifact_id(holder.store.add_tree(tmp_path / "more"))
    fetcher = await started(node.fetcher(fetches_max=1), fetchers)
    order: list[str] = []
    await asyncio.gather(
        *(
            fetcher.fetch(each, [holder.source()], lambda step: order.append(step.artifact_id))
            for each in (name, other)
        )
    )
    assert order == [name] * CHUNKS + [other]


# --- the disk -------------------------------------------------------------------------


async def test_a_full_disk_ends_the_fetch_as_such(
    mesh: Mesh,
    fetchers: list[Fetcher],
    tree: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)

    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_at", no_room)
        with pytest.raises(DiskFullError):
            await fetcher.fetch(name, [holder.source()])
    await fetcher.fetch(name, [holder.source()])
    assert node.store.verify(name)


async def test_a_bug_in_an_ask_ends_the_fetch_instead_of_hanging_it(
    mesh: Mesh,
    fetchers: list[Fetcher],
    tree: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holder, node = await mesh("holder", holds=tree), await mesh("node")
    fetcher = await started(node.fetcher(), fetchers)

    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(partial.Partial, "write_chunks", bug)
    with pytest.raises(ZeroDivisionError):
        await fetcher.fetch(name, [holder.source()])


# --- uploads --------------------------------------------------------------------------


async def test_an_upload_sends_only_what_is_lacking(mesh: Mesh, tree: Path, name: str) -> None:
    host = await mesh("host", accept_uploads=True)
    give_part(host, tree, range(5))
    sent: list[tuple[int, int]] = []
    write_chunk = partial.Partial.write_chunk

    def watched(self: partial.Partial, *args: Any) -> bool:
        sent.append(args[:2])
        return write_chunk(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial.Partial, "write_chunk", watched)
        assert await upload_tree(tree, host.url) == name
        assert sorted(sent) == [(0, chunk) for chunk in range(5, CHUNKS)]
        sent.clear()
        assert await upload_tree(tree, host.url) == name
        assert sent == []
    assert host.store.verify(name)


async def test_named_files_alone_are_uploaded(mesh: Mesh, tree: Path) -> None:
    host = await mesh("host", accept_uploads=True)
    (tree / "train.py").write_bytes(b"print()")
    uploaded = await upload_tree(tree, host.url, files=["train.py"])
    assert [file.path for file in host.store.manifest(uploaded).files] == ["train.py"]


async def test_an_upload_waits_for_a_busy_host(mesh: Mesh, tree: Path, name: str) -> None:
    host = await mesh("host", accept_uploads=True, requests_max=1)
    retries = UploadRetries(wait_s=0.001, wait_max_s=0.002, busy_max=1000)
    await upload_tree(tree, host.url, connections=4, retries=retries)
    assert host.store.verify(name)


async def test_uploads_that_cannot_be_say_why(
    mesh: Mesh, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = await mesh("closed")
    quick = UploadRetries(failures_max=1, wait_s=0.001)
    with pytest.raises(ArtifactError, match="405"):
        await upload_tree(tree, closed.url, retries=quick)
    with pytest.raises(ArtifactError, match=r"could not be uploaded to http://127\.0\.0\.1:1"):
        await upload_tree(tree, "http://127.0.0.1:1", retries=quick)
    full = await mesh("full", accept_uploads=True)

    def no_room(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(DiskFullError):
        await upload_tree(tree, full.url, retries=quick)


async def test_a_file_that_changes_while_it_is_uploaded_is_told(
    mesh: Mesh, tree: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await mesh("host", accept_uploads=True)
    begin = host.store.begin

    def change_then_begin(manifest: Manifest) -> Any:
        (tree / "weights").write_bytes(CONTENT[::-1])
        return begin(manifest)

    monkeypatch.setattr(host.store, "begin", change_then_begin)
    with pytest.raises(ArtifactError, match="changed while it was being uploaded"):
        await upload_tree(tree, host.url)
    assert not host.store.has(name)
