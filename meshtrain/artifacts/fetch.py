"""Fetches artifacts from whoever holds them, from several at once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import aiohttp
import msgspec

from meshtrain.artifacts.buffers import Buffers
from meshtrain.artifacts.channel import Channels
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.flight import FetchProgress, FetchReport, Flight, Source, Tools
from meshtrain.artifacts.holder import HttpTimeouts, new_session
from meshtrain.artifacts.peers import Peers
from meshtrain.artifacts.reuse import ChunkIndex
from meshtrain.core.swarm import SwarmLimits
from meshtrain.errors import FetchError
from meshtrain.ids import short
from meshtrain.security.signing import HttpSecurity

__all__ = ["FetchProgress", "FetchReport", "Fetcher", "Source"]

_DISK_THREADS = 4

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Fetcher:
    """Fetches artifacts into one store; each artifact once at a time.

    Args:
        store: where they go.
        chunks_at_once: how many chunks of one artifact are on their way at a time; None
            as `limits` says.
        fetches_max: artifacts fetched at a time; more wait.
        limits: how hard to press, and when to give up; `chunks_at_once` goes over its
            `requests_max`.
        timeouts: how long a peer is waited for.
        security: who asks, and how the others are known; None asks without keys,
            on loopback only.
        seed: an integer that spreads the nodes over the chunks; drawn when None.
    """

    def __init__(
        self,
        store: ArtifactStore,
        *,
        chunks_at_once: int | None = None,
        fetches_max: int = 4,
        limits: SwarmLimits | None = None,
        timeouts: HttpTimeouts | None = None,
        security: HttpSecurity | None = None,
        seed: int | None = None,
    ) -> None:
        self._store = store
        self._limits = limits or SwarmLimits()
        if chunks_at_once is not None:
            self._limits = msgspec.structs.replace(self._limits, requests_max=chunks_at_once)
        self._timeouts = timeouts or HttpTimeouts()
        self._peers = Peers(security) if security is not None else None
        self._seed = secrets.randbits(32) if seed is None else seed
        self._turns = asyncio.Semaphore(fetches_max)
        self._flights: dict[str, Flight] = {}
        self._buffers = Buffers()
        self._known_chunks = ChunkIndex(store)
        self._channels = Channels(self._timeouts.connect_s, self._timeouts.read_s)
        self._session: aiohttp.ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Makes ready to fetch."""
        self._session = new_session(self._timeouts)
        self._threads = ThreadPoolExecutor(_DISK_THREADS, "artifact-fetch")

    async def close(self) -> None:
        """Ends all fetches; what has come stays, to be gone on with."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.abandon(
                FetchError(
                    f"the fetch of artifact {short(flight.artifact_id)} was ended, since this "
                    "process stops. It goes on from there when it is asked for again"
                )
            )
        await asyncio.gather(*(flight.ended() for flight in flights))
        self._channels.close()
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._threads is not None:
            # In a thread, since it waits for what is being written.
            await asyncio.to_thread(self._threads.shutdown)
            self._threads = None

    async def fetch(
        self,
        artifact_id: str,
        sources: Sequence[Source],
        on_progress: Callable[[FetchProgress], None] | None = None,
    ) -> FetchReport:
        """Brings an artifact into the store; returns at once when it is there.

        A second fetch of an artifact that is on its way joins the first, and
        adds its sources to it.

        Args:
            artifact_id: the artifact.
            sources: who may hold it.
            on_progress: called after each chunk, in the event loop.

        Raises:
            FetchError: when no source could deliver; names each and why.
            DiskFullError: when there is no room.
            ArtifactError: when the store fails.
        """
        flight = self._flights.get(artifact_id)
        if flight is None:
            flight = self._take_off(artifact_id)
        for source in sources:
            flight.add_source(source)
        return await flight.ride(on_progress)

    def add_source(self, artifact_id: str, source: Source) -> bool:
        """Adds a holder to a fetch that runs; says whether one runs."""
        flight = self._flights.get(artifact_id)
        if flight is None:
            return False
        flight.add_source(source)
        return True

    def _take_off(self, artifact_id: str) -> Flight:
        if self._session is None:
            raise FetchError("the fetcher is not started. Call start() first")
        tools = Tools(
            store=self._store,
            session=self._session,
            channels=self._channels,
            buffers=self._buffers,
            known_chunks=self._known_chunks,
            in_thread=self._in_thread,
            limits=self._limits,
            seed=self._seed,
            turns=self._turns,
            timeouts=self._timeouts,
            peers=self._peers,
        )
        flight = Flight(artifact_id, tools, on_end=self._land)
        self._flights[artifact_id] = flight
        return flight

    def _land(self, flight: Flight) -> None:
        if self._flights.get(flight.artifact_id) is flight:
            del self._flights[flight.artifact_id]

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))
