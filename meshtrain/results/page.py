"""Pieces of HTML whose every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import msgspec


class Cell(msgspec.Struct, frozen=True):
    """A cell of a table."""

    text: str
    kind: str = ""
    """Its class: `number`, `better`; empty for plain text."""


def escaped(text: object) -> str:
    """Text for HTML, in content or in an attribute's quotes.

    What XML knows no character for (control characters, half surrogates) shows as �.
    """
    return html.escape("".join(c if _is_shown(c) else "\ufffd" for c in str(text)), quote=True)


def _is_shown(char: str) -> bool:
    code = ord(char)
    return (
        code >= 0x20 and not 0x7F <= code < 0xA0 and not 0xD800 <= code < 0xE000
    ) or char in "\n\t"


def paragraph(text: str, class_: str = "") -> str:
    return f"<p{_class(class_)}>{escaped(text)}</p>"


def table(
    titles: Sequence[str | Cell],
    rows: Iterable[Sequence[str | Cell]],
    *,
    classes: Sequence[str] = (),
) -> str:
    """A table; `classes` are its rows', in order, empty for plain ones."""
    head = "".join(_cell("th", title) for title in titles)
    body = "".join(
        f"<tr{_class(classes[place] if place < len(classes) else '')}>"
        f"{''.join(_cell('td', cell) for cell in row)}</tr>"
        for place, row in enumerate(rows)
    )
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of names and what they are, without a head."""
    rows = "".join(
        f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in pairs
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def notes(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f'<ul class="notes">{items}</ul>' if items else ""


def details(summary: str, inner: str, *, is_open: bool = False) -> str:
    """What is folded up until somebody opens it; `inner` is HTML."""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{escaped(summary)}</summary>{inner}</details>"


def figure(drawing: str, caption: str) -> str:
    """A drawing, as HTML, and the words below it."""
    return f"<figure>{drawing}<figcaption>{escaped(caption)}</figcaption></figure>"


def preformatted(text: str) -> str:
    return f"<pre>{escaped(text.replace(chr(13), ''))}</pre>"


def number(text: str) -> Cell:
    return Cell(text, "number")


def _cell(tag: str, cell: str | Cell) -> str:
    text, kind = (cell, "") if isinstance(cell, str) else (cell.text, cell.kind)
    return f"<{tag}{_class(kind)}>{escaped(text)}</{tag}>"


def _class(name: str) -> str:
    return f' class="{escaped(name)}"' if name else ""
