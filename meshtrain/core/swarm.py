"""Which chunk to ask of which peer next.

A plain state machine: what happened goes in by a method, with the time;
`next_asks` says what to ask for now, and `wake_at_s` when to look again though
nothing happened. Sets of chunks are integers, bit n standing for chunk n, so
that a choice among a million chunks is a handful of operations on words.

The rules:

- Rarest first: of what a peer can give, the chunk that the fewest peers hold.
  Ties go to the first one at or after a place drawn from the seed, so that
  nodes that start together fetch different chunks and can trade them.
- A peer gets a few requests at a time, fewer when each takes long; of several
  that have room the one that will have answered first is asked.
- A peer of last resort (the master) is asked only for what no other peer that
  can be asked holds, and not before the others had a moment to say what they
  hold; nor while chunks come, and one of them holds more than it shows.
- A peer with nothing better to do is asked for a chunk that is slow in coming
  from another one: late at any time, soon once all that is missing was asked for.
- At most `followed_max` peers are followed: they tell what they hold, and what
  they get. Who shows a part of what it holds (`core.offers`) is followed anew
  when nothing that it shows is missing here.
- A peer that fails rests, longer each time, and is given up after a number of
  failures in a row; one that is merely busy rests too, and gets more patience.
- A peer that sent one corrupt chunk is not asked again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from math import inf
from zlib import crc32

from meshtrain.core.bits import (
    Bits,
    Holders,
    bits_from_bytes,
    bits_to_bytes,
    flags_of,
    lowest,
)
from meshtrain.core.swarm_peers import (
    Ask,
    AskChunk,
    Follow,
    Peer,
    PeerState,
    SwarmLimits,
    SwarmState,
    reason_of,
)
from meshtrain.core.swarm_requests import Requests

__all__ = [
    "Ask",
    "AskChunk",
    "Bits",
    "Follow",
    "PeerState",
    "Swarm",
    "SwarmLimits",
    "SwarmState",
    "bits_from_bytes",
    "bits_to_bytes",
    "flags_of",
]


class Swarm:
    """The choice of chunks and peers for one fetch of one artifact.

    Args:
        chunk_count: how many chunks the artifact has.
        have: the chunks that are there already.
        limits: how hard to press, and when to give up.
        seed: an integer that differs from node to node.
        now_s: seconds on the clock that all methods use.
    """

    def __init__(
        self,
        chunk_count: int,
        *,
        have: Bits = 0,
        limits: SwarmLimits | None = None,
        seed: int = 0,
        now_s: float = 0.0,
    ) -> None:
        self._all = (1 << chunk_count) - 1
        self._missing = self._all & ~have
        self._start = seed % chunk_count if chunk_count else 0
        self._seed = seed
        self._limits = limits or SwarmLimits()
        self._requests = Requests(self._limits)
        self._peers: dict[str, Peer] = {}
        self._has_last_resort = False
        self._holders = Holders()
        self._stirred = True
        """Whether there may be something to ask for that there was not before."""
        self._wake_s = 0.0
        """Until then nothing is to be asked for, if nothing stirs."""
        self._peers_changed = True
        self._peer_moments_s: list[float] = []
        """When time alone changes what a peer may be asked, in ascending order."""
        self._progress_s = now_s

    # --- what is asked of it ------------------------------------------------

    @property
    def missing(self) -> Bits:
        """The chunks that have not arrived."""
        return self._missing

    @property
    def banned(self) -> tuple[str, ...]:
        """The peers that sent a corrupt chunk."""
        return tuple(p.peer for p in self._peers.values() if p.state is PeerState.BANNED)

    def reasons(self) -> dict[str, str]:
        """For each peer, why it can't deliver what is missing."""
        return {p.peer: reason_of(p, self._missing) for p in self._peers.values()}

    def state(self, now_s: float) -> SwarmState:
        """Whether the fetch is done, goes on, or has no way on."""
        if not self._missing:
            return SwarmState.DONE
        if not any(p.state is PeerState.LIVE for p in self._peers.values()):
            return SwarmState.STUCK
        if self._requests.count or now_s < self._stalls_at_s():
            return SwarmState.RUNNING
        awaited = any(
            p.following and not p.answered and now_s < p.awaited_until_s(self._limits)
            for p in self._peers.values()
        )
        return SwarmState.RUNNING if awaited else SwarmState.STUCK

    def wake_at_s(self, now_s: float) -> float | None:
        """When time alone changes the next answer; None when it won't.

        Args:
            now_s: the same reading that `next_asks` was given: what falls due
                between two readings would be missed.
        """
        if not self._missing:
            return None
        if self._stirred or self._wake_s <= now_s:
            self._wake_s = min((at for at in self._moments(now_s) if at > now_s), default=inf)
        return self._wake_s if self._wake_s < inf else None

    def next_asks(self, now_s: float) -> list[Ask]:
        """What to ask for now; each ask counts as sent, and wants its answer."""
        if not self._missing or (not self._stirred and now_s < self._wake_s):
            return []
        self._stirred = False
        self._wake_s = 0.0
        fresh = self._missing & ~self._requests.chunks
        to_follow: list[Peer] = []
        idle: list[Peer] = []
        for peer in self._peers.values():
            if peer.state is not PeerState.LIVE or now_s < peer.rest_until_s:
                continue
            told_enough = peer.following and not peer.more
            if (
                not told_enough
                and now_s >= self._follow_at_s(peer)
                and peer.may_tell_more(self._missing)
            ):
                to_follow.append(peer)
            if peer.have & fresh and self._requests.wants_more(peer):
                idle.append(peer)
        asks: list[Ask] = self._begin_to_follow(to_follow, now_s) if to_follow else []
        if idle:
            asks += self._ask_for_fresh(idle, now_s)
        if self._is_late_s(now_s):
            asks += self._ask_for_late(now_s)
        return asks

    # --- what happened ------------------------------------------------------

    def add_peer(self, peer: str, now_s: float, *, last_resort: bool = False) -> None:
        """A peer that may hold chunks; one that was given up gets a new chance."""
        known = self._peers.get(peer)
        if known is None:
            order = crc32(f"{self._seed}/{peer}".encode())
            self._peers[peer] = Peer(peer, order, last_resort, now_s, now_s)
            self._has_last_resort |= last_resort
        elif known.state is PeerState.GIVEN_UP:
            known.state = PeerState.LIVE
            known.failures = known.refusals = 0
            known.rest_until_s = known.follow_at_s = known.added_s = now_s
            known.answered = False
        else:
            return
        self._progress_s = now_s
        self._note_peers_changed()

    def ban(self, peer: str, reason: str) -> list[AskChunk]:
        """Never asks a peer again; returns what is in flight from it, to be dropped."""
        banned = self._peers[peer]
        dropped = [AskChunk(peer, chunk) for chunk in sorted(banned.in_flight)]
        for ask in dropped:
            self._forget(banned, ask.chunk)
        banned.state = PeerState.BANNED
        banned.reason = reason
        self._set_have(banned, 0)
        self._note_peers_changed()
        return dropped

    def told_have(self, peer: str, have: Bits, now_s: float, *, more: bool = False) -> None:
        """A peer said which chunks it shows, and whether it holds more."""
        teller = self._peers[peer]
        if teller.state is not PeerState.LIVE:
            return
        teller.answered = True
        teller.more = teller.sparing = more
        if more:
            teller.anew_at_s = now_s + self._limits.anew_s
        have &= self._all
        if have & self._missing & ~teller.have:
            self._progress_s = now_s
        self._set_have(teller, have)
        self._note_peers_changed()

    def gained(self, peer: str, chunks: Iterable[int], now_s: float) -> None:
        """A peer said which chunks it shows besides."""
        teller = self._peers[peer]
        new = 0
        for chunk in chunks:
            new |= 1 << chunk
        if teller.more or not teller.answered or teller.state is not PeerState.LIVE:
            self.told_have(peer, teller.have | new, now_s, more=teller.more)
            return
        new &= self._all & ~teller.have
        stirred = self._stirred
        self._set_have(teller, teller.have | new)
        if new & self._missing:
            self._progress_s = now_s
            # Most of the news are of chunks that were asked for already: nothing to choose anew.
            stirred |= bool(new & self._missing & ~self._requests.chunks) or self._is_late_s(now_s)
        self._stirred = stirred

    def unfollowed(self, peer: str, now_s: float) -> None:
        """A peer has no more to tell."""
        teller = self._peers[peer]
        teller.following = False
        teller.more = teller.sparing = False
        teller.follow_at_s = now_s + self._limits.refollow_s
        self._note_peers_changed()
        if self._missing & ~teller.have:
            self.failed(peer, None, "it told of no more, and lacks some of it", now_s)

    def arrived(self, peer: str, chunk: int, now_s: float) -> list[AskChunk]:
        """A chunk came and was verified; returns asks for the same one, to be dropped."""
        sender = self._peers[peer]
        asked_s = self._forget(sender, chunk)
        if asked_s is not None:
            self._requests.came(sender, asked_s, now_s)
        if not self._missing >> chunk & 1:
            return []
        self._missing &= ~(1 << chunk)
        self._stirred = True
        self._progress_s = now_s
        sender.failures = sender.refusals = 0
        dropped = [AskChunk(other, chunk) for other in self._requests.askers(chunk)]
        for ask in dropped:
            self._forget(self._peers[ask.peer], chunk)
        return dropped

    def lacks(self, peer: str, chunk: int, reason: str, now_s: float) -> None:
        """A peer has no such chunk (any more): a failure, since it had said otherwise."""
        liar = self._peers[peer]
        self._set_have(liar, liar.have & ~(1 << chunk))
        self.failed(peer, chunk, reason, now_s)

    def failed(self, peer: str, chunk: int | None, reason: str, now_s: float) -> None:
        """An ask came to nothing; `chunk` is None where it asked what the peer holds."""
        failing = self._peers[peer]
        if not self._answer_counts(failing, chunk):
            return
        failing.reason = reason
        failing.failures += 1
        if failing.failures >= self._limits.failures_max:
            self._give_up(failing)
            return
        self._rest(failing, failing.failures, now_s)
        for other in self._peers.values():
            # What it can't give any more, another may show.
            other.anew_at_s = min(other.anew_at_s, now_s)

    def busy(self, peer: str, chunk: int | None, reason: str, now_s: float) -> None:
        """A peer asked for patience."""
        refusing = self._peers[peer]
        if not self._answer_counts(refusing, chunk):
            return
        refusing.reason = reason
        refusing.refusals += 1
        if refusing.refusals >= self._limits.refusals_max:
            self._give_up(refusing)
            return
        self._rest(refusing, refusing.refusals, now_s)

    # --- choices ------------------------------------------------------------

    def _begin_to_follow(self, peers: list[Peer], now_s: float) -> list[Ask]:
        """Follows anew, and as many others as there is room for: not the same ones everywhere."""
        acquainted = sum(p.state is PeerState.LIVE and p.following for p in self._peers.values())
        asks: list[Ask] = []
        for peer in sorted(peers, key=lambda peer: (not peer.following, peer.order)):
            if not peer.following:
                if acquainted >= self._limits.followed_max:
                    continue
                acquainted += 1
            peer.following = True
            # Not before it has told again is it followed anew.
            peer.more = False
            peer.follow_at_s = now_s + self._limits.refollow_s
            asks.append(Follow(peer.peer))
        if asks:
            self._peers_changed = True
        return asks

    def _ask_for_fresh(self, idle: list[Peer], now_s: float) -> Iterator[Ask]:
        withheld = 0
        if any(peer.last_resort for peer in idle):
            withheld = self._withheld_from_last_resort(now_s)
        while idle and self._requests.count < self._limits.requests_max:
            peer = min(idle, key=self._requests.turn)
            wanted = peer.have & self._missing & ~self._requests.chunks
            if peer.last_resort:
                wanted &= ~withheld
            if not wanted:
                idle.remove(peer)
                continue
            chunk = self._rarest(wanted)
            self._requests.add(peer, chunk, now_s)
            if not self._requests.has_room(peer):
                idle.remove(peer)
            yield AskChunk(peer.peer, chunk)

    def _ask_for_late(self, now_s: float) -> Iterator[Ask]:
        """Of others, what is slow in coming from whom it was asked of."""
        idle = [p for p in self._peers.values() if p.askable(now_s) and self._requests.has_room(p)]
        while idle and self._requests.count < self._limits.requests_max:
            peer = min(idle, key=self._requests.turn)
            late = self._requests.late_for(peer, now_s, self._late_after_s())
            late &= peer.have
            if not late:
                idle.remove(peer)
                continue
            chunk = self._rarest(late)
            self._requests.add(peer, chunk, now_s)
            if not self._requests.has_room(peer):
                idle.remove(peer)
            yield AskChunk(peer.peer, chunk)

    def _is_late_s(self, now_s: float) -> bool:
        """Whether the chunk that was asked for the longest ago is late."""
        for asked_s in self._requests.moments_s():
            return now_s >= asked_s + self._late_after_s()
        return False

    def _late_after_s(self) -> float:
        return self._requests.late_after_s(is_end=not self._missing & ~self._requests.chunks)

    def _rarest(self, candidates: Bits) -> int:
        rarest = self._holders.rarest(candidates)
        later = rarest >> self._start
        return self._start + lowest(later) if later else lowest(rarest)

    def _withheld_from_last_resort(self, now_s: float) -> Bits:
        # One that failed may never give what it showed.
        ordinary = [
            p
            for p in self._peers.values()
            if not p.last_resort and not p.failures and p.askable(now_s)
        ]
        patience_s = self._limits.last_resort_after_s
        if any(not p.answered and now_s < p.added_s + patience_s for p in ordinary):
            return self._all
        if now_s < self._progress_s + patience_s and any(p.sparing for p in ordinary):
            # What it doesn't show yet it will show, or another has it by then.
            return self._all
        held = 0
        for peer in ordinary:
            held |= peer.have
        return held

    def _follow_at_s(self, peer: Peer) -> float:
        """When a peer may be followed, or followed anew."""
        anew_s = min(peer.anew_at_s, self._starves_at_s()) if peer.more else 0.0
        return max(peer.follow_at_s, anew_s)

    def _starves_at_s(self) -> float:
        nears_its_end = self._missing.bit_count() * 2 < self._all.bit_count()
        return self._progress_s + self._limits.starved_s if nears_its_end else inf

    def _moments(self, now_s: float) -> Iterator[float]:
        if self._peers_changed:
            self._peers_changed = False
            self._peer_moments_s = sorted(at for at in self._moments_of_peers() if at > now_s)
        moments_s = self._peer_moments_s
        yield from moments_s[bisect_right(moments_s, now_s) :][:1]
        late_s = self._late_after_s()
        for asked_s in self._requests.moments_s():
            if asked_s + late_s > now_s:
                yield asked_s + late_s
                break
        if self._has_last_resort:
            yield self._progress_s + self._limits.last_resort_after_s
        if any(p.more for p in self._peers.values()):
            yield self._starves_at_s()
        yield self._stalls_at_s()

    def _moments_of_peers(self) -> Iterator[float]:
        for peer in self._peers.values():
            if peer.state is not PeerState.LIVE:
                continue
            yield peer.rest_until_s
            if peer.more or peer.may_tell_more(self._missing):
                yield max(peer.follow_at_s, peer.rest_until_s)
                yield max(peer.follow_at_s, peer.anew_at_s)
            if not peer.answered:
                yield peer.added_s + self._limits.last_resort_after_s
                yield peer.awaited_until_s(self._limits)

    def _stalls_at_s(self) -> float:
        return self._progress_s + self._limits.stall_s

    # --- changes ------------------------------------------------------------

    def _forget(self, peer: Peer, chunk: int) -> float | None:
        """Takes a request back; returns when it was sent, None when it was not."""
        asked_s = self._requests.remove(peer, chunk)
        if asked_s is not None:
            self._stirred = True
        return asked_s

    def _note_peers_changed(self) -> None:
        self._stirred = self._peers_changed = True

    def _answer_counts(self, peer: Peer, chunk: int | None) -> bool:
        """Takes the ask back; says whether its bad answer is news."""
        self._note_peers_changed()
        if chunk is None:
            peer.following = False
            return peer.state is PeerState.LIVE
        asked_s = self._forget(peer, chunk)
        # What was sent before the last rest began failed for the same cause.
        if asked_s is None or peer.state is not PeerState.LIVE:
            return False
        return asked_s >= peer.rest_until_s

    def _rest(self, peer: Peer, times: int, now_s: float) -> None:
        # Not given up yet, and so not stalled either: it is asked again after the rest.
        self._progress_s = now_s
        rest_s = self._limits.backoff_s * 2 ** min(times - 1, 32)
        peer.rest_until_s = now_s + min(rest_s, self._limits.backoff_max_s)
        peer.follow_at_s = peer.rest_until_s

    def _give_up(self, peer: Peer) -> None:
        peer.state = PeerState.GIVEN_UP
        peer.following = False
        self._set_have(peer, 0)

    def _set_have(self, peer: Peer, have: Bits) -> None:
        self._holders.add(have & ~peer.have)
        self._holders.remove(peer.have & ~have)
        peer.have = have
        self._stirred = True
