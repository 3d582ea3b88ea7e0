"""The top line, and the line below it that says what is wrong with the link."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Size

from meshtrain.core.changes import NodeRow
from meshtrain_tui.feed import Link, Picture
from meshtrain_tui.widgets.panel import Panel, wrapped
from meshtrain_tui.words import clock, plural


def slots_of(node: NodeRow) -> tuple[int, int]:
    """Slots used and slots there are: GPUs where a node has them, else CPU slots."""
    if node.gpus:
        return len(node.gpus_used), len(node.gpus)
    return node.cpus_used, node.cpu_slots


def link_words(link: Link) -> tuple[str, str]:
    """How the link is, and its style."""
    if link.live:
        return "● live", "$text-success"
    if link.heard_wall_s is None:
        return "○ connecting", "$text-warning"
    return f"○ stale since {clock(link.heard_wall_s)}", "$text-warning"


class StatusLine(Panel):
    """Who is shown, how fresh it is, and how much there is."""

    def __init__(self, address: str) -> None:
        super().__init__(id="status")
        self._address = address

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        words, style = link_words(picture.link)
        nodes = [node for node in picture.view.nodes.values() if node.connected]
        used = sum(slots_of(node)[0] for node in nodes)
        there = sum(slots_of(node)[1] for node in nodes)
        link = Content.styled(words, style)
        now, count = Content(clock(picture.wall_s)), Content(plural(len(nodes), "node"))
        slots = Content(f"{used}/{there} slots")
        # Where the width is short, what is told elsewhere goes first.
        ways = [[now, link, count, slots.append(" used")], [now, link, count, slots]]
        ways += [[link, count, slots], [link, slots], [link]]
        left = Content.assemble(("meshtrain", "bold"), "  ", (self._address, "dim"))
        rights = [Content("  ").join(way) for way in ways]
        fits = [right for right in rights if left.cell_length + 2 + right.cell_length <= width]
        right = fits[0] if fits else rights[-1]
        left = left.truncate(max(0, width - right.cell_length - 2), ellipsis=True)
        gap = width - left.cell_length - right.cell_length
        return [left.append(" " * gap).append(right)]


class TroubleLine(Panel):
    """Why nothing is heard; there only while that is so."""

    def __init__(self, address: str) -> None:
        super().__init__(id="trouble")
        self._address = address
        self._said = ""
        self.display = False

    def show(self, picture: Picture) -> None:
        link = picture.link
        self.display = not link.live
        super().show(picture)
        self.refresh(layout=self._words(link) != self._said)
        self._said = self._words(link)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return 0 if self._picture is None else len(self.lines(self._picture, width, 0))

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        return wrapped(self._words(picture.link), width)

    def _words(self, link: Link) -> str:
        if link.trouble not in ("", "connecting"):
            return f"{link.trouble}. Trying again."
        if link.heard_wall_s is None:
            return f"Connecting to the master at {self._address}."
        return (
            f"Nothing heard from the master at {self._address} since "
            f"{clock(link.heard_wall_s)}. Listening."
        )
