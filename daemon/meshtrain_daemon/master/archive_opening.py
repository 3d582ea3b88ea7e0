"""The archive of the settings, tried at the master's start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshtrain.archive.failures import ArchiveAwayError, ArchiveRefusedError
from meshtrain.archive.opening import new_mark, target_of, try_out
from meshtrain.archive.target import Target
from meshtrain.errors import SettingsError
from meshtrain.store.base import ArchiveState, Store
from meshtrain_daemon.master.patient_thread import in_patient_thread

TRY_S_MAX = 45.0


class OpenArchive:
    """An archive that this mesh may use.

    Args:
        mark: the word that it bears, so that another place is not taken for it.
    """

    def __init__(self, target: Target, mark: str) -> None:
        self.target = target
        self.mark = mark


async def open_archive(
    url: str, store: Store, say: Callable[[str], None], *, try_s_max: float = TRY_S_MAX
) -> OpenArchive:
    """Open the archive, before anything else writes to the store.

    One that has served before and doesn't answer now is only told: what goes
    there waits.

    Raises:
        ArchiveExtraError: when its packages are missing.
        SettingsError: when it can't be used before somebody mends something.
        ArchiveAwayError: when it doesn't answer, and never has.
    """
    try:
        return await _open(url, store, say, try_s_max)
    except ArchiveRefusedError as error:
        # Trying again, as a service manager would, mends nothing.
        raise SettingsError(f"archive = {url!r}: {error}") from error


async def _open(
    url: str, store: Store, say: Callable[[str], None], try_s_max: float
) -> OpenArchive:
    target = target_of(url)
    mark = store.archive_mark(target.url)
    if mark is None:
        mark = new_mark()
        store.mark_archive(target.url, mark)
        store.commit()
    known = mark
    used = any(e.state is ArchiveState.DONE for e in store.archive_entries(target.url))
    try:
        trying = in_patient_thread(lambda: try_out(target, known, used=used), "archive-check")
        await asyncio.wait_for(trying, try_s_max)
    except (ArchiveAwayError, TimeoutError) as error:
        told = str(error) or f"the archive {url} has not answered for {try_s_max:g} s"
        if not used:
            raise ArchiveAwayError(
                f"{told}. It is tried at the master's start, so that nothing is lost on a place "
                "that never works; take `archive` out of the settings to start without"
            ) from error
        say(f"{told}. What goes there waits until it is back")
    return OpenArchive(target, mark)
