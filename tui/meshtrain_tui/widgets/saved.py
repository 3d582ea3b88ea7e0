"""What training each base once, and fetching from peers, has saved."""

from __future__ import annotations

from textual.content import Content

from meshtrain_tui.feed import Picture
from meshtrain_tui.widgets.panel import Panel
from meshtrain_tui.words import clock, duration, size


class SavedPanel(Panel):
    """Trainings avoided are those of all jobs known; bytes are those since the master came up."""

    HEADING = "Saved"

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        if picture.link.heard_wall_s is None:
            return []
        saved, moved = picture.view.saved(), picture.view.moved
        lines = [
            _line("base trainings avoided", str(saved.trainings), width, "bold"),
            _line("training time saved", duration(saved.training_s), width, "bold"),
            _line("moved between nodes", size(moved.between_nodes_bytes), width),
            _line("moved from the master", size(moved.from_master_bytes), width),
            _line("brought to the master", size(moved.to_master_bytes), width),
        ]
        if moved.since_wall_s:
            since = f"bytes since {clock(moved.since_wall_s)}"
            lines.append(Content.styled(since, "$foreground-muted"))
        return lines


def _line(words: str, figure: str, width: int, style: str = "") -> Content:
    gap = max(1, width - len(words) - len(figure))
    return Content.assemble(words, " " * gap, (figure, style))
