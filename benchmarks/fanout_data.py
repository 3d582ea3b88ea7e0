"""What is fanned out: one file of random bytes, as each row's holders need it to lie."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fanout_figures import MIB
from fanout_star import digest_of
from harness.systems import BENCHMARKS, PEERS_PYTHON

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core.manifest import artifact_id, canonical_bytes
from meshtrain.core.member import MemberKind
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile

FILE = "model.bin"
FIRST = "master"
"""The holder that has the file before all others."""
TORRENT_PIECE_BYTES = MIB
_MAKE_LIMIT_S = 300
_OWNER_WRITES = 0o600


class Data:
    """The file, and on demand the stores, torrents, keys and spoiled copies made from it.

    Args:
        folder: an empty one, which the caller removes.
        size_bytes: of the file.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        self.tree = folder / "tree"
        self.tree.mkdir()
        self.file = self.tree / FILE
        self._manifest = folder / "manifest"
        left_bytes = size_bytes
        with self.file.open("wb") as file:
            while left_bytes:
                piece = os.urandom(min(MIB, left_bytes))
                file.write(piece)
                left_bytes -= len(piece)
        self.xxh3 = digest_of(self.file)

    def store(self, name: str) -> Path:
        """A holder's store, with the artifact in it."""
        root = self.folder / f"store-{name}"
        if not root.exists():
            manifest = ArtifactStore(root).add_tree(self.tree)
            self._manifest.write_bytes(canonical_bytes(manifest))
        return root

    def spoiled_store(self) -> Path:
        """A store whose owner believes it whole, and in which every chunk has a wrong byte."""
        root = self.folder / "store-spoiled"
        if not root.exists():
            store = ArtifactStore(root)
            manifest = store.add_tree(self.tree)
            (file,) = manifest.files
            with store.open_verified(artifact_id(manifest), 0, 0, file.size_bytes) as opened:
                path = Path(opened.name)
            spoil(path, [chunk.offset + chunk.size_bytes // 2 for chunk in file.chunks])
        return root

    def manifest(self) -> Path:
        """The manifest of the artifact."""
        if not self._manifest.exists():
            self.store(FIRST)
        return self._manifest

    def torrent(self) -> Path:
        """The torrent of the file."""
        path = self.folder / "torrent"
        if not path.exists():
            subprocess.run(
                [
                    *(str(PEERS_PYTHON), str(BENCHMARKS / "fanout_torrent.py"), "make"),
                    *(str(self.file), str(path), str(TORRENT_PIECE_BYTES)),
                ],
                check=True,
                timeout=_MAKE_LIMIT_S,
            )
        return path

    def spoiled_tree(self) -> Path:
        """A folder with the file, in which every piece of the torrent has a wrong byte."""
        tree = self.folder / "spoiled-tree"
        if not tree.exists():
            tree.mkdir()
            shutil.copyfile(self.file, tree / FILE)
            middles = range(TORRENT_PIECE_BYTES // 2, self.size_bytes, TORRENT_PIECE_BYTES)
            spoil(tree / FILE, middles)
        return tree

    def keys(self, name: str) -> Path:
        """A member's keys."""
        return self.folder / "keys" / name

    def members(self, names: Sequence[str], master: str) -> Path:
        """The list of members, after keys were made for all of them."""
        path = self.folder / "members.json"
        if not path.exists():
            self.keys(master).parent.mkdir()
            members = MembersFile(path)
            for name in names:
                kind = MemberKind.MASTER if name == master else MemberKind.NODE
                members.add(Identity.load_or_create(self.keys(name), name, kind).member)
        return path


def spoil(path: Path, offsets: Sequence[int]) -> None:
    """Turn one bit of a file's bytes at these places."""
    path.chmod(_OWNER_WRITES)
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
