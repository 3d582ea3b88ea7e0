"""The meshes that a dashboard follows, on a line each or all on one; a click shows one."""

from __future__ import annotations

from collections.abc import Callable

from textual.content import Content
from textual.events import Click
from textual.widget import Widget

from meshtrain_tui.fleet import Fleet, Standing
from meshtrain_tui.words import plural

LOOK_EVERY_S = 1.0


class MeshesLine(Widget):
    """`1 lab ● 3/7 used 2 open   [2 site-b ○ away]`: the one that is shown stands in brackets."""

    DEFAULT_CSS = """
    MeshesLine { height: 1; padding: 0 1; background: $boost; }
    """

    def __init__(self, fleet: Fleet, choose: Callable[[int], None]) -> None:
        super().__init__()
        self._fleet = fleet
        self._choose = choose
        self._ends: list[int] = []

    def on_mount(self) -> None:
        self.set_interval(LOOK_EVERY_S, self.refresh)

    def render(self) -> Content:
        parts: list[Content] = []
        self._ends = []
        end = 0
        for place, standing in enumerate(self._fleet.standings()):
            here = place == self._fleet.chosen
            sign, style = sign_of(standing)
            words = in_short(standing)
            edges = "[]" if here else "  "
            part = Content.assemble(
                f"{edges[0]}{standing.address} ",
                (sign, style),
                f" {words}{edges[1]} ",
            )
            parts.append(part.stylize("bold") if here else part)
            end += part.cell_length
            self._ends.append(end)
        return Content("").join(parts).truncate(max(1, self.content_size.width), ellipsis=True)

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None:
            return
        for place, end in enumerate(self._ends):
            if at.x < end:
                self._choose(place)
                return


def sign_of(standing: Standing) -> tuple[str, str]:
    """Whether a mesh is heard, as a sign and its style."""
    return ("●", "$text-success") if standing.live else ("○", "$text-warning")


def in_short(standing: Standing) -> str:
    """The least that tells one mesh from another: how busy it is, and what failed."""
    if not standing.live:
        return "away"
    failed = f" ✗{standing.failed}" if standing.failed else ""
    return f"{standing.slots_used}/{standing.slots} used{failed}"


def in_full(standing: Standing) -> str:
    """Everything that a mesh's line says."""
    if not standing.live and not standing.nodes:
        return standing.trouble or "connecting"
    parts = [
        plural(standing.nodes, "node"),
        f"{standing.slots_used}/{standing.slots} slots used",
        f"{plural(standing.sweeps_open, 'sweep')} open",
        f"{standing.ended}/{plural(standing.jobs, 'job')} ended",
        f"{standing.running} running",
    ]
    if standing.failed:
        parts.append(f"✗ {standing.failed} failed")
    if not standing.live:
        parts.append("away: as it was heard last")
    return " · ".join(parts)
