"""An archive as a master opens it: tried once, and known by the mark that it bears.

The mark is a small file at the archive's root. It tells two meshes apart that
were given one place, and a share that is mounted from the empty folder below it.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import msgspec

from meshtrain.archive.failures import ArchiveAwayError, ArchiveRefusedError
from meshtrain.archive.folder_target import FolderTarget
from meshtrain.archive.object_target import ObjectTarget
from meshtrain.archive.target import Target

MARK_FILE = "meshtrain-archive.json"
PROBE_FILE = "meshtrain-check"
_SMALL_BYTES_MAX = 1 << 16


class Mark(msgspec.Struct, frozen=True):
    """What the file at an archive's root holds."""

    meshtrain_archive: int
    mark: str
    for_people: str = (
        "meshtrain archives results and bases here. A folder is whole once it has a "
        "manifest.json. This file says which mesh the archive belongs to."
    )


_decoder = msgspec.json.Decoder(Mark)


def target_of(url: str) -> Target:
    """The archive at a URL, as `check_archive_url` gives it; nothing is looked at yet.

    Raises ArchiveExtraError when its packages are missing, ArchiveRefusedError
    when its library makes no sense of the URL.
    """
    return FolderTarget(Path(url)) if url.startswith("/") else ObjectTarget(url)


def new_mark() -> str:
    """A word for a new archive."""
    return secrets.token_hex(16)


def try_out(target: Target, mark: str, *, used: bool) -> None:
    """See that an archive can be written and read, and is this mesh's.

    Args:
        mark: the word that this mesh keeps for it.
        used: whether something has been archived there: then it bears the mark.

    Raises:
        ArchiveAwayError: when it doesn't answer now.
        ArchiveRefusedError: when it can't be used before somebody mends something.
    """
    target.demand_root()
    bears = read_mark(target)
    if bears is not None and bears != mark:
        raise ArchiveRefusedError(
            f"{target.url} is the archive of another mesh. Name another place; or, where that "
            f"mesh is gone for good and this one follows it, remove {MARK_FILE} there"
        )
    if bears is None and used:
        demand_mark(target, mark)
    word = secrets.token_bytes(16)
    target.write(PROBE_FILE, (word,), len(word))
    if target.read(PROBE_FILE, _SMALL_BYTES_MAX) != word:
        raise ArchiveRefusedError(
            f"{target.url} doesn't give back what was just written there. See that nothing "
            "stands between it and the master, such as a cache"
        )
    # Rights to write and none to remove are fine: nothing else is ever removed.
    with contextlib.suppress(ArchiveRefusedError):
        target.remove(PROBE_FILE)
    if bears is None:
        data = msgspec.json.format(msgspec.json.encode(Mark(1, mark))) + b"\n"
        target.write(MARK_FILE, (data,), len(data))


def demand_mark(target: Target, mark: str) -> None:
    """See that what answers is the archive, and not the empty folder of a share that is away.

    Raises ArchiveAwayError when it bears another mark, or none.
    """
    if read_mark(target) != mark:
        raise ArchiveAwayError(
            f"{target.url} is there without the {MARK_FILE} that this mesh put there. Mount its "
            "share, or put that file back"
        )


def read_mark(target: Target) -> str | None:
    """The word that an archive bears; None where it bears none."""
    data = target.read(MARK_FILE, _SMALL_BYTES_MAX)
    if data is None:
        return None
    try:
        return _decoder.decode(data).mark
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ArchiveRefusedError(
            f"{MARK_FILE} in the archive {target.url} is damaged. Put it back from a backup, or "
            "name another place"
        ) from error
