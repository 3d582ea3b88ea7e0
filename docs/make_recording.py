"""Films the dashboard: plays a recorded run in it, presses keys, and writes what was to be seen.

python docs/make_recording.py        writes docs/images/top_recording.svg

The run is that of docs/recording (docs/record_run.py records it anew); the dashboard
is that of `meshtrain top`, under Textual's pilot. The recording stands still but where
the film lets it go on, so that the same recording makes the same film.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from animated_svg import Frame, Piece, Row, Style, animated_svg
from film_player import FilmPlayer
from rich.cells import cell_len
from rich.color import Color
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.pilot import Pilot
from textual.widgets import Input

from meshtrain.core.job import JobKind, JobState
from meshtrain.core.view import MeshView
from meshtrain_tui.app import Top
from meshtrain_tui.feed import Clocks
from meshtrain_tui.recording import Recording, apply_all
from meshtrain_tui.widgets.curves import Curves
from meshtrain_tui.widgets.job_body import JobBody
from meshtrain_tui.widgets.log_pane import LogPane
from meshtrain_tui.widgets.table import PageTable

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "docs" / "recording" / "run.jsonl"
FILM = ROOT / "docs" / "images" / "top_recording.svg"
ADDRESS = "127.0.0.1:7470"
SIZE = (100, 30)
TYPE_S = 0.11
"""Between two letters that are typed."""
STILL_S = 0.25
"""A screen that stayed the same for so long has drawn all that it was told."""
ASKED_S = 2.4
"""The same for a screen that asks the master: it pauses for up to 2 s between questions."""
DRAWN_MAX_S = 30.0
ASKED_TOO_S = 1.0
"""After the results, so that what was asked with them is there as well."""


class Film:
    """A dashboard under a pilot, and the frames that were taken of it.

    Args:
        player: paused; it is moved from here alone.
    """

    def __init__(self, app: Top, pilot: Pilot[None], player: FilmPlayer) -> None:
        self.frames: list[Frame] = []
        self.length_s = 0.0
        self._app = app
        self._pilot = pilot
        self._player = player
        self._key = ""
        self._caption = ""

    def tell(self, key: str, caption: str) -> None:
        """What is told below from the next frame on."""
        self._key, self._caption = key, caption

    async def go_to(self, at_s: float) -> None:
        """Have the recording stand so many seconds after its beginning."""
        wall_s = self._player.position.begins_wall_s + at_s
        self._player.jump(wall_s)
        while self._app.picture is None or self._app.picture.wall_s != self._player.now_s():
            self._app.look()
            await self._pilot.pause()
        await self._look_at_job()

    async def _look_at_job(self) -> None:
        """The screen of a job asks by a timer: here at once."""
        screen = self._app.screen
        shown: list[JobBody | LogPane | Curves] = [*screen.query(JobBody)]
        for widget in [*shown, *screen.query(LogPane), *screen.query(Curves)]:
            await widget.look()

    async def hold(self, for_s: float, *, expect: str, still_s: float = STILL_S) -> None:
        """Take a frame that is seen for so many seconds, once it shows what is expected."""
        rows = await self._settled(expect, still_s)
        self.frames.append(Frame(round(self.length_s, 3), rows, self._key, self._caption))
        self.length_s += for_s

    async def run(
        self, begin_s: float, end_s: float, *, for_s: float, frames: int, expect: str
    ) -> None:
        """Let the recording go on from one time to another within so many seconds."""
        for number in range(frames):
            await self.go_to(begin_s + (end_s - begin_s) * (number + 1) / frames)
            await self.hold(for_s / frames, expect=expect)

    async def press(
        self,
        *keys: str,
        key: str,
        caption: str,
        for_s: float,
        expect: str,
        still_s: float = STILL_S,
    ) -> None:
        """Press keys, and see what comes of them."""
        await self._pilot.press(*keys)
        await self._look_at_job()
        self.tell(key, caption)
        await self.hold(for_s, expect=expect, still_s=still_s)

    async def type(self, text: str, *, caption: str, expect: str) -> None:
        """Type a text, letter by letter."""
        for end in range(1, len(text) + 1):
            await self._pilot.press({" ": "space"}.get(text[end - 1], text[end - 1]))
            self.tell(text[:end], caption)
            await self.hold(TYPE_S, expect=expect if end == len(text) else "")

    async def _settled(self, expect: str, still_s: float) -> tuple[Row, ...]:
        """The rows of the screen, once they show what is expected and stay as they are."""
        deadline_s = time.monotonic() + DRAWN_MAX_S
        seen: tuple[Row, ...] = ()
        since_s = 0.0
        while True:
            screen = self._app.screen
            for line in screen.query(Input):
                line.cursor_blink = False
            self._app.look()
            await self._pilot.pause()
            rows = tuple(self._rows())
            busy = not all(table.pager.settled for table in screen.query(PageTable))
            if rows != seen or busy or expect not in "\n".join(map(text_of, rows)):
                seen, since_s = rows, time.monotonic()
            elif time.monotonic() - since_s >= still_s:
                return rows
            if time.monotonic() > deadline_s:
                shown = "\n".join(map(text_of, rows))
                raise SystemExit(f"the film waits for {expect!r}, and there is:\n{shown}")
            await asyncio.sleep(0.01)

    def _rows(self) -> Iterator[Row]:
        variables = self._app.theme_variables
        plain = (variables["foreground"], variables["background"])
        for strip in self._app.screen._compositor.render_strips():
            yield row_of_segments(list(strip), plain)


def row_of_segments(segments: list[Segment], plain: tuple[str, str]) -> Row:
    """One row of a terminal, with neighbours of one style joined.

    Args:
        plain: the colours of what has none of its own: of text, and behind it.
    """
    pieces: list[Piece] = []
    column = 0
    looks = ((_style(segment.style, plain), segment.text) for segment in segments)
    for style, same in groupby(looks, key=lambda look: look[0]):
        text = "".join(part for _, part in same)
        width = cell_len(text)
        if width:
            pieces.append(Piece(column, text, width, style))
        column += width
    return tuple(pieces)


def text_of(row: Row) -> str:
    """What a row says."""
    return "".join(piece.text for piece in row)


def _style(style: RichStyle | None, plain: tuple[str, str]) -> Style:
    color, background = plain
    if style is None:
        return Style(color, background)
    color = _hex(style.color, color)
    background = _hex(style.bgcolor, background)
    if style.reverse:
        color, background = background, color
    if style.dim:
        color = _between(color, background)
    return Style(color, background, bool(style.bold), bool(style.italic), bool(style.underline))


def _hex(color: Color | None, otherwise: str) -> str:
    if color is None or color.is_default:
        return otherwise.lower()
    return color.get_truecolor().hex


def _between(first: str, second: str) -> str:
    """The colour in the middle of two."""
    pairs = ((int(first[at : at + 2], 16), int(second[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{(one + other) // 2:02x}" for one, other in pairs)


class Landmarks(NamedTuple):
    """When in the recording something happens, in seconds after its beginning."""

    base_begins_s: float
    """The first base's training."""
    base_trained_s: float
    measured_s: float
    """The first sweep has ended, and its results were looked at."""


def landmarks(recording: Recording) -> Landmarks:
    """Where a film of this recording finds what it shows."""
    view = MeshView()
    begins_s = trained_s = measured_s = 0.0
    for index in range(len(recording)):
        moment = recording.moment(index)
        at_s = recording.wall_s(index) - recording.begins_wall_s
        if moment.batch is not None:
            apply_all(view, moment.batch.changes)
        rows = view.jobs.values()
        if not begins_s and any(
            row.kind is JobKind.BASE and row.state is JobState.RUNNING for row in rows
        ):
            begins_s = at_s
        if not trained_s and any(base.artifact_id for base in view.bases.values()):
            trained_s = at_s
        first = next(iter(view.sweeps.values()), None)
        answered = moment.answered
        if first is not None and answered is not None and answered.what == "results":
            done = view.progress(first.sweep_id).ended == first.jobs
            if done and answered.names == (first.sweep_id,):
                measured_s = at_s + ASKED_TOO_S
                break
    if not (begins_s and trained_s and measured_s):
        raise SystemExit("the recording has no sweep that ends: make another, docs/record_run.py")
    return Landmarks(begins_s, trained_s, measured_s)


async def play(film: Film, marks: Landmarks) -> None:
    """The film: what somebody would look at while a sweep runs."""
    begins_s, trained_s, measured_s = marks
    training_s = trained_s - begins_s
    half_s = begins_s + 0.6 * training_s
    await film.go_to(begins_s + 0.1 * training_s)
    film.tell("meshtrain top", "three nodes, a sweep, and its base is being trained")
    await film.hold(0.6, expect="batch_composition")
    await film.run(begins_s + 0.1 * training_s, begins_s + 0.25 * training_s,
                   for_s=1.4, frames=3, expect="batch_composition")  # fmt: skip
    await film.press("2", key="2", caption="Jobs", for_s=0.8, expect="waits for base")
    await film.press("slash", key="/", caption="a filter", for_s=0.3, expect="")
    await film.type("running", caption="a filter: a part of any column", expect="running")
    await film.press("enter", key="⏎", caption="keeps it", for_s=0.4, expect="running")
    await film.press("enter", key="⏎", caption="the job, and its log as it comes",
                     for_s=0.5, expect="epoch")  # fmt: skip
    await film.run(begins_s + 0.25 * training_s, half_s, for_s=2.0, frames=5, expect="epoch")
    await film.press("m", key="m", caption="its metrics, as they are measured",
                     for_s=0.4, expect="loss")  # fmt: skip
    await film.run(half_s, trained_s - 0.5, for_s=2.1, frames=6, expect="loss")
    told = "trained once, the base came to the others from their peers; now the fine-tunes run"
    await film.press("1", key="1", caption="Overview", for_s=0.6, expect="Last events")
    film.tell("1", told)
    await film.run(trained_s, measured_s, for_s=4.5, frames=12, expect="Last events")
    told = "Matrix: what was measured, the best, and what failed"
    await film.press("3", key="3", caption="Matrix", for_s=0.5, expect="seeds")
    await film.press("s", key="s", caption="another sweep", for_s=0.7, expect="batch_composition")
    await film.press("down", "down", key="↓", caption="another sweep", for_s=0.4, expect="")
    await film.press("enter", key="⏎", caption=told, for_s=1.5, expect="±", still_s=ASKED_S)
    for key, sign in (("right", "→"), ("down", "↓"), ("down", "↓"), ("down", "↓")):
        await film.press(key, key=sign, caption="what a cell holds, or why it holds nothing",
                         for_s=0.3, expect="±")  # fmt: skip
    film.length_s += 0.9
    told = "Bases: what continues from what, who holds it, and which sweeps start from it"
    await film.press("4", key="4", caption=told, for_s=1.2, expect="more_writers",
                     still_s=ASKED_S)  # fmt: skip
    await film.press("down", key="↓", caption=told, for_s=1.2, expect="more_writers",
                     still_s=ASKED_S)  # fmt: skip
    await film.press("5", key="5", caption="Transfers: who got what from whom",
                     for_s=2.0, expect="node-3")  # fmt: skip
    await film.press("6", key="6", caption="Nodes: what each has, and what runs there",
                     for_s=1.3, expect="node-3")  # fmt: skip
    await film.press("question_mark", key="?", caption="every key of the screen",
                     for_s=1.5, expect="Nodes")  # fmt: skip
    await film.press("escape", key="esc", caption="back", for_s=0.3, expect="node-3")
    told = "all that can be done, found by its name"
    await film.press("colon", key=":", caption=told, for_s=0.6, expect="Overview")
    await film.type("jobs of b", caption=told, expect="jobs of batch_composition")
    await film.press("enter", key="⏎", caption="the jobs of one sweep", for_s=2.0,
                     expect="accuracy")  # fmt: skip


async def take(recording: Path) -> str:
    """The film of a recording, as the text of an SVG."""
    # The same film wherever it is made.
    os.environ["TZ"] = "UTC"
    time.tzset()
    source = Recording(recording)
    player = FilmPlayer(source)
    app: Any = Top(
        ADDRESS,
        lambda: player,
        clocks=Clocks(player.now_s, player.now_s),
        ask=player.ask,
        redraw_min_s=0,
    )
    app.animation_level = "none"
    async with app.run_test(size=SIZE) as pilot:
        film = Film(app, pilot, player)
        await play(film, landmarks(source))
        return animated_svg(
            film.frames,
            length_s=round(film.length_s, 3),
            columns=SIZE[0],
            title="meshtrain top",
            background=app.theme_variables["background"].lower(),
        )


def main() -> None:
    svg = asyncio.run(take(RECORDING))
    FILM.write_text(svg, encoding="utf-8")
    print(f"{FILM.relative_to(ROOT)}: {len(svg.encode()):,} bytes")


if __name__ == "__main__":
    main()
