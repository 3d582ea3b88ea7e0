"""What the master's HTTP server tells programs: its metrics, its health, and the JSON API.

    GET /metrics       Prometheus's text format
    GET /healthz       200 ready, 507 read-only with a full disk, 503 starting or stopping
    GET /api/v1/…      see the module api

The server's guard lets in who may read before anything here is asked. Without
keys the server is on loopback alone; then a name that a browser was made to
look up as loopback is refused, so that no web page reads what is meant for
this host's people.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from aiohttp import web

import meshtrain
from meshtrain.artifacts.answers import refuse
from meshtrain.clock import lease_now_s
from meshtrain.wire.exposition import CONTENT_TYPE
from meshtrain_daemon.master.api import Api
from meshtrain_daemon.master.api_description import API_PATH
from meshtrain_daemon.master.loops import Decisions
from meshtrain_daemon.master.metrics import MasterMetrics
from meshtrain_daemon.master.node_metrics import NodeMetrics

METRICS_PATH: Final = "/metrics"
HEALTH_PATH: Final = "/healthz"
NODES_PATH: Final = f"{METRICS_PATH}/nodes"
TARGETS_PATH: Final = f"{METRICS_PATH}/targets"
READ_PATHS: Final = (METRICS_PATH, HEALTH_PATH, API_PATH)
"""What a read token is good for, with all that lies below."""


class _Parts(NamedTuple):
    metrics: MasterMetrics
    decisions: Decisions
    api: Api
    nodes: NodeMetrics


class Service:
    """The routes, from before the master's parts are there until after they have gone.

    Who may ask is the affair of the server that they are added to.
    """

    def __init__(self) -> None:
        self._began_s = lease_now_s()
        self._parts: _Parts | None = None
        self._stopping = False

    def add_to(self, app: web.Application) -> None:
        """Adds the routes to a server's application, before it starts."""
        app.router.add_get(METRICS_PATH, self._get_metrics)
        app.router.add_get(f"{NODES_PATH}/{{name}}", self._get_node_metrics)
        app.router.add_get(TARGETS_PATH, self._get_targets)
        app.router.add_get(HEALTH_PATH, self._get_health)
        app.router.add_get(f"{API_PATH}/{{asked:.+}}", self._get_api)

    def open(
        self, metrics: MasterMetrics, decisions: Decisions, api: Api, nodes: NodeMetrics
    ) -> None:
        """The parts are there: answer from them."""
        self._parts = _Parts(metrics, decisions, api, nodes)

    def close(self) -> None:
        """The master stops."""
        self._stopping = True

    async def _get_metrics(self, request: web.Request) -> web.StreamResponse:
        if (parts := self._parts) is None:
            return _not_yet()
        return _exposed(await parts.metrics.text())

    async def _get_node_metrics(self, request: web.Request) -> web.StreamResponse:
        if (parts := self._parts) is None:
            return _not_yet()
        told = await parts.nodes.of(request.match_info["name"])
        return told if isinstance(told, web.Response) else _exposed(told)

    async def _get_targets(self, request: web.Request) -> web.StreamResponse:
        if (parts := self._parts) is None:
            return _not_yet()
        return _json(parts.nodes.targets(request.headers.get("Host", ""), NODES_PATH))

    async def _get_api(self, request: web.Request) -> web.StreamResponse:
        if (parts := self._parts) is None:
            return _not_yet()
        return await parts.api.answer(request)

    async def _get_health(self, request: web.Request) -> web.StreamResponse:
        status, code, why = "ready", 200, ""
        if self._stopping:
            status, code = "stopping", 503
        elif self._parts is None:
            status, code = "starting", 503
        elif (full := self._parts.decisions.full) is not None:
            status, code, why = "read-only", 507, str(full)
        told = {
            "status": status,
            "why": why,
            "version": meshtrain.__version__,
            "up_s": round(lease_now_s() - self._began_s, 3),
        }
        return _json(told, code)


def _not_yet() -> web.Response:
    return refuse(503, "the master is coming up. Ask again", {"Retry-After": "1"})


def _exposed(text: bytes) -> web.Response:
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


def _json(told: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(told),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
