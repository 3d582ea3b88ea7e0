"""A swarm on a virtual clock: the mesh's own choices (`Swarm`, `Offers`), simulated links.

What stands between the two is modelled as the mesh does it: what nodes ask for in
`swarm_sim_fetching`, what hosts show and give in `swarm_sim_serving`, the links
themselves in `swarm_sim_links`. Disks, digests and the work of the hosts take no time.
"""

from __future__ import annotations

import random

from swarm_sim_fetching import Fetching
from swarm_sim_host import Host
from swarm_sim_links import FairLinks, Flow, Links, QuantumLinks, Request, VirtualClock
from swarm_sim_serving import EXPIRE_S, Serving
from swarm_sim_setting import SEEDER, Outcome, Setting

from meshtrain.core.offers import Offers
from meshtrain.core.swarm import Swarm


class SwarmSim:
    """One artifact on its way to all nodes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.clock = VirtualClock()
        self.all_chunks = (1 << setting.chunks) - 1
        count = setting.nodes + 1 + setting.master
        self.hosts = [Host(number, f"n{number}", 0) for number in range(count)]
        self._links = self._make_links()
        self.fetching = Fetching(self, self._links)
        self.serving = Serving(self, self._links)
        draw = random.Random(setting.seed)
        holders = [SEEDER, *([count - 1] if setting.master else [])]
        for number in holders:
            holder = self.hosts[number]
            holder.have = self.all_chunks
            holder.offers = Offers(setting.chunks, first=draw.randrange(setting.chunks))
        for node in self.hosts[1 : setting.nodes + 1]:
            node.swarm = Swarm(setting.chunks, limits=setting.limits, seed=draw.getrandbits(32))
            at_s = draw.uniform(0.0, setting.start_within_s)
            peers = [*holders, *self._drawn_peers(node.number, draw)]
            self.clock.at(at_s, self.fetching.begin, node, peers)
        for number, share in setting.deaths:
            self.clock.at(share * setting.bound_s, self._die, self.hosts[number])
        self.clock.at(EXPIRE_S, self.serving.expire)

    def run(self, limit_s: float = 3600.0) -> Outcome:
        """Lets time pass until all nodes that are still there have all chunks, or time is up."""
        fetching, serving = self.fetching, self.serving
        self.clock.run(lambda: not fetching.pending, limit_s)
        return Outcome(
            bound_s=self.setting.bound_s,
            done_s=fetching.done_s,
            left=tuple(sorted(fetching.pending)),
            sent_chunks=serving.sent_chunks,
            wasted_chunks=fetching.wasted_chunks,
            news=serving.news,
            policy_s=fetching.policy_s,
            came_chunks=fetching.came_chunks,
            chunks=self.setting.chunks,
            events=self.clock.events,
        )

    def _make_links(self) -> Links:
        setting = self.setting
        factors = dict(setting.rates)
        rates = [setting.rate_bytes_per_s * factors.get(host.number, 1.0) for host in self.hosts]
        if setting.exact:
            return FairLinks(
                self.clock,
                rates,
                setting.chunk_bytes,
                setting.latency_s,
                self,
                at_once=setting.at_once,
            )
        return QuantumLinks(
            self.clock,
            rates,
            setting.chunk_bytes,
            setting.latency_s,
            self,
            at_once=setting.at_once,
            quanta=setting.quanta,
        )

    def _drawn_peers(self, number: int, draw: random.Random) -> list[int]:
        """Whom a node is told of, besides the holders."""
        nodes, known_max = self.setting.nodes, self.setting.known_max
        if nodes - 1 <= known_max:
            others = [other for other in range(1, nodes + 1) if other != number]
            draw.shuffle(others)
            return others
        drawn = draw.sample(range(1, nodes + 1), known_max + 1)
        return [other for other in drawn if other != number][:known_max]

    def sent(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has left its sender."""
        self.serving.sent(flow, request)

    def came(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has come."""
        self.fetching.came(flow, request)

    def _die(self, host: Host) -> None:
        """A host goes away."""
        host.gone = True
        self._links.stop(host.number)
        self.serving.stop(host)
        self.fetching.stop(host)
