"""One fetch of one artifact, from the manifest to the commit."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from meshtrain.artifacts.asks import Answer, Asks, End, InThread
from meshtrain.artifacts.buffers import Buffers
from meshtrain.artifacts.channel import Channels
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.holder import (
    Holder,
    HolderBusyError,
    HolderError,
    HolderLacksError,
    HttpTimeouts,
)
from meshtrain.artifacts.news_frames import Gained, Holds, StillHere
from meshtrain.artifacts.partial import Partial
from meshtrain.artifacts.peers import Peers
from meshtrain.artifacts.reuse import ChunkIndex, take_known_chunks
from meshtrain.core.manifest import Manifest, digest_of, parse_manifest
from meshtrain.core.swarm import (
    Ask,
    AskChunk,
    Follow,
    Swarm,
    SwarmLimits,
    SwarmState,
    bits_from_bytes,
)
from meshtrain.errors import ArtifactError, CorruptChunkError, FetchError
from meshtrain.ids import short

SOURCES_MAX = 1024
"""Of one fetch; more are not asked."""

_T = TypeVar("_T")


class Source(msgspec.Struct, frozen=True):
    """Someone who may hold an artifact."""

    node_id: str
    url: str
    """Its base URL."""
    last_resort: bool = False
    """Asked only for what no other source has: the master, whom everyone could ask."""


class FetchProgress(msgspec.Struct, frozen=True):
    """How far a fetch has come."""

    artifact_id: str
    bytes_done: int
    """Verified and on disk, those of an earlier try included."""
    bytes_total: int


class FetchReport(msgspec.Struct, frozen=True):
    """How a fetch went."""

    artifact_id: str
    bytes_by_node: dict[str, int]
    """What each source delivered; empty when the artifact was here already."""
    duration_s: float
    """From the first request for a chunk to the whole in the store."""
    chunks: int
    """How many came over the network."""
    banned: tuple[str, ...]
    """Sources that sent something corrupt."""
    bytes_reused: int = 0
    """What artifacts that were here already had of it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a fetch works with."""

    store: ArtifactStore
    session: aiohttp.ClientSession
    channels: Channels
    in_thread: InThread
    buffers: Buffers
    known_chunks: ChunkIndex
    limits: SwarmLimits
    seed: int
    turns: asyncio.Semaphore
    timeouts: HttpTimeouts
    peers: Peers | None
    """Whom requests are signed for; None where there is no membership."""


class Flight:
    """One fetch that any number of callers wait for."""

    def __init__(self, artifact_id: str, tools: Tools, *, on_end: Callable[[Flight], None]) -> None:
        self.artifact_id = artifact_id
        self._tools = tools
        self._name = secrets.token_hex(8)
        self._on_end = on_end
        self._sources: dict[str, Source] = {}
        self._new_sources: list[str] = []
        self._stirred = asyncio.Event()
        """Set when there is an answer or a new source."""
        self._asks = Asks(self._holder_of, tools.in_thread, tools.buffers, self._stirred.set)
        self._corrupt: dict[str, str] = {}
        """Banned sources, and why."""
        self._riders: dict[object, Callable[[FetchProgress], None] | None] = {}
        self._abandoned: FetchError | None = None
        self._task = asyncio.create_task(self._run(), name=f"fetch-{artifact_id}")
        self._task.add_done_callback(self._end)

    def add_source(self, source: Source) -> None:
        """A holder more; one that is known already gets its new URL, and a new chance."""
        if source.node_id not in self._sources and len(self._sources) >= SOURCES_MAX:
            return
        self._sources[source.node_id] = source
        self._new_sources.append(source.node_id)
        self._stirred.set()

    async def ride(self, on_progress: Callable[[FetchProgress], None] | None) -> FetchReport:
        """Waits for the end; when all who wait are cancelled, so is the fetch."""
        rider = object()
        self._riders[rider] = on_progress
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._abandoned is not None:
                raise self._abandoned from None
            raise
        finally:
            del self._riders[rider]
            if not self._riders and not self._task.done():
                self._on_end(self)
                self._task.cancel()
                await self.ended()

    def abandon(self, why: FetchError) -> None:
        """Ends the fetch; all who wait get `why`."""
        self._abandoned = why
        self._task.cancel()

    async def ended(self) -> None:
        """Waits until nothing of the fetch runs any more."""
        await asyncio.wait({self._task})

    # --- the fetch ----------------------------------------------------------

    async def _run(self) -> FetchReport:
        loop = asyncio.get_running_loop()
        store, in_thread = self._tools.store, self._tools.in_thread
        begun_s = loop.time()
        bytes_by_node: Counter[str] = Counter()
        chunks = bytes_reused = 0
        async with self._tools.turns:
            if not await in_thread(store.has, self.artifact_id):
                manifest = await in_thread(store.partial_manifest, self.artifact_id)
                if manifest is None:
                    manifest = await self._fetch_manifest()
                partial = await in_thread(store.begin, manifest)
                try:
                    bytes_reused = await self._reuse(partial)
                    # What sources gave is told with the time that they took for it.
                    begun_s = loop.time()
                    chunks = await self._fetch_chunks(partial, bytes_by_node)
                finally:
                    await self._asks.drop_all()
                await in_thread(partial.commit)
        return FetchReport(
            artifact_id=self.artifact_id,
            bytes_by_node=dict(bytes_by_node),
            duration_s=loop.time() - begun_s,
            chunks=chunks,
            bytes_reused=bytes_reused,
            banned=tuple(sorted(self._corrupt)),
        )

    async def _reuse(self, partial: Partial) -> int:
        """Takes what artifacts here hold of it; returns the bytes of that."""
        over = threading.Event()
        try:
            return await self._tools.in_thread(
                take_known_chunks, partial, self._tools.known_chunks, stopped=over.is_set
            )
        finally:
            over.set()

    async def _fetch_manifest(self) -> Manifest:
        """From the first source that has it, those of last resort at the end; in rounds."""
        limits = self._tools.limits
        reasons: dict[str, str] = {}
        for round_number in range(limits.failures_max):
            if round_number:
                await self._wait_for_source(
                    min(limits.backoff_s * 2 ** (round_number - 1), limits.backoff_max_s)
                )
            asked: set[str] = set()
            while (source := self._next_for_manifest(asked)) is not None:
                asked.add(source.node_id)
                try:
                    data = await self._holder(source).manifest()
                    return await self._tools.in_thread(self._check_manifest, data)
                except HolderError as error:
                    reasons[source.node_id] = str(error)
                except CorruptChunkError as error:
                    self._corrupt[source.node_id] = str(error)
                    reasons[source.node_id] = f"banned: {error}"
            if self._corrupt.keys() >= self._sources.keys():
                break
        raise self._failure(reasons)

    def _next_for_manifest(self, asked: set[str]) -> Source | None:
        left = [
            source
            for node_id, source in self._sources.items()
            if node_id not in asked and node_id not in self._corrupt
        ]
        return min(left, key=lambda source: source.last_resort, default=None)

    def _check_manifest(self, data: bytes) -> Manifest:
        if digest_of(data) != self.artifact_id:
            raise CorruptChunkError(
                f"its manifest has digest {digest_of(data)}, which is not the artifact's id"
            )
        return parse_manifest(data)

    async def _wait_for_source(self, timeout_s: float) -> None:
        self._stirred.clear()
        # Not `wait_for`, which takes no heed of being cancelled in the same moment (3.11).
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()

    async def _fetch_chunks(self, partial: Partial, bytes_by_node: Counter[str]) -> int:
        """Asks as the swarm says until all chunks are here; returns how many came."""
        now_s = asyncio.get_running_loop().time
        swarm = Swarm(
            partial.numbers.count,
            have=partial.have,
            limits=self._tools.limits,
            seed=self._tools.seed,
            now_s=now_s(),
        )
        chunks = 0
        bytes_total = partial.manifest.size_bytes
        bytes_done = bytes_total - partial.missing_bytes
        self._new_sources = list(self._sources)
        while True:
            self._stirred.clear()
            if self._asks.crash is not None:
                raise self._asks.crash
            self._add_new_sources(swarm, now_s())
            for answer in self._asks.take_answers():
                dropped, came_bytes = self._take(answer, swarm, partial, now_s())
                await self._asks.drop(dropped)
                if came_bytes:
                    chunks += 1
                    bytes_done += came_bytes
                    bytes_by_node[answer.ask.peer] += came_bytes
                    self._tell(FetchProgress(self.artifact_id, bytes_done, bytes_total))
            # One reading for all three: what is due between two would be slept through.
            asked_s = now_s()
            match swarm.state(asked_s):
                case SwarmState.DONE:
                    return chunks
                case SwarmState.STUCK:
                    raise self._failure(swarm.reasons())
                case SwarmState.RUNNING:
                    pass
            await self._asks.send(swarm.next_asks(asked_s), partial)
            await self._wait(swarm.wake_at_s(asked_s))

    def _take(
        self, answer: Answer, swarm: Swarm, partial: Partial, now_s: float
    ) -> tuple[Sequence[Ask], int]:
        """Tells the swarm; returns the asks that are void now, and the bytes that came."""
        ask, result = answer.ask, answer.result
        chunk = ask.chunk if isinstance(ask, AskChunk) else None
        match result:
            case None if isinstance(ask, AskChunk):
                new = bool(swarm.missing >> ask.chunk & 1)
                size_bytes = partial.numbers.chunk(ask.chunk).size_bytes
                return swarm.arrived(ask.peer, ask.chunk, now_s), size_bytes if new else 0
            case Holds():
                if len(result.bits) != (partial.numbers.count + 7) // 8:
                    told = f"its bitmap has {len(result.bits)} bytes, which fits another artifact"
                    return self._break_off(ask, told, swarm, now_s), 0
                bits = bits_from_bytes(result.bits)
                swarm.told_have(ask.peer, bits, now_s, more=result.more)
            case Gained():
                if not all(0 <= chunk < partial.numbers.count for chunk in result.chunks):
                    told = "it told of chunks that the artifact hasn't"
                    return self._break_off(ask, told, swarm, now_s), 0
                swarm.gained(ask.peer, result.chunks, now_s)
            case StillHere():
                pass
            case End():
                swarm.unfollowed(ask.peer, now_s)
            case CorruptChunkError():
                self._corrupt[ask.peer] = str(result)
                return [Follow(ask.peer), *swarm.ban(ask.peer, str(result))], 0
            case ArtifactError():
                raise result
            case HolderBusyError():
                swarm.busy(ask.peer, chunk, str(result), now_s)
            case HolderLacksError() if chunk is not None:
                swarm.lacks(ask.peer, chunk, str(result), now_s)
            case HolderError():
                swarm.failed(ask.peer, chunk, str(result), now_s)
        return [], 0

    def _break_off(self, ask: Ask, why: str, swarm: Swarm, now_s: float) -> list[Ask]:
        swarm.failed(ask.peer, None, why, now_s)
        return [ask]

    def _add_new_sources(self, swarm: Swarm, now_s: float) -> None:
        for node_id in self._new_sources:
            swarm.add_peer(node_id, now_s, last_resort=self._sources[node_id].last_resort)
            if node_id in self._corrupt:
                swarm.ban(node_id, self._corrupt[node_id])
        self._new_sources = []

    async def _wait(self, wake_at_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        timer = None if wake_at_s is None else loop.call_at(wake_at_s, self._stirred.set)
        try:
            await self._stirred.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # --- sources ------------------------------------------------------------

    def _holder_of(self, node_id: str) -> Holder:
        return self._holder(self._sources[node_id])

    def _holder(self, source: Source) -> Holder:
        tools = self._tools
        peer = None
        if tools.peers is not None:
            peer = tools.peers.of(source.node_id)
            if peer is None:
                raise HolderError("it is not on the list of members here, or not any more")
        return Holder(
            tools.session,
            source.url,
            self.artifact_id,
            peer,
            tools.timeouts,
            channels=tools.channels,
            fetch_name=self._name,
        )

    # --- the callers --------------------------------------------------------

    def _tell(self, progress: FetchProgress) -> None:
        for on_progress in list(self._riders.values()):
            if on_progress is not None:
                on_progress(progress)

    def _end(self, task: asyncio.Task[FetchReport]) -> None:
        self._on_end(self)
        if not task.cancelled():
            # Retrieved here: all who waited may have been cancelled.
            task.exception()

    def _failure(self, reasons: dict[str, str]) -> FetchError:
        told = "; ".join(
            f"{node_id} ({source.url}): {reasons.get(node_id, 'was not asked')}"
            for node_id, source in self._sources.items()
        )
        return FetchError(
            f"artifact {short(self.artifact_id)} could not be fetched: "
            + (told or "no source was given")
            + ". Check that one of them runs and holds it, then try again"
        )
