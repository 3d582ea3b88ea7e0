"""Each screen of a recorded run, as a picture that is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_tui_overview import recorded_until
from tui_double import WALL_S, FakeSource, dashboard
from tui_rows import job, node
from tui_snapshot import check_snapshot, in_utc

from meshtrain.core.changes import Change, SweepRow
from meshtrain.core.job import JobState
from meshtrain.core.node import GpuUse, HostUse
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks
from meshtrain_tui.settings import TopSettings
from meshtrain_tui.widgets.table import PageTable

SIZES = [(100, 30), (80, 24)]
SCREENS = {"overview": ["1"], "jobs": ["2"], "nodes": ["6"], "events": ["7"], "help": ["2", "?"]}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with in_utc(monkeypatch):
        yield


async def shot(name: str, keys: list[str], size: tuple[int, int], theme: str = "dark") -> None:
    replay = recorded_until(14)
    app = Top(
        "127.0.0.1:7470",
        lambda: replay,
        clocks=Clocks(replay.now_s, replay.now_s),
        redraw_min_s=0,
        settings=TopSettings(theme=theme),
    )
    async with app.run_test(size=size) as pilot:
        await replay.wait_played()
        for key in keys:
            await pilot.press(key)
        app.look()
        await pilot.pause()
        for table in app.screen.query(PageTable):
            while not table.pager.settled:
                await pilot.pause()
        await pilot.pause()
        check_snapshot(app, name)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("screen", SCREENS)
async def test_a_screen_looks_as_it_did(screen: str, size: tuple[int, int]) -> None:
    await shot(f"{screen}_{size[0]}x{size[1]}", SCREENS[screen], size)


@pytest.mark.parametrize("theme", ["light", "contrast"])
async def test_the_jobs_look_as_they_did_in_another_theme(theme: str) -> None:
    await shot(f"jobs_{theme}", ["2"], (80, 24), theme)


def thousand() -> Iterator[Change]:
    for index in range(1000):
        use = HostUse(
            None,
            0,
            tuple(
                GpuUse(gpu, 0.1 * (index % 11), index % 80 * 10**9, 80 * 10**9, 40 + index % 50)
                for gpu in range(8)
            ),
        )
        yield node(
            f"gpu{index}",
            gpus=("A100",) * 8,
            gpus_used=tuple(range(index % 9)),
            connected=index % 100 != 7,
            drained=index % 100 == 5,
            memory_bytes=512 * 10**9,
            version="0.1.0",
            use=use,
        )
    yield SweepRow("sweep", "sweep", 2000, 1, 0, submitted_wall_s=WALL_S)
    for index in range(2000):
        started = {"node_id": f"gpu{index}", "started_wall_s": WALL_S} if index < 1000 else {}
        state = JobState.RUNNING if index < 1000 else JobState.WAITING
        yield job(f"seed={index}", state, **started)


@pytest.mark.parametrize("screen", ["overview", "nodes", "jobs"])
async def test_a_thousand_nodes_look_as_they_did(screen: str) -> None:
    source = FakeSource()
    source.tell(list(thousand()), whole=True)
    async with dashboard(source, size=(100, 30)) as shown:
        await shown.press(*SCREENS[screen])
        check_snapshot(shown.app, f"{screen}_1000_nodes")


def test_a_picture_is_kept_of_every_screen() -> None:
    kept = {path.stem for path in (Path(__file__).parent / "snapshots").glob("*.svg")}
    ours = {f"{screen}_{width}x{height}" for screen in SCREENS for width, height in SIZES}
    crowded = {f"{screen}_1000_nodes" for screen in ("overview", "nodes", "jobs")}
    assert ours | crowded | {"jobs_light", "jobs_contrast"} <= kept
