"""Tells those who fetch an artifact from here which chunks they may ask for, as they come."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.news_frames import (
    GAINED_MAX,
    Frame,
    Gained,
    Holds,
    StillHere,
    frame_bytes,
)
from meshtrain.artifacts.partial import Partial
from meshtrain.core.manifest import ChunkNumbers, Manifest
from meshtrain.core.offers import Offers
from meshtrain.core.swarm import Bits, bits_from_bytes, bits_to_bytes
from meshtrain.errors import ArtifactError

FOLLOWERS_MAX: Final = 256
"""Over all artifacts; more are told to come again."""
STILL_HERE_S: Final = 10.0
"""After so long without news the follower is told that the connection stands."""
WAIT_S: Final = 60.0
"""How long an artifact that isn't here at all is waited for: a fetch of it may begin."""
SMALL_COPIES: Final = 16
"""What comes to so few chunks in all is sent to each who fetches it: 8 MiB, a third of a second
at 200 Mbit/s. They may hear of each other only by the next heartbeats."""
_EXPIRE_S: Final = 0.5


@dataclass(slots=True, eq=False)
class Follower:
    """One stream of news; got from `NewsDesk.enter`."""

    artifact_id: str
    name: str
    had_bytes: bytes
    is_there: Callable[[], bool]
    """Whether its connection stands."""
    told: Bits = 0
    told_once: bool = False
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False
    """Whether there is nothing more to tell it, or nobody to be told."""


@dataclass(slots=True, eq=False)
class _Board:
    """What is said of one artifact, and to whom."""

    followers: dict[str, Follower] = field(default_factory=dict)
    numbers: ChunkNumbers | None = None
    """None while nothing of it is here."""
    partial: Partial | None = None
    offers: Offers | None = None
    """Where it was whole from the start."""
    since_s: float = 0.0

    @property
    def all(self) -> Bits:
        return (1 << self.numbers.count) - 1 if self.numbers is not None else 0

    def has_told_all(self, follower: Follower) -> bool:
        """Whether one was told of everything, and won't be told of less: it may be alone now."""
        if not follower.told_once or not follower.told == self.shown(follower) == self.all:
            return False
        return self.offers is None or self.offers.shows_all(follower.name)

    def has_news(self, follower: Follower) -> bool:
        """Whether there is something to tell one, if only that there is nothing more."""
        return (
            not follower.told_once
            or self.shown(follower) != follower.told
            or self.has_told_all(follower)
        )

    def shown(self, follower: Follower) -> Bits:
        if self.offers is not None:
            return self.offers.shown(follower.name)
        if self.partial is not None and not self.partial.committed:
            return self.partial.have
        return self.all


class NewsDesk:
    """All who follow artifacts of one store. Belongs to one event loop.

    Args:
        store: whose artifacts they are.
        followers_max: streams at a time.
        wait_s: how long one waits for an artifact that isn't here.
    """

    def __init__(
        self,
        store: ArtifactStore,
        *,
        followers_max: int = FOLLOWERS_MAX,
        wait_s: float = WAIT_S,
    ) -> None:
        self._store = store
        self._followers_max = followers_max
        self._wait_s = wait_s
        self._boards: dict[str, _Board] = {}
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begins to listen to the store; to be called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._store.watch(self._stored)

    def close(self) -> None:
        """Ends all streams."""
        self._store.unwatch(self._stored)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for board in self._boards.values():
            for follower in board.followers.values():
                follower.gone = True
                follower.stirred.set()

    def enter(
        self, artifact_id: str, name: str, had_bytes: bytes, is_there: Callable[[], bool]
    ) -> Follower | None:
        """One begins to follow; None when there are too many.

        Who comes under a name that is there already takes its place.

        Args:
            had_bytes: the bitmap of what it has; empty when it has nothing.
            is_there: whether its connection stands; asked now and then, since who is
                told nothing is not missed otherwise.
        """
        board = self._boards.get(artifact_id)
        former = board.followers.get(name) if board is not None else None
        if former is None and self._count >= self._followers_max:
            return None
        if board is None:
            board = self._boards[artifact_id] = _Board(since_s=self._now_s())
        if former is not None:
            self._count -= 1
            former.gone = True
            former.stirred.set()
        follower = Follower(artifact_id, name, had_bytes, is_there)
        board.followers[name] = follower
        self._count += 1
        if board.numbers is not None:
            self._seat(board, follower)
        self._look_again_later()
        return follower

    async def begin(self, follower: Follower) -> None:
        """Looks up what is here; to be awaited once, before the first `next`."""
        board = self._boards.get(follower.artifact_id)
        if board is not None and board.numbers is None:
            await asyncio.to_thread(self._look_up, follower.artifact_id)

    def leave(self, follower: Follower) -> None:
        """A stream has ended."""
        board = self._boards.get(follower.artifact_id)
        if board is None or board.followers.get(follower.name) is not follower:
            return
        del board.followers[follower.name]
        follower.gone = True
        follower.stirred.set()
        self._count -= 1
        if board.offers is not None:
            board.offers.leave(follower.name)
            self._stir(board)
        if not board.followers:
            if board.partial is not None:
                board.partial.on_have = None
            del self._boards[follower.artifact_id]

    async def next(self, follower: Follower) -> bytes | None:
        """The next frame for a follower, or None when there will be no more."""
        while not follower.gone:
            board = self._boards.get(follower.artifact_id)
            if board is None:
                return None
            if board.numbers is not None:
                if board.has_told_all(follower):
                    return None
                frame = self._news(board, follower)
                if frame is not None:
                    return frame_bytes(frame)
            elif self._now_s() >= board.since_s + self._wait_s:
                return None
            follower.stirred.clear()
            try:
                async with asyncio.timeout(STILL_HERE_S):
                    await follower.stirred.wait()
            except TimeoutError:
                return frame_bytes(StillHere())
        return None

    def gave(self, artifact_id: str, name: str, file_index: int, start: int, stop: int) -> None:
        """Bytes of a file were sent to a follower."""
        board = self._boards.get(artifact_id)
        if board is None or board.offers is None or board.numbers is None:
            return
        now_s = self._now_s()
        for number in board.numbers.covering(file_index, start, stop):
            board.offers.gave(name, number, now_s)
        self._stir(board)

    # --- what is told -------------------------------------------------------

    def _news(self, board: _Board, follower: Follower) -> Frame | None:
        assert board.numbers is not None
        shown, told = board.shown(follower), follower.told
        if follower.told_once and shown == told:
            return None
        new = shown & ~told
        follower.told = shown
        if follower.told_once and not told & ~shown and new.bit_count() <= GAINED_MAX:
            return Gained(_numbers_in(new))
        follower.told_once = True
        # What is still on its way here isn't here: of that it is told when it comes.
        more = board.offers is not None and shown != board.all
        return Holds(bits_to_bytes(shown, board.numbers.count), more=more)

    def _stir(self, board: _Board) -> None:
        for follower in board.followers.values():
            if board.has_news(follower):
                follower.stirred.set()

    # --- what is here -------------------------------------------------------

    def _look_up(self, artifact_id: str) -> None:
        """In a thread: finds an artifact that is whole, or on its way."""
        assert self._loop is not None
        partial = self._store.partial(artifact_id)
        if partial is not None:
            self._loop.call_soon_threadsafe(self._place_partial, partial)
            return
        with suppress(ArtifactError):
            manifest = self._store.manifest(artifact_id)
            self._loop.call_soon_threadsafe(self._place_whole, artifact_id, manifest)

    def _stored(self, artifact_id: str) -> None:
        """In any thread: an artifact has begun to come, or is here."""
        if artifact_id in self._boards:
            self._look_up(artifact_id)

    def _place_partial(self, partial: Partial) -> None:
        board = self._boards.get(partial.artifact_id)
        if board is None or board.partial is partial:
            return
        loop = self._loop
        assert loop is not None

        def tell() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._stir, board)

        board.partial = partial
        board.offers = None
        self._place(board, partial.numbers)
        partial.on_have = tell

    def _place_whole(self, artifact_id: str, manifest: Manifest) -> None:
        board = self._boards.get(artifact_id)
        if board is None:
            return
        if board.numbers is not None:
            # It was on its way here, and its followers have most of it: nothing is withheld.
            self._stir(board)
            return
        numbers = ChunkNumbers(manifest)
        board.offers = Offers(
            numbers.count,
            small_copies=SMALL_COPIES,
            first=secrets.randbelow(numbers.count or 1),
        )
        self._place(board, numbers)

    def _place(self, board: _Board, numbers: ChunkNumbers) -> None:
        board.numbers = numbers
        for follower in board.followers.values():
            self._seat(board, follower)
        self._stir(board)

    def _seat(self, board: _Board, follower: Follower) -> None:
        assert board.numbers is not None
        if board.offers is None:
            return
        had = follower.had_bytes
        fits = len(had) == (board.numbers.count + 7) // 8
        board.offers.join(follower.name, bits_from_bytes(had) if fits else 0, self._now_s())
        self._stir(board)

    def _look_again_later(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_EXPIRE_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        now_s = self._now_s()
        everybody = [one for board in self._boards.values() for one in board.followers.values()]
        for follower in everybody:
            if not follower.is_there():
                self.leave(follower)
        for board in self._boards.values():
            if board.offers is not None:
                board.offers.expire(now_s)
                self._stir(board)
            elif board.numbers is None and now_s >= board.since_s + self._wait_s:
                for follower in board.followers.values():
                    follower.stirred.set()
        if self._boards:
            self._look_again_later()

    def _now_s(self) -> float:
        assert self._loop is not None
        return self._loop.time()


def _numbers_in(bits: Bits) -> list[int]:
    numbers = []
    while bits:
        lowest = bits & -bits
        numbers.append(lowest.bit_length() - 1)
        bits &= ~lowest
    return numbers
