"""The colours that programs print, and the text without them.

Of the escape sequences of ECMA-48 only colours and emphasis (SGR) mean anything in a
log; all others are taken out, as are control characters. Tabs become spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

TAB_COLUMNS = 8
_ESCAPE = re.compile(
    "\x1b(?:"
    r"\[[0-?]*[ -/]*(?:[@-~]|\Z)"  # CSI: colours, and the cursor's movements
    "|\\][^\x07\x1b]*(?:\x07|\x1b\\\\|\\Z)?"  # OSC: titles, links
    "|[PX^_][^\x1b]*(?:\x1b\\\\|\\Z)?"  # strings for the terminal alone
    r"|[ -/]*[0-~]"
    ")?"
)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")


class Look(NamedTuple):
    """Colours by the names that Rich knows them by; "" is the terminal's own."""

    fore: str = ""
    back: str = ""
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False
    strike: bool = False


PLAIN = Look()


class Run(NamedTuple):
    """A piece of a line with one look."""

    text: str
    look: Look


def text_of(shown: bytes) -> str:
    """The plain text of a line's bytes."""
    text = shown.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(run.text for run in runs_of(text))


def runs_of(text: str) -> list[Run]:
    """The pieces of a line as it was printed; their texts make up its plain text."""
    runs: list[Run] = []
    look = PLAIN
    column = 0
    begin = 0
    for found in _ESCAPE.finditer(text):
        column = _add(runs, text[begin : found.start()], look, column)
        begin = found.end()
        code = found.group()
        if code.startswith("\x1b[") and code.endswith("m"):
            look = _changed(look, code[2:-1])
    _add(runs, text[begin:], look, column)
    return runs


def _add(runs: list[Run], raw: str, look: Look, column: int) -> int:
    """Add a piece that begins in `column`; the column after it."""
    if not raw.isprintable():
        raw = _CONTROL.sub("", raw)
        if "\t" in raw:
            padding = " " * (column % TAB_COLUMNS)
            raw = (padding + raw).expandtabs(TAB_COLUMNS)[len(padding) :]
    if raw:
        if runs and runs[-1].look == look:
            runs[-1] = Run(runs[-1].text + raw, look)
        else:
            runs.append(Run(raw, look))
    return column + len(raw)


def _changed(look: Look, parameters: str) -> Look:
    """The look after the parameters of one SGR sequence; what isn't known changes nothing."""
    # A colon binds the parts of one parameter, as in 38:2::255:0:0; a semicolon is what most write.
    codes = [
        int(code) if code.isdigit() and len(code) <= 3 else 0 if code == "" else -1
        for code in parameters.replace("::", ":").replace(":", ";").split(";")
    ]
    while codes:
        code = codes.pop(0)
        if code == 0:
            look = PLAIN
        elif code in _FLAGS:
            look = _FLAGS[code](look)
        elif 30 <= code <= 37:
            look = look._replace(fore=_NAMES[code - 30])
        elif 90 <= code <= 97:
            look = look._replace(fore=f"bright_{_NAMES[code - 90]}")
        elif 40 <= code <= 47:
            look = look._replace(back=_NAMES[code - 40])
        elif 100 <= code <= 107:
            look = look._replace(back=f"bright_{_NAMES[code - 100]}")
        elif code == 39:
            look = look._replace(fore="")
        elif code == 49:
            look = look._replace(back="")
        elif code in (38, 48):
            color = _color(codes)
            look = look._replace(fore=color) if code == 38 else look._replace(back=color)
    return look


_FLAGS: dict[int, Callable[[Look], Look]] = {
    1: lambda look: look._replace(bold=True),
    2: lambda look: look._replace(dim=True),
    3: lambda look: look._replace(italic=True),
    4: lambda look: look._replace(underline=True),
    7: lambda look: look._replace(reverse=True),
    9: lambda look: look._replace(strike=True),
    22: lambda look: look._replace(bold=False, dim=False),
    23: lambda look: look._replace(italic=False),
    24: lambda look: look._replace(underline=False),
    27: lambda look: look._replace(reverse=False),
    29: lambda look: look._replace(strike=False),
}


def _color(codes: list[int]) -> str:
    """One of 256 colours, or any; takes its parameters off `codes`."""
    if len(codes) >= 2 and codes[0] == 5:
        _, number = codes.pop(0), codes.pop(0)
        return f"color({number})" if 0 <= number <= 255 else ""
    if len(codes) >= 4 and codes[0] == 2:
        _, red, green, blue = (codes.pop(0) for _ in range(4))
        if all(0 <= part <= 255 for part in (red, green, blue)):
            return f"#{red:02x}{green:02x}{blue:02x}"
    return ""
