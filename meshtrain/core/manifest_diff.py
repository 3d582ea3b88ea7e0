"""What one artifact shares with another: by chunk, by file, by tensor.

A chunk that lies anywhere in the one need not move for the other, so what is
new is what a node that holds the one fetches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from enum import StrEnum

import msgspec

from meshtrain.core.manifest import FileEntry, Manifest
from meshtrain.core.tensor_layout import Layout, Tensor


class Change(StrEnum):
    """What became of a file or a tensor."""

    SAME = "same"
    RECUT = "recut"
    """The same content, cut into other chunks by another version: it moves all the same."""
    CHANGED = "changed"
    RESHAPED = "reshaped"
    UNCLEAR = "unclear"
    """A small tensor in a chunk with others, of which at least one changed."""
    NEW = "new"
    GONE = "gone"


class FileDiff(msgspec.Struct, frozen=True):
    """A file of two artifacts, known by its path."""

    path: str
    change: Change
    size_before_bytes: int
    """0 where it is new."""
    size_bytes: int
    """0 where it is gone."""
    shared_bytes: int
    """Of the later artifact's file: in chunks that the earlier one holds, in whichever file."""
    chunks: int
    new_chunks: int

    @property
    def new_bytes(self) -> int:
        """What moves."""
        return self.size_bytes - self.shared_bytes


class ManifestDiff(msgspec.Struct, frozen=True):
    """The files of two artifacts, by path."""

    files: tuple[FileDiff, ...]

    @property
    def size_bytes(self) -> int:
        """Of the later artifact."""
        return sum(file.size_bytes for file in self.files)

    @property
    def shared_bytes(self) -> int:
        """Of the later artifact: in chunks that the earlier one holds."""
        return sum(file.shared_bytes for file in self.files)

    @property
    def new_bytes(self) -> int:
        """What moves to a node that holds the earlier artifact."""
        return self.size_bytes - self.shared_bytes

    @property
    def chunks(self) -> int:
        """Of the later artifact."""
        return sum(file.chunks for file in self.files)

    @property
    def new_chunks(self) -> int:
        """How many of them the earlier artifact has not."""
        return sum(file.new_chunks for file in self.files)


class TensorDiff(msgspec.Struct, frozen=True):
    """A tensor of two versions of a file, known by its name."""

    name: str
    change: Change
    before: str
    """Its dtype and shape, such as `F32 [3, 4]`; empty where it is new."""
    after: str
    """Empty where it is gone."""
    size_bytes: int
    new_bytes: int
    """Its bytes that lie in new chunks."""


def diff_manifests(before: Manifest, after: Manifest) -> ManifestDiff:
    """What becomes of the files of `before`, in the order of their paths."""
    known = chunk_digests(before)
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    return ManifestDiff(
        tuple(_diff_file(old.get(path), new.get(path), known) for path in sorted({*old, *new}))
    )


def chunk_digests(manifest: Manifest) -> frozenset[str]:
    """The digests of all chunks of an artifact."""
    return frozenset(chunk.digest for file in manifest.files for chunk in file.chunks)


def _diff_file(old: FileEntry | None, new: FileEntry | None, known: Collection[str]) -> FileDiff:
    if new is None:
        assert old is not None, "a path is from one of the two"
        return FileDiff(old.path, Change.GONE, old.size_bytes, 0, 0, 0, 0)
    fresh = [chunk for chunk in new.chunks if chunk.digest not in known]
    if old is None:
        change = Change.NEW
    elif old.digest != new.digest or old.executable != new.executable:
        change = Change.CHANGED
    else:
        change = Change.RECUT if fresh else Change.SAME
    return FileDiff(
        path=new.path,
        change=change,
        size_before_bytes=old.size_bytes if old is not None else 0,
        size_bytes=new.size_bytes,
        shared_bytes=new.size_bytes - sum(chunk.size_bytes for chunk in fresh),
        chunks=len(new.chunks),
        new_chunks=len(fresh),
    )


def diff_tensors(
    old: tuple[FileEntry, Layout], new: tuple[FileEntry, Layout], known: Collection[str]
) -> list[TensorDiff]:
    """What became of the tensors of a file, in the order of their names.

    It is told from the chunks alone, without the tensors' bytes: one that shares
    its chunk with others may be told as unclear.

    Args:
        old, new: the file in both artifacts, and where its tensors lie.
        known: the digests of the earlier artifact's chunks.
    """
    before, after = _Cuts(*old), _Cuts(*new)
    left = {tensor.name: tensor for tensor in before.layout.tensors}
    found = []
    for tensor in after.layout.tensors:
        was = left.pop(tensor.name, None)
        pieces = after.pieces(tensor)
        found.append(
            TensorDiff(
                name=tensor.name,
                change=_change(was, tensor, before, after, pieces),
                before=_words(was) if was is not None else "",
                after=_words(tensor),
                size_bytes=tensor.size_bytes,
                new_bytes=sum(end - begin for digest, begin, end in pieces if digest not in known),
            )
        )
    found += [TensorDiff(name, Change.GONE, _words(t), "", 0, 0) for name, t in left.items()]
    return sorted(found, key=lambda tensor: tensor.name)


_Piece = tuple[str, int, int]
"""A chunk's digest, and which bytes of it are a tensor's."""


class _Cuts:
    """A file's tensors over its chunks."""

    def __init__(self, file: FileEntry, layout: Layout) -> None:
        self.layout = layout
        self._file = file
        self._ends = {chunk.offset for chunk in file.chunks} | {file.size_bytes}

    def pieces(self, tensor: Tensor) -> list[_Piece]:
        """The chunks that hold a tensor."""
        chunks = self._file.chunks
        pieces: list[_Piece] = []
        if tensor.size_bytes == 0:
            return pieces
        index = bisect_right(chunks, tensor.begin, key=lambda chunk: chunk.offset) - 1
        while index < len(chunks) and chunks[index].offset < tensor.end:
            chunk = chunks[index]
            begin = max(tensor.begin - chunk.offset, 0)
            pieces.append((chunk.digest, begin, min(tensor.end - chunk.offset, chunk.size_bytes)))
            index += 1
        return pieces

    def stands_alone(self, tensor: Tensor) -> bool:
        """Whether its chunks hold nothing else."""
        return tensor.begin in self._ends and tensor.end in self._ends


def _change(
    was: Tensor | None, now: Tensor, before: _Cuts, after: _Cuts, pieces: list[_Piece]
) -> Change:
    if was is None:
        return Change.NEW
    if _words(was) != _words(now):
        return Change.RESHAPED
    if before.pieces(was) == pieces:
        return Change.SAME
    if before.stands_alone(was) and after.stands_alone(now):
        return Change.CHANGED
    return Change.UNCLEAR


def _words(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
