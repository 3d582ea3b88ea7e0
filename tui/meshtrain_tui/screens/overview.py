"""The first screen: nodes, sweeps, what was saved, and the last events."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from meshtrain.core.changes import SweepRow
from meshtrain_tui.feed import Picture
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.steering.action import cancel_sweep, command_of, retry_sweep
from meshtrain_tui.widgets.events import EventsPanel
from meshtrain_tui.widgets.nodes import NodesPanel
from meshtrain_tui.widgets.saved import SavedPanel
from meshtrain_tui.widgets.sweeps import SweepsPanel
from meshtrain_tui.widgets.tally_line import TallyLine


class Overview(MeshScreen):
    """Everything at one glance."""

    TITLE_WORDS = "Overview"
    HELP = (
        'Nodes: what of each is used, and the jobs on it; "gets ready" is a job whose needs '
        'are being fetched, "sends result" one whose result is on the way to the master. '
        "Sweeps: jobs that ended, of all; the time left is the mean of the jobs so far, on as "
        "many slots as run now. Saved: base trainings that jobs did not have to repeat, and "
        "the bytes that went between hosts."
    )
    CHANGES = frozenset({"cancel", "retry"})
    AUTO_FOCUS = "#sweeps"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel", "cancel sweep", id="overview.cancel"),
        Binding("r", "retry", "retry failed", id="overview.retry"),
        Binding("o", "folder", "results", id="overview.results"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._has_sweeps = False

    def compose_body(self) -> ComposeResult:
        yield TallyLine()
        yield NodesPanel(self.desk.address)
        with Horizontal(id="middle"):
            yield SweepsPanel(id="sweeps")
            yield SavedPanel(id="saved")
        yield EventsPanel(id="events")

    @property
    def sweep(self) -> SweepRow | None:
        """The sweep under the cursor."""
        return self.query_one(SweepsPanel).chosen()

    def draw(self, picture: Picture) -> None:
        if bool(picture.view.sweeps) != self._has_sweeps:
            self._has_sweeps = not self._has_sweeps
            self.refresh_bindings()

    def command_line(self) -> str:
        sweep = self.sweep
        return command_of("jobs", sweep.sweep_id) if sweep else command_of("nodes")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("cancel", "retry", "folder") and (not self.is_whole or self.sweep is None):
            return False
        return super().check_action(action, parameters)

    def on_sweeps_panel_opened(self, message: SweepsPanel.Opened) -> None:
        self.desk.open("sweep", message.sweep_id)

    def action_cancel(self) -> None:
        if (sweep := self.sweep) is not None:
            self.desk.steer(cancel_sweep(sweep))

    def action_retry(self) -> None:
        if (sweep := self.sweep) is not None:
            self.desk.steer(retry_sweep(sweep))

    async def action_folder(self) -> None:
        if (sweep := self.sweep) is not None:
            await self.desk.open_results(sweep.sweep_id)
