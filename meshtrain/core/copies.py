"""What the master knows of the copies of artifacts: who has them, which stay, which go, which come.

Data alone; the decisions are in eviction.py and warm.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from meshtrain.core.directory import Directory
from meshtrain.core.rates import Rates
from meshtrain.core.work_inputs import datasets_of
from meshtrain.spec.jobs import CommandWork, Work


class Pin(msgspec.Struct, frozen=True):
    """A base that is not evicted: from one node, or from any."""

    recipe_hash: str
    node_id: str = ""
    """Empty: wherever it lies."""


class EvictionAsked(msgspec.Struct, frozen=True):
    """Somebody wants a base off a node; it waits for its turn."""

    request_id: str
    recipe_hash: str
    node_id: str


class Eviction(msgspec.Struct, frozen=True):
    """The one eviction that is under way."""

    node_id: str
    session: str
    """Of the node; in a new one the grant is void."""
    artifact_id: str
    asked: EvictionAsked | None = None
    """Who waits for it; None where the node asked."""
    since_s: float = 0.0


@dataclass(slots=True)
class Copies:
    directory: Directory = field(default_factory=Directory)
    rates: Rates = field(default_factory=Rates)
    pins: set[Pin] = field(default_factory=set)
    #: artifact id → the recipes whose base it is, in their present generation
    base_of: dict[str, set[str]] = field(default_factory=dict)
    #: results, code and data of jobs that are known: nothing else could take their place
    needed: set[str] = field(default_factory=set)
    #: recipe hash → since when its jobs wait for busy nodes that hold it (lease clock)
    held_back_s: dict[str, float] = field(default_factory=dict)
    #: (node, artifact) that sent something corrupt: asked last, until the node's next hello
    suspects: set[tuple[str, str]] = field(default_factory=set)
    eviction: Eviction | None = None
    evictions_asked: deque[EvictionAsked] = field(default_factory=deque)
    #: nodes that asked for room, who waits longest first
    want_room: dict[str, None] = field(default_factory=dict)
    #: recipe hash → on how many nodes somebody wants it
    warm_asked: dict[str, int] = field(default_factory=dict)
    #: (node, artifact) → when it may be prefetched there again (lease clock)
    prefetch_again_s: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn_base(self, recipe_hash: str, former: str | None, present: str | None) -> None:
        """A base is another artifact than before, or none."""
        if former is not None and former != present:
            recipes = self.base_of.get(former, set())
            recipes.discard(recipe_hash)
            if not recipes:
                self.base_of.pop(former, None)
        if present is not None:
            self.base_of.setdefault(present, set()).add(recipe_hash)

    def is_pinned(self, artifact_id: str, node_id: str) -> bool:
        """Whether an artifact is a base that stays on a node whatever comes."""
        return any(
            Pin(recipe_hash, node_id) in self.pins or Pin(recipe_hash) in self.pins
            for recipe_hash in self.base_of.get(artifact_id, ())
        )

    def pinned_at(self, recipe_hash: str) -> tuple[str, ...]:
        """The nodes that a base is pinned to; "" stands for all."""
        return tuple(sorted(pin.node_id for pin in self.pins if pin.recipe_hash == recipe_hash))


def given_with(work: Work) -> set[str]:
    """The code and the data sets that came with a job."""
    found = {artifact_id for artifact_id, _ in datasets_of(work)}
    if isinstance(work, CommandWork) and work.code is not None:
        found.add(work.code)
    return found
