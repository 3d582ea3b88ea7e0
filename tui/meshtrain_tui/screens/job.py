"""The screen of one job."""

from __future__ import annotations

from collections.abc import Callable

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer

from meshtrain.clock import wall_now_s
from meshtrain_tui.log.stream import Ask
from meshtrain_tui.widgets.job_body import LOOK_EVERY_S, Explain, JobBody


class JobScreen(Screen[None]):
    """One job: its log, its curves, its attempts, its parameters, and why it waits.

    Args:
        job_id: which.
        ask: asks the master; see `asking.row_of`.
        explain: says at length why a job waits.
        look_every_s: seconds between two questions how it stands.
        wall_now_s: the time, as durations count.
    """

    BINDINGS = [("escape", "app.pop_screen", "back")]  # noqa: RUF012

    def __init__(
        self,
        job_id: str,
        ask: Ask,
        *,
        explain: Explain | None = None,
        look_every_s: float = LOOK_EVERY_S,
        wall_now_s: Callable[[], float] = wall_now_s,
    ) -> None:
        super().__init__()
        self._job_id = job_id
        self._ask = ask
        self._explain = explain
        self._look_every_s = look_every_s
        self._wall_now_s = wall_now_s

    def compose(self) -> ComposeResult:
        yield JobBody(
            self._job_id,
            self._ask,
            explain=self._explain,
            look_every_s=self._look_every_s,
            wall_now_s=self._wall_now_s,
        )
        yield Footer(show_command_palette=False)
