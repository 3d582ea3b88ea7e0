"""Who sends what to whom: the mesh as a picture, the flows, what is on its way and what came."""

from __future__ import annotations

from itertools import groupby
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content

from meshtrain.core.changes import TransferRow
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.view import MeshView
from meshtrain.ids import short
from meshtrain_tui.feed import Picture
from meshtrain_tui.mesh_picture import Host, Line, Spot, Tone, mesh_picture
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.traffic import (
    WINDOW_S,
    Flow,
    HostTraffic,
    TrafficBook,
    hosts_shown,
    rate_history,
    sparkline,
    traffic_by_host,
)
from meshtrain_tui.widgets.panel import Panel, wrapped
from meshtrain_tui.words import clock, duration, head, plural, size

HOSTS_MAX = 24
"""In the picture; the others are counted."""
LABEL_MAX = 12
HISTORY_BIN_S = 10.0
_STYLES = {
    Tone.NOTHING: "",
    Tone.FAINT: "$foreground-muted",
    Tone.STRONG: "$text-success",
    Tone.LABEL: "bold",
}


class Transfers(MeshScreen):
    """What travels between hosts."""

    TITLE_WORDS = "Transfers"
    HELP = """\
The picture shows the hosts, and a line for each two that exchanged data; the arrow
points to who got it. A full line: something came within the last minute. A dotted one:
earlier. "On their way" is what nodes fetch just now; its bytes are known when all of it
has come. Rates of the last minute share a transfer's bytes out evenly over its time.

p lets the picture take all the room, and back."""
    DEFAULT_CSS = """
    Transfers #traffic-top { height: 2fr; }
    Transfers #traffic-side { width: 42; }
    Transfers #mesh { width: 1fr; }
    Transfers #body.-picture #traffic-side, Transfers #body.-picture #came { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "picture", "large picture", id="transfers.picture"),
    ]

    def compose_body(self) -> ComposeResult:
        book = TrafficBook()
        with Horizontal(id="traffic-top"):
            yield MeshPanel(book)
            with Vertical(id="traffic-side"):
                yield FlowsPanel(book)
                yield ComingPanel(id="coming")
        yield CamePanel(id="came")

    def note(self, picture: Picture) -> str:
        moved = picture.view.moved
        by_master = size(moved.from_master_bytes)
        return f"{size(moved.between_nodes_bytes)} between nodes · {by_master} from the master"

    def command_line(self) -> str:
        return "meshtrain bases"

    def action_picture(self) -> None:
        self.query_one("#body").toggle_class("-picture")


class MeshPanel(Panel):
    """The mesh as a small picture."""

    HEADING = "Mesh"

    def __init__(self, book: TrafficBook) -> None:
        super().__init__(id="mesh")
        self._book = book

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        view = picture.view
        if not view.nodes:
            if picture.link.heard_wall_s is None:
                return []
            return wrapped("No node yet.", width, "$foreground-muted")
        flows = self._book.flows(view, picture.wall_s)
        # A host needs a line of its own, half of them on each side.
        names = hosts_shown(view.nodes.values(), flows, min(HOSTS_MAX, 2 * (height - 1)))
        there = sum(node.connected for node in view.nodes.values()) + 1
        left_out = there - len(names)
        traffic = traffic_by_host(flows)
        hosts = [Host(name, _label(view, name, traffic.get(name), width)) for name in names]
        rows = mesh_picture(hosts, _lines_of(flows), width, height - (left_out > 0))
        lines = [_content(row) for row in rows]
        if left_out > 0:
            more = f"and {plural(left_out, 'more host')}"
            lines.append(Content.styled(more, "$foreground-muted"))
        return lines


def _label(view: MeshView, name: str, traffic: HostTraffic | None, width: int) -> str:
    node = view.nodes.get(name)
    sign = "◆" if name == MASTER_NODE_ID else "●" if node is None or node.connected else "○"
    label = f"{sign} {head(name, LABEL_MAX)}"
    # There is room for more than names.
    if width >= 60 and traffic is not None:
        sent, got = traffic.sent_bytes_s, traffic.got_bytes_s
        if sent >= 1:
            label += f" ↑{size(round(sent))}/s"
        if got >= 1:
            label += f" ↓{size(round(got))}/s"
    return label


def _lines_of(flows: list[Flow]) -> list[Line]:
    """Both ways of two hosts as one line."""
    pairs: dict[tuple[str, str], Line] = {}
    for flow in flows:
        one, other = sorted((flow.from_node, flow.to_node))
        before = pairs.get((one, other), Line(one, other, False, False, False))
        pairs[one, other] = Line(
            one,
            other,
            before.to_one or flow.to_node == one,
            before.to_other or flow.to_node == other,
            before.strong or flow.recent_bytes > 0,
        )
    return list(pairs.values())


def _content(row: list[Spot]) -> Content:
    return Content.assemble(
        *(
            ("".join(spot.char for spot in spots), _STYLES[tone])
            for tone, spots in groupby(row, key=lambda spot: spot.tone)
        )
    )


class FlowsPanel(Panel):
    """Who sent how much to whom, and how fast."""

    HEADING = "From → to"

    def __init__(self, book: TrafficBook) -> None:
        super().__init__(id="flows")
        self._book = book

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        flows = self._book.flows(picture.view, picture.wall_s)
        if not flows:
            if picture.link.heard_wall_s is None:
                return []
            return wrapped(
                "Nothing has travelled yet: nodes fetch a base when a job needs it.",
                width,
                "$foreground-muted",
            )
        lines = [self._now(picture, flows, width)]
        rest = flows[height - 1 :]
        lines += [_flow_line(flow, width) for flow in flows[: height - 1 - bool(rest)]]
        if rest:
            more = f"and {plural(len(flows) - len(lines) + 1, 'more pair')}"
            lines.append(Content.styled(more, "$foreground-muted"))
        return lines

    def _now(self, picture: Picture, flows: list[Flow], width: int) -> Content:
        rate = sum(flow.recent_bytes for flow in flows) / WINDOW_S
        told = f"now {size(round(rate))}/s "
        bins = max(1, min(30, width - len(told)))
        rates = rate_history(picture.view.transfers, picture.wall_s, bins, HISTORY_BIN_S)
        return Content.assemble((told, "bold"), (sparkline(rates), "$text-primary"))


def _flow_line(flow: Flow, width: int) -> Content:
    rate = flow.rate_bytes_s
    figures = (
        f"{size(flow.size_bytes):>7} {f'{size(round(rate))}/s' if rate is not None else '':>9}"
    )
    pair_width = max(8, width - len(figures) - 1)
    each = (pair_width - 3) // 2
    pair = f"{head(flow.from_node, each)} → {head(flow.to_node, each)}"
    style = "$text-success" if flow.recent_bytes > 0 else ""
    return Content.assemble((f"{pair:<{pair_width}}", style), " ", figures)


class ComingPanel(Panel):
    """What nodes fetch just now."""

    HEADING = "On their way"

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        view = picture.view
        coming = [
            (artifact_id, node.node_id)
            for node in view.nodes.values()
            if node.connected
            for artifact_id in node.fetching
        ]
        if not coming:
            heard = picture.link.heard_wall_s is not None
            return wrapped("Nothing is being fetched." if heard else "", width, "$foreground-muted")
        lines = []
        for artifact_id, node_id in coming[:height]:
            what, size_bytes = name_of(view, artifact_id)
            told = f" {size(size_bytes)}" if size_bytes else ""
            lines.append(Content(f"{what}{told} → {node_id}"))
        if len(coming) > height:
            more = f"and {len(coming) - height + 1} more"
            lines[-1] = Content.styled(more, "$foreground-muted")
        return lines


class CamePanel(Panel):
    """The last transfers, the newest first."""

    HEADING = "Came"

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        transfers = picture.view.transfers[-height:]
        return [_came_line(picture.view, transfer, width) for transfer in reversed(transfers)]


def _came_line(view: MeshView, transfer: TransferRow, width: int) -> Content:
    what, _ = name_of(view, transfer.artifact_id)
    total = sum(transfer.bytes_by_node.values())
    rate = f" {size(round(total / transfer.duration_s))}/s" if transfer.duration_s > 0 else ""
    sources = ", ".join(
        f"{node_id} {size(size_bytes)}"
        for node_id, size_bytes in sorted(
            transfer.bytes_by_node.items(), key=lambda given: -given[1]
        )
    )
    if transfer.bytes_reused:
        sources += f", {size(transfer.bytes_reused)} it had"
    when = f"{clock(transfer.wall_s)}  " if transfer.wall_s else ""
    return Content.assemble(
        (when, "$foreground-muted"),
        f"{what} → ",
        (transfer.to_node, "bold"),
        f" in {_took(transfer.duration_s)}{rate}  ",
        (f"from {sources}" if sources else "it had all of it", "$foreground-muted"),
    )


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def name_of(view: MeshView, artifact_id: str) -> tuple[str, int]:
    """What an artifact is, as far as that is known, and its size in bytes; 0 where it isn't."""
    for base in view.bases.values():
        if base.artifact_id == artifact_id:
            return f"base {short(base.recipe_hash)}", base.size_bytes
    return f"artifact {short(artifact_id)}", 0
