"""Draws docs/images/top_web.png: the dashboard of the recorded run, in a browser.

python docs/make_web_image.py [CHROMIUM]

It serves `meshtrain top --web --replay` on a free port of this host, opens it in a
headless Chromium (by default the one on the PATH) that can reach no other host, and
asks that for a picture.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import aiohttp

from meshtrain_tui.web import WebView, session_command

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "docs" / "recording" / "run.jsonl"
PICTURE = ROOT / "docs" / "images" / "top_web.png"
SIZE = (1100, 640)
TYPED = ("J", "72%")
"""Goes to where three sweeps run, once enter is pressed."""
ENTER = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
LOOK_S = 0.2
DRAWN_S = 2.0
"""For the page to draw what has come."""


class Browser:
    """One page of a Chromium, over its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0

    async def ask(self, method: str, **parameters: object) -> dict[str, object]:
        """The result of one command."""
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        while True:
            answer = json.loads((await self._socket.receive()).data)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                result: dict[str, object] = answer["result"]
                return result

    async def value_of(self, expression: str) -> object:
        """What a piece of script comes to on the page."""
        result = await self.ask("Runtime.evaluate", expression=expression)
        answer = result["result"]
        assert isinstance(answer, dict)
        return answer.get("value")


async def draw(chromium: str) -> None:
    view = WebView(session_command([f"--replay={RECORDING}"]), "127.0.0.1", 0, "for-the-picture")
    runner, _ = await view.start()
    with tempfile.TemporaryDirectory() as profile:
        process = await asyncio.create_subprocess_exec(
            chromium,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            # Nothing but this host is reachable: the page must do without.
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            f"--window-size={SIZE[0]},{SIZE[1]}",
            f"--user-data-dir={profile}",
            "about:blank",
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(120):
                await _picture(process, view.address("127.0.0.1"))
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            await runner.cleanup()


async def _picture(process: asyncio.subprocess.Process, address: str) -> None:
    assert process.stderr is not None
    port = ""
    while not port:
        line = (await process.stderr.readline()).decode()
        if not line:
            raise SystemExit("the browser ended before it listened")
        port = line.partition("ws://127.0.0.1:")[2].partition("/")[0]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as response:
            (page, *_) = await response.json()
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            browser = Browser(socket)
            await browser.ask("Page.enable")
            # All of it is the page: a window's frame would take some off.
            await browser.ask(
                "Emulation.setDeviceMetricsOverride",
                width=SIZE[0],
                height=SIZE[1],
                deviceScaleFactor=1,
                mobile=False,
            )
            await browser.ask("Page.navigate", url=address)
            started = "document.body.classList.contains('-first-byte')"
            while not await browser.value_of(started):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(DRAWN_S)
            await browser.value_of("document.querySelector('textarea').focus()")
            for typed in TYPED:
                await browser.ask("Input.insertText", text=typed)
                await asyncio.sleep(DRAWN_S)
            await browser.ask("Input.dispatchKeyEvent", type="keyDown", **ENTER)
            await asyncio.sleep(DRAWN_S)
            asked = await browser.value_of(
                "performance.getEntriesByType('resource').map(entry => entry.name).join(' ')"
            )
            picture = await browser.ask("Page.captureScreenshot", format="png")
            PICTURE.write_bytes(base64.b64decode(str(picture["data"])))
            print(f"{PICTURE.relative_to(ROOT)}; the page asked for: {asked}")


if __name__ == "__main__":
    asyncio.run(draw(sys.argv[1] if len(sys.argv) > 1 else "chromium"))
