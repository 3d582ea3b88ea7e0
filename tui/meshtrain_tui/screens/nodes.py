"""The nodes: what each has, what of it is used, and what runs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content

from meshtrain.core.changes import NodeRow
from meshtrain.core.pages import Page, PageQuery, page_of, standing
from meshtrain_tui.feed import Picture
from meshtrain_tui.screens.list_screen import ListScreen
from meshtrain_tui.steering.action import command_of, drain
from meshtrain_tui.widgets.columns import Column
from meshtrain_tui.widgets.status import slots_of
from meshtrain_tui.widgets.use import load_of, memory_words, spark_cell, temperature_cell
from meshtrain_tui.words import bar, plural, size, tail

STANDING_SIGNS = {
    "ready": ("●", "$text-success"),
    "full": ("■", "$text-accent"),
    "drained": ("‖", "$text-warning"),
    "away": ("✗", "$text-error"),
}
"""A sign beside the word, so that the colour says nothing alone."""
BAR_WIDTH = 8


def standing_cell(row: NodeRow) -> Content:
    """How a node stands, as a sign and a word."""
    word = standing(row)
    sign, style = STANDING_SIGNS[word]
    return Content.styled(f"{sign} {word}", style)


def _slots(row: NodeRow, picture: Picture) -> Content:
    used, there = slots_of(row)
    kind = "gpu" if row.gpus else "cpu"
    share = used / there if there else 0.0
    return Content.assemble((bar(share, BAR_WIDTH), "$text-primary"), f" {used}/{there} {kind}")


def _load(row: NodeRow, picture: Picture) -> Content:
    load = load_of(picture.view, row)
    return spark_cell(load) if load is not None else Content("")


def _memory(row: NodeRow, picture: Picture) -> str:
    load = load_of(picture.view, row)
    return memory_words(load.used_bytes, load.memory_bytes) if load is not None else ""


def _temperature(row: NodeRow, picture: Picture) -> Content:
    load = load_of(picture.view, row)
    return temperature_cell(load) if load is not None else Content("")


def _models(row: NodeRow, picture: Picture) -> str:
    """`2 × A100, 1 × T4`: the GPUs by model."""
    counts: dict[str, int] = {}
    for model in row.gpus:
        counts[model] = counts.get(model, 0) + 1
    return ", ".join(f"{count} × {model}" for model, count in counts.items())


def _doing(row: NodeRow, picture: Picture) -> str:
    if row.note:
        return row.note
    jobs = picture.view.running_on(row.node_id)
    if not jobs:
        return ""
    more = f" +{len(jobs) - 1}" if len(jobs) > 1 else ""
    return f"{jobs[0].name}{more}"


def _cache(row: NodeRow, picture: Picture) -> str:
    if not row.cache_budget_bytes:
        return size(row.cache_used_bytes)
    return f"{size(row.cache_used_bytes)} of {size(row.cache_budget_bytes)}"


class Nodes(ListScreen):
    """The hosts that run jobs."""

    TITLE_WORDS = "Nodes"
    HELP = (
        "Every node that the master knows. A drained one takes no new jobs; one that is full "
        "has no free slot, or takes no jobs for the reason that its line tells. Enter shows "
        "what runs on a node."
    )
    CHANGES = frozenset({"drain"})
    MARKS = False
    KIND = "nodes"
    COLUMNS = (
        Column("name", "NODE", 12, lambda row, picture: row.node_id, flexible=True),
        Column("standing", "STATE", 9, lambda row, picture: standing_cell(row)),
        Column("gpus_used", "USED", 18, _slots),
        Column("", "LOAD", 13, _load, rank=2),
        Column("", "IN USE", 11, _memory, right=True, rank=3),
        Column("", "TEMP", 7, _temperature, right=True, rank=4),
        Column("gpus", "GPUS", 16, _models, rank=5),
        Column(
            "memory",
            "MEMORY",
            7,
            lambda row, picture: size(row.memory_bytes) if row.memory_bytes else "",
            right=True,
            rank=5,
        ),
        Column("cache", "CACHE", 16, _cache, right=True, rank=4, wide=True),
        Column(
            "disk_free",
            "FREE DISK",
            9,
            lambda row, picture: size(row.disk_free_bytes) if row.disk_free_bytes else "",
            right=True,
            rank=5,
            wide=True,
        ),
        Column("holds", "HOLDS", 5, lambda row, picture: str(row.holds), right=True, rank=6),
        Column("version", "VERSION", 8, lambda row, picture: row.version, rank=7, wide=True),
        Column("note", "RUNS", 14, _doing, flexible=True, rank=1, cut=tail),
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "drain", "drain or undrain", id="nodes.drain"),
    ]

    async def fetch(self, query: PageQuery) -> Page:
        # The picture holds every node: nobody needs to be asked.
        picture = self.desk.picture
        return Page((), 0, 0) if picture is None else page_of(picture.view, query)

    def row_id(self, row: NodeRow) -> str:
        return row.node_id

    def empty(self, picture: Picture) -> str:
        return (
            "No node yet: start one on each host with "
            f"`meshtrain worker --master {self.desk.address}`"
        )

    def note(self, picture: Picture) -> str:
        nodes = picture.view.nodes.values()
        away = sum(not node.connected for node in nodes)
        told = super().note(picture)
        return f"{told} · {plural(away, 'node')} away" if away else told

    def open_row(self, row: NodeRow) -> None:
        self.desk.open("node", row.node_id)

    def rows_command(self, rows: Sequence[Any]) -> str:
        return command_of("nodes")

    def action_drain(self) -> None:
        for row in self.chosen():
            if isinstance(row, NodeRow):
                self.desk.steer(drain(row))
