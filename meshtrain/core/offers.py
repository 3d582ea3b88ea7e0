"""What the first holder of an artifact shows to those who fetch it: each chunk to one of them.

Who holds everything could be asked by everyone for the same chunks, and would
send the file once for each. So it tells each fetching node of few chunks at a
time, and of each chunk one node only; those nodes pass them on to each other.
(The idea is BitTorrent's super seeding, BEP 16, with what was sent in place of
what is seen elsewhere.) So the holder has sent the file once when all of it is
out, and no chunk waits for a second copy of another one.

The rules:

- One who fetches alone is told of everything; so are a few who fetch something small: it
  is sent to each of them sooner than they hear of each other.
- Else a few chunks are promised at a time, each to one, who alone is told of it; when
  it took it, the next chunk is promised to whoever was waited for least so far. Slow
  ones come last, and get nothing more when there is no time left to have it from them.
- Who comes anew, and still lacks what was given to another some time ago, is promised
  it too: the other is slow to pass it on.
- Some time after all chunks were given, all of them are shown to all, so that one
  that was lost with its holder can be had again.
- A promise that isn't kept in a time is made to another: whoever it was made to is
  slow, or has the chunk from elsewhere. What nobody wants counts as given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, log2

from meshtrain.core.bits import Bits

PROMISES_MAX = 8
"""Chunks that are promised at a time, over all followers: some on their way, and the next ones.
More would be under way side by side, and each arrive later."""
AHEAD_MAX = 2
"""Of these for one follower."""
LATE_FACTOR = 3.0
"""A promise that takes so many times what they take on average counts no more."""
SLOW_FACTOR = 2.5
"""Who takes so many times what half of the others take is slow."""
SLOW_AHEAD = 8.0
"""So many times its own time must be left for a slow one to be promised something."""
PATIENCE_MIN_S = 2.0
PATIENCE_FIRST_S = 10.0
"""Before it is known what promises take."""
PATIENCE_FACTOR = 4.0
"""A promise may take so many times what they take on average."""
PASSING_ON_S = 1.0
PASSING_ON_TO = 8
"""In about which a chunk should come to so many from whoever it was given to, and to more in as
many times as long; or PATIENCE_FACTOR times what they take on average, if that is more."""
PASSED_ON_S = 2.0
"""Who leaves so soon after it took a chunk may not have passed it on."""
ALL_AFTER_S = 3.0
"""How long eight who fetch have, once all was given, to pass it on to each other, and more of
them by the logarithm of their number longer: a link that all ask at the end would be late."""
_SMOOTHING = 0.2
"""The weight of the newest time in the average."""


@dataclass(slots=True)
class _Follower:
    had: Bits
    """What it has said that it has."""
    promised: dict[int, float] = field(default_factory=dict)
    """Chunk → when it was promised; still to be taken."""
    took: Bits = 0
    took_s: dict[int, float] = field(default_factory=dict)
    """Chunk → when it took it."""
    waited_s: float = 0.0
    """How long it took for what it took, in all."""
    mean_s: float = 0.0
    """How long for one, smoothed."""

    def longest_s(self, now_s: float) -> float:
        """What a promise takes it: on average, or that which is still to be taken."""
        return max([self.mean_s, *(now_s - at_s for at_s in self.promised.values())])


class Offers:
    """One whole artifact, and who follows it.

    Args:
        chunk_count: how many chunks there are.
        promises_max: chunks promised at a time, over all.
        small_copies: something of which all who fetch it take so few chunks in all is small.
        first: the chunk that is promised first. Another one on each holder: else two
            of them promise the same chunks, and one for nothing.
    """

    def __init__(
        self,
        chunk_count: int,
        *,
        promises_max: int = PROMISES_MAX,
        small_copies: int = 0,
        first: int = 0,
    ) -> None:
        self._first = first
        self._alone = max(1, small_copies // max(1, chunk_count))
        """So few who fetch it are told of everything."""
        self._all: Bits = (1 << chunk_count) - 1
        self._promises_max = promises_max
        self._given: Bits = 0
        self._promised: Bits = 0
        self._followers: dict[str, _Follower] = {}
        self._latest_s = 0.0
        self._gave_s = 0.0
        """When a chunk was given that had not been."""
        self._given_lately: Bits = 0
        self._given_before: Bits = 0
        self._given_long_ago: Bits = 0
        self._older_s = 0.0
        """When these moved on."""
        self._shows_all = chunk_count == 0
        self._took_s: float | None = None
        """What a promise takes until it is kept, on average."""
        self._between_s: float | None = None
        """From one that is kept to the next, on average."""

    @property
    def open(self) -> Bits:
        """The chunks that nobody was given or promised."""
        return self._all & ~self._given & ~self._promised

    def join(self, follower: str, have: Bits, now_s: float) -> None:
        """One begins to fetch, or begins again; `have` is what it has already."""
        former = self._followers.get(follower)
        self.leave(follower)
        least_s = min((f.waited_s for f in self._followers.values()), default=0.0)
        self._followers[follower] = _Follower(
            have & self._all,
            waited_s=least_s,
            mean_s=0.0 if former is None else former.longest_s(now_s),
        )
        self._grow_old(now_s)
        if former is not None and not self.open:
            # Nothing else is left to be given, and whoever this was given to is slow, or gone.
            self._given &= have | ~self._given_long_ago
        self._note_given(have & self._all & ~self._given)
        self._promise(now_s)

    def _note_given(self, chunks: Bits) -> None:
        self._given |= chunks
        self._given_lately |= chunks
        self._given_before &= ~chunks
        self._given_long_ago &= ~chunks

    def _grow_old(self, now_s: float) -> None:
        """Moves what was given lately on to what was given before, and that to long ago."""
        passing_on_s = PASSING_ON_S * max(1.0, len(self._followers) / PASSING_ON_TO)
        half_s = max(passing_on_s, PATIENCE_FACTOR * (self._took_s or 0.0)) / 2
        for _ in range(min(2, int((now_s - self._older_s) / half_s))):
            self._older_s = now_s
            self._given_long_ago |= self._given_before
            self._given_before, self._given_lately = self._given_lately, 0

    def leave(self, follower: str) -> None:
        """One went away: what it was promised is promised to others."""
        gone = self._followers.pop(follower, None)
        if gone is not None:
            for chunk in gone.promised:
                self._promised &= ~(1 << chunk)
            for chunk, at_s in gone.took_s.items():
                # It may be lost with it. Who left because it has all had time to pass it on.
                if self._latest_s < at_s + PASSED_ON_S and not self._shows_all:
                    self._given &= ~(1 << chunk)

    def gave(self, follower: str, chunk: int, now_s: float) -> None:
        """A chunk was sent whole."""
        if not self._given >> chunk & 1:
            if self._gave_s:
                self._between_s = _smoothed(self._between_s, now_s - self._gave_s)
            self._gave_s = now_s
        self._grow_old(now_s)
        self._note_given(1 << chunk)
        self._latest_s = now_s
        taker = self._followers.get(follower)
        if taker is not None:
            taker.took |= 1 << chunk
            taker.took_s[chunk] = now_s
            promised_s = taker.promised.pop(chunk, None)
            if promised_s is not None:
                self._promised &= ~(1 << chunk)
                took_s = now_s - promised_s
                taker.waited_s += took_s
                taker.mean_s += (took_s - taker.mean_s) * (_SMOOTHING if taker.mean_s else 1.0)
                self._took_s = _smoothed(self._took_s, took_s)
        self._promise(now_s)

    def expire(self, now_s: float) -> None:
        """Gives up promises that were not taken in time."""
        patience_s = PATIENCE_FIRST_S
        if self._took_s is not None:
            patience_s = max(PATIENCE_MIN_S, PATIENCE_FACTOR * self._took_s)
        for follower in self._followers.values():
            late = [c for c, at_s in follower.promised.items() if now_s >= at_s + patience_s]
            for chunk in late:
                follower.mean_s = max(follower.mean_s, now_s - follower.promised.pop(chunk))
                follower.took |= 1 << chunk
                self._promised &= ~(1 << chunk)
        wanted = 0
        for follower in self._followers.values():
            wanted |= self._all & ~follower.had & ~follower.took
        if self._followers:
            self._given |= self.open & ~wanted
        self._promise(now_s)
        generations = max(1.0, log2(max(1, len(self._followers))) / log2(8))
        if self._given == self._all and now_s >= self._gave_s + ALL_AFTER_S * generations:
            self._shows_all = True

    def shown(self, follower: str) -> Bits:
        """What one is told of now; what it took stays shown."""
        if len(self._followers) <= self._alone or self._shows_all:
            return self._all
        known = self._followers[follower]
        shown = known.took
        for chunk in known.promised:
            shown |= 1 << chunk
        return shown

    def shows_all(self, follower: str) -> bool:
        """Whether one is told of everything for good, so that nothing more will come."""
        return self._shows_all

    def _promise(self, now_s: float) -> None:
        """Makes the promises that are due; who was waited for least so far goes first."""
        free = self.open
        if len(self._followers) < 2 or not free:
            return
        # Those that take long fill no link: others are promised chunks beside them.
        late_s = LATE_FACTOR * self._took_s if self._took_s is not None else inf
        awaited = sum(
            now_s < at_s + late_s for f in self._followers.values() for at_s in f.promised.values()
        )
        if awaited >= self._promises_max:
            return
        slow_s = self._slow_s()
        left_s = free.bit_count() * (self._between_s or 0.0)
        # What a slow one is given alone comes late to all others, who have it from there.
        takers = [
            (longest_s >= slow_s, follower)
            for follower in self._followers.values()
            if (longest_s := follower.longest_s(now_s)) < slow_s or SLOW_AHEAD * longest_s < left_s
        ] or [(True, follower) for follower in self._followers.values()]
        while free and awaited < self._promises_max:
            for _, follower in sorted(takers, key=_turn):
                wanted = free & ~follower.had & ~follower.took
                if wanted and len(follower.promised) < AHEAD_MAX:
                    break
            else:
                return
            wanted = wanted >> self._first << self._first or wanted
            lowest = wanted & -wanted
            follower.promised[lowest.bit_length() - 1] = now_s
            self._promised |= lowest
            free &= ~lowest
            awaited += 1

    def _slow_s(self) -> float:
        """Who takes so long is slow."""
        means_s = sorted(f.mean_s for f in self._followers.values() if f.mean_s)
        return SLOW_FACTOR * means_s[(len(means_s) - 1) // 2] if means_s else inf


def _turn(taker: tuple[bool, _Follower]) -> tuple[bool, int, float]:
    slow, follower = taker
    return slow, len(follower.promised), follower.waited_s


def _smoothed(mean_s: float | None, newest_s: float) -> float:
    return newest_s if mean_s is None else mean_s + _SMOOTHING * (newest_s - mean_s)
