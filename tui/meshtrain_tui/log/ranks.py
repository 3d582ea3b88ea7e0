"""The lines of several streams as one: by when they came, and by rank where that is the same.

A place is a tuple: for each stream the offset of its first line that comes after
that place. Going forward and back passes the same lines in the same order, since
the times of a stream only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshtrain_tui.log.document import Line, LogDocument
from meshtrain_tui.log.search import SearchPattern
from meshtrain_tui.log.stream import LogStream

Place = tuple[int, ...]


class LogRanks:
    """The streams of an attempt: of one process, or of each rank of a gang."""

    def __init__(self, streams: Sequence[LogStream]) -> None:
        self.documents = [LogDocument(stream) for stream in streams]

    @property
    def start(self) -> Place:
        return (0,) * len(self.documents)

    @property
    def end(self) -> Place:
        return tuple(document.size_bytes for document in self.documents)

    @property
    def size_bytes(self) -> int:
        return sum(self.end)

    @property
    def ended(self) -> bool:
        """Whether no more comes."""
        return all(document.stream.ended for document in self.documents)

    @property
    def span_s(self) -> tuple[float, float] | None:
        """When the first byte came, and the last."""
        spans = [span for doc in self.documents if (span := doc.stream.times.span_s) is not None]
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None

    async def refresh(self) -> bool:
        """Ask how far the streams are; True when one has changed. Raises MeshtrainError."""
        changed = [await document.stream.refresh() for document in self.documents]
        return any(changed)

    async def count_next(self) -> bool:
        """Let the next piece of a stream be counted; False when all are. Raises MeshtrainError."""
        for document in self.documents:
            if await document.stream.count_next():
                return True
        return False

    def within(self, place: Place) -> Place:
        """A place that there is: streams may have become shorter."""
        return tuple(min(at, end) for at, end in zip(place, self.end, strict=True))

    async def after(self, place: Place) -> tuple[Line, Place] | None:
        """The line after a place, and the place after it; None at the end."""
        best: tuple[float, int] | None = None
        for rank, document in enumerate(self.documents):
            if place[rank] < document.size_bytes:
                key = (self._came(rank, place[rank]), rank)
                best = key if best is None else min(best, key)
        if best is None:
            return None
        rank = best[1]
        line = await self.documents[rank].line_at(place[rank])
        return line, _with(place, rank, line.end)

    async def before(self, place: Place) -> tuple[Line, Place] | None:
        """The line before a place, and the place before it; None at the start."""
        best: tuple[float, int, int] | None = None
        for rank, document in enumerate(self.documents):
            begin = await document.before(place[rank])
            if begin is not None:
                key = (self._came(rank, begin), rank, begin)
                best = key if best is None else max(best, key)
        if best is None:
            return None
        _, rank, begin = best
        return await self.documents[rank].line_at(begin), _with(place, rank, begin)

    async def at_time(self, wall_s: float) -> Place:
        """The place before the first line that came at a time or later."""
        return tuple([await self._first_from(rank, wall_s) for rank in range(len(self.documents))])

    async def at_line(self, number: int) -> Place | None:
        """The place before line `number`, from 0; None where it isn't counted, or of several."""
        if len(self.documents) > 1:
            return None
        begin = await self.documents[0].begin_of_line(number)
        return None if begin is None else (begin,)

    async def at_share(self, share: float) -> Place:
        """The place about so far from the start, from 0 to 1."""
        if share <= 0:
            return self.start
        longest = max(range(len(self.documents)), key=lambda rank: self.end[rank])
        document = self.documents[longest]
        offset = int(document.size_bytes * share)
        if offset >= document.size_bytes:
            return self.end
        return await self.at_line_of(longest, await document.begin_of(offset))

    async def at_line_of(self, rank: int, begin: int) -> Place:
        """The place before the line of a rank that begins at an offset."""
        wall_s = self._came(rank, begin)
        place = []
        for other in range(len(self.documents)):
            if other == rank:
                place.append(begin)
            elif other < rank:
                place.append(await self._first_after(other, wall_s))
            else:
                place.append(await self._first_from(other, wall_s))
        return tuple(place)

    async def number_of(self, place: Place) -> int | None:
        """How many lines there are before a place; None as long as they aren't counted."""
        total = 0
        for document, begin in zip(self.documents, place, strict=True):
            number = await document.number_of(begin)
            if number is None:
                return None
            total += number
        return total

    async def lines(self) -> int | None:
        """How many lines there are; None as long as they aren't counted."""
        counts = [await document.lines() for document in self.documents]
        return None if None in counts else sum(count or 0 for count in counts)

    async def find(
        self,
        pattern: SearchPattern,
        place: Place,
        *,
        back: bool = False,
        tell: Callable[[int], None] = lambda at: None,
    ) -> Place | None:
        """The place before the next line that a pattern is found in; None: there is none."""
        hits: list[tuple[float, int, int]] = []
        for rank, document in enumerate(self.documents):
            if back:
                begin = await document.find_back(pattern, place[rank], tell)
            else:
                begin = await document.find(pattern, place[rank], tell)
            if begin is not None:
                hits.append((self._came(rank, begin), rank, begin))
        if not hits:
            return None
        _, rank, begin = max(hits) if back else min(hits)
        return await self.at_line_of(rank, begin)

    def _came(self, rank: int, begin: int) -> float:
        wall_s = self.documents[rank].stream.times.at(begin)
        return float("-inf") if wall_s is None else wall_s

    async def _first_from(self, rank: int, wall_s: float) -> int:
        """Where the first line of a rank begins that came at a time or later."""
        document = self.documents[rank]
        if self._came(rank, 0) >= wall_s:
            return 0
        offset = document.stream.times.first_from(wall_s)
        return document.size_bytes if offset is None else await document.begin_from(offset)

    async def _first_after(self, rank: int, wall_s: float) -> int:
        """Where the first line of a rank begins that came later than a time."""
        document = self.documents[rank]
        if self._came(rank, 0) > wall_s:
            return 0
        offset = document.stream.times.first_after(wall_s)
        return document.size_bytes if offset is None else await document.begin_from(offset)


def _with(place: Place, rank: int, offset: int) -> Place:
    return (*place[:rank], offset, *place[rank + 1 :])
