"""Where a message of a feed stands after the last one that was applied."""

from __future__ import annotations

from enum import Enum, auto

from meshtrain.wire.messages import ToDashboard


class Order(Enum):
    """Where a message of the feed stands after the last one applied."""

    OLD = auto()
    NEXT = auto()
    GAP = auto()


def order_of(feed: ToDashboard, incarnation: int, seq: int) -> Order:
    """Where `feed` stands when `seq` of `incarnation` was the last one applied."""
    if feed.incarnation != incarnation:
        return Order.OLD if feed.incarnation < incarnation else Order.GAP
    if feed.seq <= seq:
        return Order.OLD
    return Order.NEXT if feed.seq == seq + 1 else Order.GAP
