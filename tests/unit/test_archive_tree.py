"""Trees in an archive, in a folder and on an S3 server: whole or not to be seen, and verified."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from meshtrain.archive import object_target, opening
from meshtrain.archive.failures import (
    ArchiveAwayError,
    ArchiveExtraError,
    ArchiveRefusedError,
    ArchiveStoppedError,
    LocalCopyError,
    NotArchivedError,
)
from meshtrain.archive.folder_target import FolderTarget
from meshtrain.archive.object_target import ObjectTarget
from meshtrain.archive.target import Reader, Target
from meshtrain.archive.tree import (
    MANIFEST_FILE,
    beside,
    open_archived,
    read_artifact,
    read_tree,
    send_tree,
)
from meshtrain.core.manifest import Chunk, FileEntry, Manifest, artifact_id, digest_of
from tests.s3_double.s3_server import S3Server, s3_server

pytestmark = pytest.mark.xdist_group("archive_s3")

PLACE = "results/sweep/lr=0.1/j1.1"
FILES = {
    "config.json": b"{}",
    "empty": b"",
    "manifest.json": b"the job's own file of that name",
    "weights/model.safetensors": bytes(range(256)) * 40,
}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A bucket of this test's own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.nodeid)):x}"
    server.make_bucket(name)
    return name


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    if request.param == "folder":
        root = tmp_path / "share"
        root.mkdir()
        return FolderTarget(root)
    return ObjectTarget(f"s3://{request.getfixturevalue('bucket')}/some/prefix")


def manifest_of(files: dict[str, bytes], chunk_bytes: int = 4096) -> Manifest:
    entries = []
    for path, data in sorted(files.items()):
        chunks = tuple(
            Chunk(at, len(part), digest_of(part))
            for at in range(0, len(data), chunk_bytes)
            for part in [data[at : at + chunk_bytes]]
        )
        entries.append(FileEntry(path, len(data), False, digest_of(data), chunks))
    return Manifest(tuple(entries))


MANIFEST = manifest_of(FILES)
ID = artifact_id(MANIFEST)


def opener(files: dict[str, bytes]) -> Callable[[int], BinaryIO]:
    data = [files[path] for path in sorted(files)]
    return lambda index: io.BytesIO(data[index])


def send(target: Target, files: dict[str, bytes] = FILES, place: str = PLACE) -> str:
    return send_tree(target, place, manifest_of(files), opener(files), about={"kind": "result"})


class Watched:
    """A target that counts what is written, and breaks at the path that it is told."""

    def __init__(self, inner: Target, breaks_at: str = "") -> None:
        self._inner = inner
        self.breaks_at = breaks_at
        self.written: list[str] = []

    @property
    def url(self) -> str:
        return self._inner.url

    def demand_root(self) -> None:
        self._inner.demand_root()

    def write(self, path: str, blocks: Iterable[bytes], size_bytes: int) -> None:
        if self.breaks_at and path.endswith(self.breaks_at):

            def cut() -> Iterator[bytes]:
                for block in blocks:
                    yield block[: len(block) // 2]
                    raise ArchiveAwayError("the line is cut")

            self._inner.write(path, cut(), size_bytes)
        self._inner.write(path, blocks, size_bytes)
        self.written.append(path.removeprefix(PLACE + "/"))

    def open(self, path: str) -> Reader:
        return self._inner.open(path)

    def read(self, path: str, size_max_bytes: int) -> bytes | None:
        return self._inner.read(path, size_max_bytes)

    def sizes(self, folder: str) -> dict[str, int]:
        return self._inner.sizes(folder)

    def remove(self, path: str) -> None:
        self._inner.remove(path)


# --- whole trees ------------------------------------------------------------------------


def test_a_tree_lies_there_as_people_read_it_its_manifest_last(target: Target) -> None:
    watched = Watched(target)
    assert send(watched) == PLACE
    assert watched.written[-2:] == ["artifact.msgpack", MANIFEST_FILE]
    told = json.loads(target.read(f"{PLACE}/{MANIFEST_FILE}", 1 << 20) or b"")
    assert told["artifact_id"] == ID
    assert told["about"] == {"kind": "result"}
    for row in told["files"]:
        data = target.read(f"{PLACE}/{row['path']}", 1 << 20)
        assert data == FILES[row["path"].removeprefix("files/")]
        assert (digest_of(data), len(data)) == (row["xxh3_128"], row["size_bytes"])
    assert sum(row["size_bytes"] for row in told["files"]) == told["size_bytes"]


def test_what_is_there_is_not_sent_again(target: Target) -> None:
    send(target)
    watched = Watched(target)
    assert send(watched) == PLACE
    assert watched.written == []


def test_a_tree_comes_back_as_its_artifact(target: Target) -> None:
    send(target)
    place, manifest = read_artifact(target, PLACE, ID)
    assert (place, manifest) == (PLACE, MANIFEST)
    for file in manifest.files:
        with open_archived(target, place, file) as source:
            assert source.read(1 << 20) == FILES[file.path]


def test_an_artifact_that_is_not_there_is_told(target: Target) -> None:
    with pytest.raises(NotArchivedError, match="no whole copy"):
        read_artifact(target, PLACE, ID)
    with pytest.raises(NotArchivedError):
        target.open("nothing")


def test_two_artifacts_that_want_one_place_lie_side_by_side(target: Target) -> None:
    other = {**FILES, "config.json": b"[]"}
    other_id = artifact_id(manifest_of(other))
    send(target)
    assert send(target, other) == beside(PLACE, other_id)
    assert send(target, other) == beside(PLACE, other_id)
    assert read_artifact(target, PLACE, ID)[0] == PLACE
    assert read_artifact(target, PLACE, other_id)[0] == beside(PLACE, other_id)


# --- cut off ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "breaks_at",
    [f"files/{path}" for path in FILES if FILES[path]] + ["artifact.msgpack", f"1/{MANIFEST_FILE}"],
)
def test_p12_what_is_cut_off_shows_nothing_half_and_goes_on_from_there(
    target: Target, breaks_at: str
) -> None:
    watched = Watched(target, breaks_at)
    with pytest.raises(ArchiveAwayError):
        send(watched)
    assert read_tree(target, PLACE) is None
    for path, size_bytes in target.sizes(f"{PLACE}/files").items():
        assert size_bytes == len(FILES[path])
    before = watched.written
    watched = Watched(target)
    send(watched)
    files = [path for path in before + watched.written if path.startswith("files/")]
    assert files == [f"files/{path}" for path in sorted(FILES)], "each is sent once"
    assert watched.written[-2:] == ["artifact.msgpack", MANIFEST_FILE]
    assert read_artifact(target, PLACE, ID) == (PLACE, MANIFEST)


def test_a_file_of_the_right_size_and_other_bytes_is_sent_again(target: Target) -> None:
    path = f"{PLACE}/files/config.json"
    target.write(path, (b"[]",), 2)
    send(target)
    assert target.read(path, 10) == FILES["config.json"]


def test_a_large_file_goes_in_parts_and_a_broken_one_leaves_none(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_target, "BLOCK_BYTES", 5 << 20)
    target = ObjectTarget(f"s3://{bucket}/p")
    large = {"model": bytes(1 << 20) * 12 + b"end"}
    send(target, large)
    assert target.sizes(PLACE)["files/model"] == len(large["model"])
    with pytest.raises(ArchiveAwayError):
        watched = Watched(target, "files/model")
        send(watched, {"model": large["model"] + b"!"}, "bases/r/1")
    with pytest.raises(LocalCopyError, match="digest"):
        send_tree(
            target,
            "bases/r/2",
            manifest_of(large),
            opener({"model": large["model"][:-1] + b"?"}),
            about={},
        )
    assert target.sizes("bases") == {}
    import boto3

    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


def test_a_damaged_copy_on_this_host_is_never_sent(target: Target) -> None:
    spoiled = {**FILES, "weights/model.safetensors": bytes(256 * 40)}
    with pytest.raises(LocalCopyError, match=r"model\.safetensors"):
        send_tree(target, PLACE, MANIFEST, opener(spoiled), about={})
    assert set(target.sizes(f"{PLACE}/files")) == set(FILES) - {"weights/model.safetensors"}
    assert read_tree(target, PLACE) is None


def test_a_transfer_that_is_stopped_ends_and_leaves_no_half_file(target: Target) -> None:
    with pytest.raises(ArchiveStoppedError):
        send_tree(target, PLACE, MANIFEST, opener(FILES), about={}, stopped=lambda: True)
    assert target.sizes(PLACE) == {}


def test_p11_an_archive_that_lies_is_told(target: Target) -> None:
    send(target)
    target.write(f"{PLACE}/artifact.msgpack", (b"rubbish",), 7)
    with pytest.raises(ArchiveRefusedError, match=r"artifact\.msgpack.*not what was written"):
        read_artifact(target, PLACE, ID)
    target.write(f"{PLACE}/{MANIFEST_FILE}", (b"{",), 1)
    assert read_tree(target, PLACE) is None
    newer = json.dumps(
        {"meshtrain_archive": 2, "artifact_id": ID, "size_bytes": 0, "files": []}
    ).encode()
    target.write(f"{PLACE}/{MANIFEST_FILE}", (newer,), len(newer))
    with pytest.raises(ArchiveRefusedError, match="newer meshtrain"):
        read_tree(target, PLACE)


# --- opening --------------------------------------------------------------------------------


def test_trying_an_archive_leaves_its_mark_and_nothing_else(target: Target) -> None:
    opening.try_out(target, "word", used=False)
    opening.try_out(target, "word", used=True)
    assert opening.read_mark(target) == "word"
    assert target.read(opening.PROBE_FILE, 100) is None


def test_another_meshs_archive_is_refused(target: Target) -> None:
    opening.try_out(target, "word", used=False)
    with pytest.raises(ArchiveRefusedError, match="another mesh"):
        opening.try_out(target, "other word", used=False)


def test_an_archive_that_was_used_and_bears_no_mark_is_away(target: Target) -> None:
    with pytest.raises(ArchiveAwayError, match="Mount its share"):
        opening.try_out(target, "word", used=True)
    assert opening.read_mark(target) is None


def test_a_damaged_mark_is_told(target: Target) -> None:
    target.write(opening.MARK_FILE, (b"?",), 1)
    with pytest.raises(ArchiveRefusedError, match="damaged"):
        opening.try_out(target, "word", used=False)


def test_a_folder_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    target = opening.target_of(str(tmp_path / "share"))
    with pytest.raises(ArchiveAwayError, match="Mount its share, or make the folder"):
        opening.try_out(target, "word", used=False)
    with pytest.raises(ArchiveAwayError):
        target.write("a/b", (b"x",), 1)
    assert not (tmp_path / "share").exists()


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "results").write_bytes(b"in the way")
    with pytest.raises(ArchiveRefusedError, match="can't be written"):
        FolderTarget(tmp_path).write("results/a", (b"x",), 1)


def test_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    with pytest.raises(ArchiveRefusedError, match="Make the bucket"):
        opening.try_out(ObjectTarget(f"s3://{bucket}-not/p"), "word", used=False)


def test_no_credentials_are_refused_with_the_page_that_says_how(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ArchiveRefusedError, match=r"credentials.*archive\.md"):
        opening.try_out(ObjectTarget(f"s3://{bucket}/p"), "word", used=False)


def test_a_server_that_is_gone_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_target, "TRIES_MAX", 1)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    with s3_server() as gone:
        for name, value in gone.environment.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(ArchiveAwayError, match="can be reached"):
        ObjectTarget("s3://bucket/p").read("x", 1)


def test_a_missing_extra_is_told_once_and_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArchiveExtraError, match=r'pip install "meshtrain\[archive\]"'):
        opening.target_of("s3://bucket/p")
    assert isinstance(opening.target_of("/mnt/share"), FolderTarget)


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ArchiveRefusedError, match="Protocol not known"):
        opening.target_of("nope://x/y")
