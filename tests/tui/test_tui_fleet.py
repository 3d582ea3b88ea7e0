"""Several meshes side by side: a line for each, one of them shown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from recorded_double import node
from textual.pilot import Pilot
from tui_double import FakeMaster, FakeSource
from tui_rows import small_mesh

from meshtrain.core.changes import Note
from meshtrain.errors import UserError
from meshtrain.wire.messages import Drain
from meshtrain_tui.fleet import Fleet, Mesh
from meshtrain_tui.fleet_app import FleetTop
from meshtrain_tui.screens.jobs import Jobs
from meshtrain_tui.screens.meshes import Meshes
from meshtrain_tui.widgets.meshes_line import MeshesLine

ADDRESSES = ("lab:7470", "site:7470")


class Shown:
    """Two meshes under test."""

    def __init__(
        self,
        app: FleetTop,
        pilot: Pilot[None],
        sources: list[FakeSource],
        masters: list[FakeMaster],
    ) -> None:
        self.app = app
        self.pilot = pilot
        self.sources = sources
        self.masters = masters

    @property
    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    async def settle(self) -> None:
        for source in self.sources:
            await source.wait_taken()
        self.app.look()
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settle()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            for line in self.app.screen.query(MeshesLine):
                line.refresh()
            await self.settle()


@asynccontextmanager
async def two_meshes(size: tuple[int, int] = (100, 30)) -> AsyncIterator[Shown]:
    sources = [FakeSource(), FakeSource()]
    masters = [FakeMaster(source) for source in sources]
    meshes = [
        Mesh(address, lambda source=source: source, ask=master.ask, submit=master.submit)  # type: ignore[misc]
        for address, source, master in zip(ADDRESSES, sources, masters, strict=True)
    ]
    fleet = Fleet(meshes, now_s=lambda: sources[0].now_s)
    app = FleetTop(fleet, clocks=sources[0].clocks(), redraw_min_s=0)
    async with app.run_test(size=size) as pilot:
        shown = Shown(app, pilot, sources, masters)
        await shown.until(lambda: app.screen.query(MeshesLine))
        yield shown


async def test_each_mesh_has_its_line_and_one_is_shown() -> None:
    async with two_meshes() as shown:
        shown.sources[0].tell([*small_mesh(), Note(1.0, "lab news")], whole=True)
        shown.sources[1].tell([node("far1"), Note(1.0, "site news")], whole=True)
        await shown.until(lambda: "site:7470 ● 0/4 used" in shown.text)
        assert "[lab:7470 ● " in shown.text
        assert "✗1" in shown.text, "what failed is told of each"
        assert "lab news" in shown.text and "site news" not in shown.text
        await shown.press("backslash")
        await shown.until(lambda: "site news" in shown.text)
        assert "lab news" not in shown.text
        assert "[site:7470 ● " in shown.text
        assert "site:7470" in shown.text.splitlines()[0]
        shown.sources[1].tell([Note(2.0, "more of it")])
        await shown.until(lambda: "more of it" in shown.text)
        shown.sources[0].tell([Note(2.0, "unseen")])
        await shown.settle()
        assert "unseen" not in shown.text
        await shown.press("backslash")
        await shown.until(lambda: "unseen" in shown.text)


async def test_one_is_chosen_from_the_list() -> None:
    async with two_meshes() as shown:
        shown.sources[0].tell(small_mesh(), whole=True)
        shown.sources[1].trouble = "no master answers at site:7470"
        await shown.settle()
        await shown.press("M")
        assert isinstance(shown.app.screen, Meshes)
        assert "2 nodes · " in shown.text
        assert "1 failed" in shown.text
        assert "no master answers at site:7470" in shown.text
        await shown.press("down", "enter")
        await shown.until(lambda: "[site:7470 ○ away]" in shown.text)
        assert "no master answers at site:7470" in shown.text


async def test_what_is_done_and_asked_goes_to_the_mesh_that_is_shown(tmp_path: Path) -> None:
    async with two_meshes() as shown:
        for source in shown.sources:
            source.tell(small_mesh(), whole=True)
        await shown.settle()
        await shown.press("backslash")
        await shown.until(lambda: shown.app.address == "site:7470")
        await shown.app.ask(Drain("d", "gpu1", True))
        assert [len(master.acts()) for master in shown.masters] == [0, 1]
        await shown.app.fleet.submit(tmp_path / "a.yaml")
        assert [len(master.submitted) for master in shown.masters] == [0, 1]


async def test_a_screen_of_one_mesh_shows_no_row_of_another() -> None:
    async with two_meshes() as shown:
        shown.sources[0].tell(small_mesh(), whole=True)
        shown.sources[1].tell([node("far1")], whole=True)
        await shown.press("2")
        await shown.until(lambda: "fold=0" in shown.text)
        await shown.press("1", "backslash", "2")
        await shown.until(lambda: isinstance(shown.app.screen, Jobs))
        await shown.until(lambda: "[site:7470" in shown.text)
        assert "fold=0" not in shown.text
        await shown.press("backslash")
        await shown.until(lambda: "fold=0" in shown.text)


async def test_all_feeds_are_closed_at_the_end() -> None:
    async with two_meshes() as shown:
        sources = shown.sources
    assert all(source.closed for source in sources)


def test_meshes_are_named_once() -> None:
    meshes = [Mesh("a:1", FakeSource), Mesh("a:1", FakeSource)]
    with pytest.raises(UserError, match="a:1 is named twice"):
        Fleet(meshes)
    with pytest.raises(UserError, match="not 0"):
        Fleet([])
