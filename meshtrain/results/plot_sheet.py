"""The sheet that a plot stands on: its frame, and room for all that is written around it.

Everything is measured before the sheet gets its size, so that no two texts
meet. Only `plots` imports this module, and only when it draws.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import IO, Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from meshtrain.results.formats import clip_middle

DPI = 150
MARGIN_IN = 0.18
LINE_GAP_IN = 0.06
CHAR_WIDTH_IN = 0.075
WIDTH_MIN_IN = 6.4
CATEGORY_LEN_MAX = 28
QUIET = "#666666"


class Sheet:
    """One figure with one panel of `panel_in` (width, height) inches."""

    def __init__(self, panel_in: tuple[float, float]) -> None:
        self.panel_in = panel_in
        self._figure = Figure(figsize=(panel_in[0] + 3, panel_in[1] + 2), dpi=DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        self.axes: Axes = self._figure.add_axes((0.2, 0.2, 0.5, 0.5))
        for side in ("top", "right"):
            self.axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            self.axes.spines[side].set_color("#999999")
        self.axes.tick_params(color="#999999")
        self.axes.set_axisbelow(True)
        self._legend: tuple[list[Artist], list[str]] = ([], [])
        self._handle_length = 1.2
        self._notes: list[str] = []
        self._bar_axes: Axes | None = None

    @staticmethod
    @contextlib.contextmanager
    def style() -> Iterator[None]:
        """Settings that hold while a sheet is drawn; names are never read as formulas."""
        with matplotlib.rc_context(
            {
                "font.family": "sans-serif",
                "font.sans-serif": ["DejaVu Sans"],
                "font.size": 9.5,
                "axes.labelsize": 10,
                "text.usetex": False,
                "text.parse_math": False,
                "axes.unicode_minus": True,
                "hatch.color": "#b0b0b0",
                "hatch.linewidth": 0.8,
            }
        ):
            yield

    def set_x_ticks(self, places: Sequence[float], texts: Sequence[str]) -> None:
        """Ticks at the values themselves, less those whose texts would meet."""
        low, high = self.axes.transData.transform([(p, 0.0) for p in self.axes.get_xlim()])[:, 0]
        kept: list[int] = []
        end_in = -1.0
        for i, x in enumerate(self.axes.transData.transform([(p, 0.0) for p in places])[:, 0]):
            at_in = (x - low) / (high - low) * self.panel_in[0]
            half_in = (len(texts[i]) + 1) * CHAR_WIDTH_IN / 2
            if at_in - half_in > end_in:
                kept.append(i)
                end_in = at_in + half_in
        self.axes.set_xticks([places[i] for i in kept], [texts[i] for i in kept])
        self.axes.set_xticks([], minor=True)

    def set_x_categories(self, places: Sequence[float], texts: Sequence[str]) -> None:
        """A text below each place: on two lines, or slanted, where there is little room."""
        room = self.panel_in[0] / max(len(places), 1) / CHAR_WIDTH_IN - 1
        short = [clip_middle(text, CATEGORY_LEN_MAX) for text in texts]
        wrapped = [textwrap.fill(text, max(int(room), 6), break_long_words=False) for text in short]
        fits = all(
            len(line) <= room and text.count("\n") < 2
            for text in wrapped
            for line in text.splitlines()
        )
        self.axes.tick_params(axis="x", length=0)
        if fits:
            self.axes.set_xticks(places, wrapped)
        else:
            every = -(-len(places) * 2 // max(int(self.panel_in[0] / CHAR_WIDTH_IN / 1.2), 1))
            every = max(every, 1)
            self.axes.set_xticks(
                places[::every],
                short[::every],
                rotation=35,
                ha="right",
                rotation_mode="anchor",
            )

    def set_y_categories(self, texts: Sequence[str]) -> None:
        """A text beside each row of a heat map."""
        every = max(-(-len(texts) // max(int(self.panel_in[1] / 0.16), 1)), 1)
        places = range(0, len(texts), every)
        self.axes.set_yticks(list(places), [texts[i] for i in places])
        self.axes.tick_params(axis="y", length=0)

    def hide_frame(self) -> None:
        """Takes away the panel's frame."""
        for spine in self.axes.spines.values():
            spine.set_visible(False)

    def label_right(self, at: float, label_at: float, text: str, *, leader: bool) -> None:
        """Writes `text` right of the panel, with a leader line from height `at` to `label_at`.

        Heights are shares of the panel's.
        """
        if leader:
            self.axes.plot(
                [1.0, 1.012, 1.03, 1.04],
                [at, at, label_at, label_at],
                transform=self.axes.transAxes,
                color="#999999",
                linewidth=0.8,
                clip_on=False,
            )
        self.axes.text(
            1.05,
            label_at,
            text,
            transform=self.axes.transAxes,
            fontsize=8,
            va="center",
            linespacing=1.15,
            color="#333333",
        )

    def legend(self, handles: Sequence[Artist], names: Sequence[str], *, with_lines: bool) -> None:
        """What the marks mean; stands above the panel."""
        # matplotlib leaves out names that begin with an underscore.
        shown = [" " + name if name.startswith("_") else name for name in names]
        self._legend = (list(handles), shown)
        self._handle_length = 3.4 if with_lines else 1.2

    def note(self, text: str) -> None:
        """Another line below the title."""
        self._notes.append(text)

    def say_empty(self, text: str) -> None:
        """Writes `text` over the empty panel."""
        box = {"facecolor": "white", "edgecolor": "none", "pad": 4}
        self.axes.text(
            0.5,
            0.5,
            text,
            transform=self.axes.transAxes,
            ha="center",
            va="center",
            fontsize=12,
            color=QUIET,
            bbox=box,
            zorder=10,
        )

    @staticmethod
    def colour_map() -> Colormap:
        """A scale of brightness that colour-blind readers see as others do."""
        return matplotlib.colormaps["cividis"]

    def colour_bar(self, norm: Normalize, label: str) -> None:
        """A scale right of the panel."""
        self._bar_axes = self._figure.add_axes((0.8, 0.2, 0.02, 0.5))
        mappable = ScalarMappable(norm, self.colour_map())
        bar = self._figure.colorbar(mappable, cax=self._bar_axes)
        bar.set_label(label)
        bar.outline.set_visible(False)

    def finish(self, target: IO[bytes], *, title: str, lines: Sequence[str]) -> None:
        """Measures everything, gives each its place, and writes the PNG to `target`."""
        width_in, panel_width_in = self.panel_in[0], self.panel_in[0]
        self._resize_panel(self.panel_in[0] + 3, self.panel_in[1] + 2, 1.0, 1.0)
        left_in, bottom_in, right_in, _ = self._overhangs_in()
        left_in, bottom_in = left_in + MARGIN_IN, bottom_in + MARGIN_IN
        right_in += MARGIN_IN
        bar_in = 0.0
        if self._bar_axes is not None:
            bar_in = 0.25 + 0.14
            right_in = max(right_in, bar_in + self._bar_overhang_in() + MARGIN_IN)
        width_in = max(left_in + panel_width_in + right_in, WIDTH_MIN_IN)
        if self._bar_axes is None:
            panel_width_in = width_in - left_in - right_in
        head_width_in = width_in - 2 * MARGIN_IN
        texts = self._head_texts(title, [*lines, *self._notes], head_width_in)
        legend = self._fitting_legend(head_width_in)
        heights_in = [
            self._size_in(artist)[1] for artist in [*texts, *([legend] if legend else [])]
        ]
        legend_gap_in = 0.07 if legend else 0.0
        head_in = sum(heights_in) + LINE_GAP_IN * len(heights_in) + MARGIN_IN + 0.12
        head_in += legend_gap_in
        height_in = head_in + self.panel_in[1] + bottom_in
        self._resize_panel(width_in, height_in, left_in, bottom_in, panel_width_in)
        if self._bar_axes is not None:
            self._bar_axes.set_position(
                (
                    (left_in + panel_width_in + 0.25) / width_in,
                    bottom_in / height_in,
                    0.14 / width_in,
                    self.panel_in[1] / height_in,
                )
            )
        top_in = height_in - MARGIN_IN
        for text, text_height_in in zip(texts, heights_in, strict=False):
            text.set_position((MARGIN_IN / width_in, top_in / height_in))
            top_in -= text_height_in + LINE_GAP_IN
        if legend:
            legend.set_bbox_to_anchor(
                (MARGIN_IN / width_in, (top_in - legend_gap_in) / height_in),
                self._figure.transFigure,
            )
        self._figure.savefig(target, format="png", dpi=DPI, facecolor="white")

    def _resize_panel(
        self,
        width_in: float,
        height_in: float,
        left_in: float,
        bottom_in: float,
        panel_width_in: float | None = None,
    ) -> None:
        self._figure.set_size_inches(width_in, height_in)
        panel = (panel_width_in or self.panel_in[0], self.panel_in[1])
        self.axes.set_position(
            (left_in / width_in, bottom_in / height_in, panel[0] / width_in, panel[1] / height_in)
        )

    def _overhangs_in(self) -> tuple[float, float, float, float]:
        """How far the panel's texts reach beyond it: left, below, right, above."""
        self._figure.draw(self._renderer())
        whole = self.axes.get_tightbbox(self._renderer())
        panel = self.axes.get_window_extent()
        if whole is None:
            return 0.0, 0.0, 0.0, 0.0
        sides = (
            panel.x0 - whole.x0,
            panel.y0 - whole.y0,
            whole.x1 - panel.x1,
            whole.y1 - panel.y1,
        )
        left, below, right, above = (max(side, 0.0) / DPI for side in sides)
        return left, below, right, above

    def _bar_overhang_in(self) -> float:
        if self._bar_axes is None:
            return 0.0
        whole = self._bar_axes.get_tightbbox(self._renderer())
        bar = self._bar_axes.get_window_extent()
        return 0.0 if whole is None else float(max(whole.x1 - bar.x1, 0.0)) / DPI

    def _head_texts(self, title: str, lines: Sequence[str], width_in: float) -> list[Text]:
        texts = []
        if title:
            wrapped = textwrap.fill(title, max(int(width_in / 0.115), 20), max_lines=2)
            texts.append(self._head_text(wrapped, fontsize=13, fontweight="bold", color="#111111"))
        for line in lines:
            wrapped = textwrap.fill(line, max(int(width_in / 0.072), 30), max_lines=2)
            texts.append(self._head_text(wrapped, fontsize=8.5, color=QUIET))
        return texts

    def _head_text(self, text: str, **style: Any) -> Text:
        return self._figure.text(0.0, 1.0, text, va="top", ha="left", **style)

    def _fitting_legend(self, width_in: float) -> Legend | None:
        handles, names = self._legend
        for columns in range(min(len(handles), 4), 0, -1):
            legend = self._figure.legend(
                handles,
                names,
                loc="upper left",
                ncols=columns,
                frameon=False,
                fontsize=8.5,
                borderpad=0.0,
                borderaxespad=0.0,
                handlelength=self._handle_length,
                columnspacing=1.6,
                labelspacing=0.45,
            )
            if columns == 1 or self._size_in(legend)[0] <= width_in:
                return legend
            legend.remove()
        return None

    def _renderer(self) -> RendererBase:
        renderer: RendererBase = self._canvas.get_renderer()  # type: ignore[no-untyped-call]
        return renderer

    def _size_in(self, artist: Artist) -> tuple[float, float]:
        extent = artist.get_window_extent(self._renderer())
        return float(extent.width) / DPI, float(extent.height) / DPI
