"""A swarm on a virtual clock: the mesh's own choices (`Swarm`, `Offers`), simulated links.

What stands between the two is modelled as `artifacts.flight` and `artifacts.news` do
it: who follows is told what is here, and what comes; chunks of one peer come over one
connection, in the order of the requests; what is dropped still comes, unless nothing
else is awaited on its connection. Disks, digests and the work of the hosts take no time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, auto
from functools import lru_cache

from swarm_sim_links import (
    FairLinks,
    Flow,
    Links,
    QuantumLinks,
    Request,
    VirtualClock,
)

from meshtrain.artifacts.news import FOLLOWERS_MAX
from meshtrain.artifacts.turns import AT_ONCE
from meshtrain.core.offers import Offers
from meshtrain.core.swarm import AskChunk, Follow, Swarm, SwarmLimits, SwarmState

MIB = 1 << 20
EXPIRE_S = 0.5
"""As often as `artifacts.news` looks for promises that were not kept."""
SEEDER = 0
_TIMED_EVERY = 16


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated.

    The hosts are numbered: 0 is the first holder, then come those that fetch, and
    then the master, where there is one that holds the artifact too.
    """

    nodes: int
    """That fetch."""
    chunks: int = 128
    chunk_bytes: int = MIB
    rate_bytes_per_s: float = 25e6
    latency_s: float = 0.0005
    seed: int = 0
    known_max: int = 64
    """Peers that a node is told of, besides the first holder."""
    start_within_s: float = 0.005
    """The nodes begin at moments drawn from it."""
    look_every_s: float = 0.0
    """A node takes in what it was told together, at most so often; 0: each by itself."""
    news_every_s: float = 0.0
    """A node tells others of its chunks at most so often; 0: of each by itself."""
    master: bool = False
    """Whether the master holds it too, as the last resort."""
    first_is_master: bool = False
    """Whether the first holder is the master, and so the last resort."""
    deaths: tuple[tuple[int, float], ...] = ()
    """Hosts that go away, and when: a fraction of the bound."""
    rates: tuple[tuple[int, float], ...] = ()
    """Hosts with another link, as a factor of the rate."""
    corrupt: frozenset[int] = frozenset()
    """Hosts whose every chunk is corrupt."""
    exact: bool = False
    """Whether flows share links exactly fairly (for few hosts) or by quanta."""
    quanta: int = 4
    at_once: int = AT_ONCE
    """Answers that a host has on their way at a time."""
    limits: SwarmLimits = field(default_factory=SwarmLimits)

    @property
    def bound_s(self) -> float:
        """What one link needs to carry the artifact once."""
        return self.chunks * self.chunk_bytes / self.rate_bytes_per_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went."""

    bound_s: float
    done_s: dict[int, float]
    """Node → when it had all chunks, from the beginning."""
    left: tuple[int, ...]
    """Nodes that stayed, and did not get all of it."""
    sent_chunks: dict[int, int]
    """Host → the bodies that left it."""
    wasted_chunks: int
    """Bodies that came, and were not wanted any more."""
    news: int
    """Frames that told a node of chunks."""
    policy_s: float
    """The time of this machine's CPU that went to the choices."""
    came_chunks: int
    chunks: int
    events: int

    def multiples(self, nodes: Iterable[int] | None = None) -> list[float]:
        """The times of some nodes, or all that ended, in bounds, in ascending order."""
        chosen = self.done_s if nodes is None else nodes
        return sorted(self.done_s[node] / self.bound_s for node in chosen)

    @property
    def seeder_files(self) -> float:
        """How often the first holder sent the file."""
        return self.sent_chunks.get(SEEDER, 0) / self.chunks


class _Told(IntEnum):
    CAME = auto()
    HOLDS = auto()
    GAINED = auto()
    ENDED = auto()
    BUSY = auto()
    FAILED = auto()
    CORRUPT = auto()
    LACKS = auto()


_Message = tuple[_Told, int, int, int]
"""What, from whom, which stream of news or chunk, and which chunks."""


@dataclass(slots=True)
class _Reader:
    """One who follows a host."""

    stream: int
    told: int = 0
    told_once: bool = False


@dataclass(slots=True, eq=False)
class _Host:
    number: int
    name: str
    have: int
    swarm: Swarm | None = None
    offers: Offers | None = None
    gone: bool = False
    readers: dict[int, _Reader] = field(default_factory=dict)
    told: int = 0
    """What all its readers were told, where it shows all that it has."""
    news_due: bool = False
    news_s: float = 0.0
    streams: dict[int, int] = field(default_factory=dict)
    """Peer → the number of the stream that it is followed by."""
    flows: dict[int, Flow] = field(default_factory=dict)
    asked: dict[tuple[int, int], Request] = field(default_factory=dict)
    inbox: list[_Message] = field(default_factory=list)
    look_due: bool = False
    looked_s: float = -1.0
    wake_s: float = -1.0


class SwarmSim:
    """One artifact on its way to all nodes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.clock = VirtualClock()
        draw = random.Random(setting.seed)
        count = setting.nodes + 1 + setting.master
        self._all = (1 << setting.chunks) - 1
        self._numbers = {f"n{number}": number for number in range(count)}
        self._hosts = [_Host(number, f"n{number}", 0) for number in range(count)]
        self._streams = 0
        self._done_s: dict[int, float] = {}
        self._sent: dict[int, int] = {}
        self._wasted = self._news = self._came = 0
        self._policy_s = 0.0
        self._looks = 0
        factors = dict(setting.rates)
        rates = [setting.rate_bytes_per_s * factors.get(n, 1.0) for n in range(count)]
        self._links: Links
        if setting.exact:
            self._links = FairLinks(
                self.clock,
                rates,
                setting.chunk_bytes,
                setting.latency_s,
                self,
                at_once=setting.at_once,
            )
        else:
            self._links = QuantumLinks(
                self.clock,
                rates,
                setting.chunk_bytes,
                setting.latency_s,
                self,
                at_once=setting.at_once,
                quanta=setting.quanta,
            )
        holders = [SEEDER, *([count - 1] if setting.master else [])]
        for number in holders:
            self._hosts[number].have = self._all
            self._hosts[number].offers = Offers(
                setting.chunks, first=draw.randrange(setting.chunks)
            )
        self._pending = set(range(1, setting.nodes + 1))
        for number in range(1, setting.nodes + 1):
            self._hosts[number].swarm = Swarm(
                setting.chunks, limits=setting.limits, seed=draw.getrandbits(32)
            )
            self.clock.at(
                draw.uniform(0.0, setting.start_within_s),
                self._begin,
                self._hosts[number],
                [*holders, *self._drawn_peers(number, draw)],
            )
        for number, share in setting.deaths:
            self.clock.at(share * setting.bound_s, self._die, self._hosts[number])
        self.clock.at(EXPIRE_S, self._expire)

    def run(self, limit_s: float = 3600.0) -> Outcome:
        """Lets time pass until all nodes that are still there have all chunks, or time is up."""
        self.clock.run(lambda: not self._pending, limit_s)
        return Outcome(
            bound_s=self.setting.bound_s,
            done_s=self._done_s,
            left=tuple(sorted(self._pending)),
            sent_chunks=self._sent,
            wasted_chunks=self._wasted,
            news=self._news,
            policy_s=self._policy_s,
            came_chunks=self._came,
            chunks=self.setting.chunks,
            events=self.clock.events,
        )

    def _drawn_peers(self, number: int, draw: random.Random) -> list[int]:
        nodes, known_max = self.setting.nodes, self.setting.known_max
        if nodes - 1 <= known_max:
            others = [other for other in range(1, nodes + 1) if other != number]
            draw.shuffle(others)
            return others
        drawn = draw.sample(range(1, nodes + 1), known_max + 1)
        return [other for other in drawn if other != number][:known_max]

    # --- a node that fetches --------------------------------------------------

    def _begin(self, node: _Host, peers: list[int]) -> None:
        assert node.swarm is not None
        for peer in peers:
            last_resort = self.setting.master and peer == len(self._hosts) - 1
            last_resort |= self.setting.first_is_master and peer == SEEDER
            node.swarm.add_peer(f"n{peer}", self.clock.now_s, last_resort=last_resort)
        self._look_soon(node)

    def _tell(self, node: _Host, message: _Message) -> None:
        node.inbox.append(message)
        if not node.look_due:
            self._look_soon(node)

    def _look_soon(self, node: _Host) -> None:
        if not node.look_due:
            node.look_due = True
            at_s = max(self.clock.now_s, node.looked_s + self.setting.look_every_s)
            self.clock.at(at_s, self._look, node)

    def _look(self, node: _Host) -> None:
        """One round of `Flight._fetch_chunks`."""
        node.look_due = False
        if node.gone or node.number in self._done_s:
            return
        swarm, now_s = node.swarm, self.clock.now_s
        assert swarm is not None
        node.looked_s = now_s
        self._looks += 1
        timed = self._looks % _TIMED_EVERY == 0
        begun_s = time.thread_time() if timed else 0.0
        inbox, node.inbox = node.inbox, []
        for message in inbox:
            for ask in self._take(node, swarm, message, now_s):
                self._drop(node, ask)
        state = swarm.state(now_s)
        asks = swarm.next_asks(now_s)
        wake_s = swarm.wake_at_s(now_s)
        if timed:
            # Reading this clock costs more than most looks do.
            self._policy_s += (time.thread_time() - begun_s) * _TIMED_EVERY
        if state is not SwarmState.RUNNING:
            if state is SwarmState.DONE:
                self._done_s[node.number] = now_s
                self._pending.discard(node.number)
                self._leave_all(node)
            return
        for one in asks:
            peer = self._numbers[one.peer]
            if isinstance(one, Follow):
                self._follow(node, peer)
            else:
                self._ask(node, peer, one.chunk)
        if wake_s is not None and (wake_s < node.wake_s or node.wake_s <= now_s):
            node.wake_s = wake_s
            self.clock.at(wake_s, self._wake, node, wake_s)

    def _wake(self, node: _Host, wake_s: float) -> None:
        if wake_s == node.wake_s:
            node.wake_s = -1.0
            self._look_soon(node)

    def _take(self, node: _Host, swarm: Swarm, message: _Message, now_s: float) -> list[AskChunk]:
        told, number, key, chunks = message
        peer = f"n{number}"
        if told is _Told.GAINED:
            if node.streams.get(number) == key:
                swarm.gained(peer, _numbers_of(chunks), now_s)
        elif told is _Told.CAME:
            node.asked.pop((number, key), None)
            return swarm.arrived(peer, key, now_s)
        elif told is _Told.HOLDS:
            if node.streams.get(number) == key:
                more = chunks != self._all and self._hosts[number].offers is not None
                swarm.told_have(peer, chunks, now_s, more=more)
        elif told is _Told.ENDED:
            if node.streams.get(number) == key:
                del node.streams[number]
                swarm.unfollowed(peer, now_s)
        elif told is _Told.CORRUPT:
            node.asked.pop((number, key), None)
            return swarm.ban(peer, "corrupt")
        elif told is _Told.LACKS:
            node.asked.pop((number, key), None)
            swarm.lacks(peer, key, "lacks it", now_s)
        elif told is _Told.BUSY:
            if node.streams.get(number) == key:
                del node.streams[number]
                swarm.busy(peer, None, "too many follow", now_s)
        elif chunks:
            if node.asked.pop((number, key), None) is not None:
                swarm.failed(peer, key, "gone", now_s)
        elif node.streams.get(number) == key:
            del node.streams[number]
            swarm.failed(peer, None, "gone", now_s)
        return []

    def _ask(self, node: _Host, peer: int, chunk: int) -> None:
        flow = node.flows.get(peer)
        if flow is None:
            flow = node.flows[peer] = Flow(peer, node.number)
        request = node.asked[peer, chunk] = Request(chunk)
        flow.awaited.append(request)
        self.clock.at(self.clock.now_s + self.setting.latency_s, self._asked, flow, request)

    def _drop(self, node: _Host, ask: AskChunk) -> None:
        peer = self._numbers[ask.peer]
        request = node.asked.pop((peer, ask.chunk), None)
        if request is None:
            return
        request.abandoned = True
        flow = node.flows[peer]
        if all(awaited.abandoned for awaited in flow.awaited):
            self._close(node, flow)

    def _close(self, node: _Host, flow: Flow) -> None:
        flow.awaited.clear()
        del node.flows[flow.sender]
        self.clock.at(self.clock.now_s + self.setting.latency_s, self._links.cut, flow)

    def _follow(self, node: _Host, peer: int) -> None:
        self._streams += 1
        node.streams[peer] = self._streams
        at_s = self.clock.now_s + self.setting.latency_s
        self.clock.at(at_s, self._enter, self._hosts[peer], node, self._streams, node.have)

    def _leave_all(self, node: _Host) -> None:
        at_s = self.clock.now_s + self.setting.latency_s
        for flow in list(node.flows.values()):
            self._close(node, flow)
        for peer, stream in node.streams.items():
            self.clock.at(at_s, self._leave, self._hosts[peer], node.number, stream)
        node.streams.clear()
        node.inbox.clear()

    # --- a host that serves ---------------------------------------------------

    def _asked(self, flow: Flow, request: Request) -> None:
        host = self._hosts[flow.sender]
        node = self._hosts[flow.receiver]
        back_s = self.clock.now_s + self.setting.latency_s
        if host.gone:
            self.clock.at(back_s, self._tell, node, (_Told.FAILED, host.number, request.chunk, 1))
        elif host.have >> request.chunk & 1:
            self._links.send(flow, request)
        else:
            self.clock.at(back_s, self._tell, node, (_Told.LACKS, host.number, request.chunk, 0))

    def sent(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has left its sender."""
        self._sent[flow.sender] = self._sent.get(flow.sender, 0) + 1
        host = self._hosts[flow.sender]
        if host.offers is not None:
            host.offers.gave(f"n{flow.receiver}", request.chunk, self.clock.now_s)
            self._stir(host)

    def came(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has come."""
        node = self._hosts[flow.receiver]
        if node.gone or request not in flow.awaited:
            return
        flow.awaited.remove(request)
        if request.abandoned or node.have >> request.chunk & 1:
            self._wasted += 1
            if flow.awaited and all(awaited.abandoned for awaited in flow.awaited):
                self._close(node, flow)
            if request.abandoned:
                return
        if flow.sender in self.setting.corrupt:
            self._tell(node, (_Told.CORRUPT, flow.sender, request.chunk, 0))
            return
        self._came += 1
        if not node.have >> request.chunk & 1:
            node.have |= 1 << request.chunk
            self._news_soon(node)
        self._tell(node, (_Told.CAME, flow.sender, request.chunk, 0))

    def _enter(self, host: _Host, node: _Host, stream: int, have: int) -> None:
        back_s = self.clock.now_s + self.setting.latency_s
        if node.streams.get(host.number) != stream:
            return
        if host.gone:
            self.clock.at(back_s, self._tell, node, (_Told.FAILED, host.number, stream, 0))
            return
        if len(host.readers) >= FOLLOWERS_MAX and node.number not in host.readers:
            self.clock.at(back_s, self._tell, node, (_Told.BUSY, host.number, stream, 0))
            return
        reader = host.readers[node.number] = _Reader(stream)
        if host.offers is not None:
            host.offers.join(node.name, have, self.clock.now_s)
            self._stir(host)
            return
        self._news += 1
        self.clock.at(back_s, self._tell, node, (_Told.HOLDS, host.number, stream, host.have))
        if host.have == self._all:
            self._end_stream(host, node.number, reader)

    def _end_stream(self, host: _Host, number: int, reader: _Reader) -> None:
        at_s = self.clock.now_s + self.setting.latency_s
        message = (_Told.ENDED, host.number, reader.stream, 0)
        self.clock.at(at_s, self._tell, self._hosts[number], message)
        del host.readers[number]

    def _leave(self, host: _Host, number: int, stream: int) -> None:
        reader = host.readers.get(number)
        if reader is not None and reader.stream == stream:
            del host.readers[number]
            if host.offers is not None:
                host.offers.leave(f"n{number}")
                self._stir(host)

    def _news_soon(self, host: _Host) -> None:
        """A node that fetches has a chunk more to tell of."""
        if not host.news_due:
            host.news_due = True
            at_s = max(self.clock.now_s, host.news_s + self.setting.news_every_s)
            if at_s > self.clock.now_s:
                self.clock.at(at_s, self._tell_news, host)
            else:
                self._tell_news(host)

    def _tell_news(self, host: _Host) -> None:
        host.news_due = False
        if host.gone:
            return
        host.news_s = self.clock.now_s
        new = host.have & ~host.told
        host.told = host.have
        if host.readers and new:
            self._news += len(host.readers)
            readers = [(number, reader.stream) for number, reader in host.readers.items()]
            at_s = self.clock.now_s + self.setting.latency_s
            self.clock.at(at_s, self._bring_news, host.number, readers, new)
        if host.have == self._all:
            for number, reader in list(host.readers.items()):
                self._end_stream(host, number, reader)

    def _bring_news(self, number: int, readers: list[tuple[int, int]], new: int) -> None:
        hosts = self._hosts
        for node_number, stream in readers:
            node = hosts[node_number]
            node.inbox.append((_Told.GAINED, number, stream, new))
            if not node.look_due:
                self._look_soon(node)

    def _stir(self, host: _Host) -> None:
        """Who shows each one something else tells what changed."""
        assert host.offers is not None
        back_s = self.clock.now_s + self.setting.latency_s
        for number, reader in list(host.readers.items()):
            name = f"n{number}"
            shown = host.offers.shown(name)
            if reader.told_once and shown == reader.told:
                continue
            new, node = shown & ~reader.told, self._hosts[number]
            kind = _Told.HOLDS
            if reader.told_once and not reader.told & ~shown:
                kind = _Told.GAINED
            reader.told, reader.told_once = shown, True
            self._news += 1
            said = new if kind is _Told.GAINED else shown
            self.clock.at(back_s, self._tell, node, (kind, host.number, reader.stream, said))
            if host.offers.shows_all(name):
                self._end_stream(host, number, reader)
                host.offers.leave(name)

    def _expire(self) -> None:
        for host in self._hosts:
            if host.offers is not None and not host.gone:
                host.offers.expire(self.clock.now_s)
                self._stir(host)
        self.clock.at(self.clock.now_s + EXPIRE_S, self._expire)

    # --- faults ---------------------------------------------------------------

    def _die(self, host: _Host) -> None:
        host.gone = True
        self._pending.discard(host.number)
        self._links.stop(host.number)
        at_s = self.clock.now_s + self.setting.latency_s
        for number, reader in host.readers.items():
            message = (_Told.FAILED, host.number, reader.stream, 0)
            self.clock.at(at_s, self._tell, self._hosts[number], message)
        host.readers.clear()
        self._leave_all(host)
        for node in self._hosts:
            flow = node.flows.pop(host.number, None)
            for request in flow.awaited if flow is not None else ():
                if not request.abandoned:
                    message = (_Told.FAILED, host.number, request.chunk, 1)
                    self.clock.at(at_s, self._tell, node, message)
            if flow is not None:
                flow.awaited.clear()


@lru_cache(maxsize=4096)
def _numbers_of(bits: int) -> tuple[int, ...]:
    """The chunks of a set; most sets in news are of one."""
    return tuple(n for n in range(bits.bit_length()) if bits >> n & 1)
