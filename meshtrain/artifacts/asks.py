"""The asks of one fetch, carried out: streams of news, and chunks that are received and written.

Chunks that lie side by side and are asked of the same peer at once come by one
request: over a fast link a request costs as much time as some hundred KiB. For the
same reason chunks that come while others are being written are written together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from meshtrain.artifacts.buffers import Buffers
from meshtrain.artifacts.holder import Holder, HolderError
from meshtrain.artifacts.news_frames import Frame
from meshtrain.artifacts.partial import Partial
from meshtrain.core.swarm import Ask, AskChunk, Follow, bits_to_bytes
from meshtrain.errors import ArtifactError

REQUEST_BYTES_MAX = 8 << 20
"""Of one request: another one can't go before it has its answer."""
WRITTEN_AT_ONCE = 8
"""Chunks: what is told to others only together, once all are written."""

_T = TypeVar("_T")


class InThread(Protocol):
    """Runs blocking work in a thread."""

    async def __call__(self, work: Callable[..., _T], *args: Any, **kwargs: Any) -> _T: ...


class End(msgspec.Struct, frozen=True):
    """A stream of news came to its end, as it should."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an ask: news, a chunk that was written (None), or an error."""

    ask: Ask
    result: Frame | End | ArtifactError | HolderError | None


@dataclass(slots=True, eq=False)
class _Request:
    """One task, and the asks that it still has to answer."""

    asks: set[Ask]
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _Came:
    """A chunk that is to be checked and written."""

    request: _Request
    ask: AskChunk
    file_index: int
    chunk_index: int
    buffer: memoryview


class Asks:
    """What is on its way to the peers of one fetch, and what came of it.

    Args:
        holder_of: the peer of a name; raises HolderError when it may not be asked.
        in_thread: runs what blocks.
        buffers: the memory that chunks come into.
        stirred: called when there is an answer, or `crash` is set.
    """

    def __init__(
        self,
        holder_of: Callable[[str], Holder],
        in_thread: InThread,
        buffers: Buffers,
        stirred: Callable[[], None],
    ) -> None:
        self._holder_of = holder_of
        self._in_thread = in_thread
        self._buffers = buffers
        self._stirred = stirred
        self._requests: dict[Ask, _Request] = {}
        self._answers: list[Answer] = []
        self._came: list[_Came] = []
        self._writer: asyncio.Task[None] | None = None
        """One: a second one would fight the first for the interpreter, and both be slower."""
        self.crash: BaseException | None = None
        """What no ask should raise: a bug, which ends the fetch."""

    def take_answers(self) -> list[Answer]:
        """What came since this was asked last."""
        answers, self._answers = self._answers, []
        return answers

    async def send(self, asks: Sequence[Ask], partial: Partial) -> None:
        """Begins what the swarm says; a peer that is followed anew is no longer followed before."""
        await self.drop([ask for ask in asks if ask in self._requests])
        for group in _side_by_side(asks, partial):
            request = _Request(set(group))
            for ask in group:
                self._requests[ask] = request
            work = self._follow if isinstance(group[0], Follow) else self._ask_chunks
            request.task = self._start(work(request, group, partial), f"ask-{group[0].peer}")

    async def drop(self, asks: Iterable[Ask]) -> None:
        """Breaks off asks, and waits until they have ended."""
        over: list[asyncio.Task[None]] = []
        for ask in asks:
            request = self._requests.pop(ask, None)
            if request is None:
                continue
            request.asks.discard(ask)
            if not request.asks and request.task is not None:
                over.append(request.task)
        for task in over:
            task.cancel()
        if over:
            await asyncio.wait(over)

    async def drop_all(self) -> None:
        """Breaks off whatever is on its way, and waits for what is being written."""
        await self.drop(list(self._requests))
        if self._writer is not None:
            await asyncio.wait({self._writer})

    # --- one request --------------------------------------------------------

    def _start(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        task.add_done_callback(self._note_crash)
        return task

    def _note_crash(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.crash = error
            self._stirred()

    def _answer(
        self, request: _Request, ask: Ask, result: End | ArtifactError | HolderError | None
    ) -> None:
        """The last word on an ask, unless it was dropped."""
        if ask in request.asks:
            request.asks.discard(ask)
            self._requests.pop(ask, None)
            self._tell(Answer(ask, result))

    def _tell(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._stirred()

    async def _follow(self, request: _Request, group: Sequence[Ask], partial: Partial) -> None:
        (ask,) = group
        try:
            have = bits_to_bytes(partial.have, partial.numbers.count)
            async for frame in self._holder_of(ask.peer).news(have):
                self._tell(Answer(ask, frame))
        except (HolderError, ArtifactError) as error:
            self._answer(request, ask, error)
        else:
            self._answer(request, ask, End())

    async def _ask_chunks(
        self, request: _Request, group: Sequence[AskChunk], partial: Partial
    ) -> None:
        file_index, first = partial.numbers.place(group[0].chunk)
        chunks = partial.manifest.files[file_index].chunks[first : first + len(group)]
        buffers = [self._buffers.take(chunk.size_bytes) for chunk in chunks]
        came = 0

        def write(number: int) -> None:
            nonlocal came
            came = number + 1
            ask = group[number]
            self._came.append(_Came(request, ask, file_index, first + number, buffers[number]))
            if self._writer is None:
                self._writer = self._start(self._write_what_came(partial), "write-chunks")

        try:
            holder = self._holder_of(group[0].peer)
            await holder.chunks(file_index, chunks, buffers, write)
        except (HolderError, ArtifactError) as error:
            for ask in group[came:]:
                self._answer(request, ask, error)

    async def _write_what_came(self, partial: Partial) -> None:
        try:
            while self._came:
                batch = self._next_batch()
                await self._write([one for one in batch if one.ask in one.request.asks], partial)
                for one in batch:
                    self._buffers.give_back(one.buffer)
        finally:
            # What comes from now on needs another one.
            self._writer = None

    def _next_batch(self) -> list[_Came]:
        """Chunks of one file, in the order in which they came."""
        file_index = self._came[0].file_index
        batch: list[_Came] = []
        later: list[_Came] = []
        for one in self._came:
            fits = one.file_index == file_index and len(batch) < WRITTEN_AT_ONCE
            (batch if fits else later).append(one)
        self._came = later
        return batch

    async def _write(self, batch: Sequence[_Came], partial: Partial) -> None:
        if not batch:
            return
        chunks = [(one.chunk_index, one.buffer) for one in batch]
        results: Sequence[bool | ArtifactError]
        try:
            results = await self._in_thread(partial.write_chunks, batch[0].file_index, chunks)
        except ArtifactError as error:
            results = [error] * len(batch)
        for one, result in zip(batch, results, strict=True):
            self._answer(one.request, one.ask, None if isinstance(result, bool) else result)


def _side_by_side(asks: Sequence[Ask], partial: Partial) -> list[list[Any]]:
    """Asks in groups that one request can carry: chunks of one file and one peer, in a row."""
    groups: list[list[Any]] = []
    rows: dict[str, list[AskChunk]] = {}
    for ask in asks:
        if isinstance(ask, AskChunk):
            rows.setdefault(ask.peer, []).append(ask)
        else:
            groups.append([ask])
    for row in rows.values():
        row.sort(key=lambda ask: ask.chunk)
        file_before, size_bytes = -1, 0
        for ask in row:
            file_index, chunk_index = partial.numbers.place(ask.chunk)
            chunk_bytes = partial.manifest.files[file_index].chunks[chunk_index].size_bytes
            fits = size_bytes + chunk_bytes <= REQUEST_BYTES_MAX
            follows = file_index == file_before and ask.chunk == groups[-1][-1].chunk + 1
            if follows and fits:
                groups[-1].append(ask)
                size_bytes += chunk_bytes
            else:
                groups.append([ask])
                size_bytes = chunk_bytes
            file_before = file_index
    return groups
