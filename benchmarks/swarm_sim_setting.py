"""What a simulation of the swarm is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshtrain.artifacts.turns import AT_ONCE
from meshtrain.core.swarm import SwarmLimits

MIB = 1 << 20
SEEDER = 0
"""The number of the first holder."""


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
