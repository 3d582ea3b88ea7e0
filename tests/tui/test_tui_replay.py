"""`meshtrain top --replay`: the screens of a recording, and the keys that steer time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from recorded_double import WALL_S, a_day, recorded
from test_tui_matrix import answered, few_shot
from textual.pilot import Pilot

from meshtrain.wire.messages import Answer
from meshtrain_tui.recording import Recording
from meshtrain_tui.replay import Player
from meshtrain_tui.replay_app import ReplayTop
from meshtrain_tui.screens.jump import Jump
from meshtrain_tui.widgets.player_line import PlayerLine
from meshtrain_tui.words import clock


class Shown:
    """A replay under test, on a clock of its own."""

    def __init__(self, app: ReplayTop, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        self.app.look()
        await self.pilot.pause()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.app.look()
            await self.pilot.pause()


@asynccontextmanager
async def replay_of(path: Path, size: tuple[int, int] = (100, 30)) -> AsyncIterator[Shown]:
    player = Player(Recording(path), real_now_s=lambda: 0.0)
    app = ReplayTop(player, "a.mesh", redraw_min_s=0)
    async with app.run_test(size=size) as pilot:
        shown = Shown(app, pilot)
        await shown.until(lambda: app.screen.query(PlayerLine))
        yield shown


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.mesh"
    row = answered(few_shot())
    answers = {("results", ("s1",)): Answer("", rows=[row], total=len(row["cells"]))}
    await recorded(path, a_day(), answers=answers)
    return path


@pytest.mark.parametrize("size", [(80, 24), (100, 30)])
async def test_steps_and_jumps_show_what_was_then(file: Path, size: tuple[int, int]) -> None:
    async with replay_of(file, size) as shown:
        assert "▶" in shown.text and "×1" in shown.text
        await shown.press("full_stop")
        await shown.until(lambda: "few_shot came" in shown.text)
        assert "‖" in shown.text
        assert clock(WALL_S + 10) in shown.text.splitlines()[0]
        await shown.press("comma")
        await shown.until(lambda: "few_shot came" not in shown.text)
        await shown.press("right_curly_bracket")
        await shown.until(lambda: "b failed" in shown.text)
        await shown.press("left_curly_bracket")
        await shown.until(lambda: "b failed" not in shown.text)
        await shown.press("P")
        assert shown.app.player.position.playing


async def test_a_time_is_asked_for_and_a_wrong_one_told(file: Path) -> None:
    async with replay_of(file) as shown:
        await shown.press("J", *"soon", "enter")
        assert isinstance(shown.app.screen, Jump)
        assert "no time: write 14:02" in shown.text
        await shown.press(*["backspace"] * 4, *"100%", "enter")
        await shown.until(lambda: "b failed" in shown.text)
        assert shown.app.player.position.at_end
        await shown.press("J", "escape")
        assert not isinstance(shown.app.screen, Jump)


async def test_speeds_are_told(file: Path) -> None:
    async with replay_of(file) as shown:
        await shown.press("greater_than_sign", "greater_than_sign")
        await shown.until(lambda: "×4" in shown.text)
        await shown.press("less_than_sign")
        assert shown.app.player.position.speed == 2


async def test_every_screen_is_steered_and_nothing_can_be_changed(file: Path) -> None:
    async with replay_of(file) as shown:
        for key in "1234567":
            await shown.press(key)
            await shown.until(lambda: shown.app.screen.query(PlayerLine))
        assert shown.app.readonly
        await shown.press("1", "J", *"100%", "enter", "2")
        await shown.until(lambda: "out of memory" in shown.text)
        await shown.press("c")
        assert "Cancel" not in shown.text


async def test_the_matrix_shows_the_results_that_were_recorded(file: Path) -> None:
    async with replay_of(file) as shown:
        await shown.press("3", "J", *"100%", "enter")
        await shown.until(lambda: "66.0 ± 0.5" in shown.text)


async def test_a_click_on_the_bar_goes_there(file: Path) -> None:
    async with replay_of(file) as shown:
        line = shown.app.screen.query_one(PlayerLine)
        y = line.region.y
        row = shown.text.splitlines()[y]
        assert await shown.pilot.click(offset=(row.index("▏") - 1, y))
        await shown.until(lambda: "b failed" in shown.text)
