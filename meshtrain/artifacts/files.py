"""The store of artifacts on one host, by their ids.

    artifacts/<id>/manifest, files/…          whole, verified, read-only
    partial/<id>/manifest, have, files/…      being fetched or uploaded
    temp/<name>/manifest, files/…             being added; a manifest means that it is complete
    trash/<name>/                             being removed

An artifact becomes visible by one rename, after its bytes and names are on the
disk, and vanishes by one rename. Whatever a crash leaves outside `artifacts/`,
`recover()` finishes, keeps for the next attempt, or removes.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from meshtrain import failpoints
from meshtrain.artifacts.adding import TreeAdder
from meshtrain.artifacts.disk import clone_file, fsync_path, read_at, remove_tree
from meshtrain.artifacts.failures import disk_errors, unknown_artifact
from meshtrain.artifacts.partial import HAVE_NAME, Partial, create_partial, resume_have
from meshtrain.artifacts.tree import (
    FILES_NAME,
    MANIFEST_NAME,
    drop,
    looks_whole,
    read_manifest,
    seal,
    tree_is_whole,
)
from meshtrain.core.manifest import Manifest, is_digest, parse_manifest
from meshtrain.core.manifest import artifact_id as id_of
from meshtrain.errors import ArtifactError
from meshtrain.ids import short

PARTIAL_KEPT_S = 7 * 86400
"""How long an artifact that is partly here, and that nobody goes on with, is kept at starts."""
_MANIFESTS_KEPT_MAX = 64
"""Parsed manifests kept in memory: each request for a chunk needs one."""


class ArtifactStore:
    """Artifacts on disk, named by what they hold.

    One process owns a store's folder. All methods block on the disk and may be
    called from any thread.

    Args:
        root: its folder; made when it isn't there.

    Raises:
        ArtifactError: by each method that meets an error of the disk, or an id
            that is none.
        DiskFullError: where there is no room.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._artifacts = root / "artifacts"
        self._partials = root / "partial"
        self._temp = root / "temp"
        self._trash = root / "trash"
        self._lock = threading.Lock()
        self._begin_lock = threading.Lock()
        self._open: dict[str, Partial] = {}
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._watchers: list[Callable[[str], None]] = []
        self._adder = TreeAdder(self._temp, self.has, self._publish)
        with disk_errors(f"making the store {root}"):
            for folder in (self._artifacts, self._partials, self._temp, self._trash):
                folder.mkdir(parents=True, exist_ok=True)

    def recover(self) -> None:
        """Cleans up after a crash; to be called once, before anything else is.

        Trees that were complete are committed, partial artifacts are kept to be
        gone on with, the rest is removed. An artifact whose manifest or sizes
        are no longer right is removed too.
        """
        with disk_errors(f"recovering the store {self.root}"):
            for folder in self._trash.iterdir():
                remove_tree(folder)
            for folder in self._artifacts.iterdir():
                if not looks_whole(folder):
                    self._drop(folder)
                else:
                    (folder / HAVE_NAME).unlink(missing_ok=True)
            for folder in self._temp.iterdir():
                self._recover_temp(folder)
            for folder in self._partials.iterdir():
                self._recover_partial(folder)

    def watch(self, stored: Callable[[str], None]) -> None:
        """Calls `stored` with each id that begins to come or becomes whole; in any thread."""
        self._watchers.append(stored)

    def unwatch(self, stored: Callable[[str], None]) -> None:
        """Calls it no more; fine when it was not called."""
        self._watchers = [watcher for watcher in self._watchers if watcher != stored]

    def ids(self) -> list[str]:
        """The ids of all whole artifacts, sorted."""
        with disk_errors(f"listing the store {self.root}"):
            return sorted(path.name for path in self._artifacts.iterdir() if is_digest(path.name))

    def has(self, artifact_id: str) -> bool:
        """Whether an artifact is here, whole."""
        return (self._folder(artifact_id) / MANIFEST_NAME).is_file()

    def manifest(self, artifact_id: str) -> Manifest:
        """The manifest of a whole artifact.

        Raises:
            UnknownArtifactError: when it isn't here.
        """
        path = self._folder(artifact_id) / MANIFEST_NAME
        with self._lock:
            kept = self._manifests.get(artifact_id)
            if kept is not None:
                self._manifests.move_to_end(artifact_id)
        if kept is not None:
            if path.is_file():
                return kept
            raise unknown_artifact(artifact_id)
        with disk_errors(f"reading artifact {short(artifact_id)}"):
            try:
                data = path.read_bytes()
            except FileNotFoundError as error:
                raise unknown_artifact(artifact_id) from error
        manifest = parse_manifest(data)
        with self._lock:
            self._manifests[artifact_id] = manifest
            while len(self._manifests) > _MANIFESTS_KEPT_MAX:
                self._manifests.popitem(last=False)
        return manifest

    def size_bytes(self, artifact_id: str) -> int:
        """The bytes of a whole artifact's files."""
        return self.manifest(artifact_id).size_bytes

    def disk_free_bytes(self) -> int:
        """The bytes that the store's disk has left for us."""
        with disk_errors(f"looking at the disk of {self.root}"):
            found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def add_tree(
        self,
        folder: Path,
        *,
        move: bool = False,
        planned: Callable[[Manifest], None] = lambda manifest: None,
    ) -> Manifest:
        """Puts a folder's files into the store as an artifact.

        Args:
            folder: regular files only, in folders; empty folders are not kept.
            move: whether the folder may be taken: it is renamed into the store
                where that is on the same file system, and gone afterwards.
            planned: called with what it is going to be, before the folder is
                touched and before the artifact can be seen.

        Raises:
            ArtifactError: as `build_manifest` does. The folder is then as it was.
        """
        with disk_errors(f"storing {folder}"):
            return self._adder.add(folder, move, planned)

    def begin(self, manifest: Manifest) -> Partial:
        """Starts to take an artifact in chunks, or goes on with it.

        An artifact that is whole already comes as a committed partial; one that
        is being taken comes as the same partial.

        Raises:
            DiskFullError: when there is no room for all of it.
        """
        name = id_of(manifest)
        with self._begin_lock, disk_errors(f"making room for artifact {short(name)}"):
            known = self.partial(name)
            if known is not None:
                return known
            folder = self._partials / name
            if self.has(name):
                return self._new_partial(name, manifest, folder, have=0, committed=True)
            have = resume_have(folder, manifest)
            if have is None:
                self._drop(folder)
                try:
                    create_partial(folder, manifest)
                except OSError:
                    self._drop(folder)
                    raise
            partial = self._new_partial(name, manifest, folder, have=have or 0, committed=False)
            with self._lock:
                self._open[name] = partial
        self._tell(name)
        return partial

    def partial(self, artifact_id: str) -> Partial | None:
        """The partial of an artifact that is being taken in this process, if any."""
        with self._lock:
            return self._open.get(artifact_id)

    def partial_manifest(self, artifact_id: str) -> Manifest | None:
        """The manifest of a partial artifact, also of an earlier process; None without one."""
        self._folder(artifact_id)
        partial = self.partial(artifact_id)
        if partial is not None:
            return partial.manifest
        manifest = read_manifest(self._partials / artifact_id)
        return manifest if manifest is not None and id_of(manifest) == artifact_id else None

    def partial_ids(self) -> list[str]:
        """The ids of all partial artifacts on disk, also of earlier processes, sorted."""
        with disk_errors(f"listing the store {self.root}"):
            return sorted(path.name for path in self._partials.iterdir() if is_digest(path.name))

    def read_range(self, artifact_id: str, file_index: int, offset: int, size_bytes: int) -> bytes:
        """Bytes of a file of a whole artifact; fewer where the file ends.

        Raises:
            UnknownArtifactError: when it isn't here.
        """
        path = self._file_path(artifact_id, file_index)
        with disk_errors(f"reading artifact {short(artifact_id)}"):
            return read_at(path, offset, size_bytes)

    def open_verified(self, artifact_id: str, file_index: int, start: int, stop: int) -> BinaryIO:
        """A file that holds the bytes `start` to `stop - 1`, verified, whole artifact or not.

        The file stays readable when the artifact is committed or removed meanwhile.

        Raises:
            UnknownArtifactError: when nothing of it is here.
            ChunkNotHereError: when it is partial and some of the range hasn't come.
        """
        with disk_errors(f"reading artifact {short(artifact_id)}"):
            partial = self.partial(artifact_id)
            if partial is not None and not partial.committed:
                try:
                    return partial.verified_path(file_index, start, stop).open("rb")
                except FileNotFoundError:
                    # It was committed just now: it lies in its final place.
                    pass
            try:
                return self._file_path(artifact_id, file_index).open("rb")
            except FileNotFoundError as error:
                raise unknown_artifact(artifact_id) from error

    def materialise(self, artifact_id: str, dest: Path, *, links: bool = False) -> None:
        """Makes a folder of an artifact's files that its user may write in.

        The files are reflinks where the file system has them, else copies, so
        that no write ever reaches the store. The folder appears whole.

        Args:
            dest: where; nothing may be there, or an empty folder.
            links: whether its user is another account than ours, and need not write to the
                files: then links that only we could write to take the place of copies.

        Raises:
            UnknownArtifactError: when the artifact isn't here.
        """
        manifest = self.manifest(artifact_id)
        source = self._folder(artifact_id) / FILES_NAME
        making = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}")
        with disk_errors(f"unpacking artifact {short(artifact_id)} to {dest}"):
            try:
                making.mkdir(parents=True)
                for file in manifest.files:
                    target = making / file.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    mode = 0o755 if file.executable else 0o644
                    clone_file(source / file.path, target, mode, or_link=links)
                making.replace(dest)
            except BaseException:
                remove_tree(making)
                raise

    def verify(self, artifact_id: str) -> bool:
        """Whether a whole artifact still has the content that its id names; reads all of it."""
        manifest = self.manifest(artifact_id)
        with disk_errors(f"reading artifact {short(artifact_id)}"):
            return tree_is_whole(self._folder(artifact_id), manifest)

    def remove(self, artifact_id: str) -> None:
        """Removes an artifact and what is partial of it; fine when it isn't here."""
        folder = self._folder(artifact_id)
        partial = self.partial(artifact_id)
        if partial is not None:
            partial.discard()
        with disk_errors(f"removing artifact {short(artifact_id)}"):
            self._drop(folder)
            self._drop(self._partials / artifact_id)
        with self._lock:
            self._manifests.pop(artifact_id, None)

    # --- publishing ---------------------------------------------------------

    def _publish(self, work: Path, name: str) -> None:
        fsync_path(work)
        if self._rename_into_place(work, name):
            return
        self._drop(work)

    def _rename_into_place(self, folder: Path, name: str) -> bool:
        """Makes a complete tree visible; False when the artifact was there before."""
        failpoints.reach("artifact.whole")
        try:
            folder.replace(self._artifacts / name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        fsync_path(self._artifacts)
        failpoints.reach("artifact.renamed")
        self._tell(name)
        return True

    def _tell(self, name: str) -> None:
        for stored in self._watchers:
            stored(name)

    # --- partial ------------------------------------------------------------

    def _new_partial(
        self, name: str, manifest: Manifest, folder: Path, *, have: int, committed: bool
    ) -> Partial:
        return Partial(
            name,
            manifest,
            folder,
            have=have,
            committed=committed,
            on_commit=self._commit_partial,
            on_discard=self._discard_partial,
        )

    def _commit_partial(self, partial: Partial) -> None:
        if self._rename_into_place(partial.folder, partial.artifact_id):
            (self._folder(partial.artifact_id) / HAVE_NAME).unlink(missing_ok=True)
        else:
            self._drop(partial.folder)
        with self._lock:
            self._open.pop(partial.artifact_id, None)

    def _discard_partial(self, partial: Partial) -> None:
        with self._lock:
            self._open.pop(partial.artifact_id, None)
        self._drop(partial.folder)

    # --- recovery -----------------------------------------------------------

    def _recover_temp(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        if manifest is None or not tree_is_whole(folder, manifest):
            self._drop(folder)
            return
        seal(folder / FILES_NAME, manifest)
        self._publish(folder, id_of(manifest))

    def _recover_partial(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        old = time.time() - folder.stat().st_mtime > PARTIAL_KEPT_S
        if old or manifest is None or id_of(manifest) != folder.name or self.has(folder.name):
            self._drop(folder)

    def _drop(self, folder: Path) -> None:
        drop(folder, self._trash / secrets.token_hex(8))

    # --- places -------------------------------------------------------------

    def _folder(self, artifact_id: str) -> Path:
        if not is_digest(artifact_id):
            raise ArtifactError(
                f"{artifact_id[:80]!r} is no artifact's id: one has 32 hexadecimal digits. "
                "Copy it in full"
            )
        return self._artifacts / artifact_id

    def _file_path(self, artifact_id: str, file_index: int) -> Path:
        files = self.manifest(artifact_id).files
        if not 0 <= file_index < len(files):
            raise ArtifactError(
                f"artifact {short(artifact_id)} has no file {file_index}: it has {len(files)}, "
                "counted from 0"
            )
        return self._folder(artifact_id) / FILES_NAME / files[file_index].path
