"""The store: what it takes, what it gives, and what a crash leaves."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from even_chunks import cut_evenly

from meshtrain.artifacts import chunking, disk, partial
from meshtrain.artifacts.chunking import build_manifest
from meshtrain.artifacts.failures import (
    ChunkNotHereError,
    DiskFullError,
    UnknownArtifactError,
)
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.partial import Partial
from meshtrain.core.manifest import Manifest, artifact_id, digest_of
from meshtrain.errors import ArtifactError, CorruptChunkError

CHUNK = 16


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_evenly(monkeypatch, CHUNK)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "base.safetensors").write_bytes(bytes(range(50)))
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "empty").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def chunk_bytes(tree: Path, manifest: Manifest, file_index: int, chunk_index: int) -> bytes:
    file = manifest.files[file_index]
    chunk = file.chunks[chunk_index]
    data = (tree / file.path).read_bytes()
    return data[chunk.offset : chunk.offset + chunk.size_bytes]


def write_all(partial_: Partial, tree: Path, leave_out: int = 0) -> None:
    for number in range(partial_.numbers.count - leave_out):
        place = partial_.numbers.place(number)
        partial_.write_chunk(*place, chunk_bytes(tree, partial_.manifest, *place))


def leftovers(store: ArtifactStore) -> list[str]:
    folders = ("partial", "temp", "trash")
    return [path.name for folder in folders for path in (store.root / folder).iterdir()]


# --- manifests of folders -------------------------------------------------------------


def test_the_manifest_of_a_folder_lists_its_files_in_order(tree: Path) -> None:
    manifest = build_manifest(tree)
    assert [file.path for file in manifest.files] == ["empty", "models/base.safetensors", "run.sh"]
    assert [file.executable for file in manifest.files] == [False, False, True]
    weights = manifest.files[1]
    assert weights.digest == digest_of(bytes(range(50)))
    assert [chunk.size_bytes for chunk in weights.chunks] == [16, 16, 16, 2]
    assert weights.chunks[1].digest == digest_of(bytes(range(16, 32)))


def test_links_and_pipes_are_refused_with_their_path(tree: Path) -> None:
    link = tree / "models" / "link"
    link.symlink_to(tree / "run.sh")
    with pytest.raises(ArtifactError, match=r"models/link is a link"):
        build_manifest(tree)
    link.unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(ArtifactError, match=r"pipe is a device, pipe or socket"):
        build_manifest(tree)


def test_p11_sockets_and_devices_are_refused_with_their_path(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(tree, os.O_RDONLY)
        try:
            # By way of /proc: the path of a socket may have 108 bytes only.
            listening.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    with pytest.raises(ArtifactError, match=r"socket is a device, pipe or socket"):
        build_manifest(tree)
    with pytest.raises(ArtifactError, match=r"null is not a regular file"):
        chunking.manifest_of([("null", Path(os.devnull))])


def test_p11_a_file_that_is_replaced_by_a_link_is_not_followed(tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tree / "empty").unlink()
    (tree / "empty").symlink_to(secret)
    with pytest.raises(ArtifactError, match="reading"):
        chunking.manifest_of([("empty", tree / "empty")])


def test_p11_a_tree_of_too_many_files_is_not_listed_to_its_end(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "FILES_MAX", 2)
    with pytest.raises(ArtifactError, match="more than 2 files"):
        build_manifest(tree)


def test_p11_a_tree_too_deep_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "DEPTH_MAX", 0)
    with pytest.raises(ArtifactError, match="folders deep"):
        build_manifest(tree)


def test_a_link_to_a_folder_is_refused_too(tree: Path) -> None:
    (tree / "more").symlink_to(tree / "models")
    with pytest.raises(ArtifactError, match="more is a link"):
        build_manifest(tree)


@pytest.mark.parametrize("name", [b"line\nbreak", b"not-utf8-\xff", b"back\\slash"])
def test_names_that_no_artifact_can_hold_are_refused(tree: Path, name: bytes) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(tree), name))).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"[Rr]ename it"):
        build_manifest(tree)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        build_manifest(tmp_path / "nowhere")


# --- adding ---------------------------------------------------------------------------


def test_a_tree_goes_in_and_comes_out(store: ArtifactStore, tree: Path, tmp_path: Path) -> None:
    manifest = store.add_tree(tree)
    name = artifact_id(manifest)
    assert manifest == build_manifest(tree)
    assert store.has(name)
    assert store.ids() == [name]
    assert store.manifest(name) == manifest
    assert store.size_bytes(name) == 60
    assert store.read_range(name, 1, 10, 5) == bytes(range(10, 15))
    assert store.read_range(name, 1, 48, 5) == bytes([48, 49])
    assert store.verify(name)
    store.materialise(name, tmp_path / "out" / "here")
    assert contents(tmp_path / "out" / "here") == contents(tree)
    assert os.access(tmp_path / "out" / "here" / "run.sh", os.X_OK)
    assert leftovers(store) == []


def test_stored_files_are_read_only(store: ArtifactStore, tree: Path) -> None:
    name = artifact_id(store.add_tree(tree))
    files = store.root / "artifacts" / name / "files"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files.rglob("*.*")}
    assert modes == {"base.safetensors": 0o444, "run.sh": 0o555}


@pytest.mark.parametrize("move", [False, True])
def test_adding_twice_is_adding_once(store: ArtifactStore, tree: Path, move: bool) -> None:
    again = tree.with_name("again")
    shutil.copytree(tree, again)
    assert store.add_tree(tree, move=move) == store.add_tree(again, move=move)
    assert len(store.ids()) == 1
    assert again.exists() is not move
    assert leftovers(store) == []


def test_a_moved_tree_is_gone_and_whole_in_the_store(store: ArtifactStore, tree: Path) -> None:
    expected = contents(tree)
    inode = (tree / "models" / "base.safetensors").stat().st_ino
    name = artifact_id(store.add_tree(tree, move=True))
    files = store.root / "artifacts" / name / "files"
    assert not tree.exists()
    assert contents(files) == expected
    assert (files / "models" / "base.safetensors").stat().st_ino == inode
    assert store.verify(name)


def test_a_tree_on_another_file_system_is_copied_then_removed(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_replace(monkeypatch, lambda source, _: source == tree, OSError(errno.EXDEV, "cross"))
    name = artifact_id(store.add_tree(tree, move=True))
    assert store.verify(name)
    assert not tree.exists()
    assert leftovers(store) == []


def test_a_tree_that_changes_while_it_is_moved_goes_back(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def write_first(source: Any, target: Any) -> None:
        if Path(source) == tree:
            (tree / "run.sh").chmod(0o755)
            (tree / "run.sh").write_bytes(b"changed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", write_first)
    with pytest.raises(ArtifactError, match="changed while it was stored"):
        store.add_tree(tree, move=True)
    assert (tree / "run.sh").read_bytes() == b"changed"
    assert store.ids() == []
    assert leftovers(store) == []


def test_p4_a_file_with_another_name_elsewhere_is_copied_not_moved(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    """Whoever has the other name may write to it: not to the store's file."""
    other = tmp_path / "other-name"
    other.hardlink_to(tree / "models" / "base.safetensors")
    name = artifact_id(store.add_tree(tree, move=True))
    other.chmod(0o644)
    other.write_bytes(b"written by its other name")
    assert store.verify(name)
    assert not tree.exists()
    assert leftovers(store) == []


def test_a_linked_folder_is_not_moved(store: ArtifactStore, tree: Path) -> None:
    link = tree.with_name("link")
    link.symlink_to(tree)
    with pytest.raises(ArtifactError, match="is a link"):
        store.add_tree(link, move=True)
    assert tree.is_dir()


def test_a_job_that_writes_in_its_folder_does_not_reach_the_store(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    name = artifact_id(store.add_tree(tree))
    store.materialise(name, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"spoilt")
    assert store.verify(name)


def test_unpacking_never_mixes_with_what_is_there(
    store: ArtifactStore, tree: Path, tmp_path: Path
) -> None:
    name = artifact_id(store.add_tree(tree))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="unpacking"):
        store.materialise(name, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"mine"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_reflinks_are_tried_before_a_copy(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def no_reflink(_: int, request: int, __: int) -> int:
        tried.append(request)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr("fcntl.ioctl", no_reflink)
    disk.clone_file(tree / "run.sh", tmp_path / "copy", 0o600)
    assert tried == [0x40049409]
    assert (tmp_path / "copy").read_bytes() == b"#!/bin/sh\n"


def test_another_account_reads_links_where_there_are_no_reflinks(
    store: ArtifactStore, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = artifact_id(store.add_tree(tree))
    monkeypatch.setattr(disk, "_reflink", lambda *_: False)
    monkeypatch.setattr(disk, "_copy", lambda *_: pytest.fail("a copy was made"))
    store.materialise(name, tmp_path / "out", links=True)
    for file in store.manifest(name).files:
        stored = store.root / "artifacts" / name / "files" / file.path
        assert (tmp_path / "out" / file.path).samefile(stored)
        assert stored.stat().st_mode & 0o222 == 0
    assert contents(tmp_path / "out") == contents(tree)
    store.remove(name)
    assert contents(tmp_path / "out") == contents(tree)


def test_what_can_not_be_linked_is_copied(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(disk, "_reflink", lambda *_: False)
    monkeypatch.setattr(os, "link", elsewhere)
    disk.clone_file(tree / "run.sh", tmp_path / "copy", 0o600, or_link=True)
    assert (tmp_path / "copy").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "copy").stat().st_nlink == 1


def test_a_copy_works_where_the_kernel_copies_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_reflink", lambda *_: False)
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    disk.clone_file(tree / "run.sh", tmp_path / "copy", 0o600)
    assert (tmp_path / "copy").read_bytes() == b"#!/bin/sh\n"


def test_an_artifact_is_removed_whole(store: ArtifactStore, tree: Path) -> None:
    name = artifact_id(store.add_tree(tree))
    store.manifest(name)
    store.remove(name)
    store.remove(name)
    assert not store.has(name)
    assert leftovers(store) == []
    with pytest.raises(UnknownArtifactError, match="not in this store"):
        store.manifest(name)


@pytest.mark.parametrize("name", ["", "..", "../../etc", "A" * 32, "0" * 31, "0" * 32 + "\n"])
def test_what_is_no_id_never_reaches_the_disk(store: ArtifactStore, name: str) -> None:
    for method in (store.has, store.manifest, store.remove, store.partial_manifest):
        with pytest.raises(ArtifactError, match="is no artifact's id"):
            method(name)


def test_the_free_room_of_the_disk_is_told(store: ArtifactStore) -> None:
    assert 0 < store.disk_free_bytes() <= shutil.disk_usage(store.root).total


# --- in chunks ------------------------------------------------------------------------


def test_an_artifact_comes_in_chunks(store: ArtifactStore, tree: Path) -> None:
    manifest = build_manifest(tree)
    coming = store.begin(manifest)
    name = coming.artifact_id
    assert coming.have == 0
    assert coming.missing_count == 5
    assert coming.missing_bytes == 60
    assert coming.write_chunk(1, 2, chunk_bytes(tree, manifest, 1, 2)) is True
    assert coming.write_chunk(1, 2, chunk_bytes(tree, manifest, 1, 2)) is False
    assert coming.have == 1 << 2
    assert not store.has(name)
    with pytest.raises(ArtifactError, match="4 of 5 chunks are missing"):
        coming.commit()
    write_all(coming, tree)
    coming.commit()
    coming.commit()
    assert coming.committed
    assert store.verify(name)
    assert leftovers(store) == []
    assert not (store.root / "artifacts" / name / "have").exists()


def test_a_corrupt_chunk_does_not_count(store: ArtifactStore, tree: Path) -> None:
    coming = store.begin(build_manifest(tree))
    for data in (b"x" * CHUNK, b"x" * (CHUNK - 1), b"", bytes(range(17))):
        with pytest.raises(CorruptChunkError, match=r"chunk 0 of 'models/base\.safetensors'"):
            coming.write_chunk(1, 0, data)
    assert coming.have == 0


@pytest.mark.parametrize("place", [(0, 0), (3, 0), (1, 4), (-1, 0)])
def test_a_chunk_that_the_manifest_lacks_is_refused(
    store: ArtifactStore, tree: Path, place: tuple[int, int]
) -> None:
    with pytest.raises(ArtifactError, match="counted from 0"):
        store.begin(build_manifest(tree)).write_chunk(*place, b"x")


def test_only_verified_ranges_of_a_partial_are_opened(store: ArtifactStore, tree: Path) -> None:
    manifest = build_manifest(tree)
    coming = store.begin(manifest)
    coming.write_chunk(1, 1, chunk_bytes(tree, manifest, 1, 1))
    with store.open_verified(coming.artifact_id, 1, 16, 32) as file:
        file.seek(16)
        assert file.read(16) == bytes(range(16, 32))
    for start, stop in ((15, 32), (16, 33), (0, 1), (49, 50)):
        with pytest.raises(ChunkNotHereError):
            store.open_verified(coming.artifact_id, 1, start, stop)
    with pytest.raises(UnknownArtifactError):
        store.open_verified("0" * 32, 0, 0, 1)


def test_p11_names_that_a_file_system_takes_for_one_are_told_and_leave_nothing(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On disks that don't tell `A` from `a`, an artifact with both is refused, not mixed up."""
    (tree / "EMPTY").write_bytes(b"other")
    manifest = build_manifest(tree)
    preallocate = partial.preallocate
    monkeypatch.setattr(
        partial,
        "preallocate",
        lambda path, size_bytes: preallocate(path.with_name(path.name.lower()), size_bytes),
    )
    with pytest.raises(ArtifactError, match="File exists"):
        store.begin(manifest)
    assert leftovers(store) == []


def test_one_artifact_has_one_partial(store: ArtifactStore, tree: Path) -> None:
    manifest = build_manifest(tree)
    assert store.begin(manifest) is store.begin(manifest)
    assert store.partial_ids() == [artifact_id(manifest)]


def test_beginning_what_is_whole_is_done_at_once(store: ArtifactStore, tree: Path) -> None:
    manifest = store.add_tree(tree)
    coming = store.begin(manifest)
    assert coming.committed
    assert coming.missing_count == 0
    assert coming.write_chunk(1, 0, chunk_bytes(tree, manifest, 1, 0)) is False
    coming.commit()
    coming.discard()
    assert store.verify(coming.artifact_id)


def test_a_commit_that_comes_second_is_fine(store: ArtifactStore, tree: Path) -> None:
    coming = store.begin(build_manifest(tree))
    write_all(coming, tree)
    store.add_tree(tree)
    coming.commit()
    assert store.verify(coming.artifact_id)
    assert leftovers(store) == []
    assert store.partial(coming.artifact_id) is None


def test_a_discarded_partial_takes_no_more(store: ArtifactStore, tree: Path) -> None:
    coming = store.begin(build_manifest(tree))
    write_all(coming, tree, leave_out=1)
    coming.discard()
    assert leftovers(store) == []
    with pytest.raises(ArtifactError, match="was discarded"):
        write_all(coming, tree)
    with pytest.raises(ArtifactError, match="was discarded"):
        coming.commit()
    assert store.begin(coming.manifest).have == 0


def test_two_writers_of_one_chunk_wait_for_each_other(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second must not report a chunk as here before the first has written it."""
    manifest = build_manifest(tree)
    coming = store.begin(manifest)
    writing, go_on = threading.Event(), threading.Event()
    write_at = partial.write_at

    def slow_write(path: Path, pieces: Any, **options: Any) -> None:
        if path.name == "base.safetensors":
            writing.set()
            assert go_on.wait(10)
        write_at(path, pieces, **options)

    monkeypatch.setattr(partial, "write_at", slow_write)
    data = chunk_bytes(tree, manifest, 1, 0)
    results: list[tuple[bool, int]] = []

    def write() -> None:
        new = coming.write_chunk(1, 0, data)
        results.append((new, coming.have))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert writing.wait(10)
    assert results == []
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert sorted(new for new, _ in results) == [False, True]
    assert [have for _, have in results] == [1, 1]


def test_a_manifest_that_lies_about_a_whole_file_is_not_committed(
    store: ArtifactStore, tree: Path
) -> None:
    honest = build_manifest(tree)
    files = list(honest.files)
    weights = files[1]
    files[1] = type(weights)(weights.path, 50, False, "0" * 32, weights.chunks)
    coming = store.begin(Manifest(tuple(files)))
    write_all(coming, tree)
    with pytest.raises(ArtifactError, match="its chunks make another file"):
        coming.commit()
    assert not store.has(coming.artifact_id)


def test_chunks_that_are_written_together_are_judged_each_by_itself(
    store: ArtifactStore, tree: Path
) -> None:
    manifest = build_manifest(tree)
    coming = store.begin(manifest)
    chunks = [(index, chunk_bytes(tree, manifest, 1, index)) for index in (2, 0, 1)]
    wrong = (1, b"\xff" * len(chunks[2][1]))
    results = coming.write_chunks(1, [chunks[0], wrong, chunks[1], chunks[0]])
    assert [result for result in results if isinstance(result, bool)] == [True, True, False]
    assert isinstance(results[1], CorruptChunkError)
    assert "chunk 1 of" in str(results[1])
    first = coming.numbers.number(1, 0)
    assert coming.have == 0b101 << first
    with pytest.raises(ArtifactError, match="no chunk"):
        coming.write_chunks(1, [chunks[2], (9, b"x")])
    assert coming.have == 0b101 << first, "none of them was written"
    assert coming.write_chunks(1, [chunks[2], chunks[0]]) == [True, False]
    resumed = restarted(store).begin(manifest)
    assert resumed.have == 0b111 << first
    write_all(resumed, tree)
    resumed.commit()
    assert restarted(store).verify(coming.artifact_id)


def test_two_who_write_the_same_chunks_in_another_order_wait_for_each_other_once(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = build_manifest(tree)
    coming = store.begin(manifest)
    both = threading.Barrier(2, timeout=10)
    chunks = [(index, chunk_bytes(tree, manifest, 1, index)) for index in (0, 1, 2)]
    results: list[int] = []

    def write(order: int) -> None:
        both.wait()
        new = coming.write_chunks(1, chunks[::order])
        results.append(sum(one is True for one in new))

    threads = [threading.Thread(target=write, args=(order,)) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sum(results) == 3
    assert len(results) == 2


def test_bytes_that_the_disk_lost_count_as_missing_again(store: ArtifactStore, tree: Path) -> None:
    coming = store.begin(build_manifest(tree))
    # The digest of the whole follows the chunks: it waits for the first one.
    late = (1, 0)
    for number in range(coming.numbers.count):
        place = coming.numbers.place(number)
        if place != late:
            coming.write_chunk(*place, chunk_bytes(tree, coming.manifest, *place))
    disk.write_at(coming.folder / "files" / "models" / "base.safetensors", [(20, b"\xff")])
    coming.write_chunk(*late, chunk_bytes(tree, coming.manifest, *late))
    with pytest.raises(CorruptChunkError, match="read back differently"):
        coming.commit()
    assert coming.missing_count == 1
    write_all(coming, tree)
    coming.commit()
    assert store.verify(coming.artifact_id)


# --- crashes --------------------------------------------------------------------------


def restarted(store: ArtifactStore) -> ArtifactStore:
    again = ArtifactStore(store.root)
    again.recover()
    return again


def fail_replace(
    monkeypatch: pytest.MonkeyPatch,
    when: Callable[[Path, Path], bool],
    error: BaseException,
    *,
    after: bool = False,
) -> None:
    """Lets a rename fail, or the process end right after it."""
    replace = os.replace

    def failing(source: Any, target: Any) -> None:
        hit = when(Path(source), Path(target))
        if hit and not after:
            raise error
        replace(source, target)
        if hit:
            raise error

    monkeypatch.setattr(os, "replace", failing)


class CrashError(BaseException):
    """Stands for the end of the process: nothing catches it to clean up."""


def test_a_partial_goes_on_after_a_restart(store: ArtifactStore, tree: Path) -> None:
    coming = store.begin(build_manifest(tree))
    write_all(coming, tree, leave_out=2)
    again = restarted(store)
    assert again.partial_manifest(coming.artifact_id) == coming.manifest
    resumed = again.begin(coming.manifest)
    assert resumed.have == coming.have
    assert resumed.missing_count == 2
    write_all(resumed, tree)
    resumed.commit()
    assert again.verify(resumed.artifact_id)


def test_what_the_bitmap_claims_is_checked_after_a_restart(
    store: ArtifactStore, tree: Path
) -> None:
    coming = store.begin(build_manifest(tree))
    write_all(coming, tree)
    # The bitmap reached the disk, one of the chunks did not.
    disk.write_at(coming.folder / "files" / "models" / "base.safetensors", [(16, bytes(16))])
    resumed = restarted(store).begin(coming.manifest)
    assert resumed.have == 0b11101


@pytest.mark.parametrize("loss", ["manifest", "have", "files/run.sh", "files"])
def test_a_partial_that_lost_a_part_starts_anew(
    store: ArtifactStore, tree: Path, loss: str
) -> None:
    coming = store.begin(build_manifest(tree))
    write_all(coming, tree)
    disk.remove_tree(coming.folder / loss)
    resumed = restarted(store).begin(coming.manifest)
    assert resumed.have == 0
    write_all(resumed, tree)
    resumed.commit()


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_around_the_commits_rename(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    coming = store.begin(build_manifest(tree))
    name = coming.artifact_id
    write_all(coming, tree)
    with monkeypatch.context() as patch:
        fail_replace(patch, lambda _, target: target.name == name, CrashError(), after=after)
        with pytest.raises(CrashError):
            coming.commit()
    assert store.has(name) is after
    again = restarted(store)
    if not after:
        resumed = again.begin(coming.manifest)
        assert resumed.missing_count == 0
        resumed.commit()
    assert again.ids() == [name]
    assert again.verify(name)
    assert leftovers(again) == []
    assert not (again.root / "artifacts" / name / "have").exists()


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_around_the_rename_of_an_added_tree_loses_nothing(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch, move: bool, after: bool
) -> None:
    expected = contents(tree)
    name = artifact_id(build_manifest(tree))

    def crash(patch: pytest.MonkeyPatch) -> None:
        # No cleaning up: a process that is killed does none.
        patch.setattr("meshtrain.artifacts.adding.remove_tree", lambda _: None)
        fail_replace(patch, lambda _, target: target.name == name, CrashError(), after=after)

    with monkeypatch.context() as patch:
        crash(patch)
        with pytest.raises(CrashError):
            store.add_tree(tree, move=move)
    assert store.has(name) is after
    again = restarted(store)
    assert again.ids() == [name]
    assert contents(again.root / "artifacts" / name / "files") == expected
    assert again.verify(name)
    assert tree.exists() is not move
    assert leftovers(again) == []


def test_a_crash_before_the_tree_is_moved_leaves_it_where_it_was(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(tree)
    with monkeypatch.context() as patch:
        fail_replace(patch, lambda source, _: source == tree, CrashError())
        with pytest.raises(CrashError):
            store.add_tree(tree, move=True)
    assert contents(tree) == expected
    again = restarted(store)
    assert again.ids() == []
    assert leftovers(again) == []


def test_an_unfinished_copy_is_removed(store: ArtifactStore, tree: Path) -> None:
    shutil.copytree(tree, store.root / "temp" / "half" / "files")
    again = restarted(store)
    assert again.ids() == []
    assert leftovers(again) == []


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_while_an_artifact_is_removed_never_leaves_half_of_it(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    name = artifact_id(store.add_tree(tree))
    with monkeypatch.context() as patch:
        fail_replace(patch, lambda source, _: source.name == name, CrashError(), after=after)
        with pytest.raises(CrashError):
            store.remove(name)
    again = restarted(store)
    assert again.has(name) is not after
    assert leftovers(again) == []


@pytest.mark.parametrize("spoil", ["manifest", "size", "gone"])
def test_an_artifact_that_is_no_longer_whole_is_not_visible(
    store: ArtifactStore, tree: Path, spoil: str
) -> None:
    name = artifact_id(store.add_tree(tree))
    folder = store.root / "artifacts" / name
    victim = folder / "manifest" if spoil == "manifest" else folder / "files" / "run.sh"
    victim.chmod(0o644)
    if spoil == "gone":
        victim.unlink()
    else:
        victim.write_bytes(b"spoilt")
    assert restarted(store).ids() == []


@pytest.mark.parametrize("place", ["artifacts", "partial", "temp", "trash"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_strange_things_in_the_store_are_cleared_away(
    store: ArtifactStore, place: str, kind: str
) -> None:
    strange = store.root / place / "strange"
    if kind == "file":
        strange.write_bytes(b"?")
    else:
        (strange / "deep").mkdir(parents=True)
    again = restarted(store)
    assert leftovers(again) == []
    assert again.ids() == []


def test_a_flipped_bit_is_found_by_a_verification(store: ArtifactStore, tree: Path) -> None:
    name = artifact_id(store.add_tree(tree))
    victim = store.root / "artifacts" / name / "files" / "run.sh"
    victim.chmod(0o644)
    victim.write_bytes(b"#!/bin/hs\n")
    assert not store.verify(name)


# --- full disks -----------------------------------------------------------------------


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_before_anything_is_fetched(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(DiskFullError, match="the disk is full"):
        store.begin(build_manifest(tree))
    assert leftovers(store) == []


def test_a_full_disk_while_a_chunk_is_written_leaves_the_chunk_missing(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = store.begin(build_manifest(tree))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        with pytest.raises(DiskFullError):
            write_all(coming, tree)
    assert coming.have == 0
    write_all(coming, tree)
    coming.commit()


@pytest.mark.parametrize("call", ["fchmod", "fsync"])
def test_a_full_disk_while_a_tree_is_added_leaves_nothing(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_room)
        with pytest.raises(DiskFullError):
            store.add_tree(tree)
    assert leftovers(store) == []
    assert contents(tree)


def test_a_quota_is_a_full_disk_and_another_error_is_not(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, full in ((errno.EDQUOT, True), (errno.EIO, False)):

        def failing(*_: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(ArtifactError) as caught:
                store.add_tree(tree)
        assert isinstance(caught.value, DiskFullError) is full


def test_room_is_taken_by_size_where_it_cannot_be_reserved(
    store: ArtifactStore, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    coming = store.begin(build_manifest(tree))
    write_all(coming, tree)
    coming.commit()
    assert store.verify(coming.artifact_id)
