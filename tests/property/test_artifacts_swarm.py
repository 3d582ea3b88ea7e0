"""Whatever peers do, a fetch ends, asks none for what it lacks, and gets all that can be had."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from enum import Enum, auto

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from meshtrain.core.swarm import (
    Ask,
    AskChunk,
    Follow,
    Swarm,
    SwarmLimits,
    SwarmState,
    bits_from_bytes,
    bits_to_bytes,
    flags_of,
)

CHUNKS_MAX = 12
STEPS_MAX = 5_000
FREE_STEPS = 60
ANSWER_MAX_S = 30.0
WINDOW = 2

ANSWERS = ("good", "good", "good", "fail", "busy", "lack", "corrupt")


class Shows(Enum):
    """How a peer tells what it holds."""

    AT_ONCE = auto()
    BIT_BY_BIT = auto()
    IN_TURNS = auto()
    """A part of it to who follows, and another part to who follows anew."""


@dataclass
class Peer:
    have: int
    gains: int
    """What it holds besides after it has told once: it still fetches."""
    shows: Shows
    honest: bool
    last_resort: bool
    turn: int = 0
    told: int = 0
    """What the swarm knows of it."""


@dataclass
class Stream:
    """What a peer tells the one who follows it."""

    told_once: bool = False
    more: bool = False


@st.composite
def meshes(draw: st.DrawFn) -> tuple[int, dict[str, Peer]]:
    chunk_count = draw(st.integers(1, CHUNKS_MAX))
    subset = st.integers(0, (1 << chunk_count) - 1)
    shows = st.sampled_from(Shows)
    peer = st.builds(Peer, subset, subset, shows, st.booleans(), st.booleans())
    peers = draw(st.lists(peer, max_size=5))
    return chunk_count, {f"node-{i}": peer for i, peer in enumerate(peers)}


@dataclass
class Driver:
    """Answers what the swarm asks, in any order, on a clock of its own."""

    chunk_count: int
    peers: dict[str, Peer]
    seed: int
    followed_max: int
    now_s: float
    oldest_s: float = 0.0
    pending: list[AskChunk] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.oldest_s = self.now_s
        self.limits = SwarmLimits(
            requests_per_peer_max=2,
            fast_requests_max=3,
            requests_max=5,
            followed_max=self.followed_max,
        )
        self.swarm = Swarm(self.chunk_count, limits=self.limits, seed=self.seed, now_s=self.now_s)
        for name, peer in self.peers.items():
            self.swarm.add_peer(name, self.now_s, last_resort=peer.last_resort)

    # --- what is asked --------------------------------------------------------

    def ask(self) -> None:
        missing = self.swarm.missing
        gone = self.gone()
        for ask in self.swarm.next_asks(self.now_s):
            assert ask.peer not in gone
            if isinstance(ask, Follow):
                former = self.streams.get(ask.peer)
                if former is not None:
                    assert former.told_once and former.more, "it is followed already"
                    assert not self.peers[ask.peer].told & missing, "it shows what is missing"
                self.streams[ask.peer] = Stream()
                continue
            assert ask not in self.pending, "asked twice at once"
            assert self.peers[ask.peer].told >> ask.chunk & 1, "asked for what it doesn't show"
            assert missing >> ask.chunk & 1, "asked for what is here"
            self.pending.append(ask)
        assert len(self.pending) <= self.limits.requests_max
        assert len(self.streams) <= self.limits.followed_max
        for name in self.peers:
            of_peer = [ask for ask in self.pending if ask.peer == name]
            assert len(of_peer) <= self.limits.fast_requests_max
        for chunk in range(self.chunk_count):
            askers = [ask for ask in self.pending if ask.chunk == chunk]
            assert len(askers) <= self.limits.askers_per_chunk_max

    def check_nothing_is_slept_through(self) -> None:
        """Until it wants to be woken there is nothing to ask, however closely it looks."""
        wake_at_s = self.swarm.wake_at_s(self.now_s)
        until_s = self.now_s + 1000.0 if wake_at_s is None else wake_at_s
        for share in (0.0, 0.5, 0.999):
            at_s = self.now_s + share * (until_s - self.now_s)
            if at_s == until_s:
                continue
            twin = copy.deepcopy(self.swarm)
            twin._stirred = True
            assert twin.next_asks(at_s) == []

    def gone(self) -> set[str]:
        """The peers that are not asked any more."""
        return {
            name
            for name, reason in self.swarm.reasons().items()
            if reason.startswith(("given up", "banned"))
        }

    # --- what is answered -----------------------------------------------------

    def due(self) -> list[AskChunk | str]:
        """The asks that want their answer, and the peers that have news."""
        return [*self.pending, *(name for name in self.streams if self.has_news(name))]

    def has_news(self, name: str) -> bool:
        stream, peer = self.streams[name], self.peers[name]
        if not stream.told_once:
            return True
        if peer.shows is Shows.IN_TURNS and stream.more:
            return False
        return peer.told != peer.have or self.is_whole(peer)

    def is_whole(self, peer: Peer) -> bool:
        return peer.have == (1 << self.chunk_count) - 1

    def answer(self, due: AskChunk | str, how: str) -> None:
        if isinstance(due, str):
            self.tell(due, "good" if self.peers[due].honest else how)
        else:
            self.send(due, "good" if self.peers[due.peer].honest else how)
        for name in self.gone():
            self.peers[name].told = 0
            self.streams.pop(name, None)

    def send(self, ask: AskChunk, how: str) -> None:
        self.pending.remove(ask)
        dropped: list[AskChunk] = []
        match how:
            case "good":
                dropped = self.swarm.arrived(ask.peer, ask.chunk, self.now_s)
            case "busy":
                self.swarm.busy(ask.peer, ask.chunk, "busy", self.now_s)
            case "lack":
                self.swarm.lacks(ask.peer, ask.chunk, "lacks", self.now_s)
                self.peers[ask.peer].told &= ~(1 << ask.chunk)
            case "corrupt":
                dropped = self.swarm.ban(ask.peer, "corrupt")
            case _:
                self.swarm.failed(ask.peer, ask.chunk, "fails", self.now_s)
        for void in dropped:
            if void != ask:
                self.pending.remove(void)

    def tell(self, name: str, how: str) -> None:
        peer, stream = self.peers[name], self.streams[name]
        match how:
            case "good":
                self.tell_more(name, peer, stream)
            case "busy":
                del self.streams[name]
                self.swarm.busy(name, None, "busy", self.now_s)
            case "lack":
                del self.streams[name]
                self.swarm.unfollowed(name, self.now_s)
            case _:
                del self.streams[name]
                self.swarm.failed(name, None, how, self.now_s)

    def tell_more(self, name: str, peer: Peer, stream: Stream) -> None:
        if stream.told_once and peer.told == peer.have:
            del self.streams[name]
            self.swarm.unfollowed(name, self.now_s)
            return
        if stream.told_once:
            new = numbers_in(peer.have & ~peer.told)
            if peer.shows is Shows.BIT_BY_BIT:
                new = new[:1]
            peer.told |= sum(1 << chunk for chunk in new)
            if stream.more and peer.told == peer.have:
                stream.more = False
                self.swarm.told_have(name, peer.told, self.now_s)
            else:
                self.swarm.gained(name, new, self.now_s)
            return
        stream.told_once = True
        peer.told = self.first_shown(peer)
        stream.more = peer.told != peer.have
        self.swarm.told_have(name, peer.told, self.now_s, more=stream.more)
        peer.have |= peer.gains

    def first_shown(self, peer: Peer) -> int:
        held = numbers_in(peer.have)
        if peer.shows is Shows.AT_ONCE or not held:
            return peer.have
        if peer.shows is Shows.BIT_BY_BIT:
            return 1 << held[0]
        peer.turn += 1
        return sum({1 << held[(peer.turn + i) % len(held)] for i in range(WINDOW)})

    # --- the course of it -----------------------------------------------------

    def run(self, choices: st.DataObject) -> None:
        woken = False
        for step in range(STEPS_MAX):
            if self.swarm.state(self.now_s) is not SwarmState.RUNNING:
                return
            # After some steps of any kind, the simplest course: it must end too.
            free = step < FREE_STEPS
            if free and self.peers and choices.draw(st.integers(0, 9)) == 0:
                self.swarm.add_peer(choices.draw(st.sampled_from(sorted(self.peers))), self.now_s)
            self.ask()
            if step % 10 == 0 or (woken and free):
                self.check_nothing_is_slept_through()
            due = self.due()
            if not due:
                self.oldest_s = self.now_s
            wake_at_s = self.swarm.wake_at_s(self.now_s)
            assert due or wake_at_s is not None, "it would wait for nothing"
            # Requests have a timeout: none stays without an answer for ever.
            late = wake_at_s is None or wake_at_s > self.oldest_s + ANSWER_MAX_S
            if due and (late or not free or choices.draw(st.booleans())):
                which = choices.draw(st.sampled_from(due)) if free else due[0]
                self.answer(which, choices.draw(st.sampled_from(ANSWERS)) if free else "fail")
                woken = False
                continue
            assert wake_at_s is not None and wake_at_s > self.now_s
            self.now_s = wake_at_s
            woken = True
        raise AssertionError("the fetch never ended")


def numbers_in(bits: int) -> list[int]:
    return [n for n in range(bits.bit_length()) if bits >> n & 1]


@settings(
    max_examples=150,
    deadline=None,
    # A course of so many choices would be shrunk for minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    meshes(),
    st.integers(0, 2**32),
    st.sampled_from([2, 50]),
    # Odd moments, so that sums of times are rounded.
    st.integers(0, 2000).map(lambda n: n / 77),
    st.data(),
)
def test_a_fetch_ends_and_has_all_that_honest_peers_hold(
    mesh: tuple[int, dict[str, Peer]],
    seed: int,
    followed_max: int,
    begun_s: float,
    choices: st.DataObject,
) -> None:
    chunk_count, peers = mesh
    to_be_had = 0
    for peer in peers.values():
        if peer.honest:
            to_be_had |= peer.have | peer.gains
    driver = Driver(chunk_count, peers, seed, followed_max, begun_s)
    driver.run(choices)
    if len(peers) <= followed_max:
        assert driver.swarm.missing & to_be_had == 0
    if driver.swarm.missing == 0:
        assert driver.swarm.state(driver.now_s) is SwarmState.DONE


@given(meshes(), st.integers(0, 2**32))
def test_the_same_news_give_the_same_asks(mesh: tuple[int, dict[str, Peer]], seed: int) -> None:
    chunk_count, peers = mesh

    def asks() -> list[Ask]:
        swarm = Swarm(chunk_count, seed=seed)
        for name, peer in peers.items():
            swarm.add_peer(name, 0.0, last_resort=peer.last_resort)
        found = swarm.next_asks(0.0)
        for name, peer in peers.items():
            swarm.told_have(name, peer.have, 0.0)
        return found + swarm.next_asks(2.0)

    assert asks() == asks()


@given(st.integers(0, 200), st.data())
def test_sets_of_chunks_survive_the_way(chunk_count: int, choices: st.DataObject) -> None:
    bits = choices.draw(st.integers(0, (1 << chunk_count) - 1))
    assert bits_from_bytes(bits_to_bytes(bits, chunk_count)) == bits
    assert flags_of(bits, chunk_count) == [bool(bits >> n & 1) for n in range(chunk_count)]
