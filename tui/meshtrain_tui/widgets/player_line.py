"""Where a recording stands, and the keys that steer it; a click goes to a time."""

from __future__ import annotations

from textual.content import Content
from textual.events import Click
from textual.widget import Widget

from meshtrain_tui.replay import Player
from meshtrain_tui.words import bar, clock

LOOK_EVERY_S = 0.25
BAR_MIN, BAR_MAX = 8, 40
KEYS = "P pause  , . step  { } minute  < > speed  J time"


class PlayerLine(Widget):
    """`▶ 14:02:11  ×4  ▕███░░▏ 12:00:03 to 15:10:22  P pause …`"""

    DEFAULT_CSS = """
    PlayerLine { height: 1; padding: 0 1; background: $boost; }
    """

    def __init__(self, player: Player) -> None:
        super().__init__()
        self._player = player
        self._bar = (0, 1)

    def on_mount(self) -> None:
        self.set_interval(LOOK_EVERY_S, self.refresh)

    def render(self) -> Content:
        at = self._player.position
        width = self.content_size.width
        sign = "■" if at.at_end else "▶" if at.playing else "‖"
        left = f"{sign} {clock(at.wall_s)}  ×{at.speed:g}  "
        ends = f" {clock(at.begins_wall_s)} to {clock(at.ends_wall_s)}"
        room = width - len(left) - len(ends) - len(KEYS) - 4
        keys = KEYS if room >= BAR_MIN else "? help"
        room = width - len(left) - len(ends) - len(keys) - 4
        bar_width = min(max(room, BAR_MIN), BAR_MAX)
        long_s = at.ends_wall_s - at.begins_wall_s
        share = (at.wall_s - at.begins_wall_s) / long_s if long_s > 0 else 1.0
        self._bar = (len(left) + 1, bar_width)
        line = Content.assemble(
            (left, "bold"),
            ("▕" + bar(share, bar_width) + "▏", "$text-primary"),
            (ends, "$foreground-muted"),
            f"  {keys}",
        )
        return line.truncate(max(1, width), ellipsis=True)

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        start, bar_width = self._bar
        if at is None or not start <= at.x < start + bar_width:
            return
        position = self._player.position
        share = (at.x - start) / max(1, bar_width - 1)
        long_s = position.ends_wall_s - position.begins_wall_s
        self._player.jump(position.begins_wall_s + share * long_s)
        self.refresh()
