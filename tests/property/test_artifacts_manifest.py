"""No bytes crash the reader of manifests, and what it takes is safe to lay out."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import example, given
from hypothesis import strategies as st

from meshtrain.core.manifest import (
    Chunk,
    FileEntry,
    Manifest,
    artifact_id,
    canonical_bytes,
    check_manifest,
    digest_of,
    parse_manifest,
)
from meshtrain.errors import ArtifactError

NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"), min_size=1, max_size=8
)
PATHS = st.lists(NAMES.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=3).map(
    "/".join
)
CONTENTS = st.binary(max_size=40)


def entry(path: str, content: bytes, cut: int, executable: bool) -> FileEntry:
    chunks = tuple(
        Chunk(at, len(content[at : at + cut]), digest_of(content[at : at + cut]))
        for at in range(0, len(content), cut)
    )
    return FileEntry(path, len(content), executable, digest_of(content), chunks)


def without_clashes(files: list[FileEntry]) -> list[FileEntry]:
    folders = {str(folder) for file in files for folder in PurePosixPath(file.path).parents}
    return [file for file in files if file.path not in folders]


MANIFESTS = (
    st.lists(
        st.builds(entry, PATHS, CONTENTS, st.integers(1, 16), st.booleans()),
        max_size=5,
        unique_by=lambda file: file.path,
    )
    .map(without_clashes)
    .map(lambda files: Manifest(tuple(sorted(files, key=lambda file: file.path))))
)


def taken(data: bytes) -> Manifest | None:
    try:
        return parse_manifest(data)
    except ArtifactError:
        return None


def assert_safe(manifest: Manifest) -> None:
    for file in manifest.files:
        path = PurePosixPath(file.path)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert "\0" not in file.path
        assert str(path) == file.path
        assert sum(chunk.size_bytes for chunk in file.chunks) == file.size_bytes


@given(MANIFESTS)
def test_what_is_made_by_the_rules_comes_back(manifest: Manifest) -> None:
    check_manifest(manifest)
    data = canonical_bytes(manifest)
    assert parse_manifest(data) == manifest
    assert artifact_id(manifest) == digest_of(data)


@given(st.binary(max_size=300))
def test_random_bytes_never_crash(data: bytes) -> None:
    manifest = taken(data)
    if manifest is not None:
        assert_safe(manifest)


@given(MANIFESTS, st.data())
def test_mutations_never_crash_and_never_pass_as_unsafe(
    manifest: Manifest, choices: st.DataObject
) -> None:
    data = bytearray(canonical_bytes(manifest))
    for _ in range(choices.draw(st.integers(1, 3))):
        at = choices.draw(st.integers(0, len(data)))
        match choices.draw(st.sampled_from(["set", "insert", "cut"])):
            case "set":
                data[at : at + 1] = choices.draw(st.binary(min_size=1, max_size=1))
            case "insert":
                data[at:at] = choices.draw(st.binary(max_size=8))
            case "cut":
                del data[at : at + choices.draw(st.integers(1, 8))]
    mutant = taken(bytes(data))
    if mutant is not None:
        assert_safe(mutant)
        assert canonical_bytes(mutant) == bytes(data)


@given(st.text(max_size=20))
@example("a/../b")
@example("\ud800")
@example("C:\\x")
def test_any_path_is_taken_or_refused_and_never_leaves_the_folder(path: str) -> None:
    manifest = Manifest((entry(path, b"x", 1, False),))
    try:
        check_manifest(manifest)
    except ArtifactError:
        return
    assert_safe(manifest)
