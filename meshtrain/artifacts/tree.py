"""An artifact's tree of files on disk, held against its manifest."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import xxhash

from meshtrain.artifacts.chunking import list_files
from meshtrain.artifacts.disk import fsync_path, remove_tree
from meshtrain.core.manifest import Manifest, digest_of, parse_manifest
from meshtrain.errors import ArtifactError

MANIFEST_NAME = "manifest"
FILES_NAME = "files"
_READ_BYTES = 1 << 20


def seal(files: Path, manifest: Manifest) -> None:
    """Makes the files of a tree read-only, and the tree durable."""
    for file in manifest.files:
        path = files / file.path
        path.chmod(0o555 if file.executable else 0o444)
        fsync_path(path)
    for folder in _folders(files, manifest):
        folder.chmod(0o755)
        fsync_path(folder)


def hash_file(path: Path) -> str:
    """The xxh3-128 of a file's content."""
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            state.update(piece)
    return state.hexdigest()


def tree_is_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether a tree holds each file of a manifest with its content, and nothing else."""
    listed = {file.path: file for file in manifest.files}
    root = folder / FILES_NAME
    found = {
        str(PurePosixPath(path.relative_to(root))): path
        for path in root.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }
    if found.keys() != listed.keys():
        return False
    return all(
        not path.is_symlink()
        and path.stat().st_size == listed[relpath].size_bytes
        and hash_file(path) == listed[relpath].digest
        for relpath, path in found.items()
    )


def looks_whole(folder: Path) -> bool:
    """Whether an artifact's folder has its manifest, and files of the right sizes."""
    try:
        data = (folder / MANIFEST_NAME).read_bytes()
        if digest_of(data) != folder.name:
            return False
        return all(
            (folder / FILES_NAME / file.path).stat().st_size == file.size_bytes
            for file in parse_manifest(data).files
        )
    except (FileNotFoundError, NotADirectoryError, ArtifactError):
        return False


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None when there is none, or a bad one."""
    try:
        return parse_manifest((folder / MANIFEST_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ArtifactError):
        return None


def signature_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells, without reading files, that they were written to; and how many names each has."""
    found = {path: (folder / path).stat() for path in list_files(folder)}
    return {path: (stat.st_size, stat.st_mtime_ns, stat.st_nlink) for path, stat in found.items()}


def drop(folder: Path, trash: Path) -> None:
    """Takes a folder out of sight at once, then removes it."""
    trash.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.replace(trash)
    except FileNotFoundError:
        return
    remove_tree(trash)


def _folders(files: Path, manifest: Manifest) -> list[Path]:
    """The folders of a tree, the deepest first."""
    found = {PurePosixPath()}
    for file in manifest.files:
        found.update(PurePosixPath(file.path).parents)
    return [files / folder for folder in sorted(found, key=lambda f: -len(f.parts))]
