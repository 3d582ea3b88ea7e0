"""The hosts of the simulated swarm that serve: what each shows of its chunks, and to whom.

What `artifacts.news` does around the mesh's own choices (`Offers`): who follows is told
what is here, and what comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm_sim_host import Host, Message, Reader, Told
from swarm_sim_links import Flow, Links, Request

from meshtrain.artifacts.news import FOLLOWERS_MAX

if TYPE_CHECKING:
    from swarm_sim_mesh import SwarmSim

EXPIRE_S = 0.5
"""As often as `artifacts.news` looks for promises that were not kept."""


class Serving:
    """All that the hosts do to give the artifact away.

    Args:
        links: what chunks leave over.
    """

    def __init__(self, sim: SwarmSim, links: Links) -> None:
        self._sim = sim
        self._setting = sim.setting
        self._clock = sim.clock
        self._hosts = sim.hosts
        self._links = links
        self._latency_s = sim.setting.latency_s
        self._all = sim.all_chunks
        #: host → the bodies that left it
        self.sent_chunks: dict[int, int] = {}
        #: frames that told a node of chunks
        self.news = 0

    def asked(self, flow: Flow, request: Request) -> None:
        """A request for a chunk has come."""
        host = self._hosts[flow.sender]
        node = self._hosts[flow.receiver]
        if host.gone:
            self._tell(node, (Told.FAILED, host.number, request.chunk, 1))
        elif host.have >> request.chunk & 1:
            self._links.send(flow, request)
        else:
            self._tell(node, (Told.LACKS, host.number, request.chunk, 0))

    def sent(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has left its sender."""
        self.sent_chunks[flow.sender] = self.sent_chunks.get(flow.sender, 0) + 1
        host = self._hosts[flow.sender]
        if host.offers is not None:
            host.offers.gave(f"n{flow.receiver}", request.chunk, self._clock.now_s)
            self._stir(host)

    def enter(self, host: Host, node: Host, stream: int, have: int) -> None:
        """A node begins to follow a host.

        Args:
            stream: the number of what it is told from now on.
            have: the chunks that it has.
        """
        if node.streams.get(host.number) != stream:
            return
        if host.gone:
            self._tell(node, (Told.FAILED, host.number, stream, 0))
            return
        if len(host.readers) >= FOLLOWERS_MAX and node.number not in host.readers:
            self._tell(node, (Told.BUSY, host.number, stream, 0))
            return
        reader = host.readers[node.number] = Reader(stream)
        if host.offers is not None:
            host.offers.join(node.name, have, self._clock.now_s)
            self._stir(host)
            return
        self.news += 1
        self._tell(node, (Told.HOLDS, host.number, stream, host.have))
        if host.have == self._all:
            self._end_stream(host, node.number, reader)

    def _end_stream(self, host: Host, number: int, reader: Reader) -> None:
        self._tell(self._hosts[number], (Told.ENDED, host.number, reader.stream, 0))
        del host.readers[number]

    def leave(self, host: Host, number: int, stream: int) -> None:
        """A node follows a host no more."""
        reader = host.readers.get(number)
        if reader is not None and reader.stream == stream:
            del host.readers[number]
            if host.offers is not None:
                host.offers.leave(f"n{number}")
                self._stir(host)

    def news_soon(self, host: Host) -> None:
        """A node that fetches has a chunk more to tell of."""
        if not host.news_due:
            host.news_due = True
            at_s = max(self._clock.now_s, host.news_s + self._setting.news_every_s)
            if at_s > self._clock.now_s:
                self._clock.at(at_s, self._tell_news, host)
            else:
                self._tell_news(host)

    def _tell_news(self, host: Host) -> None:
        host.news_due = False
        if host.gone:
            return
        host.news_s = self._clock.now_s
        new = host.have & ~host.told
        host.told = host.have
        if host.readers and new:
            self.news += len(host.readers)
            readers = [(number, reader.stream) for number, reader in host.readers.items()]
            at_s = self._clock.now_s + self._latency_s
            self._clock.at(at_s, self._bring_news, host.number, readers, new)
        if host.have == self._all:
            for number, reader in list(host.readers.items()):
                self._end_stream(host, number, reader)

    def _bring_news(self, number: int, readers: list[tuple[int, int]], new: int) -> None:
        hosts = self._hosts
        for node_number, stream in readers:
            node = hosts[node_number]
            node.inbox.append((Told.GAINED, number, stream, new))
            if not node.look_due:
                self._sim.fetching.look_soon(node)

    def _stir(self, host: Host) -> None:
        """Who shows each one something else tells what changed."""
        assert host.offers is not None
        for number, reader in list(host.readers.items()):
            name = f"n{number}"
            shown = host.offers.shown(name)
            if reader.told_once and shown == reader.told:
                continue
            new, node = shown & ~reader.told, self._hosts[number]
            kind = Told.HOLDS
            if reader.told_once and not reader.told & ~shown:
                kind = Told.GAINED
            reader.told, reader.told_once = shown, True
            self.news += 1
            said = new if kind is Told.GAINED else shown
            self._tell(node, (kind, host.number, reader.stream, said))
            if host.offers.shows_all(name):
                self._end_stream(host, number, reader)
                host.offers.leave(name)

    def expire(self) -> None:
        """Promises that were not kept are made to others, now and from now on."""
        for host in self._hosts:
            if host.offers is not None and not host.gone:
                host.offers.expire(self._clock.now_s)
                self._stir(host)
        self._clock.at(self._clock.now_s + EXPIRE_S, self.expire)

    def stop(self, host: Host) -> None:
        """A host has gone away: it serves nothing, and who follows it hears so."""
        for number, reader in host.readers.items():
            self._tell(self._hosts[number], (Told.FAILED, host.number, reader.stream, 0))
        host.readers.clear()

    def _tell(self, node: Host, message: Message) -> None:
        """A node will hear of something."""
        self._clock.at(self._clock.now_s + self._latency_s, self._sim.fetching.tell, node, message)
