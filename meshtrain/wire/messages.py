"""Every message of the mesh, each one typed and frozen.

Three sockets carry them:

    control   ROUTER on the master ← DEALER of nodes and of people's commands
    bulk      ROUTER on the master ← DEALER of nodes: the bytes of logs and metrics
    feed      XPUB on the master → SUB of dashboards

A message is a MessagePack map whose `type` names its class. One multipart
carries one or more of them, a frame each.
"""

from __future__ import annotations

from typing import Any

import msgspec

from meshtrain.core.commands import Command
from meshtrain.core.events import LiveAttempt
from meshtrain.core.job import Failure
from meshtrain.core.node import NodeSpec
from meshtrain.core.view import Change

PROTOCOL_VERSION = 1


# --- node → master, control -----------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first message of a node's session; all that it has, complete."""

    protocol: int
    spec: NodeSpec
    session: str
    attempts: tuple[LiveAttempt, ...]
    holds: tuple[str, ...]
    grant: int
    accepting: bool = True
    note: str = ""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A heartbeat; see core.events.NodeBeat."""

    session: str
    beat: int
    sent_s: float
    seen_seq: int
    grant: int
    attempts: tuple[LiveAttempt, ...]
    accepting: bool = True
    note: str = ""
    fetching: tuple[str, ...] = ()


class Started(msgspec.Struct, frozen=True, tag="started"):
    session: str
    attempt_id: str
    epoch: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """An attempt's end; see core.events.AttemptEnded. Repeated until it is forgotten.

    It carries the node's grant, so that a slot is filled again at once.
    """

    session: str
    attempt_id: str
    epoch: int
    failure: Failure | None = None
    cancelled: bool = False
    handed_back: bool = False
    artifact_id: str | None = None
    size_bytes: int = 0
    metrics: dict[str, float] = {}
    run_s: float = 0.0
    grant: int = 0
    seen_seq: int = 0


class Holds(msgspec.Struct, frozen=True, tag="holds"):
    """A change of a node's inventory; `transfer` tells how an artifact came."""

    session: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    bytes_by_node: dict[str, int] = {}
    duration_s: float = 0.0


class Goodbye(msgspec.Struct, frozen=True, tag="goodbye"):
    """The node stops; it has handed back all that it had."""

    session: str


# --- master → node, control -----------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    session: str
    incarnation: int
    lease_s: float
    heartbeat_s: float
    now_s: float
    """The master's lease clock, which the node's heartbeats refer to."""
    bulk_port: int
    """Where the master takes the bytes of logs and metrics."""


class BeatAnswer(msgspec.Struct, frozen=True, tag="beat_answer"):
    session: str
    beat: int
    now_s: float


class SayHello(msgspec.Struct, frozen=True, tag="say_hello"):
    """The master doesn't know the session: it was restarted, or took the node for gone."""


class Numbered(msgspec.Struct, frozen=True, tag="command"):
    """A command with its number; taken in order, each once."""

    session: str
    seq: int
    command: Command


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A message that could not be taken, and why; also for a wrong protocol version."""

    error: str


# --- node ↔ master, bulk ---------------------------------------------------------


class StreamBytes(msgspec.Struct, frozen=True, tag="stream"):
    """Bytes of an attempt's stream (`log` or `metrics`) from `offset` on."""

    attempt_id: str
    job_id: str
    stream: str
    offset: int
    data: bytes


class StreamStored(msgspec.Struct, frozen=True, tag="stored"):
    """All bytes of the stream below `offset` are on the master's disk."""

    attempt_id: str
    stream: str
    offset: int


# --- people ↔ master, control ----------------------------------------------------


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A job file, as it was written, and what only its sender can know of it."""

    request_id: str
    name: str
    """The file's name; its ending tells the format."""
    data: bytes
    code: dict[str, CodeDigests] = {}
    """Folder as written in the file → its snapshot, which the master holds already."""
    data_digests: dict[str, str] = {}
    bases_only: bool = False
    allow_pending: bool = False
    again: bool = False


class CodeDigests(msgspec.Struct, frozen=True):
    """A snapshot of code: its artifact, and the digest of each of its files."""

    artifact_id: str
    files: dict[str, str]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    request_id: str
    names: tuple[str, ...]
    """Sweeps or jobs, by name, by id, or by a name that ends in `*`."""


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    request_id: str
    names: tuple[str, ...]


class Reprioritise(msgspec.Struct, frozen=True, tag="reprioritise"):
    request_id: str
    names: tuple[str, ...]
    priority: int


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    request_id: str
    node_id: str
    drained: bool


class Rebuild(msgspec.Struct, frozen=True, tag="rebuild"):
    request_id: str
    recipe_hash: str


class Query(msgspec.Struct, frozen=True, tag="query"):
    """A question; `what` is one of the master's queries, see its queries module."""

    request_id: str
    what: str
    names: tuple[str, ...] = ()
    offset: int = 0
    limit: int = 1000


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
    total: int = 0


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """The whole picture at a number of the feed; several parts, the last one marked."""

    request_id: str
    incarnation: int
    seq: int
    changes: tuple[Change, ...]
    last: bool = True


# --- feed ------------------------------------------------------------------------


class Feed(msgspec.Struct, frozen=True, tag="feed"):
    """Changes number `seq` of this incarnation; an empty one is a beat."""

    incarnation: int
    seq: int
    changes: tuple[Change, ...] = ()


FromNode = Hello | Beat | Started | Ended | Holds | Goodbye
ToNode = Welcome | BeatAnswer | SayHello | Numbered | Refused
FromPerson = Submit | Cancel | Retry | Reprioritise | Drain | Rebuild | Query
ToPerson = Done | Answer | Snapshot | Refused
BulkToMaster = StreamBytes
BulkToNode = StreamStored | Refused

ToMaster = FromNode | FromPerson
Message = FromNode | ToNode | FromPerson | ToPerson | StreamBytes | StreamStored | Feed
