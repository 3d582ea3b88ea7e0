"""Chunks that are here already are taken from where they lie, and checked like any other."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from even_chunks import cut_evenly
from tensor_files import save, transformer, with_rows

from meshtrain.artifacts import partial
from meshtrain.artifacts.chunking import build_manifest
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.fetch import Fetcher, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.partial import Partial
from meshtrain.artifacts.reuse import ChunkIndex, take_known_chunks
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.artifacts.upload import upload_tree
from meshtrain.artifacts.uploads import UploadLimits, Uploads
from meshtrain.core.manifest import Manifest, artifact_id, canonical_bytes
from meshtrain.core.manifest_diff import diff_manifests
from meshtrain.errors import ArtifactError

CHUNK = 16
BASE = b"".join(bytes([65 + n]) * CHUNK for n in range(8))
TUNED = BASE[: 5 * CHUNK] + b"?" * CHUNK + BASE[6 * CHUNK :]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def index(store: ArtifactStore) -> ChunkIndex:
    return ChunkIndex(store)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_evenly(monkeypatch, CHUNK)


@pytest.fixture
def tree(tmp_path: Path, small_chunks: None) -> Callable[..., Path]:
    def make(**files: bytes) -> Path:
        folder = tmp_path / hashlib.md5(repr(files).encode()).hexdigest()
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    return make


def begun(store: ArtifactStore, folder: Path) -> Partial:
    return store.begin(build_manifest(folder))


def fetch_the_rest(coming: Partial, folder: Path) -> int:
    """Writes what is missing as a fetch would; the bytes of it."""
    fetched_bytes = 0
    for number in range(coming.numbers.count):
        if not coming.have >> number & 1:
            file_index, chunk_index = coming.numbers.place(number)
            file = coming.manifest.files[file_index]
            chunk = file.chunks[chunk_index]
            content = (folder / file.path).read_bytes()
            data = content[chunk.offset : chunk.offset + chunk.size_bytes]
            assert coming.write_chunk(file_index, chunk_index, data)
            fetched_bytes += chunk.size_bytes
    return fetched_bytes


def test_of_a_fine_tune_whose_base_is_here_only_what_is_new_is_fetched(
    tmp_path: Path, store: ArtifactStore, index: ChunkIndex
) -> None:
    model = transformer(width=320, blocks=4, vocabulary=4000, classes=1000)
    base = save(model, tmp_path / "base" / "model.safetensors").parent
    (base / "tokens.json").write_text("{}")
    tuned_model = with_rows(model, ("classifier.weight", "classifier.bias"), 7, at=1000)
    tuned = save(tuned_model, tmp_path / "tuned" / "deep" / "weights.safetensors").parent.parent
    store.add_tree(base)
    coming = begun(store, tuned)
    reused_bytes = take_known_chunks(coming, index)
    fetched_bytes = fetch_the_rest(coming, tuned)
    assert reused_bytes + fetched_bytes == coming.manifest.size_bytes > 20 << 20
    assert fetched_bytes < 1_600_000
    coming.commit()
    name = artifact_id(build_manifest(tuned))
    assert store.verify(name)


async def test_fetching_a_fine_tune_moves_only_what_is_new_in_it(tmp_path: Path) -> None:
    model = transformer(width=256, blocks=3, vocabulary=4000, classes=400)
    tuned = with_rows(model, ("embeddings.word.weight",), 5, at=1700)
    folders = [tmp_path / name for name in ("base", "tuned")]
    for folder, tensors in zip(folders, (model, tuned), strict=True):
        save(tensors, folder / "model.safetensors")
    there, here = (ArtifactStore(tmp_path / name) for name in ("there", "here"))
    base, wanted = (there.add_tree(folder) for folder in folders)
    name = artifact_id(wanted)
    server = ArtifactServer(there, "127.0.0.1")
    fetcher = Fetcher(here, seed=0)
    await fetcher.start()
    try:
        sources = [Source("there", await server.start())]
        first = await fetcher.fetch(artifact_id(base), sources)
        report = await fetcher.fetch(name, sources)
    finally:
        await fetcher.close()
        await server.stop()
    assert first.bytes_reused == 0
    new_bytes = diff_manifests(base, wanted).new_bytes
    assert report.bytes_by_node == {"there": new_bytes}
    assert report.bytes_reused == wanted.size_bytes - new_bytes > 0.7 * wanted.size_bytes
    assert here.verify(name)


async def test_an_upload_sends_only_what_no_artifact_there_holds(
    tmp_path: Path, tree: Callable[..., Path]
) -> None:
    there = ArtifactStore(tmp_path / "there")
    there.add_tree(tree(code=BASE, data=b"12345" * 40))
    server = ArtifactServer(there, "127.0.0.1", accept_uploads=True)
    sent: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        if "/chunks/" in request.path:
            sent.append(request.path.partition("/chunks/")[2])
        return await handler(request)

    server.app.middlewares.append(note)
    edited = tree(code=TUNED, data=b"12345" * 40)
    try:
        name = await upload_tree(edited, await server.start())
    finally:
        await server.stop()
    assert sent == ["0/5"]
    assert there.verify(name)


def test_an_upload_waits_no_longer_for_what_is_here_than_its_limit(
    tmp_path: Path, tree: Callable[..., Path]
) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.add_tree(tree(model=BASE))
    manifest = build_manifest(tree(tuned=TUNED))
    sent = artifact_id(manifest), canonical_bytes(manifest)
    coming = Uploads(store, UploadLimits(reuse_max_s=-1.0)).begin(*sent, 0.0)
    assert coming is not None and coming.have == 0
    # What is still here is taken when it is begun again.
    assert Uploads(store, UploadLimits()).begin(*sent, 0.0) is coming
    assert coming.have == 0b11011111


def test_chunks_come_from_several_artifacts_and_go_to_all_their_places(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    store.add_tree(tree(model=BASE))
    store.add_tree(tree(other=b"?" * CHUNK, more=b"!" * 5))
    wanted = tree(again=BASE[:CHUNK], new=b"new" * CHUNK, tuned=TUNED)
    coming = begun(store, wanted)
    assert take_known_chunks(coming, index) == len(TUNED) + CHUNK
    assert coming.missing_bytes == 3 * CHUNK
    assert take_known_chunks(coming, index) == 0
    assert fetch_the_rest(coming, wanted) == 3 * CHUNK
    coming.commit()


def test_nothing_is_read_when_nothing_is_missing(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    store.add_tree(tree(model=BASE))
    assert take_known_chunks(begun(store, tree(model=BASE, x=b"")), index) == len(BASE)
    whole = store.begin(store.manifest(store.ids()[0]))
    assert take_known_chunks(whole, index) == 0
    assert take_known_chunks(begun(store, tree(empty=b"")), index) == 0


def test_an_artifact_that_has_gone_is_forgotten_and_a_new_one_found(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    base = artifact_id(store.add_tree(tree(model=BASE)))
    coming = begun(store, tree(tuned=TUNED))
    digests = {chunk.digest: None for chunk in coming.manifest.files[0].chunks}
    assert index.holders(digests) == [(base, [0, 1, 2, 3, 4, 6, 7])]
    assert index.chunk_count == 8
    store.remove(base)
    assert index.holders(digests) == [] and index.chunk_count == 0
    assert take_known_chunks(coming, index) == 0
    store.add_tree(tree(model=BASE, more=b"more"))
    assert take_known_chunks(coming, index) == 7 * CHUNK


@pytest.mark.parametrize("when", ["before it is opened", "while it is read"])
def test_P12_an_artifact_removed_meanwhile_delays_nothing(
    store: ArtifactStore,
    index: ChunkIndex,
    tree: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    base = artifact_id(store.add_tree(tree(model=BASE)))
    wanted = tree(tuned=TUNED)
    coming = begun(store, wanted)
    if when == "before it is opened":
        holders = index.holders

        def and_evicted(digests: dict[str, object]) -> list[tuple[str, list[int]]]:
            found = holders(digests)
            store.remove(base)
            return found

        monkeypatch.setattr(index, "holders", and_evicted)
        assert take_known_chunks(coming, index) == 0
    else:
        written: list[int] = []
        coming.on_have = lambda: written.append(1) or store.remove(base)  # type: ignore[func-returns-value]
        # What is open stays readable.
        assert take_known_chunks(coming, index) == 7 * CHUNK
        coming.on_have = None
        assert written
    fetch_the_rest(coming, wanted)
    coming.commit()
    assert store.verify(coming.artifact_id)


def test_P12_bytes_that_the_disk_has_spoilt_are_taken_elsewhere_or_fetched(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    base = artifact_id(store.add_tree(tree(model=BASE)))
    spoilt = store.root / "artifacts" / base / "files" / "model"
    spoilt.chmod(0o600)
    spoilt.write_bytes(b"#" * (3 * CHUNK) + BASE[3 * CHUNK : -3])
    store.add_tree(tree(small=BASE[:CHUNK]))
    coming = begun(store, tree(tuned=TUNED))
    # The first from elsewhere; the second, third and last, which is too short, not at all.
    assert take_known_chunks(coming, index) == 4 * CHUNK
    assert coming.have == 0b01011001


def test_a_damaged_manifest_hides_what_it_lists(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    base = artifact_id(store.add_tree(tree(model=BASE)))
    (store.root / "artifacts" / base / "manifest").write_bytes(b"?")
    fresh = ChunkIndex(ArtifactStore(store.root))
    assert take_known_chunks(begun(fresh.store, tree(tuned=TUNED)), fresh) == 0


def test_digests_that_are_alike_by_half_are_told_apart(
    store: ArtifactStore,
    index: ChunkIndex,
    tree: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshtrain.artifacts.reuse._KEY_DIGITS", 1)
    store.add_tree(tree(model=bytes(range(256)) * CHUNK))
    assert take_known_chunks(begun(store, tree(tuned=TUNED)), index) == 0


def test_the_index_is_bounded(
    store: ArtifactStore, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ChunkIndex(store, chunks_max=9)
    first = artifact_id(store.add_tree(tree(model=BASE)))
    coming = begun(store, tree(tuned=TUNED))
    assert take_known_chunks(coming, index) == 7 * CHUNK
    second = artifact_id(store.add_tree(tree(model=TUNED)))
    wanted = {coming.manifest.files[0].chunks[5].digest: None}
    read: list[str] = []
    manifest = store.manifest
    monkeypatch.setattr(store, "manifest", lambda name: read.append(name) or manifest(name))  # type: ignore[func-returns-value]
    assert index.holders(wanted) == index.holders(wanted) == []
    assert index.chunk_count == 8
    store.remove(first)
    assert index.holders(wanted) == [(second, [5])]
    # Not at every question: where there was no room, and where there is.
    assert read == [second, second]


def test_a_full_disk_is_told_and_what_was_taken_stays(
    store: ArtifactStore,
    index: ChunkIndex,
    tree: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.add_tree(tree(model=BASE))
    coming = begun(store, tree(tuned=TUNED))
    write_at, writes = partial.write_at, iter(range(100))

    def full_at_the_third(path: Path, *args: object, **kwargs: object) -> None:
        if path.name == "tuned" and next(writes) == 2:
            raise OSError(28, "No space left on device")
        write_at(path, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(partial, "write_at", full_at_the_third)
        with pytest.raises(DiskFullError):
            take_known_chunks(coming, index)
    assert coming.have == 0b11
    assert take_known_chunks(coming, index) == 5 * CHUNK


def test_it_ends_when_it_is_told_to_or_the_fetch_is_given_up(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    store.add_tree(tree(model=BASE))
    coming = begun(store, tree(tuned=TUNED))
    assert take_known_chunks(coming, index, stopped=lambda: coming.have == 0b11) == 2 * CHUNK
    coming.discard()
    with pytest.raises(ArtifactError, match="discarded"):
        take_known_chunks(coming, index)


def test_two_takers_share_the_work(
    store: ArtifactStore, index: ChunkIndex, tree: Callable[..., Path]
) -> None:
    store.add_tree(tree(model=BASE))
    manifest: Manifest = build_manifest(tree(tuned=TUNED))
    first, second = store.begin(manifest), store.begin(manifest)
    assert first is second
    counts = [take_known_chunks(first, index), take_known_chunks(second, index)]
    assert counts == [7 * CHUNK, 0]
    shutil.rmtree(store.root / "artifacts")
    (store.root / "artifacts").mkdir()
    assert take_known_chunks(first, index) == 0
