"""A manifest from anyone: what is kept, what is refused, and in which words."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import msgspec
import pytest

from meshtrain.core import manifest as manifests
from meshtrain.core.manifest import (
    EMPTY_DIGEST,
    FILES_MAX,
    Chunk,
    ChunkNumbers,
    FileEntry,
    Manifest,
    artifact_id,
    canonical_bytes,
    check_manifest,
    digest_of,
    parse_manifest,
)
from meshtrain.errors import ArtifactError

CONTENT = b"some weights"


def entry(path: str, content: bytes = CONTENT, cut: int = 1 << 20) -> FileEntry:
    chunks = tuple(
        Chunk(at, len(content[at : at + cut]), digest_of(content[at : at + cut]))
        for at in range(0, len(content), cut)
    )
    return FileEntry(path, len(content), False, digest_of(content), chunks)


def manifest_of(*paths: str) -> Manifest:
    return Manifest(tuple(entry(path) for path in paths))


def changed(file: FileEntry, **fields: object) -> Manifest:
    return Manifest((msgspec.structs.replace(file, **fields),))


def test_a_manifest_comes_back_from_its_canonical_bytes() -> None:
    made = Manifest((entry("README"), entry("models/a.safetensors", CONTENT, 5), entry("z", b"")))
    data = canonical_bytes(made)
    assert parse_manifest(data) == made
    assert artifact_id(made) == digest_of(data)
    assert made.size_bytes == 2 * len(CONTENT)
    assert made.chunk_count == 1 + 3 + 0
    assert made.file_digests()["z"] == EMPTY_DIGEST


def test_the_format_of_the_bytes_is_pinned() -> None:
    made = Manifest((FileEntry("a", 1, True, digest_of(b"x"), (Chunk(0, 1, digest_of(b"x")),)),))
    as_plain = [
        "meshtrain-manifest-1",
        [["a", 1, True, digest_of(b"x"), [[0, 1, digest_of(b"x")]]]],
    ]
    assert canonical_bytes(made) == msgspec.msgpack.encode(as_plain)
    assert artifact_id(made) == "7413252ff9382365ac0174f05ee4248a"


def test_an_empty_tree_is_an_artifact() -> None:
    assert parse_manifest(canonical_bytes(Manifest(()))) == Manifest(())


def test_names_keep_their_case() -> None:
    both = manifest_of("Model", "model")
    assert parse_manifest(canonical_bytes(both)) == both


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("//etc/passwd", "absolute"),
        ("..", r"\.\."),
        ("../x", r"\.\."),
        ("a/../../x", r"\.\."),
        ("a/..", r"\.\."),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        (".", "empty part or a"),
        ("./a", "empty part or a"),
        ("a/./b", "empty part or a"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x1b[2Jb", "control"),
        ("a\x9b2Jb", "control"),
        ("a\\b", "backslash"),
        ("..\\b", "backslash"),
        ("x" * 256, "255"),
        ("/".join(["x" * 100] * 11), "1024"),
        ("d/" * 101 + "x", "101 folders deep, the limit is 100"),
    ],
)
def test_a_path_that_could_do_harm_is_refused(path: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        parse_manifest(canonical_bytes(manifest_of(path)))
    assert "file 0" in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("a", "a"), "listed twice"),
        (("b", "a"), "Sort"),
        (("a", "a/b"), "a file and a folder"),
        (("a", "a-b", "a/b/c"), "a file and a folder"),
        (("d/a", "d/a.x", "d/a/b"), "a file and a folder"),
    ],
)
def test_paths_that_clash_or_are_not_sorted_are_refused(paths: tuple[str, ...], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        parse_manifest(canonical_bytes(manifest_of(*paths)))


TWO = entry("w", CONTENT, 8)
SECOND = TWO.chunks[1]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (changed(TWO, size_bytes=11), "its chunks come to 12"),
        (changed(TWO, size_bytes=-1), "size is -1"),
        (changed(TWO, chunks=TWO.chunks[:1]), "its chunks come to 8"),
        (changed(TWO, chunks=TWO.chunks[1:]), "starts at byte 8, not at 0"),
        (changed(TWO, chunks=(*TWO.chunks, Chunk(12, 0, EMPTY_DIGEST))), "has 0 bytes"),
        (changed(TWO, chunks=(TWO.chunks[0], Chunk(4, 8, SECOND.digest))), "starts at byte 4"),
        (changed(TWO, chunks=(TWO.chunks[0], Chunk(8, 4, "A" * 32))), "digest of chunk 1"),
        (changed(TWO, chunks=(TWO.chunks[0], Chunk(8, 4, "a" * 31 + "\n"))), "digest of chunk 1"),
        (changed(TWO, digest="nothing"), "digest is not one"),
        (changed(entry("w"), digest="0" * 32), "only content"),
        (changed(entry("w", b""), digest="0" * 32), "only content"),
        (changed(TWO, size_bytes=17 << 20, chunks=(Chunk(0, 17 << 20, "0" * 32),)), "16777216"),
    ],
)
def test_content_that_does_not_add_up_is_refused(broken: Manifest, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        parse_manifest(canonical_bytes(broken))
    assert "'w'" in str(caught.value)


@pytest.mark.parametrize("digest", ["", "0" * 31, "0" * 33])
def test_p11_a_chunk_without_its_digest_is_refused_where_it_is_read(digest: str) -> None:
    """Four bytes for each made some hundred in memory."""
    broken = changed(TWO, chunks=(TWO.chunks[0], Chunk(8, 4, digest)))
    with pytest.raises(ArtifactError, match=r"length .= 32 - at `\$\[1\]\[0\]\[4\]\[1\]\[2\]`"):
        parse_manifest(canonical_bytes(broken))


def test_p11_too_many_files_are_refused_before_any_is_made() -> None:
    """A manifest of the size that is allowed held 11 million empty ones, and took gigabytes."""
    one = b"\x95\xa0\x00\xc2\xa0\x90"
    head = b"\x92" + msgspec.msgpack.encode("meshtrain-manifest-1")
    data = head + b"\xdd" + (FILES_MAX + 1).to_bytes(4, "big") + one * (FILES_MAX + 1)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=r"of length <= 100000 - at `\$\[1\]`"):
            parse_manifest(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("FILES_MAX", 1, "2 files, the limit is 1"),
        ("CHUNKS_MAX", 1, "2 chunks, the limit is 1"),
        ("FOLDERS_MAX", 3, "more than 3 folders"),
        ("DEPTH_MAX", 1, "2 folders deep, the limit is 1"),
        ("TOTAL_BYTES_MAX", 23, "24 bytes in all, the limit is 23"),
        ("MANIFEST_BYTES_MAX", 50, "the limit is 50"),
    ],
)
def test_limits_hold(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str) -> None:
    paths = ("c/d/a", "e/f/b") if limit in ("FOLDERS_MAX", "DEPTH_MAX") else ("a", "b")
    data = canonical_bytes(manifest_of(*paths))
    parse_manifest(data)
    monkeypatch.setattr(manifests, limit, value)
    with pytest.raises(ArtifactError, match=words):
        parse_manifest(data)


def test_p11_a_bomb_of_folders_costs_no_memory() -> None:
    """Each file brings as many folders as it may: what is kept of them stays bounded."""
    bomb = manifest_of(*sorted(f"{n:04d}/" + "d/" * 99 + "f" for n in range(1500)))
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="more than 100,000 folders"):
            check_manifest(bomb)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def as_map(data: bytes) -> bytes:
    return msgspec.msgpack.encode({"files": msgspec.msgpack.decode(data)[1]})


def with_long_integer(data: bytes) -> bytes:
    # 12, the size, as a 64-bit integer: the same value in more bytes.
    return data.replace(b"\x0c\xc2", b"\xcf" + (12).to_bytes(8, "big") + b"\xc2")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "truncated"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"\0", "trailing"),
        (lambda data: data.replace(b"manifest-1", b"manifest-2"), "manifest-2"),
        (as_map, "array"),
        (with_long_integer, "canonical"),
        (lambda data: b"\x91" * 100_000, "refused"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(
    spoil: Callable[[bytes], bytes], words: str
) -> None:
    good = canonical_bytes(manifest_of("a"))
    spoilt = spoil(good)
    assert spoilt != good
    with pytest.raises(ArtifactError, match=words):
        parse_manifest(spoilt)


def test_chunks_are_numbered_through() -> None:
    made = Manifest((entry("a", CONTENT, 5), entry("b", b""), entry("c"), entry("d", CONTENT, 6)))
    numbers = ChunkNumbers(made)
    places = [numbers.place(n) for n in range(numbers.count)]
    assert places == [(0, 0), (0, 1), (0, 2), (2, 0), (3, 0), (3, 1)]
    assert [numbers.number(*place) for place in places] == list(range(6))
    assert numbers.chunk(1) == made.files[0].chunks[1]
    assert list(numbers.covering(0, 0, 12)) == [0, 1, 2]
    assert list(numbers.covering(0, 4, 6)) == [0, 1]
    assert list(numbers.covering(0, 5, 10)) == [1]
    assert list(numbers.covering(3, 11, 12)) == [5]
    assert list(numbers.covering(1, 0, 0)) == []


@pytest.mark.parametrize("place", [(-1, 0), (3, 0), (0, 3), (0, -1), (1, 0)])
def test_a_chunk_that_is_not_there_is_named(place: tuple[int, int]) -> None:
    made = Manifest((entry("a", CONTENT, 5), entry("b", b""), entry("c")))
    with pytest.raises(ArtifactError, match="counted from 0"):
        ChunkNumbers(made).number(*place)
