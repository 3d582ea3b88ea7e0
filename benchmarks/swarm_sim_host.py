"""A host of the simulated swarm, and what hosts tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, auto

from swarm_sim_links import Flow, Request

from meshtrain.core.offers import Offers
from meshtrain.core.swarm import Swarm


class Told(IntEnum):
    """What a node hears of a peer."""

    CAME = auto()
    """A chunk, whole and verified."""
    HOLDS = auto()
    """What it shows, in place of all that it told before."""
    GAINED = auto()
    """What it shows besides."""
    ENDED = auto()
    """It will tell no more, since it has told of all chunks."""
    BUSY = auto()
    """Too many follow it."""
    FAILED = auto()
    """It is gone."""
    CORRUPT = auto()
    """A chunk that isn't what it should be."""
    LACKS = auto()
    """It has no such chunk."""


Message = tuple[Told, int, int, int]
"""What, from whom, which stream of news or chunk, and which chunks."""


@dataclass(slots=True)
class Reader:
    """One who follows a host."""

    stream: int
    told: int = 0
    told_once: bool = False


@dataclass(slots=True, eq=False)
class Host:
    """A holder, or a node that fetches; chunks are bits of a number."""

    number: int
    name: str
    have: int
    swarm: Swarm | None = None
    """The choices of a node that fetches."""
    offers: Offers | None = None
    """What a holder shows, which has all from the beginning."""
    gone: bool = False
    readers: dict[int, Reader] = field(default_factory=dict)
    """Node → how it follows."""
    told: int = 0
    """What all its readers were told, where it shows all that it has."""
    news_due: bool = False
    news_s: float = 0.0
    streams: dict[int, int] = field(default_factory=dict)
    """Peer → the number of the stream that it is followed by."""
    flows: dict[int, Flow] = field(default_factory=dict)
    """Peer → the connection that its chunks come over."""
    asked: dict[tuple[int, int], Request] = field(default_factory=dict)
    """(peer, chunk) → what is awaited."""
    inbox: list[Message] = field(default_factory=list)
    look_due: bool = False
    looked_s: float = -1.0
    wake_s: float = -1.0
