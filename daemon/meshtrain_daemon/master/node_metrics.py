"""The metrics of nodes, asked for by the master: one token and one certificate for all of them.

A node serves its metrics to members, by signed requests, which Prometheus can't
make. The master can: it asks the node and passes the answer on. Prometheus
learns the nodes from a list in the form that its `http_sd_configs` reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp import web

from meshtrain.artifacts.answers import refuse
from meshtrain.artifacts.holder import Holder, HolderError, HttpTimeouts, new_session
from meshtrain.artifacts.peers import Peers
from meshtrain.core.node import Node
from meshtrain.security.signing import HttpSecurity
from meshtrain.spec.problems import shown

TIMEOUT_S: Final = 5.0
AT_ONCE_MAX: Final = 32
ANSWER_BYTES_MAX: Final = 1 << 20
PATH: Final = "/metrics"


class NodeMetrics:
    """Asks nodes for their metrics.

    Args:
        nodes: the scheduler's, only read.
        security: as whom the master asks; None where there are no keys.
    """

    def __init__(self, nodes: Mapping[str, Node], security: HttpSecurity | None) -> None:
        self._nodes = nodes
        self._peers = Peers(security) if security is not None else None
        self._timeouts = HttpTimeouts(connect_s=TIMEOUT_S, read_s=TIMEOUT_S, request_s=TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None
        self._at_once = 0

    async def start(self) -> None:
        """Makes ready to ask."""
        self._session = new_session(self._timeouts)

    async def close(self) -> None:
        """Asks no more."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def targets(self, host: str, path: str) -> list[dict[str, Any]]:
        """The nodes that are there, in the form of Prometheus's HTTP service discovery.

        Args:
            host: where the master was asked, as Prometheus is to ask it.
            path: below which it tells of each node.
        """
        return [
            {
                "targets": [host],
                "labels": {"__metrics_path__": f"{path}/{node_id}", "node": node_id},
            }
            for node_id, node in sorted(self._nodes.items())
            if node.connected
        ]

    async def of(self, node_id: str) -> bytes | web.Response:
        """The metrics of a node, as it tells them; or the answer that says why there are none."""
        node = self._nodes.get(node_id)
        if node is None:
            return refuse(404, f"no node is called {shown(node_id)}. List them: {PATH}/targets")
        if not node.connected:
            return refuse(502, f"{node_id} is away: its metrics come back with it")
        peer = self._peers.of(node_id) if self._peers is not None else None
        if self._session is None or (self._peers is not None and peer is None):
            return refuse(502, f"{node_id} can't be asked: it is no member any more")
        if self._at_once >= AT_ONCE_MAX:
            return refuse(503, "too many nodes are asked at a time", {"Retry-After": "1"})
        self._at_once += 1
        try:
            holder = Holder(self._session, node.spec.http_url, "", peer, self._timeouts)
            async with asyncio.timeout(TIMEOUT_S):
                return await holder.page(PATH, ANSWER_BYTES_MAX)
        except (HolderError, TimeoutError) as error:
            why = str(error) or "it did not answer in time"
            return refuse(502, f"{node_id} does not tell its metrics: {why}")
        finally:
            self._at_once -= 1
