"""The Transfers: flows and rates, the picture of the mesh, what is on its way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_double import base, node
from tui_double import WALL_S, FakeSource, dashboard

from meshtrain.core.changes import TransferRow
from meshtrain.core.view import MeshView
from meshtrain_tui.mesh_picture import Host, Line, Tone, mesh_picture
from meshtrain_tui.traffic import (
    WINDOW_S,
    TrafficBook,
    flows_of,
    hosts_shown,
    part_within,
    rate_history,
    sparkline,
    traffic_by_host,
)

ARTIFACT = "ab" * 16
NOW = WALL_S + 100
TRANSFERS = [
    TransferRow(ARTIFACT, "gpu2", {"gpu1": 600, "master": 60}, 4.0, wall_s=NOW - 5),
    TransferRow(ARTIFACT, "gpu3", {"gpu2": 900}, 3.0, wall_s=NOW - 500),
    TransferRow(ARTIFACT, "gpu2", {"gpu1": 200}, 1.0, wall_s=NOW - 20, bytes_reused=50),
]

transfers = st.builds(
    TransferRow,
    st.just(ARTIFACT),
    st.sampled_from(["gpu1", "gpu2", "master"]),
    st.dictionaries(st.sampled_from(["gpu1", "gpu2", "gpu3"]), st.integers(0, 10**12)),
    st.floats(0, 1e4),
    wall_s=st.one_of(st.just(0.0), st.floats(NOW - 1e4, NOW)),
)


# --- sums ------------------------------------------------------------------------------


def test_flows_are_those_of_each_pair_the_lately_busy_first() -> None:
    flows = flows_of(TRANSFERS, NOW)
    assert [(flow.from_node, flow.to_node, flow.size_bytes) for flow in flows] == [
        ("gpu1", "gpu2", 800),
        ("master", "gpu2", 60),
        ("gpu2", "gpu3", 900),
    ]
    first = flows[0]
    assert (first.transfers, first.recent_bytes, first.rate_bytes_s) == (2, 800, 160)
    assert flows[2].recent_bytes == 0
    hosts = traffic_by_host(flows)
    assert hosts["gpu2"].got_bytes_s == pytest.approx(860 / WINDOW_S)
    assert hosts["gpu2"].total_bytes == 800 + 60 + 900


@given(st.lists(transfers, max_size=20))
def test_no_byte_is_lost_or_told_twice(rows: list[TransferRow]) -> None:
    flows = flows_of(rows, NOW)
    total = sum(sum(row.bytes_by_node.values()) for row in rows)
    assert sum(flow.size_bytes for flow in flows) == total
    assert all(0 <= flow.recent_bytes <= flow.size_bytes * 1.000001 for flow in flows)


@given(transfers, st.lists(st.floats(NOW - 2e4, NOW + 1), min_size=2, max_size=6))
def test_the_parts_of_a_transfer_never_come_to_more_than_it(
    row: TransferRow, cuts: list[float]
) -> None:
    cuts.sort()
    parts = [part_within(row, begin, end) for begin, end in pairwise(cuts)]
    if row.duration_s > 0:
        assert sum(parts) <= 1.000001
    assert all(0 <= part <= 1 for part in parts)


@given(st.lists(transfers, max_size=10))
def test_a_history_has_the_bytes_of_its_time(rows: list[TransferRow]) -> None:
    rates = rate_history(rows, NOW, 30, 10.0)
    within = sum(
        part_within(row, NOW - 300, NOW) * sum(row.bytes_by_node.values())
        for row in rows
        if row.duration_s > 0
    )
    timed = [row for row in rows if row.duration_s > 0]
    assert sum(rate_history(timed, NOW, 30, 10.0)) * 10 == pytest.approx(within, rel=1e-6, abs=1e-3)
    assert len(rates) == len(sparkline(rates)) == 30


def test_the_book_reckons_again_only_when_something_came_or_time_went_on() -> None:
    book, view = TrafficBook(), MeshView()
    for transfer in TRANSFERS:
        view.apply(transfer)
    flows = book.flows(view, NOW)
    assert book.flows(view, NOW + 0.2) is flows
    assert book.flows(view, NOW + 1) is not flows
    view.apply(TransferRow(ARTIFACT, "gpu1", {"gpu9": 1}, 1.0, wall_s=NOW))
    assert any(flow.from_node == "gpu9" for flow in book.flows(view, NOW + 1))


def test_the_busiest_hosts_are_shown_the_master_among_them() -> None:
    nodes = [node(f"n{index:03}") for index in range(100)] + [node("away", connected=False)]
    shown = hosts_shown(nodes, flows_of(TRANSFERS, NOW), 6)
    assert shown == ["master", "gpu1", "gpu2", "gpu3", "n000", "n001"]


# --- the picture -----------------------------------------------------------------------


def text_of(rows: list[list[object]]) -> list[str]:
    return ["".join(spot.char for spot in row) for row in rows]  # type: ignore[attr-defined]


def test_every_host_has_its_label_and_every_line_its_head() -> None:
    hosts = [Host(name, f"● {name}") for name in ("master", "gpu1", "gpu2", "gpu3")]
    lines = [
        Line("gpu1", "master", True, False, True),
        Line("gpu2", "gpu3", False, True, False),
    ]
    rows = mesh_picture(hosts, lines, 40, 11)
    text = "\n".join(text_of(rows))  # type: ignore[arg-type]
    assert all(host.label in text for host in hosts)
    assert len(rows) == 11 and all(len(row) == 40 for row in rows)
    heads = [spot for row in rows for spot in row if spot.char in "▸◂▴▾"]
    assert len(heads) == 2
    assert {spot.tone for spot in heads} == {Tone.STRONG, Tone.FAINT}
    strong = sum(spot.tone is Tone.STRONG for row in rows for spot in row)
    assert strong > 3


@given(st.integers(0, 30), st.integers(0, 120), st.integers(0, 40))
def test_any_number_of_hosts_in_any_room_stays_within_it(
    count: int, width: int, height: int
) -> None:
    hosts = [Host(f"n{index}", f"● node-number-{index}") for index in range(count)]
    lines = [Line(f"n{index}", "n0", True, True, index % 2 == 0) for index in range(1, count)]
    rows = mesh_picture(hosts, lines, width, height)
    assert len(rows) == height
    assert all(len(row) == width for row in rows)
    assert all(len(spot.char) == 1 for row in rows for spot in row)


# --- the screen ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (120, 30)])
async def test_the_screen_shows_who_sent_what_to_whom(size: tuple[int, int]) -> None:
    source = FakeSource()
    async with dashboard(source, size=size) as shown:
        known = base("51be" + "0" * 25 + "a90", artifact_id=ARTIFACT, size_bytes=2_000_000)
        nodes = [node(f"gpu{index}") for index in range(1, 5)]
        coming = node("gpu4", fetching=(ARTIFACT, "cd" * 16))
        source.tell([known, *nodes, coming, *TRANSFERS], whole=True)
        await shown.press("5")
        for name in ("◆ master", "● gpu1", "● gpu2", "● gpu3", "● gpu4"):
            assert name in shown.text
        assert "800 B" in shown.row("gpu1 → gpu2")
        assert "160 B/s" in shown.row("gpu1 → gpu2")
        assert "base 51be…a90 2.0 MB → gpu4" in shown.text
        assert "artifact cdcd…dcd → gpu4" in shown.text
        assert "from gpu1 600 B, master 60 B" in shown.text
        assert "50 B it had" in shown.text
        assert any(char in shown.text for char in "▸◂▴▾")
        assert ("/s ↓" in shown.text or "↓14 B/s" in shown.text) == (size[0] >= 120)
        await shown.press("p")
        assert "On their way" not in shown.text
        await shown.press("p")
        assert "On their way" in shown.text


async def test_a_thousand_nodes_are_summed_up() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        nodes = [node(f"n{index:04}") for index in range(1000)]
        many = [
            TransferRow(ARTIFACT, f"n{i:04}", {f"n{i - 1:04}": 10}, 1.0, wall_s=NOW)
            for i in range(1, 1000)
        ]
        source.tell([*nodes, *many], whole=True)
        await shown.press("5")
        assert "more hosts" in shown.text
        assert "more pairs" in shown.text


async def test_with_nothing_to_show_it_says_why() -> None:
    source = FakeSource()
    async with dashboard(source) as shown:
        await shown.press("5")
        assert "Nothing has travelled" not in shown.text, "nobody knows that yet"
        source.tell([node("gpu1")], whole=True)
        await shown.settle()
        assert "Nothing has travelled yet" in " ".join(shown.text.split())
        assert "Nothing is being fetched" in shown.text
        source.tell([], whole=True)
        await shown.settle()
        assert "No node yet" in shown.text
