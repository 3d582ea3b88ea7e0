"""Screens, keys, the palette, help and themes of the dashboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.widgets import Input
from tui_double import Dashboard, FakeSource, dashboard
from tui_rows import job, small_mesh

from meshtrain.core.job import JobState
from meshtrain_tui.command import known_keys
from meshtrain_tui.keymap import keymap
from meshtrain_tui.palette import Palette
from meshtrain_tui.screens.events import Events
from meshtrain_tui.screens.help import Help
from meshtrain_tui.screens.jobs import Jobs
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.screens.nodes import Nodes
from meshtrain_tui.screens.notice import Notice
from meshtrain_tui.screens.overview import Overview
from meshtrain_tui.screens.registry import SCREENS
from meshtrain_tui.settings import Density, TopSettings
from meshtrain_tui.themes import CYCLE


def mesh() -> FakeSource:
    source = FakeSource()
    source.tell(small_mesh(), whole=True)
    return source


async def type_into_palette(shown: Dashboard, key: str, text: str) -> None:
    await shown.pilot.press(key)
    await shown.until(
        lambda: (
            isinstance(shown.app.screen, CommandPalette)
            and isinstance(shown.app.screen.focused, Input)
        )
    )
    await shown.pilot.press(*text)


async def test_number_keys_lead_to_every_screen() -> None:
    async with dashboard(mesh()) as shown:
        assert isinstance(shown.app.screen, Overview)
        for entry in SCREENS:
            await shown.press(entry.key)
            assert type(shown.app.screen) is entry.make
            assert f"[{entry.key} {entry.title}]" in shown.rows[1], "told without colour"
            assert len(shown.rows) == 24


async def test_each_screen_keeps_its_place() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "down", "down", "6", "2")
        assert isinstance(shown.app.screen, Jobs)
        assert shown.app.screen.table.cursor == 2


async def test_breadcrumbs_and_the_way_back() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("6", "enter")
        assert isinstance(shown.app.screen, Jobs)
        assert shown.rows[2].strip().startswith("Nodes › gpu1")
        assert "sweep/fold=0" in shown.text
        assert "sweep/fold=1" not in shown.text, "it waits, and is on no node"
        assert "/" not in shown.rows[2], "what it is a list of is no filter"
        await shown.press("slash", *"nothing", "escape")
        assert "sweep/fold=0" in shown.text
        assert "sweep/fold=1" not in shown.text, "esc takes the filter, not the node"
        await shown.press("escape")
        assert isinstance(shown.app.screen, Nodes)
        await shown.press("escape")
        assert isinstance(shown.app.screen, Nodes), "the first screen is not left"
        await shown.press("enter", "6")
        assert isinstance(shown.app.screen, Nodes), "its number leads to a screen's beginning"


async def test_a_click_on_a_tab_on_a_crumb_and_on_a_key() -> None:
    async with dashboard(mesh()) as shown:
        at = shown.rows[1].index("6 Nodes")
        await shown.pilot.click("TabLine", offset=(at, 0))
        await shown.settle()
        assert isinstance(shown.app.screen, Nodes)
        await shown.press("enter")
        assert isinstance(shown.app.screen, Jobs)
        await shown.pilot.click("CrumbsLine", offset=(2, 0))
        await shown.settle()
        assert isinstance(shown.app.screen, Nodes)
        at = shown.rows[-1].index("? help")
        await shown.pilot.click("KeyLine", offset=(at, 0))
        await shown.settle()
        assert isinstance(shown.app.screen, Help)


async def test_help_tells_of_the_present_screen() -> None:
    async with dashboard(mesh(), size=(100, 50)) as shown:
        await shown.press("6", "question_mark")
        assert "drained one takes no new jobs" in " ".join(shown.text.split())
        assert "drain or undrain" in shown.row(" d  ")
        assert "cancel" not in shown.text
        await shown.press("escape", "2", "question_mark")
        assert "retry" in shown.row(" r  ")
        assert "stale" not in shown.text
        await shown.press("question_mark")
        assert isinstance(shown.app.screen, Jobs)


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
async def test_the_palette_finds_screens_commands_and_sweeps(key: str) -> None:
    async with dashboard(mesh()) as shown:
        await type_into_palette(shown, key, "events")
        await shown.until(lambda: "Events" in "".join(shown.rows[3:]))
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: isinstance(shown.app.screen, Events))
        await type_into_palette(shown, key, "jobs of other-1a2b")
        await shown.until(lambda: "jobs of other-1a2b" in shown.text)
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: isinstance(shown.app.screen, Jobs))
        await shown.settle()
        assert shown.rows[2].strip().startswith("Events › other")
        assert "▶  one " in shown.text
        words = [line.words for line in Palette(shown.app.screen).lines()]
        assert len(words) == len(set(words)), "each thing once, however many keys it has"
        assert "cancel" in words and "up" not in words
        assert "fold=0" not in shown.text


async def test_the_palette_sorts_and_changes_the_theme() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        await type_into_palette(shown, "colon", "sort by state")
        await shown.until(lambda: "sort by state" in "".join(shown.rows[4:]))
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: isinstance(shown.app.screen, Jobs))
        await shown.settle()
        assert shown.app.screen.table.query_now.sort == "state"  # type: ignore[attr-defined]
        await type_into_palette(shown, "colon", "theme light")
        await shown.until(lambda: "theme light" in "".join(shown.rows[4:]))
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: shown.app.theme == "light")


async def test_the_command_that_does_the_same() -> None:
    async with dashboard(mesh()) as shown:
        expected = {
            "1": "meshtrain jobs sweep",
            "2": "meshtrain jobs",
            "6": "meshtrain nodes",
            "7": "meshtrain top",
        }
        for key, command in expected.items():
            await shown.press(key, "dollar_sign")
            assert isinstance(shown.app.screen, Notice)
            assert shown.app.screen.text == command
            await shown.press("c")
            assert shown.app.clipboard == command
            await shown.press("escape")
        await shown.press("2", "f", "f", "dollar_sign")
        assert shown.app.screen.text == "meshtrain jobs --state waiting"  # type: ignore[attr-defined]
        await shown.press("escape", "space", "dollar_sign")
        assert shown.app.screen.text == "meshtrain jobs other/one"  # type: ignore[attr-defined]


async def test_themes_go_round() -> None:
    async with dashboard(mesh()) as shown:
        seen = [shown.app.theme]
        for _ in CYCLE:
            await shown.press("T")
            seen.append(shown.app.theme)
        assert seen == [*CYCLE, CYCLE[0]]


@pytest.mark.parametrize("theme", CYCLE)
async def test_every_theme_says_the_same(theme: str) -> None:
    texts = []
    for name in (theme, CYCLE[0]):
        async with dashboard(mesh(), settings=TopSettings(theme=name)) as shown:
            assert shown.app.theme == name
            await shown.press("2")
            texts.append(shown.text)
    assert texts[0] == texts[1]


async def test_compact_and_wide() -> None:
    async with dashboard(mesh(), size=(140, 24)) as shown:
        await shown.press("2")
        assert "[2 Jobs]" in shown.rows[1]
        assert "CAME" not in shown.text
        await shown.press("z")
        assert shown.app.density is Density.WIDE
        assert "CAME" in shown.text
        await shown.press("z")
        assert shown.app.density is Density.COMPACT
        assert "[2 Jobs]" not in shown.text
        assert "PRIO" not in shown.text
        await shown.press("1")
        assert shown.app.screen.has_class("-compact"), "all screens are alike"


async def test_keys_can_be_changed() -> None:
    keys = keymap({"app.show_jobs": "F2, ctrl+j", "jobs.cancel": "ctrl+k"}, known_keys())
    async with dashboard(mesh(), keys=keys) as shown:
        await shown.press("2")
        assert isinstance(shown.app.screen, Overview), "the key of before does nothing"
        await shown.press("f2")
        assert isinstance(shown.app.screen, Jobs)
        assert "[f2 Jobs]" in shown.rows[1]
        assert "^k cancel" in shown.rows[-1]
        await shown.press("end", "c")
        assert shown.app.screen.is_current and isinstance(shown.app.screen, Jobs)


async def test_readonly_offers_nothing_that_changes_the_mesh() -> None:
    settings = TopSettings(readonly=True)
    async with dashboard(mesh(), settings=settings) as shown:
        for key, words in (("1", "cancel"), ("2", "cancel"), ("2", "retry"), ("6", "drain")):
            await shown.press(key)
            assert words not in shown.rows[-1]
        for screen, keys in (("1", "cri"), ("2", "crpi"), ("6", "di")):
            await shown.press(screen)
            for key in keys:
                await shown.press(key)
                assert isinstance(shown.app.screen, MeshScreen), f"{key} opened something"
        assert shown.master.asked == []
        await shown.press("1")
        await type_into_palette(shown, "colon", "cancel")
        await shown.until(lambda: "Nothing here is called “cancel”" in shown.text)


async def test_a_recording_is_readonly_by_itself() -> None:
    from meshtrain_tui.app import Top

    source = mesh()
    app = Top("a recording", lambda: source, clocks=source.clocks(), redraw_min_s=0)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("2")
        await pilot.pause()
        assert app.readonly


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (200, 60), (40, 12), (20, 5)])
async def test_every_screen_fits_every_terminal(size: tuple[int, int]) -> None:
    async with dashboard(mesh(), size=size) as shown:
        for entry in SCREENS:
            await shown.press(entry.key)
            assert len(shown.rows) == size[1]
            assert all(len(row) <= size[0] for row in shown.rows)


async def test_an_empty_mesh_says_what_to_do_on_every_screen() -> None:
    source = FakeSource()
    source.tell([], whole=True)
    async with dashboard(source, inbox="/srv/mesh/inbox") as shown:
        told = {
            "2": "No jobs yet: drop a file into /srv/mesh/inbox, or `meshtrain submit FILE`",
            "6": "No node yet: start one on each host with `meshtrain worker --master",
            "7": "Start something: meshtrain submit FILE",
        }
        for key, words in told.items():
            await shown.press(key)
            assert words in " ".join(shown.text.split())


async def test_what_is_stale_says_so_on_every_screen() -> None:
    source = mesh()
    async with dashboard(source) as shown:
        for entry in SCREENS:
            await shown.press(entry.key)
            body = shown.app.screen.query_one("#body")
            assert not body.has_class("stale")
            source.now_s += 3.1
            source.away = True
            await shown.settle()
            assert "stale since" in shown.rows[0]
            assert body.has_class("stale")
            assert body.styles.opacity < 1
            source.away = False
            source.beat()
            await shown.settle()
            assert "● live" in shown.rows[0]


async def test_a_picture_of_a_screen_that_is_not_shown_costs_nothing() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "1")
        asked = len(shown.source.asked)
        shown.source.now_s += 5
        shown.source.tell([job("late", JobState.WAITING)])
        await shown.settle()
        assert len(shown.source.asked) == asked
        await shown.press("2")
        assert "sweep/late" in shown.text


async def test_quit() -> None:
    source = mesh()
    async with dashboard(source) as shown:
        await shown.pilot.press("question_mark", "q")
    assert source.closed
    assert shown.app.return_code == 0


async def test_the_file_picker_and_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "notes.txt").write_text("no job file")
    (tmp_path / "deep" / "sweep.yaml").write_text(
        "name: sweep\ncommand: echo {seed}\nmatrix: {seed: [1, 2]}\n"
    )
    monkeypatch.chdir(tmp_path)
    async with dashboard(mesh()) as shown:
        await shown.pilot.press("i")
        await shown.until(lambda: "deep/" in shown.text)
        assert "notes.txt" not in shown.text
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: "sweep.yaml" in shown.text)
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: "Submit sweep from sweep.yaml?" in shown.text)
        assert "$ meshtrain submit" in shown.text
        await shown.pilot.press("y")
        await shown.until(lambda: shown.master.submitted)
        assert shown.master.submitted == [tmp_path / "deep" / "sweep.yaml"]
        await shown.until(lambda: "sweep-00000001: 4 jobs, submitted" in shown.said)
        await shown.pilot.press("u")
        await shown.until(lambda: "cancelled" in shown.said)

        await shown.pilot.press("i")
        await shown.until(lambda: "deep/" in shown.text)
        shown.app.screen.query_one(Input).focus()
        await shown.pilot.press("end", *"nowhere.yaml", "enter")
        await shown.until(lambda: "is not there" in " ".join(shown.text.split()))
        await shown.pilot.press("escape")
        await shown.until(lambda: isinstance(shown.app.screen, Overview))
        assert len(shown.master.submitted) == 1


async def test_a_job_file_with_problems_is_not_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.yaml").write_text("name: sweep\ncomand: echo\n")
    monkeypatch.chdir(tmp_path)
    async with dashboard(mesh()) as shown:
        await shown.pilot.press("i")
        await shown.until(lambda: "bad.yaml" in shown.text)
        await shown.pilot.press("down", "enter")
        await shown.until(lambda: isinstance(shown.app.screen, Notice))
        await shown.until(lambda: "comand" in shown.text)
        assert shown.master.submitted == []
