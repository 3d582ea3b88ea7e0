"""The nodes of the simulated swarm that fetch: what each is told, asks for and gets.

What `artifacts.flight` does around the mesh's own choices (`Swarm`): chunks of one peer
come over one connection, in the order of the requests; what is dropped still comes,
unless nothing else is awaited on its connection.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from swarm_sim_host import Host, Message, Told
from swarm_sim_links import Flow, Links, Request
from swarm_sim_setting import SEEDER

from meshtrain.core.swarm import AskChunk, Follow, Swarm, SwarmState

if TYPE_CHECKING:
    from swarm_sim_mesh import SwarmSim

_TIMED_EVERY = 16
"""Looks of which one is timed: reading that clock costs more than most looks do."""


class Fetching:
    """All that the nodes do to get the artifact.

    Args:
        links: what chunks come over.
    """

    def __init__(self, sim: SwarmSim, links: Links) -> None:
        self._sim = sim
        self._setting = sim.setting
        self._clock = sim.clock
        self._hosts = sim.hosts
        self._links = links
        self._latency_s = sim.setting.latency_s
        self._all = sim.all_chunks
        self._numbers = {host.name: host.number for host in sim.hosts}
        self._streams = 0
        self._looks = 0
        #: nodes that haven't all of it, and are still there; and when the others had it
        self.pending = set(range(1, sim.setting.nodes + 1))
        self.done_s: dict[int, float] = {}
        self.came_chunks = 0
        self.wasted_chunks = 0
        self.policy_s = 0.0

    def begin(self, node: Host, peers: list[int]) -> None:
        """A node is told of its peers."""
        assert node.swarm is not None
        for peer in peers:
            last_resort = self._setting.master and peer == len(self._hosts) - 1
            last_resort |= self._setting.first_is_master and peer == SEEDER
            node.swarm.add_peer(f"n{peer}", self._clock.now_s, last_resort=last_resort)
        self.look_soon(node)

    def tell(self, node: Host, message: Message) -> None:
        """A node hears of something."""
        node.inbox.append(message)
        if not node.look_due:
            self.look_soon(node)

    def look_soon(self, node: Host) -> None:
        """A node takes in what it was told: now, or when it is to look again."""
        if not node.look_due:
            node.look_due = True
            at_s = max(self._clock.now_s, node.looked_s + self._setting.look_every_s)
            self._clock.at(at_s, self._look, node)

    def _look(self, node: Host) -> None:
        """One round of `Flight._fetch_chunks`."""
        node.look_due = False
        if node.gone or node.number in self.done_s:
            return
        swarm, now_s = node.swarm, self._clock.now_s
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
            self.policy_s += (time.thread_time() - begun_s) * _TIMED_EVERY
        if state is not SwarmState.RUNNING:
            if state is SwarmState.DONE:
                self.done_s[node.number] = now_s
                self.pending.discard(node.number)
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
            self._clock.at(wake_s, self._wake, node, wake_s)

    def _wake(self, node: Host, wake_s: float) -> None:
        if wake_s == node.wake_s:
            node.wake_s = -1.0
            self.look_soon(node)

    def _take(self, node: Host, swarm: Swarm, message: Message, now_s: float) -> list[AskChunk]:
        told, number, key, chunks = message
        peer = f"n{number}"
        if told is Told.GAINED:
            if node.streams.get(number) == key:
                swarm.gained(peer, _numbers_of(chunks), now_s)
        elif told is Told.CAME:
            node.asked.pop((number, key), None)
            return swarm.arrived(peer, key, now_s)
        elif told is Told.HOLDS:
            if node.streams.get(number) == key:
                more = chunks != self._all and self._hosts[number].offers is not None
                swarm.told_have(peer, chunks, now_s, more=more)
        elif told is Told.ENDED:
            if node.streams.get(number) == key:
                del node.streams[number]
                swarm.unfollowed(peer, now_s)
        elif told is Told.CORRUPT:
            node.asked.pop((number, key), None)
            return swarm.ban(peer, "corrupt")
        elif told is Told.LACKS:
            node.asked.pop((number, key), None)
            swarm.lacks(peer, key, "lacks it", now_s)
        elif told is Told.BUSY:
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

    def _ask(self, node: Host, peer: int, chunk: int) -> None:
        flow = node.flows.get(peer)
        if flow is None:
            flow = node.flows[peer] = Flow(peer, node.number)
        request = node.asked[peer, chunk] = Request(chunk)
        flow.awaited.append(request)
        at_s = self._clock.now_s + self._latency_s
        self._clock.at(at_s, self._sim.serving.asked, flow, request)

    def _drop(self, node: Host, ask: AskChunk) -> None:
        peer = self._numbers[ask.peer]
        request = node.asked.pop((peer, ask.chunk), None)
        if request is None:
            return
        request.abandoned = True
        flow = node.flows.get(peer)
        # None: it came already, unseen so far, and its connection was closed after it.
        if flow is not None and all(awaited.abandoned for awaited in flow.awaited):
            self._close(node, flow)

    def _close(self, node: Host, flow: Flow) -> None:
        flow.awaited.clear()
        del node.flows[flow.sender]
        self._clock.at(self._clock.now_s + self._latency_s, self._links.cut, flow)

    def _follow(self, node: Host, peer: int) -> None:
        self._streams += 1
        node.streams[peer] = self._streams
        at_s = self._clock.now_s + self._latency_s
        arguments = (self._hosts[peer], node, self._streams, node.have)
        self._clock.at(at_s, self._sim.serving.enter, *arguments)

    def _leave_all(self, node: Host) -> None:
        at_s = self._clock.now_s + self._latency_s
        leave = self._sim.serving.leave
        for flow in list(node.flows.values()):
            self._close(node, flow)
        for peer, stream in node.streams.items():
            self._clock.at(at_s, leave, self._hosts[peer], node.number, stream)
        node.streams.clear()
        node.inbox.clear()

    def came(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has come."""
        node = self._hosts[flow.receiver]
        if node.gone or request not in flow.awaited:
            return
        flow.awaited.remove(request)
        if request.abandoned or node.have >> request.chunk & 1:
            self.wasted_chunks += 1
            if flow.awaited and all(awaited.abandoned for awaited in flow.awaited):
                self._close(node, flow)
            if request.abandoned:
                return
        if flow.sender in self._setting.corrupt:
            self.tell(node, (Told.CORRUPT, flow.sender, request.chunk, 0))
            return
        self.came_chunks += 1
        if not node.have >> request.chunk & 1:
            node.have |= 1 << request.chunk
            self._sim.serving.news_soon(node)
        self.tell(node, (Told.CAME, flow.sender, request.chunk, 0))

    def stop(self, host: Host) -> None:
        """A host has gone away: it fetches nothing, and who awaits something of it hears so."""
        self.pending.discard(host.number)
        self._leave_all(host)
        at_s = self._clock.now_s + self._latency_s
        for node in self._hosts:
            flow = node.flows.pop(host.number, None)
            for request in flow.awaited if flow is not None else ():
                if not request.abandoned:
                    message = (Told.FAILED, host.number, request.chunk, 1)
                    self._clock.at(at_s, self.tell, node, message)
            if flow is not None:
                flow.awaited.clear()


@lru_cache(maxsize=4096)
def _numbers_of(bits: int) -> tuple[int, ...]:
    """The chunks of a set; most sets in news are of one."""
    return tuple(n for n in range(bits.bit_length()) if bits >> n & 1)
