"""Whatever peers do, a fetch ends, asks none for what it lacks, and gets all that can be had."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.core.swarm import (
    Ask,
    AskChunk,
    AskHave,
    Swarm,
    SwarmLimits,
    SwarmState,
    bits_from_bytes,
    bits_to_bytes,
    flags_of,
)

CHUNKS_MAX = 12
STEPS_MAX = 5_000
ANSWER_MAX_S = 30.0

ANSWERS = ("good", "good", "good", "fail", "busy", "lack", "corrupt")


@dataclass
class Peer:
    have: int
    gains: int
    """What it holds after its first answer: it still fetches."""
    honest: bool
    last_resort: bool
    told: int = 0
    asked: list[int] = field(default_factory=list)


@st.composite
def meshes(draw: st.DrawFn) -> tuple[int, dict[str, Peer]]:
    chunk_count = draw(st.integers(1, CHUNKS_MAX))
    subset = st.integers(0, (1 << chunk_count) - 1)
    peers = draw(
        st.lists(st.builds(Peer, subset, subset, st.booleans(), st.booleans()), max_size=5)
    )
    return chunk_count, {f"node-{i}": peer for i, peer in enumerate(peers)}


class Driver:
    """Answers what the swarm asks, in any order, on a clock of its own."""

    def __init__(self, chunk_count: int, peers: dict[str, Peer], seed: int) -> None:
        self.now_s = 0.0
        self.limits = SwarmLimits(requests_per_peer_max=2, requests_max=5)
        self.chunk_count = chunk_count
        self.swarm = Swarm(chunk_count, limits=self.limits, seed=seed)
        self.peers = peers
        self.pending: list[Ask] = []
        self.oldest_s = 0.0
        for name, peer in peers.items():
            self.swarm.add_peer(name, 0.0, last_resort=peer.last_resort)

    def ask(self) -> None:
        missing = self.swarm.missing
        for ask in self.swarm.next_asks(self.now_s):
            assert ask not in self.pending, "asked twice at once"
            assert ask.peer not in self.swarm.banned
            if isinstance(ask, AskChunk):
                assert self.peers[ask.peer].told >> ask.chunk & 1, "asked for what it lacks"
                assert missing >> ask.chunk & 1, "asked for what is here"
            self.pending.append(ask)
        in_flight = [ask for ask in self.pending if isinstance(ask, AskChunk)]
        assert len(in_flight) <= self.limits.requests_max
        for name in self.peers:
            assert sum(ask.peer == name for ask in in_flight) <= self.limits.requests_per_peer_max

    def answer(self, which: int, how: str) -> None:
        ask = self.pending.pop(which % len(self.pending))
        peer = self.peers[ask.peer]
        if peer.honest:
            how = "good"
        dropped: list[AskChunk] = []
        if how == "busy":
            self.swarm.busy(ask.peer, getattr(ask, "chunk", None), "busy", self.now_s)
        elif isinstance(ask, AskHave):
            if how == "good":
                peer.told = peer.have
                self.swarm.told_have(ask.peer, peer.have, self.now_s)
                peer.have |= peer.gains
            else:
                self.swarm.failed(ask.peer, None, how, self.now_s)
        elif how == "good":
            dropped = self.swarm.arrived(ask.peer, ask.chunk, self.now_s)
        elif how == "lack":
            self.swarm.lacks(ask.peer, ask.chunk, "lacks", self.now_s)
        elif how == "corrupt":
            dropped = self.swarm.ban(ask.peer, "corrupt")
        else:
            self.swarm.failed(ask.peer, ask.chunk, "fails", self.now_s)
        for void in dropped:
            if void in self.pending:
                self.pending.remove(void)

    def run(self, choices: st.DataObject) -> None:
        for step in range(STEPS_MAX):
            if self.swarm.state(self.now_s) is not SwarmState.RUNNING:
                return
            self.ask()
            # After some steps of any kind, the simplest course: it must end too.
            free = step < 60
            if not self.pending:
                self.oldest_s = self.now_s
            wake_at_s = self.swarm.wake_at_s(self.now_s)
            assert self.pending or wake_at_s is not None, "it would wait for nothing"
            # Requests have a timeout: none stays without an answer for ever.
            due = wake_at_s is None or wake_at_s > self.oldest_s + ANSWER_MAX_S
            if self.pending and (due or not free or choices.draw(st.booleans())):
                which = choices.draw(st.integers(0, 9)) if free else 0
                self.answer(which, choices.draw(st.sampled_from(ANSWERS)) if free else "fail")
                continue
            assert wake_at_s is not None and wake_at_s > self.now_s
            self.now_s = wake_at_s
        raise AssertionError("the fetch never ended")


@settings(max_examples=150, deadline=None)
@given(meshes(), st.integers(0, 2**32), st.data())
def test_a_fetch_ends_and_has_all_that_honest_peers_hold(
    mesh: tuple[int, dict[str, Peer]], seed: int, choices: st.DataObject
) -> None:
    chunk_count, peers = mesh
    to_be_had = 0
    for peer in peers.values():
        if peer.honest:
            to_be_had |= peer.have | peer.gains
    driver = Driver(chunk_count, peers, seed)
    driver.run(choices)
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
