"""The Matrix, the Bases, the Transfers, a replay and two meshes, as pictures that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded_double import a_day, base, node, recorded
from test_tui_bases import open_bases
from test_tui_fleet import two_meshes
from test_tui_matrix import open_matrix
from test_tui_replay import replay_of
from test_tui_transfers import ARTIFACT, TRANSFERS
from tui_double import FakeSource, dashboard
from tui_rows import small_mesh
from tui_snapshot import check_snapshot, in_utc

SIZES = [(120, 36), (80, 24)]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with in_utc(monkeypatch):
        yield


@pytest.mark.parametrize("size", SIZES)
async def test_the_matrix(size: tuple[int, int]) -> None:
    async with dashboard(FakeSource(), size=size) as shown:
        await open_matrix(shown)
        await shown.press("right")
        check_snapshot(shown.app, f"matrix_{size[0]}x{size[1]}")


@pytest.mark.parametrize("size", SIZES)
async def test_the_bases(size: tuple[int, int]) -> None:
    async with dashboard(FakeSource(), size=size) as shown:
        await open_bases(shown)
        check_snapshot(shown.app, f"bases_{size[0]}x{size[1]}")


@pytest.mark.parametrize("size", SIZES)
async def test_the_transfers(size: tuple[int, int]) -> None:
    source = FakeSource()
    async with dashboard(source, size=size) as shown:
        known = base("51be" + "0" * 25 + "a90", artifact_id=ARTIFACT, size_bytes=2_000_000)
        nodes = [node(f"gpu{index}") for index in range(1, 7)]
        source.tell([known, *nodes, node("gpu4", fetching=(ARTIFACT,)), *TRANSFERS], whole=True)
        await shown.press("5")
        check_snapshot(shown.app, f"transfers_{size[0]}x{size[1]}")


async def test_a_replay(tmp_path: Path) -> None:
    path = tmp_path / "a.mesh"
    await recorded(path, a_day())
    async with replay_of(path, (80, 24)) as shown:
        await shown.press("J", *"100%", "enter")
        await shown.until(lambda: "b failed" in shown.text)
        check_snapshot(shown.app, "replay_80x24")


async def test_two_meshes() -> None:
    async with two_meshes((100, 30)) as shown:
        shown.sources[0].tell(small_mesh(), whole=True)
        shown.sources[1].tell([node("far1")], whole=True)
        await shown.until(lambda: "site:7470 ● 0/4 used" in shown.text)
        check_snapshot(shown.app, "two_meshes_100x30")
