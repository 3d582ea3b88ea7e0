"""P10 at each endpoint: who isn't a member, or not allowed to, gets nothing and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from even_chunks import cut_evenly
from member_keys import (
    IMPOSTOR,
    MASTER,
    NODE,
    OTHER_NODE,
    PERSON,
    STRANGER,
    revoke,
    roll,
    security,
)
from yarl import URL

from meshtrain.artifacts import bodies
from meshtrain.artifacts import server as serving
from meshtrain.artifacts.chunking import build_manifest
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.manifest import artifact_id, canonical_bytes
from meshtrain.errors import SettingsError
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.signing import NO_BODY, Asked, Signer
from meshtrain.security.tls import pinned_context

CHUNK = 16
HELD = b"weights that only members may read"
NEW = b"weights that are uploaded"


@dataclass(frozen=True)
class Endpoint:
    """A request that succeeds for who may make it."""

    name: str
    method: str
    path: str
    status: int
    range: str = ""
    body: str = ""
    """What is uploaded: `manifest` or `chunk`."""

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST")


ENDPOINTS = [
    Endpoint("manifest", "GET", "{held}/manifest", 200),
    Endpoint("have", "GET", "{held}/have", 200),
    Endpoint("file", "GET", "{held}/files/0", 200),
    Endpoint("range", "GET", "{held}/files/0", 206, range="bytes=0-15"),
    Endpoint("head", "HEAD", "{held}/files/0", 200),
    Endpoint("put manifest", "PUT", "{new}/manifest", 201, body="manifest"),
    Endpoint("put chunk", "PUT", "{new}/chunks/0/0", 204, body="chunk"),
    Endpoint("commit", "POST", "{new}/commit", 409),
]
"""The commit is answered with 409 to who may make it: a chunk is missing."""
WRITING = [endpoint for endpoint in ENDPOINTS if endpoint.writes]
each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.name)
each_mode = pytest.mark.parametrize("encrypt", [True, False], ids=["tls", "plain"])


@dataclass
class Host:
    store: ArtifactStore
    roll: Roll
    url: str
    session: aiohttp.ClientSession
    names: dict[str, str]
    bodies: dict[str, bytes]
    nonce: str

    def signer(self, client: Identity, server: Identity = MASTER) -> Signer:
        signer = Signer(client, server.member)
        assert signer.learn(self.nonce)
        return signer

    def target(self, endpoint: Endpoint) -> str:
        return "/v1/artifacts/" + endpoint.path.format(**self.names)

    def body(self, endpoint: Endpoint) -> bytes | None:
        return self.bodies[endpoint.body] if endpoint.body else None

    def sign(self, signer: Signer, endpoint: Endpoint) -> str:
        body = self.body(endpoint)
        digest = NO_BODY if body is None else hashlib.sha256(body).hexdigest()
        asked = Asked(endpoint.method, self.target(endpoint), endpoint.range)
        return signer.sign(asked, digest)

    async def call(
        self,
        endpoint: Endpoint,
        authorization: str | None,
        *,
        method: str | None = None,
        target: str | None = None,
        range_: str | None = None,
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        headers = {}
        if authorization is not None:
            headers["Authorization"] = authorization
        if (wanted := endpoint.range if range_ is None else range_) != "":
            headers["Range"] = wanted
        async with self.session.request(
            method or endpoint.method,
            URL(self.url + (target or self.target(endpoint)), encoded=True),
            headers=headers,
            data=self.body(endpoint) if body is None else body,
            ssl=pinned_context(MASTER.member.cert_sha256),
        ) as response:
            if response.status == 401:
                assert response.headers["WWW-Authenticate"].startswith("Mesh nonce=")
            return response.status, await response.read()

    def untouched(self) -> bool:
        """Whether nothing came by uploads."""
        partial = self.store.partial(self.names["new"])
        return (
            self.store.ids() == [self.names["held"]]
            and self.store.partial_ids() == [self.names["new"]]
            and partial is not None
            and partial.missing_count == partial.numbers.count
        )

    async def assert_refused(
        self, endpoint: Endpoint, authorization: str | None, status: int = 401, **changes: Any
    ) -> None:
        answered, body = await self.call(endpoint, authorization, **changes)
        assert answered == status
        for kept in (HELD[:8], self.bodies["held manifest"][-16:]):
            assert kept not in body
        assert self.untouched()


@pytest.fixture
def encrypt() -> bool:
    return True


@pytest.fixture
async def host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypt: bool
) -> AsyncIterator[Host]:
    cut_evenly(monkeypatch, CHUNK)
    for name, content in (("held", HELD), ("new", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_bytes(content)
    store = ArtifactStore(tmp_path / "store")
    held = store.add_tree(tmp_path / "held")
    new = build_manifest(tmp_path / "new")
    store.begin(new)
    of_roll = roll()
    server = ArtifactServer(
        store,
        "127.0.0.1",
        accept_uploads=True,
        security=security(MASTER, of_roll, encrypt=encrypt),
    )
    url = await server.start()
    async with aiohttp.ClientSession() as session:
        made = Host(
            store=store,
            roll=of_roll,
            url=url,
            session=session,
            names={"held": artifact_id(held), "new": artifact_id(new)},
            bodies={
                "manifest": canonical_bytes(new),
                "chunk": NEW[:CHUNK],
                "held manifest": canonical_bytes(held),
            },
            nonce="",
        )
        async with session.get(
            url + "/v1/nonce", ssl=pinned_context(MASTER.member.cert_sha256)
        ) as response:
            assert response.status == 401
            made.nonce = response.headers["WWW-Authenticate"]
        yield made
    await server.stop()


@each_mode
@each_endpoint
async def test_p10_the_right_key_works(host: Host, endpoint: Endpoint) -> None:
    status, body = await host.call(endpoint, host.sign(host.signer(PERSON), endpoint))
    assert status == endpoint.status
    if endpoint.name in ("file", "range"):
        assert HELD.startswith(body)
        assert body
    if endpoint.name == "put chunk":
        assert not host.untouched()


@pytest.mark.parametrize("reader", [MASTER, NODE, OTHER_NODE, PERSON], ids=repr)
async def test_p10_all_members_may_read(host: Host, reader: Identity) -> None:
    signer = host.signer(reader)
    for endpoint in ENDPOINTS:
        if not endpoint.writes:
            status, _ = await host.call(endpoint, host.sign(signer, endpoint))
            assert status == endpoint.status, endpoint.name


@each_mode
@each_endpoint
async def test_p10_without_a_signature_nothing(host: Host, endpoint: Endpoint) -> None:
    await host.assert_refused(endpoint, None)
    await host.assert_refused(endpoint, "Basic YWRhOmFkYQ==")


@each_mode
@each_endpoint
@pytest.mark.parametrize("client", [STRANGER, IMPOSTOR], ids=["unknown", "wrong key"])
async def test_p10_a_wrong_key_gets_nothing(
    host: Host, endpoint: Endpoint, client: Identity
) -> None:
    await host.assert_refused(endpoint, host.sign(host.signer(client), endpoint))


@each_mode
@each_endpoint
async def test_p10_a_revoked_key_gets_nothing(host: Host, endpoint: Endpoint) -> None:
    signer = host.signer(PERSON)
    status, _ = await host.call(ENDPOINTS[1], host.sign(signer, ENDPOINTS[1]))
    assert status == 200
    revoke(host.roll, PERSON.member)
    await host.assert_refused(endpoint, host.sign(signer, endpoint))


@pytest.mark.parametrize("endpoint", WRITING, ids=lambda e: e.name)
@pytest.mark.parametrize("client", [NODE, MASTER], ids=["node", "master"])
async def test_p10_a_member_of_the_wrong_kind_puts_nothing(
    host: Host, endpoint: Endpoint, client: Identity
) -> None:
    await host.assert_refused(endpoint, host.sign(host.signer(client), endpoint), status=403)


@each_mode
@each_endpoint
async def test_p10_a_replayed_request_gets_nothing(host: Host, endpoint: Endpoint) -> None:
    authorization = host.sign(host.signer(PERSON), endpoint)
    first, _ = await host.call(endpoint, authorization)
    assert first == endpoint.status
    before = host.store.partial(host.names["new"])
    assert before is not None
    have = before.have
    again, body = await host.call(endpoint, authorization)
    assert again == 401
    assert HELD[:8] not in body
    assert before.have == have
    assert host.store.ids() == [host.names["held"]]


@each_mode
@each_endpoint
async def test_p10_an_altered_request_gets_nothing(host: Host, endpoint: Endpoint) -> None:
    signer = host.signer(PERSON)
    other_path = host.target(endpoint).replace("/0", "/1") + "?x=1"
    await host.assert_refused(endpoint, host.sign(signer, endpoint), target=other_path)
    await host.assert_refused(endpoint, host.sign(signer, endpoint), range_="bytes=0-7")
    other_method = {"GET": "HEAD", "HEAD": "GET", "PUT": "POST", "POST": "PUT"}[endpoint.method]
    await host.assert_refused(endpoint, host.sign(signer, endpoint), method=other_method)


@each_mode
@pytest.mark.parametrize(
    "endpoint", [e for e in WRITING if e.body], ids=[e.name for e in WRITING if e.body]
)
async def test_p10_an_altered_body_is_not_stored(host: Host, endpoint: Endpoint) -> None:
    signer = host.signer(PERSON)
    body = host.body(endpoint)
    assert body is not None
    for other in (body[:-1] + b"?", body + b"?", body[:-1], b""):
        await host.assert_refused(endpoint, host.sign(signer, endpoint), body=other)
    # The right content under a signature of none.
    asked = Asked(endpoint.method, host.target(endpoint))
    await host.assert_refused(endpoint, signer.sign(asked, NO_BODY))


@each_endpoint
async def test_p10_what_was_signed_for_another_server_gets_nothing(
    host: Host, endpoint: Endpoint
) -> None:
    await host.assert_refused(endpoint, host.sign(host.signer(PERSON, server=NODE), endpoint))


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v1/nothing"), ("DELETE", "/v1/artifacts/{held}"), ("PUT", "/v1/x")],
)
async def test_p10_paths_that_lead_nowhere_are_guarded_too(
    host: Host, method: str, path: str
) -> None:
    endpoint = Endpoint("none", method, "", 404)
    await host.assert_refused(endpoint, None, target=path.format(**host.names))


async def test_p10_a_member_that_is_revoked_midway_gets_no_more(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = 4 << 20
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "w").write_bytes(bytes(size_bytes))
    cut_evenly(monkeypatch, 1 << 20)
    monkeypatch.setattr(bodies, "_TLS_PIECE_BYTES", 64 << 10)
    host.names["held"] = artifact_id(
        await asyncio.to_thread(host.store.add_tree, tmp_path / "large")
    )
    endpoint = ENDPOINTS[2]
    revoked = asyncio.Event()
    encrypted = bodies._encrypted
    sent = 0

    async def watched(*args: Any) -> int:
        nonlocal sent
        sent += 1
        if sent == 3:
            revoke(host.roll, PERSON.member)
            revoked.set()
        return await encrypted(*args)

    monkeypatch.setattr(bodies, "_encrypted", watched)
    with pytest.raises(aiohttp.ClientError):
        await host.call(endpoint, host.sign(host.signer(PERSON), endpoint))
    assert revoked.is_set()
    assert sent == 3


async def test_p10_an_uploader_that_is_revoked_while_it_sends_stores_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_body = bodies.read_body

    async def then_revoke(*args: Any) -> bytes:
        body = await read_body(*args)
        revoke(host.roll, PERSON.member)
        return body

    monkeypatch.setattr(serving, "read_body", then_revoke)
    endpoint = next(e for e in ENDPOINTS if e.name == "put chunk")
    await host.assert_refused(endpoint, host.sign(host.signer(PERSON), endpoint))
    assert host.roll.by_name(PERSON.member.kind, PERSON.name) is None


async def test_p10_a_body_is_not_read_before_its_sender_is_known(host: Host) -> None:
    """A stranger's endless body gets its answer at once, and a closed connection."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        URL(host.url).port,
        ssl=pinned_context(MASTER.member.cert_sha256),
    )
    target = host.target(ENDPOINTS[6])
    writer.write(
        f"PUT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999999\r\n\r\n".encode()
    )
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", ""])
async def test_p10_without_keys_nothing_but_loopback_is_served(
    tmp_path: Path, address: str
) -> None:
    server = ArtifactServer(ArtifactStore(tmp_path / "store"), address)
    with pytest.raises(SettingsError, match="loopback"):
        await server.start()
    await server.stop()
