"""Folders of files taken into the store: copied there, or moved.

A tree is made complete below `temp/` before it is published; a manifest beside its
files says that it is, so that a start after a crash can finish it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from meshtrain import failpoints
from meshtrain.artifacts.chunking import build_manifest, list_files
from meshtrain.artifacts.disk import clone_file, fsync_path, remove_tree, write_durably
from meshtrain.artifacts.tree import FILES_NAME, MANIFEST_NAME, seal, signature_of
from meshtrain.core.manifest import Manifest, canonical_bytes
from meshtrain.core.manifest import artifact_id as id_of
from meshtrain.errors import ArtifactError

Planned = Callable[[Manifest], None]
"""Told what a folder is going to be, before it is touched."""


class TreeAdder:
    """Makes trees of folders, and has them published.

    Args:
        temp: where trees are made; on the file system of the store.
        has: whether an artifact is in the store already.
        publish: takes a complete tree from `temp` into the store, under an id.
    """

    def __init__(
        self, temp: Path, has: Callable[[str], bool], publish: Callable[[Path, str], None]
    ) -> None:
        self._temp = temp
        self._has = has
        self._publish = publish

    def add(self, folder: Path, move: bool, planned: Planned) -> Manifest:
        """Takes a folder's files; `ArtifactStore.add_tree` says how.

        Raises:
            ArtifactError: as `build_manifest` does, and for a folder that is a link.
            OSError: of the disk.
        """
        return self._add_moved(folder, planned) if move else self._add_copied(folder, planned)

    def _add_copied(self, folder: Path, planned: Planned) -> Manifest:
        work = self._temp / secrets.token_hex(8)
        files = work / FILES_NAME
        # The folder itself may be anybody's, and be replaced by a link; what is above it is ours.
        real = Path(os.path.realpath(folder.parent), folder.name)
        if folder.is_symlink():
            raise ArtifactError(f"{folder} is a link, and isn't followed. Put the files there")
        try:
            files.mkdir(parents=True)
            for relpath in list_files(folder):
                target = files / relpath
                target.parent.mkdir(parents=True, exist_ok=True)
                executable = (folder / relpath).lstat().st_mode & stat.S_IXUSR
                mode = 0o700 if executable else 0o600
                clone_file(folder / relpath, target, mode, real=str(real / relpath))
            # Hashed as it lies in the store, so that it can't have changed since.
            manifest = build_manifest(files)
            planned(manifest)
            seal(files, manifest)
            write_durably(work / MANIFEST_NAME, canonical_bytes(manifest))
            self._publish(work, id_of(manifest))
        except BaseException:
            remove_tree(work)
            raise
        return manifest

    def _add_moved(self, folder: Path, planned: Planned) -> Manifest:
        if folder.is_symlink():
            raise ArtifactError(f"{folder} is a link, and can't be moved. Name the folder itself")
        before = signature_of(folder)
        if any(link_count > 1 for *_, link_count in before.values()):
            # It could be written to by its other name: only a copy is the store's own.
            copied = self._add_copied(folder, planned)
            _give_up(folder)
            return copied
        manifest = build_manifest(folder)
        name = id_of(manifest)
        planned(manifest)
        if self._has(name):
            _give_up(folder)
            return manifest
        work = self._temp / secrets.token_hex(8)
        files = work / FILES_NAME
        try:
            work.mkdir()
            write_durably(work / MANIFEST_NAME, canonical_bytes(manifest))
            seal(folder, manifest)
            folder.replace(files)
        except OSError as error:
            remove_tree(work)
            if error.errno != errno.EXDEV:
                raise
            copied = self._add_copied(folder, planned)
            _give_up(folder)
            return copied
        # From here the only copy lies in `work`: no error removes it, and
        # `recover()` finishes what a crash leaves.
        if signature_of(files) != before:
            files.replace(folder)
            remove_tree(work)
            raise ArtifactError(
                f"{folder} changed while it was stored. Try again when nothing writes to it"
            )
        fsync_path(folder.parent)
        failpoints.reach("artifact.moved")
        self._publish(work, name)
        return manifest


def _give_up(folder: Path) -> None:
    """Removes what was stored already; what can't be removed makes that no failure."""
    with suppress(OSError):
        remove_tree(folder)
