"""P10 between members: fetches and uploads are signed, pinned, and stop with membership."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from even_chunks import cut_evenly
from member_keys import (
    ALL,
    MASTER,
    NODE,
    OTHER_NODE,
    PERSON,
    STRANGER,
    identity,
    members,
    revoke,
    roll,
    security,
)

from meshtrain.artifacts import asks, chunking
from meshtrain.artifacts.fetch import Fetcher, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.artifacts.upload import UploadRetries, upload_tree
from meshtrain.core.manifest import artifact_id
from meshtrain.core.member import MemberKind
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.swarm import SwarmLimits
from meshtrain.errors import ArtifactError, FetchError
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.signing import HttpSecurity

CHUNK = 1024
CHUNKS = 12
CONTENT = b"".join(bytes([n]) * CHUNK for n in range(CHUNKS))
QUICK = SwarmLimits(
    backoff_s=0.001,
    backoff_max_s=0.002,
    failures_max=3,
    last_resort_after_s=0.0,
    slow_after_s=60.0,
    endgame_min_s=60.0,
    refollow_s=0.005,
    fast_chunk_s=0.0,
)
RETRIES = UploadRetries(failures_max=1, wait_s=0.001)


@dataclass
class Host:
    server: ArtifactServer
    store: ArtifactStore
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """What reached its handlers, so what was let in."""
    gate: Callable[[str], Awaitable[None]] | None = None


Start = Callable[..., Awaitable[Host]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cut_evenly(monkeypatch, CHUNK)
    # Each chunk by a request of its own, so that they can be counted and held back.
    monkeypatch.setattr(asks, "REQUEST_BYTES_MAX", CHUNK)
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "weights").write_bytes(CONTENT)
    return folder


@pytest.fixture
def name(tree: Path) -> str:
    return artifact_id(chunking.build_manifest(tree))


@pytest.fixture
async def start(tmp_path: Path, tree: Path) -> AsyncIterator[Start]:
    hosts: list[Host] = []

    async def start_host(
        of: HttpSecurity | None, *, holds: bool = True, accept_uploads: bool = False
    ) -> Host:
        store = ArtifactStore(tmp_path / f"host{len(hosts)}")
        if holds:
            store.add_tree(tree)
        server = ArtifactServer(store, "127.0.0.1", accept_uploads=accept_uploads, security=of)
        host = Host(server, store)

        @web.middleware
        async def note(request: web.Request, handler: Any) -> Any:
            host.requests.append(f"{request.method} {request.path}")
            if host.gate is not None:
                await host.gate(request.path)
            return await handler(request)

        server.app.middlewares.append(note)
        host.url = await server.start()
        hosts.append(host)
        return host

    yield start_host
    for host in hosts:
        await host.server.stop()


Fetch = Callable[..., Awaitable[Any]]


@pytest.fixture
async def fetch(tmp_path: Path, name: str) -> AsyncIterator[Fetch]:
    store = ArtifactStore(tmp_path / "node")
    fetchers: list[Fetcher] = []

    async def run(of: HttpSecurity | None, *sources: Source) -> Any:
        fetcher = Fetcher(store, limits=QUICK, security=of, seed=0)
        fetchers.append(fetcher)
        await fetcher.start()
        report = await fetcher.fetch(name, sources)
        assert store.verify(name)
        return report

    yield run
    for fetcher in fetchers:
        await fetcher.close()


@pytest.mark.parametrize("encrypt", [True, False])
async def test_p10_members_fetch_from_nodes_and_the_master(
    start: Start, fetch: Fetch, encrypt: bool
) -> None:
    node = await start(security(OTHER_NODE, encrypt=encrypt))
    master = await start(security(MASTER, encrypt=encrypt))
    assert node.url.startswith("https://" if encrypt else "http://")
    report = await fetch(
        security(NODE, encrypt=encrypt),
        Source("gpu2", node.url),
        Source(MASTER_NODE_ID, master.url, last_resort=True),
    )
    assert sum(report.bytes_by_node.values()) == len(CONTENT)
    assert report.banned == ()


async def test_p10_the_nonce_is_asked_for_once(start: Start, fetch: Fetch) -> None:
    """All that is refused for want of a signature is the one question for the nonce."""
    host = await start(security(OTHER_NODE))
    refused = 0
    guard = host.server._guard
    assert guard is not None
    challenge = guard.challenge

    def counted(why: str) -> web.Response:
        nonlocal refused
        refused += 1
        return challenge(why)

    guard.challenge = counted  # type: ignore[method-assign]
    await fetch(security(NODE), Source("gpu2", host.url))
    assert refused == 1
    assert len(host.requests) == 2 + CHUNKS


async def test_p10_a_new_nonce_is_learnt_on_the_way(start: Start, fetch: Fetch) -> None:
    host = await start(security(OTHER_NODE))
    assert host.server._guard is not None
    verifier = host.server._guard._verifier

    async def renew(path: str) -> None:
        if len(host.requests) % 5 == 0:
            verifier._renew(asyncio.get_running_loop().time())

    host.gate = renew
    report = await fetch(security(NODE), Source("gpu2", host.url))
    assert report.bytes_by_node == {"gpu2": len(CONTENT)}


async def test_p10_a_server_with_another_certificate_is_asked_nothing(
    start: Start, fetch: Fetch
) -> None:
    """Somebody serves at a member's address, with keys of its own, and would let us in."""
    impostor = identity(MemberKind.NODE, "gpu2", 1)
    host = await start(security(impostor, roll(*ALL, impostor)))
    with pytest.raises(FetchError, match=r"gpu2 .*another server"):
        await fetch(security(NODE), Source("gpu2", host.url))
    assert host.requests == []


async def test_p10_a_source_that_is_no_member_is_skipped_with_a_reason(
    start: Start, fetch: Fetch
) -> None:
    outsider = identity(MemberKind.NODE, "gpu9")
    host, good = await start(security(outsider)), await start(security(OTHER_NODE))
    with pytest.raises(FetchError, match=r"gpu9 .*not on the list of members here"):
        await fetch(security(NODE), Source("gpu9", host.url))
    report = await fetch(security(NODE), Source("gpu9", host.url), Source("gpu2", good.url))
    assert report.bytes_by_node == {"gpu2": len(CONTENT)}
    assert host.requests == []


async def test_p10_a_node_that_is_back_with_other_keys_is_known_by_those(
    start: Start, tree: Path, name: str, tmp_path: Path
) -> None:
    of_roll = roll()
    renewed = identity(MemberKind.NODE, "gpu2", 1)
    hosts = [await start(security(OTHER_NODE)), await start(security(renewed, of_roll))]
    store = ArtifactStore(tmp_path / "fetched")
    fetcher = Fetcher(store, limits=QUICK, security=security(NODE, of_roll), seed=0)
    await fetcher.start()
    for host in hosts:
        await fetcher.fetch(name, [Source("gpu2", host.url)])
        store.remove(name)
        of_roll.update(members(MASTER, NODE, renewed, version=2))
    with pytest.raises(FetchError, match="another server"):
        await fetcher.fetch(name, [Source("gpu2", hosts[0].url)])
    await fetcher.close()


async def test_p10_no_node_passes_for_the_master(start: Start, fetch: Fetch) -> None:
    host = await start(security(OTHER_NODE))
    with pytest.raises(FetchError, match="another server"):
        await fetch(security(NODE), Source(MASTER_NODE_ID, host.url))
    assert host.requests == []


async def test_p10_a_fetch_by_a_stranger_gets_nothing(start: Start, fetch: Fetch) -> None:
    host = await start(security(OTHER_NODE))
    with pytest.raises(FetchError, match=r"401: .*on the list of members here"):
        await fetch(security(STRANGER), Source("gpu2", host.url))
    assert host.requests == []


async def test_p10_a_member_that_the_server_has_not_heard_of_waits_for_the_list(
    start: Start, fetch: Fetch
) -> None:
    of_roll = roll(MASTER, OTHER_NODE)
    host = await start(security(OTHER_NODE, of_roll))
    assert host.server._guard is not None
    challenge = host.server._guard.challenge

    def then_update(why: str) -> web.Response:
        if "on the list of members" in why:
            of_roll.update(members(*ALL))
        return challenge(why)

    host.server._guard.challenge = then_update  # type: ignore[method-assign]
    report = await fetch(security(NODE), Source("gpu2", host.url))
    assert report.bytes_by_node == {"gpu2": len(CONTENT)}


async def test_p10_a_source_that_is_revoked_midway_is_asked_no_more(
    start: Start, fetch: Fetch, tmp_path: Path, name: str
) -> None:
    of_roll = roll()
    host = await start(security(OTHER_NODE))
    asked_after = 0

    async def revoke_at_third(path: str) -> None:
        nonlocal asked_after
        if of_roll.by_name(MemberKind.NODE, "gpu2") is None:
            asked_after += 1
        if sum("/files/" in each for each in host.requests) == 3:
            revoke(of_roll, OTHER_NODE.member)

    host.gate = revoke_at_third
    with pytest.raises(FetchError, match="not any more"):
        await fetch(security(NODE, of_roll), Source("gpu2", host.url))
    # Those that were on their way already: at most one a connection.
    assert asked_after < 4


async def test_p10_a_reader_that_is_revoked_midway_gets_no_more(start: Start, fetch: Fetch) -> None:
    of_roll = roll()
    host = await start(security(OTHER_NODE, of_roll))

    async def revoke_at_third(path: str) -> None:
        if sum("/files/" in each for each in host.requests) == 3:
            revoke(of_roll, NODE.member)

    host.gate = revoke_at_third
    with pytest.raises(FetchError, match="gpu2"):
        await fetch(security(NODE), Source("gpu2", host.url))
    assert sum("/files/" in each for each in host.requests) <= 4


async def test_p10_with_encryption_on_nothing_is_asked_in_the_clear(
    start: Start, fetch: Fetch
) -> None:
    host = await start(security(OTHER_NODE, encrypt=False))
    with pytest.raises(FetchError, match=r"artifacts\.encrypt forbids"):
        await fetch(security(NODE), Source("gpu2", host.url))
    assert host.requests == []
    # The other way round is no harm.
    safe = await start(security(OTHER_NODE))
    await fetch(security(NODE, encrypt=False), Source("gpu2", safe.url))


async def test_p10_a_server_without_membership_is_told_apart(start: Start, fetch: Fetch) -> None:
    host = await start(None)
    with pytest.raises(FetchError, match="serves without membership"):
        await fetch(security(NODE, encrypt=False), Source("gpu2", host.url))


async def test_p10_a_host_without_keys_asks_on_loopback_only(start: Start, fetch: Fetch) -> None:
    host = await start(security(OTHER_NODE, encrypt=False))
    with pytest.raises(FetchError, match="401: the request is not signed"):
        await fetch(None, Source("gpu2", host.url))
    with pytest.raises(FetchError, match="not on loopback"):
        await fetch(None, Source("gpu2", "http://192.0.2.1:7473"))


# --- uploads --------------------------------------------------------------------------


@pytest.mark.parametrize("encrypt", [True, False])
async def test_p10_a_person_uploads_to_the_master(
    start: Start, tree: Path, name: str, encrypt: bool
) -> None:
    host = await start(security(MASTER, encrypt=encrypt), holds=False, accept_uploads=True)
    of = security(PERSON, encrypt=encrypt)
    assert await upload_tree(tree, host.url, security=of, retries=RETRIES) == name
    assert host.store.verify(name)


@pytest.mark.parametrize(
    ("who", "words"),
    [(STRANGER, "401: .*list of members"), (NODE, "403: .*that is for persons")],
    ids=["stranger", "node"],
)
async def test_p10_who_may_not_upload_is_told_why(
    start: Start, tree: Path, who: Identity, words: str
) -> None:
    host = await start(security(MASTER), holds=False, accept_uploads=True)
    with pytest.raises(ArtifactError, match=words):
        await upload_tree(tree, host.url, security=security(who), retries=RETRIES)
    assert (host.store.ids(), host.store.partial_ids()) == ([], [])


async def test_p10_nothing_is_uploaded_to_who_is_not_the_master(start: Start, tree: Path) -> None:
    host = await start(security(OTHER_NODE), holds=False, accept_uploads=True)
    with pytest.raises(ArtifactError, match="another server"):
        await upload_tree(tree, host.url, security=security(PERSON), retries=RETRIES)
    assert host.requests == []
    with pytest.raises(ArtifactError, match="not on this host's list of members"):
        await upload_tree(tree, host.url, security=security(PERSON, Roll()), retries=RETRIES)


async def test_p10_an_upload_sends_no_chunk_twice_for_want_of_a_nonce(
    start: Start, tree: Path, name: str
) -> None:
    host = await start(security(MASTER), holds=False, accept_uploads=True)
    await upload_tree(tree, host.url, security=security(PERSON), retries=RETRIES)
    chunks = [each for each in host.requests if re.search("/chunks/", each)]
    assert len(chunks) == CHUNKS == len(set(chunks))
