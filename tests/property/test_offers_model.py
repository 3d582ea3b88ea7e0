"""Whoever comes, leaves or stops: each chunk goes out to one, and all who go on get all."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.core.offers import AHEAD_MAX, Offers

CHUNKS_MAX = 12
STEPS_MAX = 40
ROUNDS_MAX = 2_000
ROUND_S = 5.0

names = st.sampled_from(["a", "b", "c", "d"])
steps = st.one_of(
    st.tuples(st.just("join"), names, st.just(0)),
    st.tuples(st.just("leave"), names, st.just(0)),
    st.tuples(st.just("take"), names, st.integers(0, CHUNKS_MAX)),
    st.tuples(st.just("take"), names, st.integers(0, CHUNKS_MAX)),
    st.tuples(st.just("trade"), names, st.integers(0, CHUNKS_MAX)),
    st.tuples(st.just("wait"), names, st.integers(0, 20)),
)


@dataclass
class Swarm:
    """Nodes that fetch from one holder, and from each other."""

    chunk_count: int
    promises_max: int
    first: int = 0
    now_s: float = 0.0
    has: dict[str, int] = field(default_factory=dict)
    """What each node has, those that left too: they keep it, and may come again."""
    following: set[str] = field(default_factory=set)
    sent: int = 0
    """Chunks that the holder gave."""

    def __post_init__(self) -> None:
        self.all = (1 << self.chunk_count) - 1
        self.offers = Offers(self.chunk_count, promises_max=self.promises_max, first=self.first)

    def join(self, name: str) -> None:
        self.offers.join(name, self.has.setdefault(name, 0), self.now_s)
        self.following.add(name)

    def leave(self, name: str) -> None:
        self.offers.leave(name)
        self.following.discard(name)

    def wanted(self, name: str) -> list[int]:
        """What it could ask the holder for."""
        if name not in self.following:
            return []
        return numbers(self.offers.shown(name) & ~self.has[name])

    def take(self, name: str, chunk: int) -> None:
        self.sent += 1
        self.has[name] |= 1 << chunk
        self.offers.gave(name, chunk, self.now_s)

    def tradable(self, name: str) -> list[int]:
        """What it could ask the others for."""
        held = 0
        for other in self.following:
            held |= self.has[other]
        return numbers(held & ~self.has[name]) if name in self.following else []

    def wait(self, time_s: float) -> None:
        self.now_s += time_s
        self.offers.expire(self.now_s)

    def do(self, what: str, name: str, number: int) -> None:
        match what:
            case "join":
                self.join(name)
            case "leave":
                self.leave(name)
            case "take" if chunks := self.wanted(name):
                self.take(name, chunks[number % len(chunks)])
            case "trade" if chunks := self.tradable(name):
                self.has[name] |= 1 << chunks[number % len(chunks)]
            case "wait":
                self.wait(number / 2)

    def check(self) -> None:
        for name in self.following:
            shown = self.offers.shown(name)
            assert shown & ~self.all == 0
            if self.offers.shows_all(name):
                assert shown == self.all
            if len(self.following) == 1:
                assert shown == self.all


def numbers(bits: int) -> list[int]:
    return [n for n in range(bits.bit_length()) if bits >> n & 1]


@given(
    st.integers(0, CHUNKS_MAX),
    st.integers(1, 6),
    st.lists(steps, max_size=STEPS_MAX),
    st.booleans(),
)
@settings(deadline=None)
def test_all_who_go_on_get_all(
    chunk_count: int, promises_max: int, course: list[tuple[str, str, int]], trades: bool
) -> None:
    """Some come and go, and some fall silent but stay; then the rest goes on."""
    swarm = Swarm(chunk_count, promises_max, first=chunk_count // 3)
    for what, name, number in course:
        swarm.do(what, name, number)
        swarm.check()
    for name in ("c", "d"):
        swarm.join(name)
    silent = swarm.following - {"c", "d"}
    for _ in range(ROUNDS_MAX):
        for name in ("c", "d"):
            for chunk in swarm.wanted(name):
                swarm.take(name, chunk)
            # What the silent ones have is out of reach.
            reach = swarm.has["c"] | swarm.has["d"]
            if trades:
                swarm.has[name] |= reach
        swarm.check()
        if swarm.has["c"] == swarm.has["d"] == swarm.all:
            return
        swarm.wait(ROUND_S)
    raise AssertionError(f"with {silent} silent, {swarm.has} is all that they got")


@given(st.integers(1, 40), st.integers(1, 6), st.integers(2, 6), st.data())
@settings(deadline=None)
def test_while_there_are_open_ones_each_chunk_is_sent_once(
    chunk_count: int, promises_max: int, count: int, choices: st.DataObject
) -> None:
    """Whatever the order in which they take, as long as nobody takes too long."""
    swarm = Swarm(chunk_count, promises_max, first=choices.draw(st.integers(0, chunk_count - 1)))
    nodes = [f"node-{n}" for n in range(count)]
    for name in nodes:
        swarm.join(name)
    while swarm.offers.open:
        untaken = [swarm.offers.shown(name) & ~swarm.has[name] for name in nodes]
        assert sum(one.bit_count() for one in untaken) == _union(untaken).bit_count()
        promised = sum(one.bit_count() for one in untaken)
        # More where one takes long: it fills no link.
        assert min(promises_max, AHEAD_MAX * count) <= promised <= AHEAD_MAX * count
        name = choices.draw(st.sampled_from([name for name in nodes if swarm.wanted(name)]))
        swarm.take(name, choices.draw(st.sampled_from(swarm.wanted(name))))
    assert swarm.sent <= chunk_count


@given(st.integers(1, 12), st.integers(1, 4), st.integers(2, 5), st.data())
@settings(deadline=None, max_examples=50)
def test_those_who_trade_get_all_for_little_more_than_one_copy(
    chunk_count: int, promises_max: int, count: int, choices: st.DataObject
) -> None:
    """Each asks the others first for what they have, as one does that asks for the rarest."""
    swarm = Swarm(chunk_count, promises_max, first=choices.draw(st.integers(0, chunk_count - 1)))
    nodes = [f"node-{n}" for n in range(count)]
    for name in nodes:
        swarm.join(name)
    while any(swarm.has[name] != swarm.all for name in nodes):
        name = choices.draw(
            st.sampled_from([n for n in nodes if swarm.tradable(n) or swarm.wanted(n)])
        )
        others = swarm.tradable(name)
        own = [chunk for chunk in swarm.wanted(name) if chunk not in others]
        if own and (not others or choices.draw(st.booleans())):
            swarm.take(name, own[0])
        else:
            swarm.has[name] |= 1 << others[0]
    assert swarm.sent == chunk_count


def _union(sets: list[int]) -> int:
    whole = 0
    for one in sets:
        whole |= one
    return whole
