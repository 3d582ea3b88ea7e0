"""What travels between hosts: sums by who sent it to whom, and how they went over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from meshtrain.core.changes import NodeRow, TransferRow
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.view import MeshView

WINDOW_S = 60.0
"""What is called the rate now is the mean over this time."""
SPARKS = "▁▂▃▄▅▆▇█"


class Flow(msgspec.Struct, frozen=True):
    """All that one host sent to another."""

    from_node: str
    to_node: str
    size_bytes: int = 0
    transfers: int = 0
    busy_s: float = 0.0
    """How long the transfers took that it had a part in, added up."""
    recent_bytes: float = 0.0
    """Within the window."""

    @property
    def rate_bytes_s(self) -> float | None:
        """While it sent; None where no time is known."""
        return self.size_bytes / self.busy_s if self.busy_s > 0 else None


class HostTraffic(msgspec.Struct, frozen=True):
    """What one host sent and got within the window, in bytes a second."""

    sent_bytes_s: float = 0.0
    got_bytes_s: float = 0.0
    total_bytes: int = 0
    """Ever, both ways."""


def part_within(transfer: TransferRow, begin_s: float, end_s: float) -> float:
    """The share of a transfer that fell between two times, if it went evenly; 0 to 1."""
    if not transfer.wall_s:
        return 0.0
    started_s = transfer.wall_s - transfer.duration_s
    if transfer.duration_s <= 0:
        return 1.0 if begin_s <= transfer.wall_s <= end_s else 0.0
    common_s = min(end_s, transfer.wall_s) - max(begin_s, started_s)
    return min(max(common_s / transfer.duration_s, 0.0), 1.0)


def flows_of(transfers: Iterable[TransferRow], now_wall_s: float) -> list[Flow]:
    """Who sent to whom: those that did lately first, then by size."""
    #: by (from, to): bytes, transfers, seconds, recent bytes
    sums: dict[tuple[str, str], list[float]] = {}
    for transfer in transfers:
        recent = part_within(transfer, now_wall_s - WINDOW_S, now_wall_s)
        for from_node, size_bytes in transfer.bytes_by_node.items():
            added = sums.setdefault((from_node, transfer.to_node), [0, 0, 0.0, 0.0])
            added[0] += size_bytes
            added[1] += 1
            added[2] += transfer.duration_s
            added[3] += recent * size_bytes
    flows = [
        Flow(*pair, int(size_bytes), int(count), busy_s, recent_bytes)
        for pair, (size_bytes, count, busy_s, recent_bytes) in sums.items()
    ]
    return sorted(
        flows,
        key=lambda flow: (-flow.recent_bytes, -flow.size_bytes, flow.from_node, flow.to_node),
    )


class TrafficBook:
    """The flows of a picture, reckoned once for all who draw them."""

    def __init__(self) -> None:
        self._key: object = None
        self._flows: list[Flow] = []

    def flows(self, view: MeshView, wall_s: float) -> list[Flow]:
        """As `flows_of`, to the second."""
        # The sums are another object after each transfer.
        key = (id(view), id(view.moved), len(view.transfers), int(wall_s))
        if key != self._key:
            self._key, self._flows = key, flows_of(view.transfers, wall_s)
        return self._flows


def traffic_by_host(flows: Iterable[Flow]) -> dict[str, HostTraffic]:
    """The flows, added up by host."""
    hosts: dict[str, HostTraffic] = {}
    for flow in flows:
        rate = flow.recent_bytes / WINDOW_S
        sender = hosts.get(flow.from_node, HostTraffic())
        hosts[flow.from_node] = msgspec.structs.replace(
            sender,
            sent_bytes_s=sender.sent_bytes_s + rate,
            total_bytes=sender.total_bytes + flow.size_bytes,
        )
        receiver = hosts.get(flow.to_node, HostTraffic())
        hosts[flow.to_node] = msgspec.structs.replace(
            receiver,
            got_bytes_s=receiver.got_bytes_s + rate,
            total_bytes=receiver.total_bytes + flow.size_bytes,
        )
    return hosts


def rate_history(
    transfers: Sequence[TransferRow], now_wall_s: float, bins: int, bin_s: float
) -> list[float]:
    """Bytes a second between all hosts, in `bins` stretches of `bin_s` up to now."""
    begin_s = now_wall_s - bins * bin_s
    rates = [0.0] * bins
    for transfer in transfers:
        if transfer.wall_s < begin_s:
            continue
        total = sum(transfer.bytes_by_node.values())
        first = int(max(0.0, transfer.wall_s - transfer.duration_s - begin_s) // bin_s)
        last = int((transfer.wall_s - begin_s) // bin_s)
        for place in range(first, min(last, bins - 1) + 1):
            at_s = begin_s + place * bin_s
            rates[place] += part_within(transfer, at_s, at_s + bin_s) * total / bin_s
    return rates


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, as high as its share of the largest."""
    largest = max(values, default=0.0)
    if largest <= 0:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[round(value / largest * (len(SPARKS) - 1))] for value in values)


def hosts_shown(nodes: Iterable[NodeRow], flows: Sequence[Flow], most: int) -> list[str]:
    """The hosts for a picture: the master, then by traffic, then by name; `most` at most."""
    traffic = traffic_by_host(flows)
    known = {node.node_id for node in nodes if node.connected} | set(traffic)
    known.discard(MASTER_NODE_ID)
    ranked = sorted(
        known,
        key=lambda node_id: (-(traffic[node_id].total_bytes if node_id in traffic else 0), node_id),
    )
    # In the picture they stand by name: a host keeps its place when others get busier.
    return [MASTER_NODE_ID, *sorted(ranked[: max(0, most - 1)])]
