"""Copies results and bases to the archive as they come.

What is queued is in the store, and found again at a start by looking through
all results and bases: nothing is forgotten, and nothing goes twice. While the
archive is away all waits; its absence is told once, and so is its return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, BinaryIO

from meshtrain import failpoints
from meshtrain.archive.failures import (
    ArchiveError,
    ArchiveStoppedError,
    LocalCopyError,
)
from meshtrain.archive.opening import demand_mark
from meshtrain.archive.tree import send_tree
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.clock import wall_now_s
from meshtrain.core.job import Base, BaseState, Job, JobKind, JobState, Sweep
from meshtrain.core.state import MeshState
from meshtrain.errors import ArtifactError
from meshtrain.spec.archive_url import ArchiveWhat
from meshtrain.store.base import ArchiveEntry, ArchiveState, Store
from meshtrain.store.failures import StoreFullError
from meshtrain_daemon.master.archive_opening import OpenArchive
from meshtrain_daemon.master.archive_queue import (
    BASES,
    ArchiveQueue,
    base_place,
    rest_s,
    result_place,
)
from meshtrain_daemon.master.archive_transfers import Transfer, Transfers
from meshtrain_daemon.master.loops import Writer
from meshtrain_daemon.master.result_folders import ResultFolders, describe_base, describe_job

LAG_FAILURES = 3
"""After so many failures in a row people are told: about half a minute."""
SAVE_RETRY_S = 1.0
LOOK_THROUGH_PAUSE = 20
"""Jobs looked through between two turns of the loop."""


class Archivist:
    """Keeps the archive level with what the master holds.

    Args:
        at_once: trees that are sent at once.
        state: the scheduler's, only read.
        base_done: called with the artifact of each base that is in the archive by now.
        spawn: runs something beside.
        note: shows a line to everybody who looks.
    """

    def __init__(
        self,
        archive: OpenArchive,
        transfers: Transfers,
        *,
        what: ArchiveWhat,
        at_once: int,
        state: MeshState,
        artifacts: ArtifactStore,
        folders: ResultFolders,
        store: Store,
        writer: Writer,
        base_done: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        note: Callable[[str], None],
        rest: Callable[[int], float] = rest_s,
    ) -> None:
        self._archive = archive
        self._target = archive.target
        self._transfers = transfers
        self._what = what
        self._at_once = at_once
        self._state = state
        self._artifacts = artifacts
        self._result_folders = folders
        self._writer = writer
        self._base_done = base_done
        self._spawn = spawn
        self._note = note
        self._rest = rest
        self._queue = ArchiveQueue(what, store.archive_entries(archive.target.url), rest)
        self._wake = asyncio.Event()
        #: sweep → the name of its folder
        self._folders: dict[str, str] = {}
        #: failures since the last success, and the places that failed
        self._failures = 0
        self._failed_places: set[str] = set()
        self._failing_since_s: float | None = None
        self._trouble = ""
        self._told = False
        self._rests_until_s = 0.0

    # --- what comes -------------------------------------------------------------------

    def take(self, job: Job) -> None:
        """A job ended, or the master holds a base by now: queue what that leaves."""
        if job.kind is JobKind.BASE:
            self._offer_base(self._state.bases[self._state.base_of_job[job.job_id]])
        else:
            self._offer_result(job)

    def _offer_base(self, base: Base) -> None:
        if base.state is not BaseState.COMMITTED or base.artifact_id is None:
            return
        if not self._queue.wants_base(base) or not self._artifacts.has(base.artifact_id):
            return
        place = base_place(base.recipe_hash, base.generation)
        self._offer(place, base.artifact_id, base.recipe_hash)

    def _offer_result(self, job: Job) -> None:
        attempt = job.attempt
        if not self._queue.wants_results() or job.sweep_id is None or attempt is None:
            return
        if job.state is not JobState.SUCCEEDED or attempt.artifact_id is None:
            return
        sweep = self._state.sweeps[job.sweep_id]
        place = result_place(self._folder(sweep), sweep, job, attempt.attempt_id)
        if not self._queue.is_new(place):
            return
        self._offer(place, attempt.artifact_id, job.job_id)

    def _offer(self, place: str, artifact_id: str, subject: str) -> None:
        try:
            size_bytes = self._artifacts.size_bytes(artifact_id)
        except ArtifactError:
            # Not here, or not any more: there is nothing to send.
            return
        entry = ArchiveEntry(place, artifact_id, subject, ArchiveState.QUEUED, size_bytes)
        if self._queue.put(entry):
            self._wake.set()

    def _folder(self, sweep: Sweep) -> str:
        name = self._folders.get(sweep.sweep_id)
        if name is None:
            name = self._folders[sweep.sweep_id] = self._result_folders.folder(sweep).name
        return name

    async def _look_through(self) -> None:
        """Queue what a master that was killed, or had no archive, left out."""
        for number, job in enumerate(list(self._state.jobs.values())):
            if job.ended_wall_s is not None:
                self.take(self._state.jobs[job.job_id])
            if number % LOOK_THROUGH_PAUSE == 0:
                await asyncio.sleep(0)

    # --- sending ----------------------------------------------------------------------

    async def run(self) -> None:
        """Send for ever."""
        await self._look_through()
        while True:
            saved = await self._save()
            due_s = self._send_what_may_go()
            if not saved:
                due_s = min(due_s or SAVE_RETRY_S, SAVE_RETRY_S)
            try:
                async with asyncio.timeout(due_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _save(self) -> bool:
        while unsaved := self._queue.take_unsaved():
            try:
                await self._writer.keep(_saving(self._target.url, unsaved))
            except StoreFullError:
                self._queue.put_back(unsaved)
                return False
            failpoints.reach("archive.queued")
        return True

    def _send_what_may_go(self) -> float | None:
        """Begin what may be sent now; says in how many seconds to look again."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._rests_until_s:
            return self._rests_until_s - now_s
        # One at a time feels out whether the archive is back.
        at_once = 1 if self._failures else self._at_once
        while len(self._queue.sending) < at_once:
            entry = self._queue.next(now_s)
            if entry is None:
                break
            self._spawn(self._send(entry))
        else:
            # The next one that ends wakes us.
            return None
        due_s = self._queue.due_s()
        return None if due_s is None else max(0.0, due_s - now_s)

    async def _send(self, entry: ArchiveEntry) -> None:
        about = self._about(entry)
        try:
            place = await self._transfers.run(partial(self._upload, entry, about), self._hangs)
        except ArchiveStoppedError:
            return
        except LocalCopyError as error:
            self._queue.lost(entry)
            self._note(f"{entry.place} can't be archived: {error}")
        except ArchiveError as error:
            self._failed(entry, error)
        else:
            self._queue.done(entry)
            self._succeeded()
            if entry.artifact_id in self._queue.bases_done:
                self._base_done(entry.artifact_id)
            if place != entry.place:
                self._note(
                    f"{entry.place} in the archive is another artifact's: this one lies at {place}"
                )
        self._wake.set()

    def _hangs(self) -> None:
        """A transfer neither ends nor moves: others wait, so that threads don't pile up."""
        self._trouble = f"the archive {self._target.url} hangs: see to its share or its server"
        self._failing_since_s = self._failing_since_s or wall_now_s()
        self._tell_trouble()

    def _tell_trouble(self) -> None:
        if not self._told:
            self._told = True
            count = self._queue.queued_count
            self._note(f"the archive is behind, {count} results and bases wait: {self._trouble}")

    def _failed(self, entry: ArchiveEntry, error: ArchiveError) -> None:
        now_s = asyncio.get_running_loop().time()
        self._queue.failed(entry, now_s)
        if not self._failures:
            self._failing_since_s = wall_now_s()
        self._failures += 1
        self._failed_places.add(entry.place)
        self._rests_until_s = now_s + self._rest(self._failures)
        self._trouble = str(error)
        if self._failures >= LAG_FAILURES:
            self._tell_trouble()

    def _succeeded(self) -> None:
        if len(self._failed_places) > 1:
            self._queue.wake()
        self._failures = 0
        self._failed_places.clear()
        self._failing_since_s = None
        self._trouble = ""
        self._rests_until_s = 0.0
        if self._told:
            self._told = False
            self._note("the archive is well again: what waited goes there now")

    def _about(self, entry: ArchiveEntry) -> dict[str, Any]:
        if entry.place.startswith(f"{BASES}/"):
            base = self._state.bases[entry.subject]
            told = {"kind": "base", **describe_base(base)}
            if base.artifact_id != entry.artifact_id:
                # A generation that was trained anew meanwhile: only its recipe is still known.
                told = {k: told[k] for k in ("kind", "recipe_hash", "recipe")}
            return told
        job = self._state.jobs[entry.subject]
        sweep = self._state.sweeps[job.sweep_id or ""]
        told = {"kind": "result", "sweep": sweep.sweep_id, "sweep_name": sweep.name}
        described = describe_job(job)
        if job.attempt is None or job.attempt.artifact_id != entry.artifact_id:
            described = {k: described[k] for k in ("job", "name", "cell", "group", "work", "base")}
        return {**told, **described}

    def _upload(self, entry: ArchiveEntry, about: dict[str, Any], transfer: Transfer) -> str:
        """In a thread."""
        if self._target.url.startswith("/"):
            demand_mark(self._target, self._archive.mark)
        artifact_id = entry.artifact_id
        try:
            manifest = self._artifacts.manifest(artifact_id)
        except ArtifactError as error:
            raise LocalCopyError(str(error)) from error

        def opened(index: int) -> BinaryIO:
            size_bytes = manifest.files[index].size_bytes
            return self._artifacts.open_verified(artifact_id, index, 0, size_bytes)

        place = send_tree(
            self._target,
            entry.place,
            manifest,
            opened,
            about=about,
            stopped=transfer.moved,
        )
        failpoints.reach("archive.sent")
        return place

    # --- what people see --------------------------------------------------------------

    def archived_bases(self) -> tuple[str, ...]:
        """The artifacts of bases that are in the archive."""
        return tuple(self._queue.bases_done)

    def base_place(self, artifact_id: str) -> str | None:
        """Where a base's artifact lies in the archive; None where it isn't there."""
        return self._queue.bases_done.get(artifact_id)

    def has_base(self, artifact_id: str | None) -> bool:
        """Whether a base's artifact is in the archive."""
        return artifact_id is not None and artifact_id in self._queue.bases_done

    def results_count(self, sweep: Sweep) -> int:
        """How many results of a sweep are in the archive."""
        return self._queue.results_done[self._folder(sweep)]

    def status(self) -> dict[str, Any]:
        """How it stands, as the query `archive` answers it."""
        queue = self._queue
        return {
            "url": self._target.url,
            "what": str(self._what),
            "queued": queue.queued_count,
            "queued_bytes": queue.queued_bytes,
            "sending": len(queue.sending),
            "done": queue.done_count,
            "done_bytes": queue.done_bytes,
            "lost": queue.lost_count,
            "trouble": self._trouble,
            "failing_since_s": self._failing_since_s,
        }


def _saving(url: str, entries: list[ArchiveEntry]) -> Callable[[Store], None]:
    return lambda store: store.save_archived(url, entries)
