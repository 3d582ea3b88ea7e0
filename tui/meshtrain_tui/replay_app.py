"""The dashboard of a recording: the same screens, and keys that steer time."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen

from meshtrain_tui.app import Top
from meshtrain_tui.feed import REDRAW_MIN_S, Clocks
from meshtrain_tui.recording import Recording
from meshtrain_tui.replay import Player
from meshtrain_tui.screens.jump import Jump
from meshtrain_tui.settings import TopSettings
from meshtrain_tui.widgets.docked import dock
from meshtrain_tui.widgets.player_line import PlayerLine

MINUTE_S = 60.0


class ReplayTop(Top):
    """Plays a recording. Nothing can be changed: it is over."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("P", "play", "play or pause", show=False, id="app.replay_play"),
        Binding("comma", "step(-1)", "a step back", show=False, id="app.replay_back"),
        Binding("full_stop", "step(1)", "a step on", show=False, id="app.replay_on"),
        Binding(
            "left_curly_bracket",
            "minute(-1)",
            "a minute back",
            show=False,
            id="app.replay_minute_back",
        ),
        Binding(
            "right_curly_bracket",
            "minute(1)",
            "a minute on",
            show=False,
            id="app.replay_minute_on",
        ),
        Binding("less_than_sign", "hurry(-1)", "slower", show=False, id="app.replay_slower"),
        Binding("greater_than_sign", "hurry(1)", "faster", show=False, id="app.replay_faster"),
        Binding("J", "jump", "go to a time", show=False, id="app.replay_jump"),
    ]

    def __init__(
        self,
        player: Player,
        title: str,
        *,
        settings: TopSettings | None = None,
        keys: dict[str, str] | None = None,
        redraw_min_s: float = REDRAW_MIN_S,
    ) -> None:
        self.player = player
        super().__init__(
            title,
            lambda: player,
            clocks=Clocks(player.now_s, player.now_s),
            ask=player.ask,
            settings=(settings or TopSettings()).model_copy(update={"readonly": True}),
            keys=keys,
            redraw_min_s=redraw_min_s,
        )

    @classmethod
    def of(
        cls,
        file: Path,
        *,
        settings: TopSettings | None = None,
        keys: dict[str, str] | None = None,
    ) -> ReplayTop:
        """The dashboard of a file. Raises UserError when it is no recording."""
        recording = Recording(file)
        of_mesh = f" of {recording.address}" if recording.address else ""
        return cls(Player(recording), f"{file.name}{of_mesh}", settings=settings, keys=keys)

    def on_mount(self) -> None:
        self.screen_change_signal.subscribe(self, self._changed)
        self.call_after_refresh(self._changed, self.screen)

    def _changed(self, screen: Screen[object]) -> None:
        self.call_after_refresh(dock, screen, PlayerLine, lambda: PlayerLine(self.player))

    def _steered(self) -> None:
        self.look()
        for line in self.screen.query(PlayerLine):
            line.refresh()

    def action_play(self) -> None:
        self.player.toggle()
        self._steered()

    def action_step(self, by: int) -> None:
        self.player.step(by)
        self._steered()

    def action_minute(self, by: int) -> None:
        self.player.jump_by(by * MINUTE_S)
        self._steered()

    def action_hurry(self, by: int) -> None:
        self.player.hurry(by)
        self._steered()

    def action_jump(self) -> None:
        def take(wall_s: float | None) -> None:
            if wall_s is not None:
                self.player.jump(wall_s)
                self._steered()

        self.push_screen(Jump(self.player.position), take)
