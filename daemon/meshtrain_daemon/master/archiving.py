"""The archive's place in a master: what opens it, feeds it, asks it; nothing where none is set."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import events as ev
from meshtrain.core.job import Base, Sweep
from meshtrain.core.state import MeshState
from meshtrain.errors import UserError
from meshtrain.spec.archive_url import ArchiveWhat
from meshtrain.spec.settings import MasterSettings
from meshtrain.store.base import Store
from meshtrain_daemon.master.archive_opening import OpenArchive, open_archive
from meshtrain_daemon.master.archive_restorer import Restorer
from meshtrain_daemon.master.archive_transfers import Transfers
from meshtrain_daemon.master.archivist import Archivist
from meshtrain_daemon.master.loops import Writer
from meshtrain_daemon.master.reporter import Reporter

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Archiving:
    """The archive of a master's settings, if they name one."""

    def __init__(self, settings: MasterSettings) -> None:
        self._settings = settings
        self._transfers = Transfers()
        self._open: OpenArchive | None = None
        self._archivist: Archivist | None = None
        self._restorer: Restorer | None = None
        self._post: Callable[[ev.Event], None] = lambda event: None

    async def open(self, store: Store, say: Callable[[str], None]) -> None:
        """Try the archive, before anything else writes to the store.

        Raises what `open_archive` does.
        """
        if self._settings.archive is not None:
            self._open = await open_archive(self._settings.archive, store, say)

    def begin(
        self,
        *,
        state: MeshState,
        artifacts: ArtifactStore,
        reporter: Reporter,
        store: Store,
        writer: Writer,
        post: Callable[[ev.Event], None],
        spawn: Spawn,
        note: Callable[[str], None],
    ) -> None:
        """Take up what ended and what is held from now on."""
        if self._open is None:
            return
        self._archivist = archivist = Archivist(
            self._open,
            self._transfers,
            what=ArchiveWhat(self._settings.archive_what),
            at_once=self._settings.archive_at_once,
            state=state,
            artifacts=artifacts,
            folders=reporter.folders,
            store=store,
            writer=writer,
            base_done=lambda artifact_id: post(ev.BasesArchived((artifact_id,))),
            spawn=spawn,
            note=note,
        )
        self._restorer = Restorer(
            self._open.target,
            self._transfers,
            state=state,
            artifacts=artifacts,
            place_of=archivist.base_place,
            held=reporter.base_held,
            post=post,
            spawn=spawn,
            note=note,
        )
        self._post = post
        reporter.on_ended = archivist.take

    async def run(self) -> None:
        """Send for ever; returns at once where there is no archive."""
        if self._archivist is not None:
            self._post(ev.BasesArchived(self._archivist.archived_bases()))
            await self._archivist.run()

    async def close(self) -> None:
        """End what is under way."""
        await self._transfers.close()

    # --- what is asked ----------------------------------------------------------------

    def restore_lost(self, artifact_id: str) -> None:
        """Bring back a base that the scheduler found lost; it is told what comes of it."""
        if self._restorer is None:
            self._post(ev.RestoreFailed(artifact_id, "there is no archive"))
        else:
            self._restorer.restore_lost(artifact_id)

    def restore(self, base: Base) -> None:
        """Begin to bring back a base that somebody asks for.

        Raises UserError when it can't be, or needn't be.
        """
        if self._restorer is None:
            raise UserError(
                "this master has no archive: set `archive` in its settings and restart it. A lost "
                "base can be trained anew: meshtrain bases rebuild"
            )
        self._restorer.begin(base)

    def status(self) -> dict[str, Any] | None:
        """How the archive stands; None where there is none."""
        if self._archivist is None or self._restorer is None:
            return None
        restores = {k: msgspec.to_builtins(v) for k, v in self._restorer.progress.items()}
        return {**self._archivist.status(), "restores": restores}

    def has_base(self, artifact_id: str | None) -> bool:
        """Whether a base's artifact is in the archive."""
        return self._archivist is not None and self._archivist.has_base(artifact_id)

    def results_count(self, sweep: Sweep) -> int | None:
        """How many results of a sweep are in the archive; None where there is none."""
        return None if self._archivist is None else self._archivist.results_count(sweep)
