"""Brings bases back from the archive into the master's store."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from meshtrain.archive.failures import ArchiveAwayError, ArchiveRefusedError, ArchiveStoppedError
from meshtrain.archive.target import Target
from meshtrain.archive.tree import open_archived, read_artifact
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import events as ev
from meshtrain.core.job import Base, BaseState
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.state import MeshState
from meshtrain.errors import CorruptChunkError, MeshtrainError, UserError
from meshtrain.ids import short
from meshtrain_daemon.master.archive_queue import base_place
from meshtrain_daemon.master.archive_transfers import Transfer, Transfers


class RestoreProgress(msgspec.Struct):
    """A base that is being brought back, or was."""

    artifact_id: str
    bytes_done: int = 0
    bytes_total: int = 0
    error: str = ""
    done: bool = False

    @property
    def over(self) -> bool:
        return self.done or bool(self.error)


class Restorer:
    """Fetches bases that no node holds any more.

    Args:
        state: the scheduler's, only read.
        place_of: where a base's artifact lies in the archive, as far as it is known.
        held: called when the master holds a base again.
        post: gives an event to the scheduler.
        spawn: runs something beside.
        note: shows a line to everybody who looks.
    """

    def __init__(
        self,
        target: Target,
        transfers: Transfers,
        *,
        state: MeshState,
        artifacts: ArtifactStore,
        place_of: Callable[[str], str | None],
        held: Callable[[str], None],
        post: Callable[[ev.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        note: Callable[[str], None],
    ) -> None:
        self._target = target
        self._transfers = transfers
        self._state = state
        self._artifacts = artifacts
        self._place_of = place_of
        self._held = held
        self._post = post
        self._spawn = spawn
        self._note = note
        #: recipe hash → how far the last restoring of it came
        self.progress: dict[str, RestoreProgress] = {}

    def begin(self, base: Base) -> None:
        """Begin to fetch a base; `progress` shows how it goes.

        Raises UserError when there is nothing to fetch, or nothing to fetch it for.
        """
        name = f"base {short(base.recipe_hash)}"
        if base.state is not BaseState.COMMITTED or base.artifact_id is None:
            raise UserError(
                f"{name} is {base.state}: only a trained one that is lost can be brought back. "
                "List them: meshtrain bases"
            )
        if self._artifacts.has(base.artifact_id):
            raise UserError(f"{name} need not be brought back: the master holds it")
        self._begin(base.recipe_hash, base.generation, base.artifact_id)

    def restore_lost(self, artifact_id: str) -> None:
        """Bring back what the scheduler found lost, before it is trained anew."""
        for base in self._state.bases.values():
            if base.artifact_id == artifact_id:
                self._begin(base.recipe_hash, base.generation, artifact_id)
                return
        self._post(ev.RestoreFailed(artifact_id, "it is no base any more"))

    def _begin(self, recipe_hash: str, generation: int, artifact_id: str) -> None:
        running = self.progress.get(recipe_hash)
        if running is not None and not running.over:
            return
        progress = self.progress[recipe_hash] = RestoreProgress(artifact_id)
        place = self._place_of(artifact_id) or base_place(recipe_hash, generation)
        self._spawn(self._restore(recipe_hash, place, progress))

    async def _restore(self, recipe_hash: str, place: str, progress: RestoreProgress) -> None:
        artifact_id = progress.artifact_id

        def give_up() -> None:
            raise ArchiveAwayError(
                f"the archive {self._target.url} hangs. See to its share or its server, and ask "
                "again"
            )

        try:
            await self._transfers.run(lambda t: self._download(place, progress, t), give_up)
        except MeshtrainError as error:
            progress.error = str(error)
            self._note(f"base {short(recipe_hash)} can't be brought back: {error}")
            self._post(ev.RestoreFailed(artifact_id, str(error)))
            return
        progress.done = True
        self._note(f"base {short(recipe_hash)} came back from the archive")
        self._post(ev.ArtifactHeld(MASTER_NODE_ID, (artifact_id,)))
        self._held(artifact_id)

    def _download(self, place: str, progress: RestoreProgress, transfer: Transfer) -> None:
        """In a thread: each chunk is verified as it comes, and what came is kept."""
        there, manifest = read_artifact(self._target, place, progress.artifact_id)
        progress.bytes_total = manifest.size_bytes
        partly = self._artifacts.begin(manifest)
        if partly.committed:
            return
        for index, file in enumerate(manifest.files):
            with open_archived(self._target, there, file) as source:
                for number, chunk in enumerate(file.chunks):
                    if transfer.moved():
                        raise ArchiveStoppedError("the master was stopped: ask again")
                    try:
                        partly.write_chunk(index, number, source.read(chunk.size_bytes))
                    except CorruptChunkError as error:
                        raise ArchiveRefusedError(
                            f"{file.path!r} of {there} in the archive {self._target.url} is "
                            "damaged. Mend it there, or train the base anew: "
                            "meshtrain bases rebuild"
                        ) from error
                    progress.bytes_done += chunk.size_bytes
        partly.commit()
