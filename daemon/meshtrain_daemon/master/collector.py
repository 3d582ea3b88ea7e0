"""What the master fetches and removes as a holder: of one artifact, one after the other.

A drop that is carried out while the same artifact is being fetched, or is to be
fetched again at once, would take away what the scheduler was told of. So a fetch
that is no longer wanted is ended before the removal, and one that is wanted since
begins after it; what is told to the scheduler comes in that order too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from meshtrain import failpoints
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.fetch import Fetcher, FetchReport, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.errors import ArtifactError


class Collector:
    """The master's own copies, as far as the scheduler orders them.

    Args:
        fetched: called with each artifact that came, after the scheduler was told.
        post: gives an event to the scheduler.
        spawn: runs something beside.
        note: shows a line to people.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        fetcher: Fetcher,
        *,
        fetched: Callable[[str, FetchReport], None],
        post: Callable[[ev.Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        note: Callable[[str], None],
    ) -> None:
        self._artifacts = artifacts
        self._fetcher = fetcher
        self._fetched = fetched
        self._post = post
        self._spawn = spawn
        self._note = note
        #: artifact → what is done with it, one after the other; the last one last
        self._turns: dict[str, list[_Turn]] = {}

    def collect(self, effect: fx.CollectArtifact) -> None:
        """Fetch an artifact; one that is on its way gets more sources."""
        sources = [Source(node_id=s.node_id, url=s.http_url) for s in effect.sources]
        turns = self._turns.get(effect.artifact_id)
        if turns and turns[-1].fetches:
            turns[-1].sources += sources
            if turns[-1] is turns[0]:
                for source in sources:
                    self._fetcher.add_source(effect.artifact_id, source)
            return
        self._queue(effect.artifact_id, _Turn(fetches=True, sources=sources))

    def drop(self, artifact_id: str) -> None:
        """Remove an artifact, and what has come of it so far."""
        turns = self._turns.get(artifact_id, [])
        if turns and turns[-1].fetches:
            turns[-1].unwanted.set()
        self._queue(artifact_id, _Turn(fetches=False))

    def _queue(self, artifact_id: str, turn: _Turn) -> None:
        turns = self._turns.setdefault(artifact_id, [])
        turns.append(turn)
        if len(turns) == 1:
            self._spawn(self._take_turns(artifact_id, turns))

    async def _take_turns(self, artifact_id: str, turns: list[_Turn]) -> None:
        try:
            while turns:
                if turns[0].fetches:
                    await self._fetch(artifact_id, turns[0])
                else:
                    await self._remove(artifact_id)
                turns.pop(0)
        finally:
            self._turns.pop(artifact_id, None)

    async def _fetch(self, artifact_id: str, turn: _Turn) -> None:
        if turn.unwanted.is_set():
            return
        fetch = asyncio.ensure_future(self._fetcher.fetch(artifact_id, turn.sources))
        unwanted = asyncio.ensure_future(turn.unwanted.wait())
        try:
            await asyncio.wait([fetch, unwanted], return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwanted.cancel()
            if not fetch.done():
                fetch.cancel()
        try:
            report = await fetch
        except asyncio.CancelledError:
            if not turn.unwanted.is_set():
                raise
        except DiskFullError as error:
            self._note(f"the master's disk is full: {error}")
            self._post(ev.CollectFailed(artifact_id, str(error), no_room=True))
        except ArtifactError as error:
            self._post(ev.CollectFailed(artifact_id, str(error)))
        else:
            failpoints.reach("collect.fetched")
            self._post(
                ev.ArtifactHeld(
                    MASTER_NODE_ID,
                    (artifact_id,),
                    bytes_by_node=report.bytes_by_node,
                    duration_s=report.duration_s,
                )
            )
            self._fetched(artifact_id, report)

    async def _remove(self, artifact_id: str) -> None:
        try:
            await asyncio.to_thread(self._artifacts.remove, artifact_id)
        except ArtifactError as error:
            # It only takes room: the next start finds it and may say so again.
            self._note(f"what nobody needs any more is still there: {error}")
        self._post(ev.ArtifactDropped(artifact_id))


class _Turn:
    """A fetch or a removal."""

    def __init__(self, *, fetches: bool, sources: list[Source] | None = None) -> None:
        self.fetches = fetches
        self.sources = sources or []
        #: set once a removal is ordered after it
        self.unwanted = asyncio.Event()
