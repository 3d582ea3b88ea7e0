"""Every message of the mesh, each one typed and frozen.

Three sockets carry them:

    control   ROUTER on the master ← DEALER of nodes and of people's commands
    bulk      ROUTER on the master ← DEALER of nodes: the bytes of logs and metrics
    feed      XPUB on the master → SUB of dashboards, which take it whole or in brief

A message is a MessagePack map whose `type` names its class. One multipart
carries one or more of them, a frame each.
"""

from __future__ import annotations

from typing import Any

import msgspec

from meshtrain.core.changes import Change
from meshtrain.core.commands import Command
from meshtrain.core.events import LiveAttempt
from meshtrain.core.inventory import CacheUse, InventoryChange, RoomWanted
from meshtrain.core.job import Failure
from meshtrain.core.member import Members
from meshtrain.core.node import HostUse, NodeSpec
from meshtrain.core.pages import Page
from meshtrain.wire.fields import Count, Port, Seconds

# All that people ask is a message too, and has its name here.
from meshtrain.wire.requests import *  # noqa: F403
from meshtrain.wire.requests import FromPerson

PROTOCOL_VERSION = 1


# --- node → master, control -----------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first message of a node's session; all that it has, complete."""

    protocol: Count
    spec: NodeSpec
    session: str
    attempts: tuple[LiveAttempt, ...]
    holds: tuple[str, ...]
    grant: Count
    accepting: bool = True
    note: str = ""
    gpus_busy: tuple[int, ...] = ()
    members_version: Count = 0
    """As in a heartbeat."""
    sizes_bytes: tuple[Count, ...] = ()
    """Of each artifact in `holds`, in the same order."""
    inventory: Count = 0
    """The number of the last change of the session that `holds` takes in."""
    cache: CacheUse = CacheUse()


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A heartbeat; see core.events.NodeBeat."""

    session: str
    beat: Count
    sent_s: Seconds
    seen_seq: Count
    grant: Count
    attempts: tuple[LiveAttempt, ...]
    accepting: bool = True
    note: str = ""
    fetching: tuple[str, ...] = ()
    gpus_busy: tuple[int, ...] = ()
    members_version: Count = 0
    """The list of members that it has; an older one than the master's is sent anew."""
    first: Count = 1
    changes: tuple[InventoryChange, ...] = ()
    """What has changed of what it holds, and the master has not said to have."""
    cache: CacheUse = CacheUse()
    room: RoomWanted | None = None
    """What has to go, where more lies there than should, and what could."""
    use: HostUse | None = None
    """How busy the host is; None: as it was told last."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    session: str
    attempt_id: str
    epoch: Count


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """An attempt's end; see core.events.AttemptEnded. Repeated until it is forgotten.

    It carries the node's grant, so that a slot is filled again at once.
    """

    session: str
    attempt_id: str
    epoch: Count
    failure: Failure | None = None
    cancelled: bool = False
    handed_back: bool = False
    artifact_id: str | None = None
    size_bytes: Count = 0
    metrics: dict[str, float] = {}
    run_s: Seconds = 0.0
    grant: Count = 0
    seen_seq: Count = 0
    stream_bytes: dict[str, Count] = {}
    """The whole length of each stream whose bytes are not all stored yet."""
    checkpoint: str | None = None


class Holds(msgspec.Struct, frozen=True, tag="holds"):
    """Changes of a node's inventory, told at once; heartbeats repeat them.

    Where a fetch has ended, `bytes_by_node` tells what each source gave, `bytes_reused`
    what lay here already, and `banned` who sent something corrupt.
    """

    session: str
    first: Count
    """The number of the first change."""
    changes: tuple[InventoryChange, ...] = ()
    bytes_by_node: dict[str, Count] = {}
    duration_s: Seconds = 0.0
    cache: CacheUse | None = None
    room: RoomWanted | None = None
    bytes_reused: Count = 0
    banned: tuple[str, ...] = ()


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The node stops; it has handed back all that it had."""

    session: str


# --- master → node, control -----------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    asked: str
    """The session of the hello that it answers."""
    session: str
    """What that is called from now on: it names the master's life too."""
    incarnation: Count
    lease_s: Seconds
    heartbeat_s: Seconds
    now_s: Seconds
    """The master's lease clock, which the node's heartbeats refer to."""
    bulk_port: Port
    """Where the master takes the bytes of logs and metrics."""


class BeatAnswer(msgspec.Struct, frozen=True, tag="beat_answer"):
    session: str
    beat: Count
    now_s: Seconds
    inventory: Count = 0
    """The number of the last change of the node's inventory that the master has taken."""


class SayHello(msgspec.Struct, frozen=True, tag="say_hello"):
    """The master doesn't know the session: it was restarted, or took the node for gone."""


class Numbered(msgspec.Struct, frozen=True, tag="command"):
    """A command with its number; taken in order, each once."""

    session: str
    seq: Count
    command: Command


class MembersChanged(msgspec.Struct, frozen=True, tag="members"):
    """Who belongs to the mesh now; the node keeps it, also for when the master is away."""

    members: Members


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A message that could not be taken, and why; also for a wrong protocol version."""

    error: str


# --- node ↔ master, bulk ---------------------------------------------------------


class StreamBytes(msgspec.Struct, frozen=True, tag="stream"):
    """Bytes of an attempt's stream (`log` or `metrics`) from `offset` on."""

    attempt_id: str
    job_id: str
    stream: str
    offset: Count
    data: bytes


class StreamHole(msgspec.Struct, frozen=True, tag="hole"):
    """Bytes of a log that its node had no room to keep: from `offset` on, `size_bytes` of them.

    They are stored as zeros, after the marker that the node put before them, so
    that every byte after them keeps its offset.
    """

    attempt_id: str
    job_id: str
    stream: str
    offset: Count
    size_bytes: Count


class StreamStored(msgspec.Struct, frozen=True, tag="stored"):
    """All bytes of the stream below `offset` are on the master's disk."""

    attempt_id: str
    stream: str
    offset: Count


# --- master → people, control ----------------------------------------------------


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The answer to a request that acts. `error` is empty when it was done."""

    request_id: str
    error: str = ""
    done: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The answer to a query: plain data."""

    request_id: str
    error: str = ""
    rows: list[Any] = []
    total: Count = 0


class PageGiven(msgspec.Struct, frozen=True, tag="page"):
    """The answer to AskPage. It may have fewer rows than were asked for, so that it stays small."""

    request_id: str
    error: str = ""
    page: Page | None = None


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """The whole picture at a number of the feed; several parts, the last one marked.

    It was asked for by the query `snapshot`; where that named `brief`, the number is
    of the feed in brief, and of the jobs only those that run are there.
    """

    request_id: str
    incarnation: Count
    seq: Count
    changes: tuple[Change, ...]
    last: bool = True


# --- feed ------------------------------------------------------------------------


class Feed(msgspec.Struct, frozen=True, tag="feed"):
    """Changes number `seq` of this incarnation; an empty one is a beat."""

    incarnation: Count
    seq: Count
    changes: tuple[Change, ...] = ()


class Brief(msgspec.Struct, frozen=True, tag="brief"):
    """The same without jobs that don't run, gathered for a moment; with numbers of its own."""

    incarnation: Count
    seq: Count
    changes: tuple[Change, ...] = ()


FromNode = Hello | Beat | Started | Ended | Holds | Goodbye
ToNode = Welcome | BeatAnswer | SayHello | Numbered | MembersChanged | Refused
ToPerson = Done | Answer | PageGiven | Snapshot | Refused
BulkToMaster = StreamBytes | StreamHole
BulkToNode = StreamStored | Refused

ToMaster = FromNode | FromPerson
ToDashboard = Feed | Brief
Message = (
    FromNode
    | ToNode
    | FromPerson
    | ToPerson
    | StreamBytes
    | StreamHole
    | StreamStored
    | ToDashboard
)
