"""`meshtrain top --web`: the same dashboard in a browser.

Each browser's session is a `meshtrain top` of its own, whose screen textual-serve
carries over a web socket. All that the page needs comes from here: no other host is
asked, so it works with no internet.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import ssl
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp_jinja2
import jinja2
from aiohttp import WSCloseCode, web
from textual_serve.app_service import AppService
from textual_serve.server import Server

from meshtrain.errors import SettingsError
from meshtrain.security.loopback import is_any_address, permitted_address, require_loopback
from meshtrain.security.standing import Standing
from meshtrain.security.tls import server_context
from meshtrain_tui.web_guard import Guard

SESSIONS_MAX = 16
"""Each is a process of some 60 MB."""
MESSAGE_BYTES_MAX = 1 << 16
"""Of what a browser sends at once: keys, and what is pasted."""
STOP_S = 2.0
HEARTBEAT_S = 15.0
SIZE_MAX = 1000
PAGE = Path(str(files("meshtrain_tui"))) / "web_page"
_FONT_SIZES = (6, 40)


class WebView(Server):
    """Serves dashboards.

    Args:
        command: what each session runs, as words.
        host: the numeric address to bind.
        token: what a browser must show.
        context: for TLS; None serves in the clear, which is for loopback alone.
    """

    def __init__(
        self,
        command: Sequence[str],
        host: str,
        port: int,
        token: str,
        *,
        context: ssl.SSLContext | None = None,
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        super().__init__(shlex.join(command), host, port, title="meshtrain", templates_path=PAGE)
        self._token = token
        self._context = context
        self._sessions_max = sessions_max
        self._sessions = 0

    async def start(self) -> tuple[web.AppRunner, int]:
        """Listen; the runner, to be cleaned up, and the port.

        Raises SettingsError when the port can't be had.
        """
        # The guard names its cookie after the port, so the port comes first.
        sockets = await self._bind()
        self.port = int(sockets[0].getsockname()[1])
        runner = web.AppRunner(await self._make_app(), access_log=None, shutdown_timeout=STOP_S)
        await runner.setup()
        for bound in sockets:
            await web.SockSite(runner, bound, ssl_context=self._context).start()
        return runner, self.port

    def address(self, shown_host: str) -> str:
        """What a browser opens the first time."""
        scheme = "https" if self._context is not None else "http"
        host = f"[{shown_host}]" if ":" in shown_host else shown_host
        return f"{scheme}://{host}:{self.port}/?token={self._token}"

    async def _bind(self) -> list[Any]:
        import socket

        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self.host, self.port))
        except OSError as error:
            bound.close()
            raise SettingsError(
                f"the web view can't listen on {self.host}, port {self.port}: "
                f"{error.strerror or error}; give another with --web-port, or 0 for any"
            ) from error
        return [bound]

    async def _make_app(self) -> web.Application:
        guard = Guard(
            self._token,
            self.port,
            loopback=self._context is None,
            secure=self._context is not None,
        )
        # aiohttp takes any callable that is marked as a middleware of the new style.
        app = web.Application(middlewares=[guard.__call__])
        aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(self.templates_path))
        app.add_routes(
            [
                web.get("/", self.handle_index, name="index"),
                web.get("/ws", self.handle_websocket, name="websocket"),
                web.get("/download/{key}", self.handle_download, name="download"),
                web.static("/static", self.statics_path, name="static"),
                web.static("/page", PAGE, name="page"),
            ]
        )
        return app

    async def handle_index(self, request: web.Request) -> web.Response:
        """The page. Its addresses are those by which the browser came here."""
        size = request.query.get("fontsize", "")
        least, most = _FONT_SIZES
        font_size = min(max(int(size), least), most) if size.isascii() and size.isdigit() else 16
        scheme = "wss" if self._context is not None else "ws"
        return aiohttp_jinja2.render_template(
            "app_index.html",
            request,
            {
                "application": {"name": self.title},
                "config": {"static": {"url": "/static/"}},
                "app_websocket_url": f"{scheme}://{request.host}/ws",
                "font_size": font_size,
            },
        )

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """One session; refused when there are as many as this host is to bear."""
        if self._sessions >= self._sessions_max:
            raise web.HTTPServiceUnavailable(
                text=f"{self._sessions_max} dashboards are open, which is the limit: close one.\n"
            )
        self._sessions += 1
        try:
            socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES_MAX)
            await socket.prepare(request)

            async def close() -> None:
                await socket.close()

            session = Session(
                self.command,
                write_bytes=socket.send_bytes,
                write_str=socket.send_str,
                close=close,
                download_manager=self.download_manager,
            )
            await session.start(_size(request, "width", 80), _size(request, "height", 24))
            try:
                await self._process_messages(socket, session)
            except _NONSENSE:
                # What no page of ours sends.
                await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
            finally:
                await session.stop()
            return socket
        finally:
            self._sessions -= 1


_NONSENSE = (ValueError, TypeError, LookupError, AssertionError, AttributeError)


def _size(request: web.Request, name: str, otherwise: int) -> int:
    """Columns or lines of a browser's window, as far as they make sense."""
    text = request.query.get(name, "")
    return min(max(int(text), 1), SIZE_MAX) if text.isascii() and text.isdigit() else otherwise


class Session(AppService):
    """One browser's dashboard, a process that ends with it."""

    async def stop(self) -> None:
        """Have the process end; in the worst case end it."""
        process = self._process
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().stop(), STOP_S)
        if process is None:
            return
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(
    command: Sequence[str],
    token: str,
    *,
    host: str,
    port: int,
    standing: Standing | None,
    say: Callable[[str], None],
) -> None:
    """Serve dashboards until this is told to end.

    Off loopback only a member of a mesh with keys may, and TLS is spoken with that
    member's own certificate: a token must not travel in the clear. Raises
    SettingsError where that isn't so, or the port can't be had.
    """
    context = None
    if _is_loopback(host):
        bound = require_loopback(host, "the web view")
    else:
        bound = permitted_address(host, "the web view", with_keys=standing is not None)
        assert standing is not None
        context = server_context(standing.identity)
    view = WebView(command, bound, port, token, context=context)
    asyncio.run(_serve(view, host, standing if context is not None else None, say))


def _is_loopback(host: str) -> bool:
    try:
        require_loopback(host, "the web view")
    except SettingsError:
        return False
    return True


async def _serve(
    view: WebView, host: str, standing: Standing | None, say: Callable[[str], None]
) -> None:
    import socket

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for end in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(end, ended.set)
    runner, _ = await view.start()
    try:
        say("The dashboard is at")
        say(f"  {view.address(socket.gethostname() if is_any_address(host) else host)}")
        if standing is not None:
            say(
                "The browser will ask whether to trust the certificate. Its SHA-256 is\n"
                f"  {standing.identity.member.cert_sha256}"
            )
        say("Whoever has this address can do what you can do. ctrl+c ends it.")
        await ended.wait()
    finally:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(runner.cleanup(), 2 * STOP_S)


def session_command(arguments: Sequence[str]) -> list[str]:
    """What a browser's session runs: this program's `top`, with the same options."""
    return [sys.executable, "-m", "meshtrain.cli", "top", *arguments]
