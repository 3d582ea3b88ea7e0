"""What a swarm asks, its limits, and what it knows of each peer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from meshtrain.core.bits import Bits


class SwarmLimits(msgspec.Struct, frozen=True):
    """How hard to press, and when to give up."""

    requests_per_peer_max: int = 4
    fast_chunk_s: float = 0.005
    """Of who gives a chunk in less than this more are asked for at a time, in rows: the way
    there and back, and what an ask costs, would hold up the next ones."""
    fast_requests_max: int = 16
    requests_max: int = 32
    """In flight in all; each holds a chunk in memory."""
    askers_per_chunk_max: int = 2
    """How many peers may be asked for one chunk at the same time."""
    slow_after_s: float = 5.0
    """A chunk in flight for longer may be asked of another peer too."""
    failures_max: int = 5
    """Failures in a row before a peer is given up."""
    refusals_max: int = 100
    """Answers in a row that a peer is busy before it is given up."""
    backoff_s: float = 0.25
    """The first rest after a failure; it doubles."""
    backoff_max_s: float = 10.0
    followed_max: int = 50
    """Peers that are asked what they hold."""
    refollow_s: float = 0.25
    """The time between two beginnings to follow a peer."""
    anew_s: float = 2.0
    """How long who shows a part may show nothing more before it is followed anew."""
    starved_s: float = 0.25
    """The same for a fetch that has more than half, and gets nothing more: it lacks what few have,
    and whoever was given it may be slow to pass it on."""
    pipeline_s: float = 0.2
    """What a peer that has room is asked for in advance, in time."""
    endgame_factor: float = 3.0
    """Once all chunks are asked for: how many times longer than others one may take."""
    endgame_min_s: float = 0.25
    last_resort_after_s: float = 1.0
    """How long a peer of last resort waits for the others to say what they hold."""
    stall_s: float = 60.0
    """With no chunk on its way and nothing new for so long, the fetch is given up. An ask is
    waited for, and has to end, well or badly."""


class AskChunk(msgspec.Struct, frozen=True):
    """Ask a peer for a chunk."""

    peer: str
    chunk: int


class Follow(msgspec.Struct, frozen=True):
    """Let a peer tell which chunks it holds, from now on; ends a former stream of that."""

    peer: str


Ask = AskChunk | Follow


class PeerState(StrEnum):
    """Whether a peer may be asked."""

    LIVE = "live"
    GIVEN_UP = "given up"
    BANNED = "banned"


class SwarmState(StrEnum):
    """How a fetch stands."""

    RUNNING = "running"
    DONE = "done"
    STUCK = "stuck"


@dataclass(slots=True)
class Peer:
    """A peer, as the swarm sees it."""

    peer: str
    order: int
    last_resort: bool
    added_s: float
    follow_at_s: float
    """Not before that is it followed, or followed anew."""
    anew_at_s: float = 0.0
    """Then it is, where it shows nothing that is missing."""
    have: Bits = 0
    answered: bool = False
    """Whether it has said what it holds."""
    following: bool = False
    more: bool = False
    """Whether it holds more than it shows."""
    sparing: bool = False
    """Whether it did so when it told last."""
    in_flight: dict[int, float] = field(default_factory=dict)
    """Chunk → when it was asked for."""
    state: PeerState = PeerState.LIVE
    failures: int = 0
    refusals: int = 0
    rest_until_s: float = 0.0
    reason: str = ""
    """Why it failed last."""
    heard_s: float = 0.0
    """When its last chunk came."""
    chunk_s: float | None = None
    """The time that it takes for a chunk, smoothed; None before the first."""

    def askable(self, now_s: float) -> bool:
        """Whether it may be asked for something now."""
        return self.state is PeerState.LIVE and now_s >= self.rest_until_s

    def may_tell_more(self, missing: Bits) -> bool:
        """Whether it may hold more of what is missing than it has told."""
        if self.state is not PeerState.LIVE or not missing & ~self.have:
            return False
        if not self.following:
            return True
        return self.answered and self.more and not self.in_flight and not self.have & missing

    def awaited_until_s(self, limits: SwarmLimits) -> float:
        """How long its first word is waited for."""
        return self.follow_at_s - limits.refollow_s + limits.stall_s


def reason_of(peer: Peer, missing: Bits) -> str:
    """Why a peer can't deliver what is missing."""
    if peer.state is not PeerState.LIVE:
        return f"{peer.state.value}: {peer.reason}"
    if peer.reason and peer.failures:
        return f"failed {peer.failures} times: {peer.reason}"
    if not peer.answered:
        return "has not answered"
    if missing & ~peer.have:
        return f"holds none of {(missing & ~peer.have).bit_count()} missing chunks"
    return "holds what is missing, and was not asked in time"
