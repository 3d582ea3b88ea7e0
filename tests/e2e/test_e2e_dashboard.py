"""The dashboard on a real mesh: what it shows, and what it does there."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from mesh import Mesh, NewMesh
from textual.pilot import Pilot

from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_feed import FeedClient
from meshtrain_tui.app import Top
from meshtrain_tui.screens.confirm import Confirm
from meshtrain_tui.standing_line import StandingLine
from meshtrain_tui.steering.submission import Submitter

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_bad_peers")]

SWEEP = f"""
name: few
command: {sys.executable} -c "import sys; sys.exit(int(sys.argv[1]) == 3)" {{fold}}
matrix: {{fold: [0, 1, 2, 3]}}
retries: 0
"""

MORE = f"""
name: more
code: code
command: {sys.executable} say.py {{seed}}
matrix: {{seed: [1, 2]}}
"""


class Shown:
    """What is on the screen, and a way to wait for it."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def text(self) -> str:
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(40):
                while not condition():
                    await self.pilot.pause(0.02)
        except TimeoutError:
            raise AssertionError(f"it never came to pass; on the screen:\n{self.text}") from None

    async def sees(self, words: str) -> None:
        await self.until(lambda: words in self.text)

    async def does(self, *keys: str) -> None:
        """Press keys that end in a question, and say yes."""
        await self.pilot.press(*keys)
        await self.until(lambda: isinstance(self.app.screen, Confirm))
        await self.pilot.press("y")


async def drive(mesh: Mesh) -> None:
    with StandingLine(partial(MasterClient, mesh.address, security=mesh.keys)) as line:
        app = Top(
            mesh.address,
            partial(FeedClient, mesh.address, brief=True, security=mesh.keys),
            ask=line.ask,
            submit=Submitter(mesh.address, mesh.home).submit,
        )
        await steer_all(app)


async def steer_all(app: Top) -> None:
    async with app.run_test(size=(120, 30)) as pilot:
        shown = Shown(app, pilot)
        await shown.sees("● live")
        await shown.sees(" 4/4 ")
        await shown.sees("1 failed: user error")

        # A page that the master filters, and a job of it that runs again.
        await pilot.press("2", "slash", *"fold=3", "enter")
        await shown.sees("1 of 4")
        await shown.sees("✗ failed")
        await shown.does("r")
        await shown.until(lambda: "1 job again in the queue" in _said(app))
        await shown.until(lambda: app.screen.is_current and "✗ failed" in shown.text)

        await pilot.press("6")
        await shown.sees("● ready")
        await shown.does("home", "d")
        await shown.sees("‖ drained")
        await pilot.press("u")
        await shown.until(lambda: "takes jobs again" in _said(app))
        await shown.until(lambda: "‖ drained" not in shown.text)

        await pilot.press("7")
        await shown.sees("node n1 joined")

        # A job file with a folder of code, chosen on the screen.
        await pilot.press("i")
        await shown.sees("more.yaml")
        await shown.does("end", "enter")
        await shown.until(lambda: "2 jobs, submitted" in _said(app))
        await pilot.press("2", "slash", *"more/", "enter")
        await shown.sees("2 of 6")
        await shown.until(lambda: shown.text.count("✓ succeeded") == 2)


def _said(app: Top) -> str:
    return "\n".join(note.message for note in app._notifications)


def test_what_is_pressed_in_the_dashboard_happens_in_the_mesh(
    new_mesh: NewMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files" / "code").mkdir(parents=True)
    (tmp_path / "files" / "code" / "say.py").write_text("print('said')\n")
    (tmp_path / "files" / "more.yaml").write_text(MORE)
    monkeypatch.chdir(tmp_path / "files")
    mesh = new_mesh(secure=True)
    mesh.start("n1", "n2")
    mesh.submit(SWEEP)
    asyncio.run(drive(mesh))
