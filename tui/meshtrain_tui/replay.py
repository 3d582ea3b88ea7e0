"""Plays a recording as if it were a mesh: on a clock that can be stopped, hurried and set."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import msgspec

from meshtrain.clock import lease_now_s
from meshtrain.core.changes import Change
from meshtrain.core.pages import Page, PageQuery, page_of
from meshtrain.core.view import MeshView
from meshtrain.errors import NotFoundError, UserError
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain.wire.messages import Answer, Done, FromPerson, Query
from meshtrain_tui.questions import page_of_answer
from meshtrain_tui.recording import Moment, Recording, apply_all

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
WAIT_MAX_S = 0.5
"""Between two looks at the clock."""
MOMENTS_AT_ONCE_MAX = 500
"""Taken in before others have their turn, when many are due."""


class Position(msgspec.Struct, frozen=True):
    """Where a player stands."""

    wall_s: float
    begins_wall_s: float
    ends_wall_s: float
    played: int
    """Moments that have been played."""
    moments: int
    playing: bool
    speed: float

    @property
    def at_end(self) -> bool:
        return self.played >= self.moments and self.wall_s >= self.ends_wall_s


class Player:
    """A recording as the source of a dashboard.

    It plays on its own clock, `now_s`, which is the time of the recording; give
    it to the dashboard as both of its clocks. Must be made within a running loop
    or before it; `batches` is followed by one at a time.

    Args:
        real_now_s: the clock that its own is driven by.
        playing: whether it starts by itself.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        real_now_s: Callable[[], float] = lease_now_s,
        playing: bool = True,
    ) -> None:
        self.view = MeshView()
        self.trouble = ""
        self._recording = recording
        self._real_now_s = real_now_s
        self._playing = playing
        self._speed = 1.0
        self._played = 0
        self._heard_s: float | None = None
        #: the clock: it showed `_from_wall_s` when the real one showed `_from_real_s`
        self._from_wall_s = recording.begins_wall_s
        self._from_real_s = real_now_s()
        self._restored = False
        self._stir = asyncio.Event()
        self._closed = False

    @property
    def last_heard_s(self) -> float | None:
        """On its own clock: always just now, but where the recorder heard nothing either."""
        if self._heard_s is None or self.trouble:
            return self._heard_s
        return self.now_s()

    def now_s(self) -> float:
        """The time that it shows."""
        if not self._playing:
            return self._from_wall_s
        passed_s = (self._real_now_s() - self._from_real_s) * self._speed
        return min(self._from_wall_s + passed_s, self._recording.ends_wall_s)

    @property
    def position(self) -> Position:
        recording = self._recording
        return Position(
            wall_s=self.now_s(),
            begins_wall_s=recording.begins_wall_s,
            ends_wall_s=recording.ends_wall_s,
            played=self._played,
            moments=len(recording),
            playing=self._playing,
            speed=self._speed,
        )

    # --- the keys -------------------------------------------------------------------------

    def toggle(self) -> None:
        """Stop, or go on; from the end, begin again."""
        if self.position.at_end:
            self.jump(self._recording.begins_wall_s)
            self._set_clock(self._recording.begins_wall_s, playing=True)
        else:
            self._set_clock(self.now_s(), playing=not self._playing)

    def hurry(self, by: int) -> None:
        """So many speeds faster, or slower where it is below 0."""
        place = SPEEDS.index(self._speed) + by
        self._set_clock(self.now_s(), playing=self._playing)
        self._speed = SPEEDS[min(max(place, 0), len(SPEEDS) - 1)]
        self._stir.set()

    def step(self, by: int) -> None:
        """Stop, and go so many moments on, or back where it is below 0."""
        self._go_to(min(max(self._played + by, 0), len(self._recording)))
        wall_s = self._recording.begins_wall_s
        if self._played:
            wall_s = self._recording.wall_s(self._played - 1)
        self._set_clock(wall_s, playing=False)

    def jump(self, wall_s: float) -> None:
        """Go to a time; before the beginning or after the end is there."""
        wall_s = min(max(wall_s, self._recording.begins_wall_s), self._recording.ends_wall_s)
        self._go_to(self._recording.count_until(wall_s))
        self._set_clock(wall_s, playing=self._playing)

    def jump_by(self, seconds: float) -> None:
        """Go so many seconds on, or back where it is below 0."""
        self.jump(self.now_s() + seconds)

    def close(self) -> None:
        self._closed = True
        self._stir.set()

    # --- a source -------------------------------------------------------------------------

    async def batches(self) -> AsyncIterator[FeedBatch]:
        """The news as they are due; a whole picture after each jump."""
        while not self._closed:
            self._stir.clear()
            batch = self._due()
            if batch is not None:
                yield batch
                continue
            try:
                async with asyncio.timeout(self._wait_s()):
                    await self._stir.wait()
            except TimeoutError:
                continue

    async def page(self, query: PageQuery) -> Page:
        """A page of the rows known at this time of the recording."""
        return page_of(self.view, query)

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """What the master had answered last when the recording was here.

        Raises NotFoundError for what was not asked then, UserError for what would change
        something.
        """
        if not isinstance(message, Query):
            raise UserError("this is a recording: what happened then can't be changed")
        answered = self._recording.answer(message.what, message.names, self._played)
        if answered is None:
            asked = " ".join((message.what, *message.names))
            raise NotFoundError(f"the recording has no answer to `{asked}` up to this time")
        return page_of_answer(answered, message)

    # --- inside ---------------------------------------------------------------------------

    def _set_clock(self, wall_s: float, *, playing: bool) -> None:
        self._from_wall_s, self._from_real_s = wall_s, self._real_now_s()
        self._playing = playing
        self._stir.set()

    def _wait_s(self) -> float:
        if not self._playing or self._played >= len(self._recording):
            return WAIT_MAX_S
        due_s = (self._recording.wall_s(self._played) - self.now_s()) / self._speed
        return min(max(due_s, 0.001), WAIT_MAX_S)

    def _due(self) -> FeedBatch | None:
        """What there is to tell now; None for nothing."""
        if self._restored:
            self._restored = False
            # The view says it all; whoever follows looks there after a whole batch.
            return FeedBatch(0, self._played, (), whole=True)
        until = self._recording.count_until(self.now_s()) if self._playing else self._played
        until = min(until, self._played + MOMENTS_AT_ONCE_MAX)
        changes: list[Change] = []
        whole = heard = False
        while self._played < until:
            batch = self._take(self._recording.moment(self._played))
            self._played += 1
            if batch is not None:
                heard = True
                whole = whole or batch.whole
                changes.extend(batch.changes)
        return FeedBatch(0, self._played, tuple(changes), whole=whole) if heard else None

    def _go_to(self, count: int) -> None:
        """Stand where `count` moments have been played."""
        start = self._played
        if count < start:
            self.view = MeshView()
            self.trouble, self._heard_s = "", None
            start = 0
        # What stands before a whole picture makes no difference after it.
        start = max(start, self._recording.whole_before(count))
        for index in range(start, count):
            self._take(self._recording.moment(index))
        self._played = count
        self._restored = True
        self._stir.set()

    def _take(self, moment: Moment) -> FeedBatch | None:
        """Take in one moment; its news, or None."""
        if moment.trouble is not None:
            self.trouble = moment.trouble
        batch = moment.batch
        if batch is None:
            return None
        self._heard_s = moment.wall_s
        self.trouble = ""
        if batch.whole:
            self.view = MeshView()
        apply_all(self.view, batch.changes)
        return batch


# --- times ---------------------------------------------------------------------------

_CLOCK = re.compile(r"(?:(\d{4}-\d\d-\d\d)[ T])?(\d{1,2}):(\d\d)(?::(\d\d))?\Z")
_AHEAD = re.compile(r"([+-])(\d+(?:\.\d+)?) ?(s|m|min|h)\Z")
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def time_meant(text: str, position: Position) -> float:
    """The time that a person means: `14:02`, `2026-11-21 14:02:11`, `+5m`, `-30s`, `50%`.

    A time of the day is the first such time from the recording's beginning on, in
    this host's time zone. Raises UserError for anything else.
    """
    text = text.strip()
    if match := _SHARE.match(text):
        share = min(float(match[1]), 100.0) / 100
        return position.begins_wall_s + share * (position.ends_wall_s - position.begins_wall_s)
    if match := _AHEAD.match(text):
        seconds = float(match[2]) * _SECONDS[match[3]]
        return position.wall_s + (seconds if match[1] == "+" else -seconds)
    if match := _CLOCK.match(text):
        begins = datetime.fromtimestamp(position.begins_wall_s)
        try:
            day = datetime.fromisoformat(match[1]) if match[1] else begins
            meant = day.replace(
                hour=int(match[2]), minute=int(match[3]), second=int(match[4] or 0), microsecond=0
            )
        except ValueError as error:
            raise UserError(f"{text} is no time: {error}") from error
        if not match[1] and meant < begins.replace(microsecond=0):
            meant += timedelta(days=1)
        return meant.timestamp()
    raise UserError(f"{text or 'nothing'} is no time: write 14:02, 14:02:11, +5m, -30s or 50%")
