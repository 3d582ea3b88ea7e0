"""Compares a screen with the picture of it that is kept, as SVG.

    check_snapshot(shown.app, "jobs_80x24")

A picture that changed on purpose is written anew by
MESHTRAIN_UPDATE_SNAPSHOTS=1 pytest tests/tui; look at it before it is committed.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshtrain_tui.app import Top

FOLDER = Path(__file__).parent / "snapshots"
UPDATE = "MESHTRAIN_UPDATE_SNAPSHOTS"
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_UNIQUE = re.compile(r"terminal-\d+")


def normalised(svg: str) -> str:
    """The picture without what a library's version or its fonts' addresses change."""
    bare = _UNIQUE.sub("terminal", _FONTS.sub("", svg))
    return "\n".join(line.rstrip() for line in bare.splitlines()) + "\n"


def check_snapshot(app: Top, name: str) -> None:
    """Fails when the screen is not as it was kept under `name`."""
    seen = normalised(app.export_screenshot(title=name, simplify=True))
    path = FOLDER / f"{name}.svg"
    if os.environ.get(UPDATE):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(seen)
        return
    assert path.exists(), f"no picture is kept as {path.name}: write it with {UPDATE}=1"
    kept = path.read_text()
    if seen != kept:
        changed = list(
            difflib.unified_diff(_words(kept), _words(seen), "kept", "seen", lineterm="")
        )
        pytest.fail(
            f"{path.name} shows something else now"
            + ("\n" + "\n".join(changed[:60]) if changed else ": the same words in other styles")
        )


def _words(svg: str) -> list[str]:
    """The text of a picture, piece by piece."""
    pieces = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return [piece.replace("&#160;", " ") for piece in pieces]


@contextmanager
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone that kept pictures are of."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        yield
    finally:
        monkeypatch.undo()
        time.tzset()
