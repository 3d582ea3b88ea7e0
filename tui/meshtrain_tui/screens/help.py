"""What the screen means, and the keys."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

HELP = """\
[b]meshtrain top[/b] shows the mesh as it is; it changes nothing.

[b]Nodes[/b]   slots used and free, and the jobs on them. "gets ready": what
        the job needs is being fetched. "sends result": its result is
        on the way to the master.
[b]Sweeps[/b]  jobs that ended, of all. The time left is the mean of the jobs
        so far, on as many slots as run now.
[b]Saved[/b]   base trainings that jobs did not have to repeat, and the bytes
        that went between hosts while this dashboard listened.

Nothing heard for 3 s: all is dimmed, and the top line says since when.
It connects again by itself.

[b]q[/b] quit   [b]?[/b] this help   [b]d[/b] dark or light   [b]esc[/b] back
In text: meshtrain jobs, meshtrain nodes, meshtrain bases"""


class Help(ModalScreen[None]):
    """Lies over the screen until a key takes it away."""

    BINDINGS = [  # noqa: RUF012
        ("escape,question_mark,enter", "dismiss", "back"),
        # A screen that lies over another one hides the app's own keys.
        ("q", "app.quit", "quit"),
        ("d", "app.toggle_dark", "dark/light"),
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(HELP)
