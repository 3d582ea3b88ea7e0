"""What the daemons ask of a transport, its limits, and what it counts.

Delivery is at most once, and in order between two sides while their link
holds. What must arrive is repeated by whoever sent it: commands until they are
seen, ends until they are forgotten, bytes until they are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from meshtrain.errors import MeshtrainError
from meshtrain.wire.codec import BadMessageKind
from meshtrain.wire.messages import (
    BulkToMaster,
    BulkToNode,
    FromNode,
    ToDashboard,
    ToMaster,
    ToNode,
    ToPerson,
)

MIB = 1 << 20

ControlBatch = list[tuple[bytes, ToMaster]]
BulkBatch = list[tuple[bytes, BulkToMaster]]
TakeControl = Callable[[ControlBatch], None]
TakeBulk = Callable[[BulkBatch], None]


class MasterAwayError(MeshtrainError):
    """Raised when no master answers at the address given, or not in time."""


class NotAdmittedError(MasterAwayError):
    """Raised when the master doesn't admit our keys, or can't prove its own."""


class SocketLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a transport takes in and keeps. Both sides of a link use the same."""

    control_message_bytes_max: int = 8 * MIB
    bulk_message_bytes_max: int = 2 * MIB
    feed_message_bytes_max: int = 8 * MIB
    messages_per_send_max: int = 1024
    """Messages that travel together; more are split."""
    control_queued_max: int = 1000
    """Sends that wait for one slow peer; what comes on top is dropped and counted."""
    bulk_queued_max: int = 16
    """The same for bulk; times the bytes of a message, the memory that a link may take."""
    feed_queued_max: int = 1000
    """The same for one dashboard; it notices the gap and takes a new snapshot."""
    sends_per_turn_max: int = 256
    """Sends read from a socket before the event loop has its turn again."""
    bytes_per_turn_max: int = 4 * MIB
    """Bytes read from a socket before the event loop has its turn again."""
    reconnect_min_ms: int = 100
    reconnect_max_ms: int = 2000
    heartbeat_ms: int = 5000
    """Between the link's own pings, which find connections that died without a word."""
    heartbeat_timeout_ms: int = 15000


@dataclass(slots=True)
class TransportCounts:
    """What went through a transport, and what did not."""

    received: int = 0
    sent: int = 0
    published: int = 0
    refused: Counter[BadMessageKind] = field(default_factory=Counter)
    """Messages that came and could not be taken, by what was wrong with them."""
    dropped_full: int = 0
    """Messages not sent since the peer's queue was full."""
    dropped_gone: int = 0
    """Messages not sent since the peer is no longer connected."""
    not_admitted: int = 0
    """Links that came with a key of no member, each time they tried."""
    not_allowed: int = 0
    """Messages of those who may not send them: revoked since, or of the wrong kind."""
    unsendable: int = 0
    """Messages of ours that break a limit; the peer got Refused in their place."""


class MasterTransport(Protocol):
    """The master's end."""

    counts: TransportCounts

    @property
    def subscribers(self) -> int:
        """How many listen to the whole feed."""

    @property
    def brief_subscribers(self) -> int:
        """How many listen to the feed in brief."""

    def send_control(self, peer: bytes, messages: Sequence[ToNode | ToPerson]) -> bool:
        """Send without waiting; False when they were dropped."""

    def send_bulk(self, peer: bytes, messages: Sequence[BulkToNode]) -> bool:
        """Send without waiting; False when they were dropped."""

    def publish(self, feed: ToDashboard) -> bool:
        """Tell all who listen to this feed; False when nobody does."""

    def pause_bulk(self) -> None:
        """Read no more bulk, so that its senders come to a halt."""

    def resume_bulk(self) -> None:
        """Read bulk again."""

    def rebind(self) -> None:
        """Cut all links, so that only members come back; they do so by themselves."""

    def close(self) -> None:
        """Close at once; harmless when closed."""


class WorkerTransport(Protocol):
    """A node's end."""

    counts: TransportCounts

    def send(self, messages: Sequence[FromNode]) -> bool:
        """Send without waiting; False when they were dropped."""

    async def wait_connected(self) -> None:
        """Return once `send` may succeed."""

    def send_bulk(self, messages: Sequence[BulkToMaster]) -> bool:
        """Send without waiting; False when they must be offered again."""

    async def wait_bulk_writable(self) -> None:
        """Return once `send_bulk` may succeed."""

    def close(self) -> None:
        """Close at once; harmless when closed."""
