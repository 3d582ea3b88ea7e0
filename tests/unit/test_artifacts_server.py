"""The server's routes, as any HTTP client meets them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from even_chunks import cut_evenly
from multidict import CIMultiDictProxy

from meshtrain.artifacts import open_files
from meshtrain.artifacts.bodies import BodyLimits
from meshtrain.artifacts.chunking import build_manifest
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.artifacts.uploads import UploadLimits, Uploads
from meshtrain.core import manifest as manifests
from meshtrain.core.manifest import Manifest, artifact_id, canonical_bytes
from meshtrain.core.token_bucket import TokenBucket
from meshtrain.errors import ArtifactError

CHUNK = 16
WEIGHTS = bytes(range(50))
UNKNOWN = "0" * 32


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_evenly(monkeypatch, CHUNK)


@dataclass
class Host:
    store: ArtifactStore
    server: ArtifactServer
    session: aiohttp.ClientSession
    base: str

    async def call(
        self, method: str, path: str, **options: Any
    ) -> tuple[int, bytes, CIMultiDictProxy[str]]:
        url = f"{self.base}/v1/artifacts/{path}"
        async with self.session.request(method, url, **options) as response:
            return response.status, await response.read(), response.headers

    async def get(self, path: str, range_: str | None = None) -> tuple[int, bytes]:
        headers = {"Range": range_} if range_ is not None else {}
        status, body, _ = await self.call("GET", path, headers=headers)
        return status, body


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "a-empty").write_bytes(b"")
    (folder / "weights").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    store = ArtifactStore(tmp_path / "store")
    server = ArtifactServer(
        store, "127.0.0.1", accept_uploads=True, upload_limits=UploadLimits(open_max=2)
    )
    base = await server.start()
    async with aiohttp.ClientSession() as session:
        yield Host(store, server, session, base)
    await server.stop()


async def test_a_whole_artifact_is_served(host: Host, tree: Path) -> None:
    manifest = host.store.add_tree(tree)
    name = artifact_id(manifest)
    assert await host.get(f"{name}/manifest") == (200, canonical_bytes(manifest))
    assert await host.get(f"{name}/have") == (200, b"\x0f")
    assert await host.get(f"{name}/files/1") == (200, WEIGHTS)
    assert await host.get(f"{name}/files/0") == (200, b"")


async def test_ranges_of_a_file(host: Host, tree: Path) -> None:
    name = artifact_id(host.store.add_tree(tree))
    status, body, headers = await host.call(
        "GET", f"{name}/files/1", headers={"Range": "bytes=16-31"}
    )
    assert (status, body) == (206, WEIGHTS[16:32])
    assert headers["Content-Range"] == "bytes 16-31/50"
    assert headers["Content-Length"] == "16"
    assert await host.get(f"{name}/files/1", "bytes=48-99") == (206, WEIGHTS[48:])
    assert await host.get(f"{name}/files/1", "bytes=-2") == (206, WEIGHTS[48:])
    status, _, headers = await host.call("GET", f"{name}/files/1", headers={"Range": "bytes=50-"})
    assert status == 416
    assert headers["Content-Range"] == "bytes */50"
    assert (await host.get(f"{name}/files/0", "bytes=0-0"))[0] == 416


async def test_a_head_request_tells_the_size_and_sends_nothing(host: Host, tree: Path) -> None:
    name = artifact_id(host.store.add_tree(tree))
    status, body, headers = await host.call("HEAD", f"{name}/files/1")
    assert (status, body, headers["Content-Length"]) == (200, b"", "50")


async def test_a_large_file_goes_through_whole(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "file").write_bytes(content)
    cut_evenly(monkeypatch, 1 << 20)
    name = artifact_id(host.store.add_tree(tmp_path / "large"))
    assert await host.get(f"{name}/files/0") == (200, content)
    assert await host.get(f"{name}/files/0", "bytes=1048576-2097151") == (
        206,
        content[1 << 20 : 2 << 20],
    )


async def test_of_a_partial_artifact_only_verified_chunks_are_served(
    host: Host, tree: Path
) -> None:
    manifest = build_manifest(tree)
    name = artifact_id(manifest)
    coming = host.store.begin(manifest)
    assert await host.get(f"{name}/have") == (200, b"\x00")
    coming.write_chunk(1, 1, WEIGHTS[16:32])
    assert await host.get(f"{name}/manifest") == (200, canonical_bytes(manifest))
    assert await host.get(f"{name}/have") == (200, b"\x02")
    assert await host.get(f"{name}/files/1", "bytes=16-31") == (206, WEIGHTS[16:32])
    assert await host.get(f"{name}/files/1", "bytes=20-21") == (206, WEIGHTS[20:22])
    for range_ in ("bytes=15-31", "bytes=16-32", "bytes=0-15", None):
        status, body = await host.get(f"{name}/files/1", range_)
        assert status == 409
        assert b"have not come here yet" in body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{UNKNOWN}/manifest", 404),
        (f"{UNKNOWN}/have", 404),
        (f"{UNKNOWN}/files/0", 404),
        ("nonsense/manifest", 400),
        ("A" * 32 + "/manifest", 400),
        ("%2e%2e/manifest", 404),
        ("..%2f..%2fetc%2fpasswd/manifest", 400),
        ("{id}/files/2", 404),
        ("{id}/files/-1", 400),
        ("{id}/files/1.0", 400),
        ("{id}/files/weights", 400),
        ("{id}/files/..%2f..%2fmanifest", 400),
        ("{id}/files/999999999999999999999", 400),
        ("{id}/files/%D9%A3", 400),
        ("{id}/files/../../../manifest", 404),
    ],
)
async def test_what_is_unknown_or_ill_formed(
    host: Host, tree: Path, path: str, status: int
) -> None:
    name = artifact_id(host.store.add_tree(tree))
    assert (await host.get(path.replace("{id}", name)))[0] == status


async def test_of_manifests_that_are_asked_for_a_few_are_kept(
    host: Host, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_files, "MANIFESTS_KEPT_MAX", 2)
    for size_bytes in range(1, 6):
        (tree / "weights").write_bytes(bytes(size_bytes))
        manifest = host.store.add_tree(tree)
        path = f"{artifact_id(manifest)}/manifest"
        for _ in range(2):
            assert await host.get(path) == (200, canonical_bytes(manifest))
        assert len(host.server._files._manifests) <= 2


async def test_too_many_requests_are_told_to_come_again(tmp_path: Path, tree: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    server = ArtifactServer(store, "127.0.0.1", requests_max=1)
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        entered.set()
        await go_on.wait()
        return web.Response(text="done")

    server.app.router.add_get("/wait", wait)
    base = await server.start()
    async with aiohttp.ClientSession() as session:
        first = asyncio.create_task(session.get(f"{base}/wait"))
        await entered.wait()
        async with session.get(f"{base}/v1/artifacts/{UNKNOWN}/have") as second:
            assert second.status == 503
            assert second.headers["Retry-After"]
        go_on.set()
        async with await first as response:
            assert response.status == 200
    await server.stop()


async def test_a_peer_that_takes_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = 64 << 20
    (tmp_path / "tree").mkdir()
    # Sparse, and more than all buffers between the two can take.
    with (tmp_path / "tree" / "file").open("wb") as file:
        file.truncate(size_bytes)
    cut_evenly(monkeypatch, 16 << 20)
    store = ArtifactStore(tmp_path / "store")
    name = artifact_id(store.add_tree(tmp_path / "tree"))
    ended = asyncio.Event()
    send_range = ArtifactServer._send_range

    async def watched(*args: Any) -> web.StreamResponse:
        try:
            return await send_range(*args)
        finally:
            ended.set()

    monkeypatch.setattr(ArtifactServer, "_send_range", watched)
    server = ArtifactServer(store, "127.0.0.1", body_limits=BodyLimits(0.05, 1 << 40))
    base = await server.start()
    port = int(base.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(f"GET /v1/artifacts/{name}/files/0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    # Nothing is read until the other side is done with waiting.
    await ended.wait()
    received_bytes = 0
    with suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            received_bytes += len(piece)
    assert received_bytes < size_bytes
    writer.close()
    await server.stop()


async def test_an_address_in_use_is_told(host: Host) -> None:
    port = int(host.base.rsplit(":", 1)[1])
    with pytest.raises(ArtifactError, match="Set another address or port"):
        await ArtifactServer(host.store, "127.0.0.1", port).start()


# --- uploads --------------------------------------------------------------------------


async def put_all(host: Host, manifest: Manifest, tree: Path, leave_out: int = 0) -> None:
    name = artifact_id(manifest)
    places = [(f, c) for f, file in enumerate(manifest.files) for c in range(len(file.chunks))]
    for file_index, chunk_index in places[: len(places) - leave_out]:
        chunk = manifest.files[file_index].chunks[chunk_index]
        data = (tree / manifest.files[file_index].path).read_bytes()
        data = data[chunk.offset : chunk.offset + chunk.size_bytes]
        status, _, _ = await host.call(
            "PUT", f"{name}/chunks/{file_index}/{chunk_index}", data=data
        )
        assert status == 204


async def test_p10_without_keys_a_page_that_names_itself_loopback_gets_and_puts_nothing(
    host: Host, tree: Path, tmp_path: Path
) -> None:
    """A page can have its own name looked up as 127.0.0.1, and can't say another name."""
    name = artifact_id(host.store.add_tree(tree))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file").write_bytes(b"planted")
    planted = build_manifest(tmp_path / "new")
    asked: list[tuple[str, str, bytes | None]] = [
        ("GET", f"{name}/manifest", None),
        ("GET", f"{name}/files/1", None),
        ("PUT", f"{artifact_id(planted)}/manifest", canonical_bytes(planted)),
    ]
    for method, path, data in asked:
        for spoken in ("evil.example.org", "127.0.0.1.evil.org:80", "[", "0.0.0.0", "\xff", ""):
            status, body, _ = await host.call(method, path, data=data, headers={"Host": spoken})
            assert status == 403, (method, spoken)
            assert b"Ask for 127.0.0.1" in body
    assert host.store.partial_ids() == [] and host.store.ids() == [name]
    for spoken in ("localhost", "127.0.0.1:1", "[::1]:7473", "LOCALHOST:1"):
        for method, path, data in asked:
            status, _, _ = await host.call(method, path, data=data, headers={"Host": spoken})
            assert status in (200, 201), (method, spoken)


async def test_an_upload(host: Host, tree: Path) -> None:
    manifest = build_manifest(tree)
    name = artifact_id(manifest)
    data = canonical_bytes(manifest)
    assert (await host.call("PUT", f"{name}/manifest", data=data))[0] == 201
    await put_all(host, manifest, tree, leave_out=1)
    status, body, _ = await host.call("POST", f"{name}/commit")
    assert status == 409
    assert b"1 chunks are missing" in body
    assert not host.store.has(name)
    await put_all(host, manifest, tree)
    assert (await host.call("POST", f"{name}/commit"))[0] == 200
    assert host.store.verify(name)
    # All of it again changes nothing.
    assert (await host.call("PUT", f"{name}/manifest", data=data))[0] == 201
    await put_all(host, manifest, tree)
    assert (await host.call("POST", f"{name}/commit"))[0] == 200


async def test_uploads_that_are_refused(
    host: Host, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build_manifest(tree)
    name = artifact_id(manifest)
    data = canonical_bytes(manifest)

    async def status_of(method: str, path: str, body: bytes = b"") -> int:
        return (await host.call(method, path, data=body))[0]

    assert await status_of("PUT", f"{name}/chunks/1/0", WEIGHTS[:16]) == 404
    assert await status_of("POST", f"{name}/commit") == 404
    assert await status_of("PUT", f"{UNKNOWN}/manifest", data) == 422
    assert await status_of("PUT", "nonsense/manifest", data) == 400
    assert host.store.partial_ids() == []
    assert await status_of("PUT", f"{name}/manifest", data) == 201
    assert await status_of("PUT", f"{name}/chunks/1/0", b"x" * 16) == 422
    assert await status_of("PUT", f"{name}/chunks/1/0", WEIGHTS[:15]) == 422
    assert await status_of("PUT", f"{name}/chunks/7/0", WEIGHTS[:16]) == 400
    assert await status_of("PUT", f"{name}/chunks/x/0", WEIGHTS[:16]) == 400
    assert await status_of("PUT", f"{name}/chunks/1/0", bytes((16 << 20) + 1)) == 413
    assert (await host.get(f"{name}/have"))[1] == b"\x00"


async def test_an_endless_body_is_cut_off(host: Host, tree: Path) -> None:
    manifest = build_manifest(tree)
    name = artifact_id(manifest)
    await host.call("PUT", f"{name}/manifest", data=canonical_bytes(manifest))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    try:
        status, _, _ = await host.call("PUT", f"{name}/chunks/1/0", data=endless())
    except aiohttp.ClientError:
        return
    assert status == 413


async def test_a_manifest_that_leaves_its_folder_is_not_laid_out(host: Host, tree: Path) -> None:
    file = build_manifest(tree).files[1]
    escaping = Manifest((type(file)("../../escaped", *_fields(file)[1:]),))
    name = artifact_id(escaping)
    status, body, _ = await host.call("PUT", f"{name}/manifest", data=canonical_bytes(escaping))
    assert status == 400
    assert b"leaves the folder" in body
    assert host.store.partial_ids() == []
    assert list(host.store.root.parent.glob("**/escaped")) == []


async def test_an_upload_over_the_limit_is_refused(tmp_path: Path, tree: Path) -> None:
    uploads = Uploads(ArtifactStore(tmp_path / "store"), UploadLimits(size_max_bytes=49))
    manifest = build_manifest(tree)
    with pytest.raises(ArtifactError, match="the limit of an upload is 49"):
        uploads.begin(artifact_id(manifest), canonical_bytes(manifest), 0.0)


async def test_open_uploads_are_bounded_and_idle_ones_make_room(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    uploads = Uploads(store, UploadLimits(open_max=1, idle_max_s=10.0))
    manifests_ = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(bytes(32))
        manifests_.append(build_manifest(tmp_path / name))
    first, second = manifests_

    def begin(manifest: Manifest, now_s: float) -> Any:
        return uploads.begin(artifact_id(manifest), canonical_bytes(manifest), now_s)

    assert begin(first, 0.0) is not None
    assert begin(first, 1.0) is not None
    assert begin(second, 2.0) is None
    uploads.write_chunk(artifact_id(first), 0, 0, bytes(16))
    assert begin(second, 11.0) is None, "it got on since"
    assert begin(second, 20.9) is None
    assert begin(second, 21.0) is not None
    assert store.partial_ids() == [artifact_id(second)]


async def test_a_full_disk_is_told_as_such(
    host: Host, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    manifest = build_manifest(tree)
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    status, body, _ = await host.call(
        "PUT", f"{artifact_id(manifest)}/manifest", data=canonical_bytes(manifest)
    )
    assert status == 507
    assert b"the disk is full" in body


async def test_without_leave_nothing_is_uploaded(tmp_path: Path, tree: Path) -> None:
    store = ArtifactStore(tmp_path / "closed")
    server = ArtifactServer(store, "127.0.0.1")
    base = await server.start()
    manifest = build_manifest(tree)
    async with (
        aiohttp.ClientSession() as session,
        session.put(
            f"{base}/v1/artifacts/{artifact_id(manifest)}/manifest",
            data=canonical_bytes(manifest),
        ) as response,
        session.get(f"{base}/v1/artifacts/{artifact_id(store.add_tree(tree))}/have") as have,
    ):
        assert response.status == 405
        assert have.status == 404
    assert store.partial_ids() == []
    await server.stop()


def _fields(file: manifests.FileEntry) -> tuple[Any, ...]:
    return (file.path, file.size_bytes, file.executable, file.digest, file.chunks)


async def test_what_is_sent_counts_against_the_limit_of_the_node(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def count(_: TokenBucket, size_bytes: int, now_s: float) -> float:
        counted.append(size_bytes)
        return 0.001

    monkeypatch.setattr(TokenBucket, "delay_s", count)
    (tree / "large").write_bytes(bytes(300_000))
    store = ArtifactStore(tmp_path / "limited")
    manifest = store.add_tree(tree)
    index = [file.path for file in manifest.files].index("large")
    server = ArtifactServer(store, "127.0.0.1", sent_bytes_per_s_max=1_000_000)
    url = await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            place = f"{url}/v1/artifacts/{artifact_id(manifest)}/files/{index}"
            async with session.get(place) as answer:
                assert await answer.read() == bytes(300_000)
    finally:
        await server.stop()
    assert sum(counted) == 300_000
    assert max(counted) <= 128 << 10
