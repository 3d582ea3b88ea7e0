"""What the present screen means, and every key that works on it."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from meshtrain_tui.widgets.key_line import RANKS, KeyLine

SIGNS = """\
Nothing heard for 3 s: all is dimmed, and the top line says since when. It connects \
again by itself. The mouse works everywhere: a click on a heading sorts, a second click \
on a row opens it, a click on a key below presses it."""
KEY_WIDTH = 14


def key_table(screen: Screen[Any]) -> list[tuple[str, str]]:
    """The keys that work on a screen, and what each does; the screen's own first."""
    found: dict[str, tuple[list[str], str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.system or not active.enabled or binding.id is None:
            continue
        words = binding.description or binding.action
        keys, _ = found.setdefault(binding.id, ([], words))
        shown = screen.app.get_key_display(binding)
        if shown not in keys:
            keys.append(shown)
    ranked = sorted(found.items(), key=lambda item: RANKS.get(item[0].partition(".")[0], 0))
    return [(" ".join(keys), words) for _, (keys, words) in ranked]


class Help(ModalScreen[None]):
    """Lies over the screen until a key takes it away.

    Args:
        title: the screen's.
        meaning: what it shows.
        keys: what works on it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,enter", "leave", "back", id="help.leave"),
        # A screen that lies over another one hides the app's own keys.
        Binding("q", "app.quit", "quit", id="help.quit"),
    ]

    def __init__(self, title: str, meaning: str, keys: list[tuple[str, str]]) -> None:
        super().__init__()
        self._heading = title
        self._meaning = meaning
        self._keys = keys

    def compose(self) -> ComposeResult:
        lines = [
            Content.assemble((f"{keys:<{KEY_WIDTH}}", "bold $text-accent"), " ", words)
            for keys, words in self._keys
        ]
        with VerticalScroll(classes="box", id="help"):
            yield Static(self._heading, classes="box-title", markup=False)
            paragraphs = self._meaning.split("\n\n")
            # The box has its own width: lines break there.
            yield Static("\n\n".join(" ".join(p.split()) for p in paragraphs), markup=False)
            yield Static("")
            yield Static(Content("\n").join(lines))
            yield Static("")
            yield Static(SIGNS, markup=False)
        yield KeyLine()

    def action_leave(self) -> None:
        self.dismiss(None)
