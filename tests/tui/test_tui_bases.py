"""The Bases: the tree, its cursor, what is told of one, and pinning."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from recorded_double import CHILD, PARENT, base, job, node
from tui_double import WALL_S, Dashboard, FakeSource, dashboard

from meshtrain.core.changes import BaseRow, Change, SweepRow
from meshtrain.core.job import BaseState, JobState
from meshtrain.wire.messages import Answer, Pin, Query
from meshtrain_tui.lineage_tree import SweepUse, tree_of, uses_by_base
from meshtrain_tui.screens.bases import Bases, BaseTree
from meshtrain_tui.screens.jobs import Jobs

ALONE = "b04e" + "1" * 25 + "b17"
SWEEPS = [
    {"sweep_id": "s1", "name": "few_shot", "jobs": 32, "recipe_hashes": [PARENT, CHILD]},
    {"sweep_id": "s2", "name": "batch_composition", "jobs": 24, "recipe_hashes": [CHILD]},
    {"sweep_id": "s3", "name": "only_bases", "jobs": 0, "recipe_hashes": [ALONE]},
]


def history(recipe_hash: str) -> dict[str, Any]:
    return {
        "recipe_hash": recipe_hash,
        "parents": [{"recipe_hash": PARENT, "label": "cnn old"}] if recipe_hash == CHILD else [],
        "sweeps": [{"name": "few_shot", "succeeded": 3, "jobs": 12, "open": 9}],
        "children": [],
        "generations": [
            {
                "generation": 2,
                "state": "committed",
                "ended_wall_s": WALL_S,
                "trained_s": 4000.0,
                "jobs": 12,
                "metrics": {"accuracy": 0.8125},
                "failure": None,
            }
        ],
        "recipe": {"base": {"lr": 0.001}},
    }


def mesh() -> list[Change]:
    return [
        node("gpu1"),
        SweepRow("s1", "few_shot", 32, 2, 0, WALL_S),
        SweepRow("s2", "batch_composition", 24, 1, 0, WALL_S + 1),
        base(
            PARENT,
            label="cnn · p01 p02",
            artifact_id="ab" * 16,
            size_bytes=1_200_000,
            holders=("master", "gpu1"),
            durable=True,
            trained_s=4000.0,
            node_id="gpu1",
            pinned=("",),
        ),
        base(CHILD, label="cnn · p05", state=BaseState.NEEDED, waiting=12, parent=PARENT),
        base(ALONE, label="resnet101", artifact_id="cd" * 16, holders=("gpu1",)),
        *(job(f"j{index}", JobState.SUCCEEDED) for index in range(8)),
    ]


def answering(shown: Dashboard, asked: list[Query]) -> Callable[..., Awaitable[Any]]:
    given = shown.master.ask

    async def ask(message: Any, timeout_s: float | None = None) -> Any:
        if not isinstance(message, Query):
            return await given(message, timeout_s)
        asked.append(message)
        rows: list[Any] = SWEEPS if message.what == "sweeps" else [history(message.names[0])]
        return Answer(message.request_id, rows=rows, total=len(rows))

    return ask


async def open_bases(shown: Dashboard) -> list[Query]:
    asked: list[Query] = []
    shown.app._ask = answering(shown, asked)
    shown.source.tell(mesh(), whole=True)
    await shown.press("4")
    screen = shown.app.screen
    assert isinstance(screen, Bases)
    await shown.until(lambda: screen._history is not None)
    await shown.settle()
    return asked


def drawn(lines: list[Any]) -> list[str]:
    return [
        f"{line.stem}{line.use.name if line.use is not None else line.base.recipe_hash[:4]}"
        for line in lines
    ]


# --- the tree --------------------------------------------------------------------------


def test_bases_hang_on_what_they_continue_from_and_sweeps_on_bases() -> None:
    bases = {row.recipe_hash: row for row in mesh() if isinstance(row, BaseRow)}
    uses = uses_by_base(SWEEPS)
    assert drawn(tree_of(bases, uses)) == [
        "51be",
        "├─ 7f3a",
        "│  ├─ few_shot",
        "│  └─ batch_composition",
        "└─ few_shot",
        "b04e",
    ]
    folded = tree_of(bases, uses, {PARENT})
    assert drawn(folded) == ["51be", "b04e"]
    assert folded[0].folded and folded[0].below == 2


def test_no_base_is_left_out_or_told_twice_whatever_they_say_of_their_parents() -> None:
    ring = {name: base(name, parent=other) for name, other in (("a", "b"), ("b", "c"), ("c", "a"))}
    itself = {"d": base("d", parent="d"), "e": base("e", parent="gone")}
    every = ring | itself
    for folded in ((), ("a",), ("b", "d")):
        lines = tree_of(every, {}, folded)
        keys = [line.key for line in lines]
        assert len(keys) == len(set(keys))
    assert {line.key for line in tree_of(every, {})} == set(every)


def test_a_long_chain_is_a_deep_tree() -> None:
    chain = {str(n): base(str(n), parent=str(n - 1) if n else None) for n in range(60)}
    lines = tree_of(chain, {"59": [SweepUse("s", "last", 1)]})
    assert [line.key for line in lines[:3]] == ["0", "1", "2"]
    assert lines[-1].use is not None
    assert len(lines[-1].stem) == 3 * 60


# --- the screen ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (120, 30)])
async def test_the_tree_tells_who_holds_what_and_what_hangs_on_it(size: tuple[int, int]) -> None:
    async with dashboard(FakeSource(), size=size) as shown:
        await open_bases(shown)
        assert "1.2 MB on 2 hosts, pinned" in shown.row("▸● 51be…a90")
        assert "needed, 12 wait" in shown.row("├─ ·· 7f3a…c21")
        assert "◐ b04e…b17" in shown.text, "one host alone holds it"
        assert "8/32 on 2 bases" in shown.row("└─ few_shot")
        assert "2 of 3 bases trained" in shown.text
        for told in ("pinned   wherever it lies", "in 1 h 6 min on gpu1", "3 of 12 done, 9 to"):
            assert told in shown.text
        assert "accuracy 0.8125" in " ".join(shown.text.split())


async def test_the_cursor_tells_of_each_base_and_asks_for_each_once() -> None:
    async with dashboard(FakeSource(), size=(120, 30)) as shown:
        asked = await open_bases(shown)
        await shown.press("down")
        await shown.until(lambda: "51be…a90 cnn old" in shown.text)
        assert "12 wait on it, or run" in shown.text
        await shown.press("down", "down")
        for _ in range(3):
            await shown.settle()
        assert [query.names for query in asked if query.what == "base"] == [(PARENT,), (CHILD,)]
        assert len([query for query in asked if query.what == "sweeps"]) == 1
        await shown.press("$")
        assert f"meshtrain bases log {CHILD}" in shown.text


async def test_enter_folds_a_base_and_opens_a_sweep() -> None:
    async with dashboard(FakeSource(), size=(120, 30)) as shown:
        await open_bases(shown)
        await shown.press("enter")
        assert "+2" in shown.row("51be…a90  cnn")
        assert "few_shot  " not in shown.text
        await shown.press("enter", "down", "down", "enter")
        assert isinstance(shown.app.screen, Jobs)
        await shown.press("escape")
        assert isinstance(shown.app.screen, Bases)


async def test_p_asks_and_then_unpins_what_is_pinned() -> None:
    async with dashboard(FakeSource()) as shown:
        await open_bases(shown)
        await shown.press("p")
        assert "Unpin base 51be…a90" in shown.text
        await shown.press("y")
        await shown.until(shown.master.acts)
        (act,) = shown.master.acts()
        assert isinstance(act, Pin) and (act.recipe_hash, act.pinned) == (PARENT, False)


async def test_a_click_chooses_and_the_cursor_stays_with_its_base() -> None:
    async with dashboard(FakeSource(), size=(120, 30)) as shown:
        await open_bases(shown)
        row = next(i for i, text in enumerate(shown.rows) if "b04e…b17" in text)
        await shown.pilot.click(offset=(10, row))
        await shown.settle()
        assert "▸◐ b04e…b17" in shown.text
        shown.source.tell([base("0a" * 16, label="new", parent=PARENT)])
        await shown.settle()
        assert "▸◐ b04e…b17" in shown.text
        await shown.press("home")
        assert "▸● 51be…a90" in shown.text


async def test_without_bases_it_says_where_they_come_from() -> None:
    async with dashboard(FakeSource()) as shown:
        shown.source.tell([], whole=True)
        await shown.press("4")
        await shown.until(lambda: "a job file with a `base:` section asks for one" in shown.text)
        for key in ("enter", "p", "down", "end", "pagedown"):
            await shown.press(key)


async def test_a_master_that_is_away_leaves_what_the_picture_has() -> None:
    async with dashboard(FakeSource()) as shown:
        shown.master.away = True
        shown.source.tell(mesh(), whole=True)
        await shown.press("4")
        await shown.settle()
        assert "1.2 MB on 2 hosts" in shown.text
        assert "held by  master, gpu1" in shown.text


async def test_many_bases_scroll() -> None:
    async with dashboard(FakeSource(), size=(80, 24)) as shown:
        rows = [base(f"{index:032x}", label=f"cnn {index}") for index in range(300)]
        shown.source.tell(rows, whole=True)
        await shown.press("4", "end")
        assert "cnn 299" in shown.text
        tree = shown.app.screen.query_one(BaseTree)
        assert tree.line is not None and tree.line.base.label == "cnn 299"
        await shown.press("home", "pagedown")
        assert "cnn 0" in shown.text or "cnn 1" in shown.text
