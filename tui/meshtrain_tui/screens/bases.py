"""The bases as a tree: what each continues from, who holds it, which sweeps start from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.message import Message

from meshtrain.core.changes import BaseRow
from meshtrain.core.job import BaseState
from meshtrain.core.view import MeshView
from meshtrain.errors import MeshtrainError
from meshtrain.ids import short
from meshtrain_tui.feed import Picture
from meshtrain_tui.lineage_tree import SweepUse, TreeLine, tree_of, uses_by_base
from meshtrain_tui.pace import Pace
from meshtrain_tui.questions import whole_answer
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.steering.action import command_of, pin
from meshtrain_tui.widgets.panel import Panel, wrapped
from meshtrain_tui.words import bar, clock, duration, head, plural, size

ASK_MIN_S = 2.0
"""Between two questions about sweeps, or about one base."""
BUSY_SHARE_MAX = 0.05
"""Of the time, that the master may spend on them."""
BESIDE_WIDTH_MIN = 100
"""Columns from which on a base is told beside the tree, rather than below it."""
SPOTS = {
    BaseState.NEEDED: ("··", "$text-warning"),
    BaseState.COMMITTED: ("●", "$text-success"),
    BaseState.FAILED: ("✗", "$text-error"),
    BaseState.CANCELLED: ("⊘", "$foreground-muted"),
}


class Bases(MeshScreen):
    """Every base, what continues from it, and what starts from it."""

    TITLE_WORDS = "Bases"
    HELP = """\
Each base stands below the one that it continues from; below it stand the sweeps whose
jobs start from it. ● is trained (◐: one host alone holds it), ·· is not trained yet,
✗ failed. At the right, or below: all that is known of the one under the cursor ▸.

enter opens a sweep, and folds or unfolds what hangs on a base. p keeps a base wherever
it lies, or lets it be evicted again."""
    CHANGES = frozenset({"pin"})
    DEFAULT_CSS = """
    Bases #tree { width: 3fr; }
    Bases #base { width: 2fr; }
    Bases #bases.-below { layout: vertical; }
    Bases #bases.-below Panel { width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pin", "pin", id="bases.pin"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._uses: Mapping[str, list[SweepUse]] = {}
        self._uses_of: object = None
        self._history: dict[str, Any] | None = None
        self._history_of: object = None
        self._asked_s = float("-inf")
        self._pace = Pace(ASK_MIN_S, BUSY_SHARE_MAX)
        self._asking = False

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="bases"):
            yield BaseTree()
            yield BaseDetail()

    def on_resize(self, event: Resize) -> None:
        self.query_one("#bases").set_class(event.size.width < BESIDE_WIDTH_MIN, "-below")

    def note(self, picture: Picture) -> str:
        bases = picture.view.bases.values()
        trained = sum(base.state is BaseState.COMMITTED for base in bases)
        return f"{trained} of {plural(len(picture.view.bases), 'base')} trained"

    def command_line(self) -> str:
        line = self.query_one(BaseTree).line
        return command_of("bases", "log", line.base.recipe_hash) if line else command_of("bases")

    def draw(self, picture: Picture) -> None:
        tree = self.query_one(BaseTree)
        tree.tell(self._uses)
        line = tree.line
        chosen = None if line is None else line.base.recipe_hash
        # The row in the picture may be newer than the one that the tree has drawn.
        base = picture.view.bases.get(chosen) if chosen is not None else None
        detail = self.query_one(BaseDetail)
        fits = self._history is not None and self._history["recipe_hash"] == chosen
        detail.tell(base, self._history if fits else None)
        if self._asking or not picture.view.bases:
            return
        uses_of = (id(picture.view), tuple(picture.view.sweeps))
        history_of = (id(picture.view), base)
        now_s = time.monotonic()
        moved = base is not None and not fits
        if now_s - self._asked_s < self._pace.pause_s and not moved:
            return
        if uses_of != self._uses_of or history_of != self._history_of:
            self._asking = True
            self._asked_s = now_s
            self.run_worker(self._ask(uses_of, history_of, chosen), group="bases")

    async def _ask(self, uses_of: object, history_of: object, chosen: str | None) -> None:
        began_s = time.monotonic()
        try:
            if uses_of != self._uses_of:
                self._uses_of = uses_of
                answered = await whole_answer(self.desk.ask, "sweeps")
                self._uses = uses_by_base(answered.rows)
            if chosen is not None and history_of != self._history_of:
                self._history_of = history_of
                answered = await whole_answer(self.desk.ask, "base", (chosen,))
                self._history = answered.rows[0] if answered.rows else None
            self._pace.answered(time.monotonic() - began_s)
        except MeshtrainError:
            # The picture has the rest; the top line tells when the master is away.
            self._history = None
        finally:
            self._asking = False
        picture = self.desk.picture
        if picture is not None and self.is_current:
            self.show(picture)

    def action_pin(self) -> None:
        line = self.query_one(BaseTree).line
        picture = self.desk.picture
        if line is not None and picture is not None:
            base = picture.view.bases.get(line.base.recipe_hash)
            if base is not None:
                self.desk.steer(pin(base))

    def on_base_tree_moved(self) -> None:
        picture = self.desk.picture
        if picture is not None:
            self.draw(picture)

    def on_base_tree_opened(self, event: BaseTree.Opened) -> None:
        if event.use is not None and self.desk.can_open("sweep"):
            self.desk.open("sweep", event.use.sweep_id)


class BaseTree(Panel, can_focus=True):
    """The tree, with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False, id="bases.up"),
        Binding("down,j", "move(1)", "down", show=False, id="bases.down"),
        Binding("pageup", "page(-1)", "a page up", show=False, id="bases.page_up"),
        Binding("pagedown", "page(1)", "a page down", show=False, id="bases.page_down"),
        Binding("home", "first", "first", show=False, id="bases.first"),
        Binding("end", "last", "last", show=False, id="bases.last"),
        Binding("enter", "open", "open or fold", id="bases.open"),
    ]

    class Moved(Message):
        """The cursor stands on another line."""

    class Opened(Message):
        """Somebody wants to see a sweep."""

        def __init__(self, use: SweepUse | None) -> None:
            super().__init__()
            self.use = use

    def __init__(self) -> None:
        super().__init__(id="tree")
        self._uses: Mapping[str, list[SweepUse]] = {}
        self._folded: set[str] = set()
        self._lines: list[TreeLine] = []
        self._key = ""
        self._top = 0
        self._stand: object = None

    def tell(self, uses: Mapping[str, list[SweepUse]]) -> None:
        """Which sweeps start from which base."""
        if self._picture is None:
            return
        bases = self._picture.view.bases
        stand = (id(uses), frozenset(self._folded), tuple(map(id, bases.values())))
        if stand != self._stand:
            self._stand, self._uses = stand, uses
            self._lines = tree_of(bases, uses, self._folded)
            self.refresh()

    @property
    def line(self) -> TreeLine | None:
        """The one under the cursor."""
        return self._lines[self._place()] if self._lines else None

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        if not self._lines:
            if picture.link.heard_wall_s is None:
                return []
            return wrapped(
                "No base yet: a job file with a `base:` section asks for one.",
                width,
                "$foreground-muted",
            )
        place = self._place()
        self._top = max(0, min(self._top, len(self._lines) - height))
        self._top = min(max(self._top, place - height + 1), place)
        shown = self._lines[self._top : self._top + height]
        return [
            self._drawn(picture.view, line, width, here=self._top + index == place)
            for index, line in enumerate(shown)
        ]

    def _drawn(self, view: MeshView, line: TreeLine, width: int, *, here: bool) -> Content:
        mark = ("▸", "bold $text-accent") if here else " "
        stem = (line.stem, "$foreground-muted")
        style = "bold" if here else ""
        if line.use is not None:
            words = _use_words(view, line.use, width - len(line.stem) - 1)
            return Content.assemble(mark, stem, (words, style))
        base = line.base
        sign, colour = SPOTS[base.state]
        if base.state is BaseState.COMMITTED and not base.durable:
            sign = "◐"
        right = _standing(base)
        fold = f" +{line.below}" if line.folded else ""
        left = f"{short(base.recipe_hash)}  "
        room = max(0, width - len(line.stem) - len(sign) - len(left) - len(right) - len(fold) - 5)
        label = f"{head(base.label, room):<{room}}" if room > 3 else ""
        return Content.assemble(
            mark,
            stem,
            (sign, colour),
            " ",
            (left, style),
            (label, "$foreground-muted"),
            (fold, "bold"),
            "  ",
            right,
        )

    # --- the cursor -----------------------------------------------------------------------

    def _place(self) -> int:
        """Where the cursor is now: a line keeps it wherever it goes."""
        for index, line in enumerate(self._lines):
            if line.key == self._key:
                return index
        return 0

    def _go(self, place: int) -> None:
        if not self._lines:
            return
        key = self._lines[min(max(place, 0), len(self._lines) - 1)].key
        if key != self._key:
            self._key = key
            self.refresh()
            self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        self._go(self._place() + by)

    def action_page(self, by: int) -> None:
        self._go(self._place() + by * max(1, self.content_size.height - 1))

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self._lines) - 1)

    def action_open(self) -> None:
        line = self.line
        if line is None:
            return
        if line.use is not None:
            self.post_message(self.Opened(line.use))
        elif line.below:
            self._folded ^= {line.key}
            self.tell(self._uses)

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None or self._top + at.y >= len(self._lines):
            return
        self._go(self._top + at.y)
        if event.chain >= 2:
            self.action_open()

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self.action_move(1)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self.action_move(-1)


def _standing(base: BaseRow) -> str:
    """What is short and matters: `1.2 MB on 3 hosts, pinned`, `21 wait`."""
    if base.state is BaseState.COMMITTED:
        told = f"{size(base.size_bytes)} on {plural(len(base.holders), 'host')}"
        return f"{told}, pinned" if base.pinned else told
    waiting = f", {base.waiting} wait" if base.waiting else ""
    return f"{base.state}{waiting}"


def _use_words(view: MeshView, use: SweepUse, width: int) -> str:
    sweep = view.sweeps.get(use.sweep_id)
    if sweep is None:
        return use.name
    ended = view.progress(use.sweep_id).ended
    on_bases = f" on {plural(use.bases, 'base')}" if use.bases > 1 else ""
    told = f"{bar(ended / sweep.jobs if sweep.jobs else 1.0, 10)} {ended}/{sweep.jobs}{on_bases}"
    return f"{head(use.name, max(8, width - len(told) - 2))}  {told}"


class BaseDetail(Panel):
    """All that is known of one base."""

    HEADING = "Base"

    def __init__(self) -> None:
        super().__init__(id="base")
        self._base: BaseRow | None = None
        self._history: dict[str, Any] | None = None

    def tell(self, base: BaseRow | None, history: dict[str, Any] | None) -> None:
        """Which base, and what the master's query `base` says of it; None while it is asked."""
        if (base, history) != (self._base, self._history):
            self._base, self._history = base, history
            self.refresh()

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        base = self._base
        if base is None:
            return []
        lines = [
            *wrapped(f"{base.recipe_hash}", width, "bold"),
            *wrapped(base.label, width),
            *_field("state", _state_words(base), width),
            *_field("held by", ", ".join(base.holders) or "nobody", width),
        ]
        if base.pinned:
            where = "wherever it lies" if "" in base.pinned else f"on {', '.join(base.pinned)}"
            lines += _field("pinned", where, width)
        if base.trained_s is not None:
            where = f" on {base.node_id}" if base.node_id else ""
            lines += _field("trained", f"in {duration(base.trained_s)}{where}", width)
        if base.waiting:
            lines += _field("jobs", f"{base.waiting} wait on it, or run", width)
        if self._history is not None:
            lines += _history_lines(self._history, width)
        return lines


def _state_words(base: BaseRow) -> str:
    told = str(base.state)
    if base.state is BaseState.COMMITTED:
        told += f", generation {base.generation}, {size(base.size_bytes)}"
        told += "" if base.durable else ", held once alone"
    return told


def _field(name: str, text: str, width: int) -> list[Content]:
    """`name` before the first line of a text, the others as deep."""
    indent = 9
    room = max(10, width - indent)
    return [
        Content.assemble((f"{name if index == 0 else '':<{indent}}", "$foreground-muted"), part)
        for index, part in enumerate(Content(text).wrap(room))
    ]


def _history_lines(history: dict[str, Any], width: int) -> list[Content]:
    lines: list[Content] = []
    if history["parents"]:
        chain = " ← ".join(
            f"{short(parent['recipe_hash'])} {parent['label']}".strip()
            for parent in history["parents"]
        )
        lines += _field("from", chain, width)
    for sweep in history["sweeps"]:
        told = f"{sweep['name']}: {sweep['succeeded']} of {sweep['jobs']} done"
        if sweep["open"]:
            told += f", {sweep['open']} to come"
        lines += _field("sweep", told, width)
    for child in history["children"]:
        told = f"{short(child['recipe_hash'])} {child['label']}, {child['state']}"
        lines += _field("to", told, width)
    for made in history["generations"]:
        told = f"{made['generation']}: {made['state']}"
        if made["ended_wall_s"] is not None:
            told += f" {clock(made['ended_wall_s'])}"
        if made["trained_s"] is not None:
            told += f" in {duration(made['trained_s'])}"
        told += f", {plural(made['jobs'], 'job')} from it"
        if made["metrics"]:
            told += "; " + ", ".join(
                f"{name} {value:.4g}" for name, value in list(made["metrics"].items())[:3]
            )
        if made["failure"]:
            told += f"; {made['failure']}"
        lines += _field("made", told, width)
    recipe = msgspec.json.encode(history["recipe"]).decode()
    lines += _field("recipe", recipe, width)
    return lines
