"""`meshtrain top --web`: served to who has the token, to nobody else, and without the internet."""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import textual_serve
from aiohttp import WSMsgType

from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError, UserError
from meshtrain.security.keys import Identity
from meshtrain.security.tls import pinned_context, server_context
from meshtrain_tui import launch
from meshtrain_tui.launch import draws_in_browser, session_arguments
from meshtrain_tui.web import PAGE, WebView, serve, session_command
from meshtrain_tui.web_guard import TOKEN_FILE, web_token

TOKEN = "a-token-of-the-mesh-0123456789abcd"
SAYS_HELLO = (
    "import sys; out = sys.stdout.buffer; out.write(b'__GANGLION__\\n'); "
    "out.write(b'D' + (5).to_bytes(4, 'big') + b'hello'); out.flush(); sys.stdin.read(1)"
)
PROGRAM = [sys.executable, "-I", "-S", "-c", SAYS_HELLO]
"""Speaks as a dashboard does in a browser, and starts at once."""


class Served:
    """A web view on a port of its own, and a browser."""

    def __init__(self, view: WebView, port: int, browser: aiohttp.ClientSession) -> None:
        self.view = view
        self.port = port
        self.browser = browser
        self.scheme = "http"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    @property
    def origin(self) -> dict[str, str]:
        return {"Origin": self.url("")}

    async def status(self, path: str, **more: Any) -> int:
        async with self.browser.get(self.url(path), allow_redirects=False, **more) as response:
            return response.status

    async def text(self, path: str, **more: Any) -> str:
        async with self.browser.get(self.url(path), **more) as response:
            return await response.text()

    async def sign_in(self) -> None:
        assert await self.status(f"/?token={TOKEN}") == 303


@asynccontextmanager
async def served(
    sessions_max: int = 4, context: ssl.SSLContext | None = None, client: Any = None
) -> AsyncIterator[Served]:
    view = WebView(PROGRAM, "127.0.0.1", 0, TOKEN, context=context, sessions_max=sessions_max)
    runner, port = await view.start()
    jar = aiohttp.CookieJar(unsafe=True)
    connector = aiohttp.TCPConnector(ssl=client) if client is not None else None
    async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as browser:
        try:
            yield Served(view, port, browser)
        finally:
            await runner.cleanup()


PATHS = ["/", "/ws", "/static/js/textual.js", "/page/page.js", "/download/abc", "/static/", "/x"]


@pytest.mark.parametrize("path", PATHS)
async def test_without_the_token_nothing_is_served(path: str) -> None:
    """P10."""
    async with served() as web:
        assert await web.status(path) == 401
        assert await web.status(path, headers={"Cookie": f"meshtrain-{web.port}=guess"}) == 401
        assert "`meshtrain top --web` printed" in await web.text(path)


async def test_a_wrong_token_is_refused_and_guesses_are_few() -> None:
    """P10."""
    async with served() as web:
        wrong = ["", "guess", TOKEN[:-1], TOKEN + "x", "é"]
        assert {await web.status("/", params={"token": guess}) for guess in wrong} == {403}
        assert not web.browser.cookie_jar.filter_cookies(web.url("/"))  # type: ignore[arg-type]
        statuses = [await web.status("/", params={"token": f"g{n}"}) for n in range(60)]
        assert 429 in statuses
        # A token of elsewhere in the path opens nothing.
        assert await web.status(f"/static/js/textual.js?token={TOKEN}") == 401


async def answered(web: Served, request: bytes) -> bytes:
    """The first line of what is answered to bytes that no library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.readline()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("line", "cookie", "host", "status"),
    [
        (b"/", b"\xff\xfe", b"127.0.0.1", b"401"),
        (b"/?token=%ff", b"", b"127.0.0.1", b"403"),
        (b"/?token=%ED%A0%80", b"", b"127.0.0.1", b"403"),
        (b"/", b"", b"[", b"403"),
        (b"/", b"", b"[evil", b"403"),
        (b"/", b"", b"\xff", b"403"),
    ],
)
async def test_what_is_no_text_is_refused_like_any_other_guess(
    line: bytes, cookie: bytes, host: bytes, status: bytes
) -> None:
    """P10, P11."""
    async with served() as web:
        name = f"meshtrain-{web.port}".encode()
        head = b"GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\n\r\n"
        told = await answered(web, head % (line, host, name, cookie))
        assert told.split()[1] == status, told


async def test_with_the_token_the_page_and_all_that_it_needs_are_served() -> None:
    async with served() as web:
        await web.sign_in()
        page = await web.text("/")
        assert "token" not in page
        assert f"ws://127.0.0.1:{web.port}/ws" in page
        linked = re.findall(r'(?:href|src)="([^"]+)"', page)
        assert len(linked) >= 4
        for path in linked:
            assert await web.status(path) == 200, path
        sheet = await web.text("/page/page.css")
        fonts = re.findall(r'url\("([^"]+)"\)', sheet)
        assert fonts
        for path in fonts:
            assert await web.status(path) == 200, path
        assert await web.status("/static/") in (403, 404), "folders are not listed"
        assert await web.status("/static/../server.py") == 404
        assert await web.status("/page/..%2fweb.py") == 404


async def test_no_other_host_is_asked_for_anything() -> None:
    async with served() as web:
        await web.sign_in()
        async with web.browser.get(web.url("/")) as response:
            page = await response.text()
            policy = response.headers["Content-Security-Policy"]
    own = f"ws://127.0.0.1:{web.port}/ws"
    static = Path(str(textual_serve.__file__)).parent / "static"
    ours = [path.read_text() for path in PAGE.iterdir()]
    theirs = [path.read_text() for path in static.rglob("*") if path.suffix in (".css", ".js")]
    assert len(ours) == 3 and len(theirs) >= 2
    for text in [page.replace(own, ""), *ours]:
        assert not re.search(r"(?:https?:|wss?:)?//[a-z0-9]", text.replace("//W3C//", ""), re.I)
    for text in theirs:
        assert not re.search(r"""(?:import|url|fetch|src=)\(?\s*["']?https?://""", text)
    # What no page of ours asks for, the browser refuses too.
    assert "default-src 'none'" in policy
    assert not re.search(r"\*|https?:|wss?:|'unsafe-eval'", policy)


async def test_the_token_stays_in_no_address() -> None:
    async with served() as web:
        async with web.browser.get(web.url(f"/?token={TOKEN}")) as response:
            assert str(response.url) == web.url("/")
            assert response.headers["Referrer-Policy"] == "no-referrer"
        (cookie,) = web.browser.cookie_jar
        assert cookie["httponly"] and cookie["samesite"] == "Lax"
        assert TOKEN not in cookie.value


async def test_a_session_carries_what_the_dashboard_draws() -> None:
    async with served() as web:
        await web.sign_in()
        async with web.browser.ws_connect(web.url("/ws"), headers=web.origin) as socket:
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.BINARY, b"hello")
            await socket.send_json(["ping", 7])
            assert (await socket.receive_json()) == ["pong", 7]
            await socket.send_json(["stdin", "q"])


@pytest.mark.parametrize("sent", ["{", "7", "[]", '["stdin"]', '["resize", 3]', '["stdin", 7]'])
async def test_what_no_page_sends_ends_the_session_and_nothing_else(sent: str) -> None:
    """P11."""
    async with served() as web:
        await web.sign_in()
        async with web.browser.ws_connect(web.url("/ws"), headers=web.origin) as socket:
            await socket.receive()
            await socket.send_str(sent)
            assert (await socket.receive()).type is WSMsgType.CLOSE
        assert await web.status("/") == 200


@pytest.mark.parametrize("origin", ["", "http://evil.example", "null", "http://127.0.0.1:1"])
async def test_another_site_s_page_opens_no_session(origin: str) -> None:
    """P10: a browser sends its cookies for any page's web socket."""
    async with served() as web:
        await web.sign_in()
        headers = {"Origin": origin} if origin else {}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await web.browser.ws_connect(web.url("/ws"), headers=headers)
        assert refused.value.status == 403


async def test_another_name_for_this_host_is_refused() -> None:
    """P10: a name of somebody else's that leads here would make their page one of ours."""
    async with served() as web:
        await web.sign_in()
        assert await web.status("/", headers={"Host": f"evil.example:{web.port}"}) == 403
        assert await web.status("/", headers={"Host": f"localhost:{web.port}"}) == 200
        assert await web.status("/") == 200


async def test_more_sessions_than_this_host_bears_are_refused() -> None:
    async with served(sessions_max=1) as web:
        await web.sign_in()
        async with web.browser.ws_connect(web.url("/ws"), headers=web.origin) as socket:
            await socket.receive()
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await web.browser.ws_connect(web.url("/ws"), headers=web.origin)
            assert refused.value.status == 503
            await socket.send_json(["stdin", "q"])


async def test_off_loopback_tls_is_spoken_with_the_member_s_certificate(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "keys", "ada", MemberKind.PERSON)
    pinned = pinned_context(identity.member.cert_sha256)
    async with served(context=server_context(identity), client=pinned) as web:
        web.scheme = "https"
        assert await web.status("/") == 401
        await web.sign_in()
        assert f"wss://127.0.0.1:{web.port}/ws" in await web.text("/")
        (cookie,) = web.browser.cookie_jar
        assert cookie["secure"]
        assert web.view.address("gpu1") == f"https://gpu1:{web.port}/?token={TOKEN}"


def test_off_loopback_needs_a_mesh_with_keys() -> None:
    """P10: off loopback there is no unauthenticated mode."""
    with pytest.raises(SettingsError, match="loopback"):
        serve(["true"], TOKEN, host="192.0.2.1", port=0, standing=None, say=print)


async def test_a_port_that_is_taken_is_told() -> None:
    async with served() as web:
        other = WebView(PROGRAM, "127.0.0.1", web.port, TOKEN)
        with pytest.raises(SettingsError, match="--web-port"):
            await other.start()


def test_the_token_is_kept_for_its_owner_alone_and_can_be_renewed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    token = web_token(home)
    assert len(token) >= 32
    assert web_token(home) == token
    path = home / TOKEN_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    other = web_token(home, anew=True)
    assert other != token and web_token(home) == other
    path.write_text("short")
    with pytest.raises(SettingsError, match="--new-token"):
        web_token(home)
    path.chmod(0o644)
    with pytest.raises(SettingsError):
        web_token(home)
    path.chmod(0o600)
    assert web_token(home, anew=True) == web_token(home)


def test_a_session_shows_the_same_as_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = session_arguments(["a:1", "b:2"], Path("h"), None, Path("x.mesh"), readonly=True)
    assert given == [
        "--master=a:1",
        "--master=b:2",
        f"--home={tmp_path / 'h'}",
        f"--replay={tmp_path / 'x.mesh'}",
        "--readonly",
    ]
    assert session_command(given)[1:4] == ["-m", "meshtrain.cli", "top"]
    assert not draws_in_browser()
    monkeypatch.setenv("TEXTUAL_DRIVER", "textual.drivers.web_driver:WebDriver")
    assert draws_in_browser()
    with pytest.raises(UserError, match="leave --web out"):
        launch.serve_web([], host="127.0.0.1", port=0, home=tmp_path, new_token=False)


@pytest.mark.e2e
async def test_a_recording_is_drawn_in_a_browser() -> None:
    """The real dashboard, as a browser's session gets it."""
    recording = Path(__file__).parent / "batch_composition.jsonl"
    view = WebView(
        session_command([f"--replay={recording}"]), "127.0.0.1", 0, TOKEN, sessions_max=1
    )
    runner, port = await view.start()
    jar = aiohttp.CookieJar(unsafe=True)
    drawn = b""
    try:
        async with aiohttp.ClientSession(cookie_jar=jar) as browser:
            await browser.get(f"http://127.0.0.1:{port}/?token={TOKEN}")
            origin = {"Origin": f"http://127.0.0.1:{port}"}
            url = f"http://127.0.0.1:{port}/ws?width=100&height=30"
            async with asyncio.timeout(60), browser.ws_connect(url, headers=origin) as socket:
                while b"Overview" not in drawn or b"P pause" not in drawn:
                    message = await socket.receive()
                    assert message.type is WSMsgType.BINARY, message
                    drawn += message.data
                await socket.send_json(["stdin", "q"])
    finally:
        await runner.cleanup()
