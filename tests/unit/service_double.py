"""The service over a master without disks and nodes, on a real server on loopback."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import msgspec
from master_double import WALL_S, MasterDouble
from member_keys import MASTER

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.changes import Note
from meshtrain.core.rows import node_row
from meshtrain.net.base import TransportCounts
from meshtrain.security.read_tokens import Readers
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.tls import pinned_context
from meshtrain.wire.exposition import SHORT_S, Histogram
from meshtrain_daemon.master.api import Api
from meshtrain_daemon.master.metrics import MasterMetrics
from meshtrain_daemon.master.node_metrics import NodeMetrics
from meshtrain_daemon.master.published_counts import PublishedCounts
from meshtrain_daemon.master.service import READ_PATHS, Service


class DecisionsDouble:
    """What the service looks at of the loop of decisions."""

    def __init__(self) -> None:
        self.full: Exception | None = None
        self.events: Counter[str] = Counter({"Tick": 3})
        self.times = Histogram(SHORT_S)
        self.held: list[Callable[[], None]] | None = None
        """Answers that wait for the disk; None lets them through at once."""

    def afterwards(self, answer: Callable[[], None]) -> None:
        if self.held is None:
            answer()
        else:
            self.held.append(answer)


class ServiceDouble:
    """The master double behind its HTTP server."""

    def __init__(self, folder: Path, security: HttpSecurity | None = None) -> None:
        self.master = MasterDouble()
        self.decisions = DecisionsDouble()
        self.feed = PublishedCounts()
        self.readers = Readers(folder / "read_tokens.json")
        self.service = Service()
        self.nodes = NodeMetrics(self.master.state.nodes, security)
        self.server = ArtifactServer(
            ArtifactStore(folder / "artifacts"),
            "127.0.0.1",
            security=security,
            readers=self.readers if security is not None else None,
            read_paths=READ_PATHS,
        )
        self.service.add_to(self.server.app)
        self.metrics = MasterMetrics(
            state=self.master.state,
            decisions=cast(Any, self.decisions),
            writer=cast(Any, SimpleNamespace(times=Histogram(SHORT_S))),
            feed=self.feed,
            sockets=cast(Any, SimpleNamespace(counts=TransportCounts(), subscribers=0)),
            stream_bytes=Counter(),
            notified=Counter(),
            notices_waiting=lambda: 0,
            home=folder,
            started_wall_s=WALL_S,
        )
        self.api = Api(
            state=self.master.state,
            surroundings=self.master,
            afterwards=self.decisions.afterwards,
            notes=lambda: self.feed.notes,
        )
        self._tls: Any = pinned_context(MASTER.member.cert_sha256) if security else None
        self.url = ""
        self.session: aiohttp.ClientSession

    @asynccontextmanager
    async def running(self, *, up: bool = True) -> AsyncIterator[ServiceDouble]:
        self.url = await self.server.start()
        await self.nodes.start()
        if up:
            self.open()
        async with aiohttp.ClientSession() as self.session:
            try:
                yield self
            finally:
                await self.nodes.close()
                await self.server.stop()

    def open(self) -> None:
        self.service.open(self.metrics, cast(Any, self.decisions), self.api, self.nodes)

    def publish_nodes(self) -> None:
        self.feed.take([node_row(self.master.state, one) for one in self.master.state.nodes])

    def note(self, text: str) -> None:
        self.feed.take((Note(WALL_S + len(self.feed.notes), text),))

    async def get(
        self, target: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, bytes]:
        async with asyncio.timeout(30):
            async with self.session.request(
                method, self.url + target, headers=headers, ssl=self._tls or True
            ) as response:
                return response.status, await response.read()

    async def json(self, target: str, status: int = 200) -> Any:
        got, body = await self.get(target)
        assert got == status, body
        return msgspec.json.decode(body)

    async def text(self, target: str) -> str:
        status, body = await self.get(target)
        assert status == 200, body
        return body.decode()
