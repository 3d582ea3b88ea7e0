"""Ports for daemons that tests start, kill, and start again on the same ones."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no outgoing connection is given while they are free.

    A master that was killed needs its ports again, so they lie below those that
    the system hands out. Each process that runs tests beside others takes them from a
    part of its own: two of them would else find the same one free.
    """
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    below = int(told.read_text().split()[0]) if told.exists() else 32768
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    part = (below - 10_000) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = 10_000 + number * part
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(first, first + part)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
