"""Makes one animated SVG out of pictures of a terminal, each with the time from which it is seen.

No scripts and no fonts of its own, so that it plays inside an <img>: rows are shown
and hidden by CSS keyframes. A row that several pictures have is in the file once.
Each piece of text bears the width that it is to have, so that columns stay where
they are whatever monospace font the reader has. The same pictures make the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

CELL_WIDTH = 8.4
CELL_HEIGHT = 18
FONT_SIZE = 14
BASELINE = 13.5
"""Of a row's text, below the row's upper edge."""
MARGIN = 10
TITLE_HEIGHT = 26
CAPTION_HEIGHT = 44
KEY_HEIGHT = 26
GAP_MIN = 3
"""So many spaces part a text in two: a gap needs no text."""
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
FRAME, EDGE, MUTED, BRIGHT = "#0d1117", "#30363d", "#8b949e", "#e6edf3"
"""Colours around the terminal."""


class Style(NamedTuple):
    """How a piece of text looks; colours as #rrggbb."""

    color: str
    background: str
    bold: bool = False
    italic: bool = False
    underline: bool = False


class Piece(NamedTuple):
    """Text of one style, from one column on."""

    column: int
    text: str
    width: int
    """In columns: wide characters take two."""
    style: Style


Row = tuple[Piece, ...]


class Frame(NamedTuple):
    """A picture that is seen from a time on, until the next one."""

    at_s: float
    rows: tuple[Row, ...]
    key: str = ""
    """The key that was pressed, as it is drawn below."""
    caption: str = ""


Span = tuple[float, float]
"""From a time until another, in seconds."""


class _Sheet:
    """The classes that texts and groups are given, each look once."""

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._looks: dict[str, str] = {}
        self._shows: dict[tuple[Span, ...], str] = {}

    def look(self, css: str) -> str:
        return self._looks.setdefault(css, f"t{len(self._looks)}")

    def shown(self, spans: tuple[Span, ...]) -> str:
        """The class of what is seen during these spans; "" for always."""
        if spans == ((0.0, self._length_s),):
            return ""
        return self._shows.setdefault(spans, f"k{len(self._shows)}")

    def css(self) -> Iterator[str]:
        yield f"text{{font:{FONT_SIZE}px {FONTS};white-space:pre}}"
        for css, name in self._looks.items():
            yield f".{name}{{{css}}}"
        for spans, name in self._shows.items():
            steps = "".join(
                f"{_number(100 * at_s / self._length_s)}%{{visibility:{word}}}"
                for at_s, word in _turns(spans, self._length_s)
            )
            yield f"@keyframes {name}{{{steps}}}"
            first = "visible" if spans[0][0] == 0 else "hidden"
            yield (
                f".{name}{{visibility:{first};"
                f"animation:{name} {_number(self._length_s)}s step-end infinite}}"
            )
        # Whoever wants nothing to move sees the first picture.
        yield "@media (prefers-reduced-motion:reduce){g{animation:none!important}}"


def animated_svg(
    frames: Sequence[Frame], *, length_s: float, columns: int, title: str, background: str
) -> str:
    """The film as the text of one SVG.

    Args:
        frames: in the order of their times, the first one at 0.
        length_s: how long it is; then it begins again.
        columns: of the terminal.
        background: of the terminal, as #rrggbb; what has it is not drawn.
    """
    if not frames or frames[0].at_s != 0:
        raise ValueError("a film begins with a frame at 0 s")
    if any(b.at_s <= a.at_s for a, b in pairwise(frames)):
        raise ValueError("the frames of a film come one after another")
    if frames[-1].at_s >= length_s:
        raise ValueError(f"the last frame begins at {frames[-1].at_s} s, and all is {length_s} s")
    rows = max(len(frame.rows) for frame in frames)
    width = columns * CELL_WIDTH + 2 * MARGIN
    terminal_height = TITLE_HEIGHT + rows * CELL_HEIGHT + MARGIN
    height = terminal_height + CAPTION_HEIGHT
    sheet = _Sheet(length_s)
    body = list(_body(frames, length_s, sheet, background))
    caption_y = terminal_height + (CAPTION_HEIGHT - KEY_HEIGHT) / 2
    captions = list(_captions(frames, length_s, sheet, caption_y))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_number(width)} '
            f'{_number(height)}" width="{_number(width)}" height="{_number(height)}" '
            'xml:space="preserve" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{''.join(sheet.css())}</style>",
            f'<rect width="{_number(width)}" height="{_number(height)}" rx="9" fill="{FRAME}"/>',
            f'<path d="M9 .5H{_number(width - 9)}A8.5 8.5 0 0 1 {_number(width - 0.5)} 9'
            f"V{terminal_height}H.5V9A8.5 8.5 0 0 1 9 .5Z"
            f'" fill="{background}" stroke="{EDGE}"/>',
            *(
                f'<circle cx="{18 + 18 * place}" cy="13.5" r="5" fill="{fill}"/>'
                for place, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
            ),
            f'<text x="{_number(width / 2)}" y="18" text-anchor="middle" fill="{MUTED}">'
            f"{escape(title)}</text>",
            f'<g transform="translate({MARGIN},{TITLE_HEIGHT})">',
            *body,
            "</g>",
            *captions,
            "</svg>\n",
        ]
    )


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _turns(spans: tuple[Span, ...], length_s: float) -> Iterator[tuple[float, str]]:
    """When it is to be seen and when not, from the beginning on."""
    if spans[0][0] > 0:
        yield 0.0, "hidden"
    for begin_s, end_s in spans:
        yield begin_s, "visible"
        if end_s < length_s:
            yield end_s, "hidden"


def _spans(frames: Sequence[Frame], length_s: float, seen: Sequence[bool]) -> tuple[Span, ...]:
    """During which spans something is seen that some of the frames have."""
    spans: list[Span] = []
    ends = [*(frame.at_s for frame in frames[1:]), length_s]
    for frame, end_s, is_seen in zip(frames, ends, seen, strict=True):
        if not is_seen:
            continue
        if spans and spans[-1][1] == frame.at_s:
            spans[-1] = (spans[-1][0], end_s)
        else:
            spans.append((frame.at_s, end_s))
    return tuple(spans)


def _body(
    frames: Sequence[Frame], length_s: float, sheet: _Sheet, background: str
) -> Iterator[str]:
    """The rows; those that are seen at the same times stand together in one group."""
    together: dict[tuple[Span, ...], list[str]] = {}
    for number in range(max(len(frame.rows) for frame in frames)):
        at_number = [frame.rows[number] if number < len(frame.rows) else () for frame in frames]
        for row in dict.fromkeys(at_number):
            drawn = "".join(_row(row, number * CELL_HEIGHT, sheet, background))
            if drawn:
                spans = _spans(frames, length_s, [other == row for other in at_number])
                together.setdefault(spans, []).append(drawn)
    for spans, drawn_rows in together.items():
        name = sheet.shown(spans)
        yield f'<g class="{name}">' if name else "<g>"
        yield from drawn_rows
        yield "</g>"


def _row(row: Row, top: float, sheet: _Sheet, background: str) -> Iterator[str]:
    for fill, pieces in groupby(row, key=lambda piece: piece.style.background):
        if fill != background:
            stretch = list(pieces)
            begin = stretch[0].column
            end = stretch[-1].column + stretch[-1].width
            yield (
                f'<rect x="{_number(begin * CELL_WIDTH)}" y="{_number(top)}" '
                f'width="{_number((end - begin) * CELL_WIDTH)}" height="{CELL_HEIGHT}" '
                f'class="{sheet.look(f"fill:{fill}")}"/>'
            )
    for piece in row:
        name = sheet.look(_look(piece.style))
        for column, text, width in _words(piece):
            # Lines and bars are to touch one another.
            adjust = ' lengthAdjust="spacingAndGlyphs"' if _is_drawing(text) else ""
            yield (
                f'<text x="{_number(column * CELL_WIDTH)}" y="{_number(top + BASELINE)}" '
                f'textLength="{_number(width * CELL_WIDTH)}"{adjust} class="{name}">'
                f"{escape(text)}</text>"
            )


def _look(style: Style) -> str:
    css = f"fill:{style.color}"
    if style.bold:
        css += ";font-weight:700"
    if style.italic:
        css += ";font-style:italic"
    if style.underline:
        css += ";text-decoration:underline"
    return css


def _is_drawing(text: str) -> bool:
    """Whether it has box drawings, blocks or Braille, which are drawn as pictures."""
    return any("─" <= sign <= "▟" or "⠀" <= sign <= "⣿" for sign in text)


def _words(piece: Piece) -> Iterator[tuple[int, str, int]]:
    """The texts of a piece without the wide gaps in it, with their columns and widths."""
    if len(piece.text) != piece.width:
        # Wide signs: where each stands is not known here.
        if piece.text.strip():
            yield piece.column, piece.text, piece.width
        return
    begin = 0
    while begin < len(piece.text):
        if piece.text[begin] == " ":
            begin += 1
            continue
        end = piece.text.find(" " * GAP_MIN, begin)
        text = piece.text[begin : end if end >= 0 else None].rstrip(" ")
        yield piece.column + begin, text, len(text)
        begin += len(text)


def _captions(frames: Sequence[Frame], length_s: float, sheet: _Sheet, top: float) -> Iterator[str]:
    told = [(frame.key, frame.caption) for frame in frames]
    for key, caption in dict.fromkeys(told):
        spans = _spans(frames, length_s, [other == (key, caption) for other in told])
        name = sheet.shown(spans)
        yield f"<g class={quoteattr(name)}>" if name else "<g>"
        x = float(MARGIN)
        if key:
            key_width = (len(key) + 2) * CELL_WIDTH
            yield (
                f'<rect x="{_number(x)}" y="{_number(top)}" width="{_number(key_width)}" '
                f'height="{KEY_HEIGHT}" rx="5" fill="#21262d" stroke="#6e7681"/>'
            )
            yield _caption_text(x + CELL_WIDTH, top, key, sheet, BRIGHT)
            x += key_width + 1.5 * CELL_WIDTH
        if caption:
            yield _caption_text(x, top, caption, sheet, MUTED)
        yield "</g>"


def _caption_text(x: float, top: float, text: str, sheet: _Sheet, color: str) -> str:
    name = sheet.look(f"fill:{color};font-weight:700" if color == BRIGHT else f"fill:{color}")
    return (
        f'<text x="{_number(x)}" y="{_number(top + 18)}" '
        f'textLength="{_number(len(text) * CELL_WIDTH)}" class="{name}">{escape(text)}</text>'
    )
