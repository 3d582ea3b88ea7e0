"""Long lists: filter, order, marks, and rows that come when they are seen."""

from __future__ import annotations

import pytest
from tui_double import WALL_S, Dashboard, FakeSource, dashboard
from tui_rows import job, many_jobs, node, small_mesh

from meshtrain.core.changes import Note, SweepRow
from meshtrain.core.job import JobState
from meshtrain_tui.screens.choose import Choose
from meshtrain_tui.screens.jobs import Jobs
from meshtrain_tui.settings import Density
from meshtrain_tui.widgets.columns import Column, fit
from meshtrain_tui.widgets.table import PageTable


def mesh() -> FakeSource:
    source = FakeSource()
    source.tell(small_mesh(), whole=True)
    return source


def table(shown: Dashboard) -> PageTable:
    return shown.app.screen.query_one(PageTable)


def listed(shown: Dashboard) -> list[str]:
    """The first column of the rows on the screen."""
    rows = [row for row in shown.rows[4:-1] if not row.startswith(" /")]
    return [row[3:].split("  ")[0] for row in rows if row[3:].strip()]


async def test_states_are_told_by_signs_and_words() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        assert "▶ running" in shown.row("fold=0")
        assert "· waiting" in shown.row("fold=1")
        assert "✗ failed" in shown.row("fold=2")
        assert "out of memory" in shown.row("fold=2")
        assert "✓ succeeded" in shown.row("fold=3")
        assert "1 min" in shown.row("fold=3")
        assert "- cancelled" in shown.row("fold=4")
        assert "○ assigned" in shown.row("fold=5")
        assert "40 s" in shown.row("fold=0")
        assert shown.rows[2].rstrip().endswith("7")


async def test_a_filter_is_typed_kept_inverted_recalled_and_taken_away() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "slash", *"fold=[01]")
        assert listed(shown) == ["sweep/fold=0", "sweep/fold=1"]
        await shown.press("enter")
        assert "/fold=[01]/ · 2 of 7" in shown.rows[2]
        await shown.press("escape")
        assert len(listed(shown)) == 7
        await shown.press("slash", "exclamation_mark", *"fold", "enter")
        assert listed(shown) == ["other/one"]
        assert "not /fold/" in shown.rows[2]
        await shown.press("escape", "slash", "up", "up")
        assert listed(shown) == ["sweep/fold=0", "sweep/fold=1"]
        await shown.press("down")
        assert listed(shown) == ["other/one"]
        await shown.press("escape")
        assert len(listed(shown)) == 7
        await shown.press("6", "slash", "up", "enter")
        assert "Nothing passes the filter" not in shown.text or "not /fold/" in shown.rows[2]


async def test_what_is_no_regular_expression_is_told_and_changes_nothing() -> None:
    async with dashboard(mesh(), size=(120, 24)) as shown:
        await shown.press("2", "slash", *"fold=[")
        assert "not a regular expression" in shown.text
        assert len(listed(shown)) >= 6
        await shown.press(*"1]")
        assert "not a regular expression" not in shown.text
        assert listed(shown) == ["sweep/fold=1"]


async def test_a_filter_that_lets_nothing_through_says_so() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "slash", *"nothing like it", "enter")
        assert "Nothing passes the filter: esc takes it away." in shown.text


async def test_sorted_by_a_column_from_the_keyboard_and_the_other_way_round() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "s")
        assert isinstance(shown.app.screen, Choose)
        assert "STATE" in shown.text
        await shown.press("enter")
        names = listed(shown)
        assert names == sorted(names)
        assert "JOB↑" in shown.rows[3]
        assert "by name ↑" in shown.rows[2]
        await shown.press("S")
        assert listed(shown) == names[::-1]
        assert "JOB↓" in shown.rows[3]
        await shown.press("s", "escape")
        assert listed(shown) == names[::-1]


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ("2", ["name", "state", "node", "took"]),
        ("6", ["name", "standing"]),
        ("7", ["time", "text"]),
    ],
)
async def test_every_column_sorts(key: str, columns: list[str]) -> None:
    async with dashboard(mesh(), size=(140, 30)) as shown:
        await shown.press(key)
        for name in columns:
            shown.app.screen.sort_by(name)  # type: ignore[attr-defined]
            await shown.settle()
            assert table(shown).pager.error == ""
            assert table(shown).pager.known
            assert f"by {name}" in shown.rows[2]


async def test_a_click_on_a_heading_sorts() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        at = shown.rows[3].index("STATE")
        await shown.pilot.click(PageTable, offset=(at, 0))
        await shown.settle()
        assert "STATE↑" in shown.rows[3]
        await shown.pilot.click(PageTable, offset=(at, 0))
        await shown.settle()
        assert "STATE↓" in shown.rows[3]


async def test_marks_are_signs_and_survive_a_filter() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "down", "space", "space")
        assert [row.name for row in table(shown).marked] == ["sweep/fold=0", "sweep/fold=1"]
        assert "✓" in shown.row("fold=0")[:3]
        assert "2 marked" in shown.rows[2]
        await shown.press("slash", *"fold=3", "enter", "space")
        assert "3 marked" in shown.rows[2]
        await shown.press("space")
        assert "2 marked" in shown.rows[2]
        await shown.press("escape")
        assert "marked" not in shown.rows[2], "first the marks"
        assert "fold=3" in shown.rows[2]
        await shown.press("escape")
        assert "fold=3" not in shown.rows[2], "then the filter"


async def test_all_that_the_filter_lets_through_is_marked() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "slash", *"fold=[0-2]", "enter", "ctrl+a")
        assert "3 marked" in shown.rows[2]


async def test_the_mouse_chooses_marks_and_opens() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("6")
        await shown.pilot.click(PageTable, offset=(5, 2))
        await shown.settle()
        assert table(shown).cursor == 1
        await shown.pilot.click(PageTable, offset=(5, 1), times=2)
        await shown.settle()
        assert isinstance(shown.app.screen, Jobs)
        await shown.press("2")
        await shown.pilot.click(PageTable, offset=(1, 3))
        await shown.settle()
        assert "1 marked" in shown.rows[2]


async def test_only_one_group_of_states() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "f")
        assert listed(shown) == ["sweep/fold=0", "sweep/fold=5"]
        assert "running · " in shown.rows[2]
        await shown.press("f", "f")
        assert listed(shown) == ["sweep/fold=2"]
        await shown.press("f", "f", "f")
        assert len(listed(shown)) == 7


async def test_the_cursor_stays_on_its_row_when_others_come() -> None:
    source = mesh()
    async with dashboard(source) as shown:
        await shown.press("2", "down", "down")
        chosen = table(shown).current
        source.now_s += 2
        source.tell([job("new", JobState.WAITING, submitted_wall_s=WALL_S + 50)])
        await shown.settle()
        assert listed(shown)[0] == "sweep/new"
        assert table(shown).current == chosen
        assert table(shown).cursor == 3


async def test_a_hundred_thousand_jobs_are_asked_for_as_they_are_seen() -> None:
    source = FakeSource()
    source.tell(list(many_jobs(100_000)), whole=True)
    async with dashboard(source) as shown:
        await shown.press("2")
        assert "100,000" in shown.rows[2]
        assert listed(shown)[0] == "sweep/seed=000000"
        asked = len(source.asked)
        assert asked <= 4
        await shown.press("end")
        assert "seed=099999" in shown.text
        assert table(shown).cursor == 99_999
        assert len(source.asked) <= asked + 4, "what lies between is not asked for"
        await shown.press("home", "pagedown")
        assert listed(shown)[0] != "sweep/seed=000000" or table(shown).cursor > 10
        assert len(table(shown).pager.rows()) <= 400


async def test_a_key_is_drawn_without_waiting_for_the_master() -> None:
    """However slow the master is, the cursor moves at once."""
    source = FakeSource()
    source.tell(list(many_jobs(1000)), whole=True)
    async with dashboard(source) as shown:
        await shown.press("2")
        source.away = True
        await shown.pilot.press("down", "down", "down")
        assert table(shown).cursor == 3
        assert shown.row("▶")[3:].startswith("sweep/seed=000003")


async def test_a_master_that_is_away_leaves_the_rows_and_says_why() -> None:
    source = mesh()
    async with dashboard(source, size=(120, 24)) as shown:
        await shown.press("2")
        source.away = True
        source.now_s += 2
        source.tell([job("new", JobState.WAITING)])
        await shown.settle()
        assert "sweep/fold=0" in shown.text
        assert "No newer rows: no master answers" in shown.text
        source.away = False
        source.now_s += 3
        source.beat()
        await shown.settle()
        assert "No newer rows" not in shown.text
        assert "sweep/new" in shown.text


async def test_nodes_tell_what_they_have_and_how_they_stand() -> None:
    source = FakeSource()
    source.tell(
        [
            node("gpu1", gpus=("A100", "A100", "T4"), gpus_used=(0,), memory_bytes=64_000_000_000),
            node("gpu2", drained=True),
            node("gpu3", connected=False),
            node("gpu4", accepting=False, note="disk full"),
            SweepRow("sweep", "sweep", 1, 0, 0),
            job("a", JobState.RUNNING, node_id="gpu1", started_wall_s=WALL_S),
        ],
        whole=True,
    )
    async with dashboard(source, size=(140, 24)) as shown:
        await shown.press("6")
        row = shown.row("gpu1")
        for words in ("● ready", "1/3 gpu", "2 × A100, 1 × T4", "64 GB", "sweep/a"):
            assert words in row
        assert "‖ drained" in shown.row("gpu2")
        assert "✗ away" in shown.row("gpu3")
        assert "■ full" in shown.row("gpu4")
        assert "disk full" in shown.row("gpu4")
        assert "1 node away" in shown.rows[2]


async def test_events_are_listed_the_latest_first() -> None:
    source = FakeSource()
    source.tell([Note(WALL_S + i, f"event {i}") for i in range(60)], whole=True)
    async with dashboard(source) as shown:
        await shown.press("7")
        assert "event 59" in shown.rows[4]
        await shown.press("end")
        assert "event 0" in shown.text
        await shown.press("slash", *"event 4.", "enter")
        assert "10 of 60" in shown.rows[2]


def test_columns_share_the_width() -> None:
    columns = [
        Column("a", "A", 10, lambda row, picture: "", flexible=True),
        Column("b", "B", 5, lambda row, picture: "", rank=2),
        Column("c", "C", 5, lambda row, picture: "", rank=1),
        Column("d", "D", 5, lambda row, picture: "", wide=True),
    ]

    def fitted(width: int, density: Density = Density.NORMAL) -> dict[str, int]:
        return {column.name: cells for column, cells in fit(columns, width, density)}

    assert fitted(40) == {"a": 26, "b": 5, "c": 5}
    assert fitted(20) == {"a": 13, "c": 5}
    assert fitted(5) == {"a": 10}
    assert fitted(40, Density.WIDE) == {"a": 19, "b": 5, "c": 5, "d": 5}
    assert fitted(40, Density.COMPACT) == {"a": 26, "b": 5, "c": 5}


async def test_what_is_cut_beside_a_scrollbar_says_so() -> None:
    source = FakeSource()
    words = "a reason that is far too long for the room that there is for it"
    rows = [job(f"seed={n}", JobState.FAILED, failure=words) for n in range(50)]
    source.tell([*small_mesh(), *rows], whole=True)
    async with dashboard(source) as shown:
        await shown.press("2")
        told = [row for row in shown.rows if "seed=" in row]
        assert len(told) > 10
        # The bar itself is the last cell of a line.
        assert all(row.ljust(80)[:79].rstrip().endswith("…") for row in told), shown.text


async def test_a_choice_shows_that_enter_takes_it() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "s")
        assert shown.rows[-1].split() == ["⏎", "choose", "esc", "back"]


async def test_help_breaks_its_lines_where_the_box_ends() -> None:
    async with dashboard(mesh(), size=(100, 40)) as shown:
        await shown.press("3", "question_mark")
        told = [row.split("│")[1].strip() for row in shown.rows if row.count("│") == 2]
        paragraph = told[: told.index("", 2)][2:]
        assert len(paragraph) > 2
        # The box is 74 wide inside: no line but the last ends long before.
        assert all(len(line) > 55 for line in paragraph[:-1]), paragraph
