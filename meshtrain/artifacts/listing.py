"""What lies at a path on a share, without reading it: names, sizes, times of change.

    each file     its path below the root, "f", size in bytes, time of change in µs
    each link     its path, "l", where it points; it is not followed

sorted by path, and hashed together. Folders count by what is in them. Times are
cut to microseconds, since mounts of one share don't all tell finer ones. A file
that changes and keeps its size and its time is not noticed: content that must be
known for sure is published.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

import msgspec
import xxhash

from meshtrain.errors import UserError
from meshtrain.spec.jobs import InputData

ENTRIES_MAX = 2_000_000
"""Files of one share: more take minutes to list, before each job."""
DEPTH_MAX = 64


class Listing(msgspec.Struct, frozen=True):
    """What a path held when it was looked at."""

    digest: str
    size_bytes: int
    files_count: int


class ListingError(UserError):
    """Raised when a path on a share can't be listed; the message says why."""


def list_share(path: str, *, is_cancelled: Callable[[], bool] = lambda: False) -> Listing:
    """The listing of a folder, or of one file.

    Args:
        path: absolute.
        is_cancelled: asked now and then; when it says so, the listing is given up.

    Raises ListingError when the path isn't there, can't be read, or holds too much.
    """
    try:
        info = os.stat(path)  # noqa: PTH116
        if stat.S_ISREG(info.st_mode):
            return _sum([(b"", _file(info), info.st_size)])
        if not stat.S_ISDIR(info.st_mode):
            raise ListingError(f"{path} is neither a folder nor a file")
        return _sum(sorted(_entries(os.fsencode(path), b"", 0, _Count(path, is_cancelled))))
    except OSError as error:
        where = error.filename or path
        if isinstance(where, bytes):
            where = os.fsdecode(where)
        raise ListingError(f"{where}: {error.strerror or error}") from error


def share_data(path: str, host: str) -> InputData:
    """A path on a share as jobs are told of it, as it is now on this host.

    Args:
        path: absolute.
        host: what this host is called in errors.

    Raises UserError when it can't be listed.
    """
    try:
        listing = list_share(path)
    except ListingError as error:
        raise UserError(
            f"the input {path} can't be listed on {host}: {error}. Mount it there, or publish it: "
            "meshtrain publish PATH --name NAME"
        ) from error
    return InputData(path, listing.digest, True, listing.size_bytes, listing.files_count)


_Entry = tuple[bytes, bytes, int]
"""Path, what is hashed of it, bytes."""


class _Count:
    def __init__(self, path: str, is_cancelled: Callable[[], bool]) -> None:
        self._path = path
        self._is_cancelled = is_cancelled
        self._entries = 0

    def one_more(self) -> None:
        self._entries += 1
        if self._entries > ENTRIES_MAX:
            raise ListingError(
                f"{self._path} holds more than {ENTRIES_MAX:,} files, too many to list before each "
                "job: pack them into fewer, or publish what is needed"
            )
        if self._entries % 1000 == 0 and self._is_cancelled():
            raise ListingError(f"{self._path} was not listed to its end")


def _entries(folder: bytes, prefix: bytes, depth: int, count: _Count) -> Iterator[_Entry]:
    if depth > DEPTH_MAX:
        raise ListingError(f"{os.fsdecode(folder)} lies more than {DEPTH_MAX} folders deep")
    with os.scandir(folder) as found:
        for entry in found:
            count.one_more()
            relpath = prefix + entry.name
            if entry.is_symlink():
                target = os.readlink(entry.path)  # noqa: PTH115
                yield relpath, b"l\0" + target, 0
            elif entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path, relpath + b"/", depth + 1, count)
            elif entry.is_file(follow_symlinks=False):
                info = entry.stat(follow_symlinks=False)
                yield relpath, _file(info), info.st_size
            else:
                raise ListingError(
                    f"{os.fsdecode(entry.path)} is a device, pipe or socket: remove it"
                )


def _file(info: os.stat_result) -> bytes:
    return b"f\0%d\0%d" % (info.st_size, info.st_mtime_ns // 1000)


def _sum(entries: list[_Entry]) -> Listing:
    state = xxhash.xxh3_128()
    size_bytes = files_count = 0
    for relpath, told, bytes_of in entries:
        # No name holds a NUL: two listings never come to the same bytes.
        state.update(b"%b\0%b\0\0" % (relpath, told))
        size_bytes += bytes_of
        files_count += told.startswith(b"f")
    return Listing(state.hexdigest(), size_bytes, files_count)
