"""Asks the mesh for `meshtrain doctor`: the master, the ports, the peers."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import msgspec

from meshtrain.cli.context import Cli, ask, ask_all
from meshtrain.cli.doctor_mesh import (
    ArchiveReading,
    MasterReading,
    PeerReading,
    PortReading,
    PortState,
)
from meshtrain.clock import wall_now_s
from meshtrain.errors import MeshtrainError
from meshtrain.security.way import find_way

CONNECT_TIMEOUT_S = 3.0
PEERS_MAX = 256
_AT_ONCE = 16


def master(cli: Cli, address: str) -> tuple[MasterReading, dict[str, Any], list[dict[str, Any]]]:
    """What the master says of itself, where it listens, and its nodes."""
    try:
        with cli.connect(find_way(address, cli.home_folder), cli.timeout_s) as link:
            # The first answer pays for the connection; the second one is timed.
            ask(link, "ports")
            began_s, asked_s = time.monotonic(), wall_now_s()
            row = ask(link, "ports").rows[0]
            round_trip_s = time.monotonic() - began_s
            nodes, _ = ask_all(link, "nodes", rows_max=PEERS_MAX)
    except MeshtrainError as error:
        return MasterReading(address, error=str(error)), {}, []
    now_s = row.get("now_s")
    ahead_s = None if now_s is None else now_s - (asked_s + round_trip_s / 2)
    reading = MasterReading(
        address,
        version=row["version"],
        protocol=row.get("protocol"),
        round_trip_s=round_trip_s,
        clock_ahead_s=ahead_s,
    )
    return reading, row, nodes


def archive(cli: Cli, address: str) -> ArchiveReading | None:
    """How the master's archive stands; None where it has none, or doesn't know of any."""
    try:
        with cli.connect(find_way(address, cli.home_folder), cli.timeout_s) as link:
            rows = ask(link, "archive").rows
    except MeshtrainError:
        # An older master has no such question.
        return None
    return msgspec.convert(rows[0], ArchiveReading) if rows else None


def far_ports(host: str, row: dict[str, Any]) -> list[PortReading]:
    """Whether the ports that a master names can be reached at its host."""
    wanted = [(name, row[name]) for name in ("control", "bulk", "feed", "http") if row.get(name)]
    return [PortReading(name, host, port, *_connect(host, port)) for name, port in wanted]


def own_ports(host: str, ports: Sequence[tuple[str, int]]) -> list[PortReading]:
    """Whether the ports of this host's daemon are taken, free, or can't be had at all."""
    readings = []
    for name, port in ports:
        state, reason = _connect(host, port)
        if state is not PortState.ANSWERS:
            state, reason = _bind(host, port)
        readings.append(PortReading(name, host, port, state, reason))
    return readings


def peers(nodes: Sequence[dict[str, Any]], own_name: str) -> tuple[list[PeerReading], int]:
    """Whether the connected nodes can be reached from here, and how many were not tried."""
    others = [node for node in nodes if node["connected"] and node["node_id"] != own_name]
    tried = others[:PEERS_MAX]
    with ThreadPoolExecutor(_AT_ONCE, "doctor") as threads:
        return list(threads.map(_peer, tried)), len(others) - len(tried)


def _peer(node: dict[str, Any]) -> PeerReading:
    url = str(node["spec"]["http_url"])
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        return PeerReading(node["node_id"], url, "no address that can be reached")
    state, reason = _connect(host, port)
    return PeerReading(node["node_id"], url, "" if state is PortState.ANSWERS else reason)


def _connect(host: str, port: int) -> tuple[PortState, str]:
    try:
        with socket.create_connection((host, port), CONNECT_TIMEOUT_S):
            return PortState.ANSWERS, ""
    except (OSError, UnicodeError) as error:
        return PortState.CLOSED, getattr(error, "strerror", None) or str(error)


def _bind(host: str, port: int) -> tuple[PortState, str]:
    """Takes the port for a moment, as the daemon would."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except (OSError, UnicodeError) as error:
        return PortState.REFUSED, getattr(error, "strerror", None) or str(error)
    return PortState.FREE, ""
