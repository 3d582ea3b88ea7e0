"""Where an HTTP server listens: addresses, connections and headers within their limits."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from aiohttp import web

from meshtrain.errors import ArtifactError

CONNECTIONS_MAX = 512
"""Open at a time; more are closed unheard."""
IDLE_S = 75.0
"""A connection that asks nothing for so long is closed, one that never did too."""
_HANDSHAKE_S = 10.0
_BACKLOG = 100
"""As asyncio has it."""
_LINE_BYTES_MAX = 2048
_HEADERS_MAX = 64
_SHUTDOWN_S = 1.0
"""What requests under way get to end when the server stops."""
_LINGER_S = 1.0
"""How long a refused body is read on, so that its sender gets to see the refusal."""


class Listener:
    """Serves an application at one or more addresses.

    Args:
        app: what is served.
        connections_max: open at a time, over all addresses.
        idle_s: after which a silent connection is closed.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        connections_max: int = CONNECTIONS_MAX,
        idle_s: float = IDLE_S,
    ) -> None:
        self._connections_max = connections_max
        self._servers: list[asyncio.Server] = []
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
            lingering_time=_LINGER_S,
            keepalive_timeout=idle_s,
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_LINE_BYTES_MAX,
            max_headers=_HEADERS_MAX,
            # What a compressed body unpacks to has no limit.
            auto_decompress=False,
        )

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> str:
        """Binds an address and serves there; returns its base URL.

        Args:
            host: the address.
            port: 0 takes a free one.
            tls: in whose handshake each connection begins; None takes it as it is.

        Raises:
            ArtifactError: when the address can't be bound.
        """
        if self._runner.server is None:
            await self._runner.setup()
        try:
            where: dict[str, Any] = (
                {"sock": _dual_stack(port)} if host == "::" else {"host": host, "port": port}
            )
            server = await asyncio.get_running_loop().create_server(
                self._meet,
                **where,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_S if tls is not None else None,
            )
        except OSError as error:
            raise ArtifactError(
                f"artifacts can't be served on {host}:{port}: {error.strerror or error}. Set "
                "another address or port"
            ) from error
        self._servers.append(server)
        bound_port = server.sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if tls is None else 'https'}://{shown}:{bound_port}"

    async def close(self) -> None:
        """Stops to listen, and ends the connections; requests under way get a moment."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()

    def _meet(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= self._connections_max:
            return _Closed()
        return server()


def _dual_stack(port: int) -> socket.socket:
    """`::` is all addresses of a host, those of IPv4 too; asyncio would take it for IPv6 alone."""
    return socket.create_server(
        ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
    )


class _Closed(asyncio.Protocol):
    """Closes a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
