"""How the dashboard is coloured: dark, light, and one of high contrast.

No colour says anything alone: what it stands for is always told by a word or a sign
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual.theme import BUILTIN_THEMES, Theme

from meshtrain.errors import SettingsError
from meshtrain.spec.problems import hint, shown

DARK = "dark"
LIGHT = "light"
CONTRAST = "contrast"

OURS = (
    Theme(
        name=DARK,
        primary="#5b8def",
        secondary="#3b5b92",
        accent="#e5b567",
        warning="#e5b567",
        error="#e5716b",
        success="#7fbf7f",
        foreground="#dcdfe4",
        background="#15181e",
        surface="#1b1f27",
        panel="#242a35",
    ),
    Theme(
        name=LIGHT,
        primary="#1f4e9c",
        secondary="#5a78ad",
        accent="#8a5a00",
        warning="#8a5a00",
        error="#a3192b",
        success="#1c6b2e",
        foreground="#1b1f27",
        background="#fbfbf8",
        surface="#f3f3ee",
        panel="#e4e5df",
        dark=False,
    ),
    # Nothing but black, white and full colours: each is at least 7 to 1 against the ground.
    Theme(
        name=CONTRAST,
        primary="#00ffff",
        secondary="#00ffff",
        accent="#ffff00",
        warning="#ffff00",
        error="#ff8a8a",
        success="#00ff00",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#1a1a1a",
        text_alpha=1.0,
        variables={
            "block-cursor-background": "#ffff00",
            "block-cursor-foreground": "#000000",
            "foreground-muted": "#ffffff",
            "border": "#ffffff",
        },
    ),
)

CYCLE = (DARK, LIGHT, CONTRAST)


def next_theme(name: str) -> str:
    """The theme after this one, of ours."""
    return CYCLE[(CYCLE.index(name) + 1) % len(CYCLE)] if name in CYCLE else CYCLE[0]


def known_themes() -> Iterable[str]:
    """The names of all themes."""
    return (*CYCLE, *sorted(BUILTIN_THEMES))


def checked_theme(name: str) -> str:
    """The name, if there is such a theme. Raises SettingsError when there is none."""
    names = list(known_themes())
    if name not in names:
        raise SettingsError(
            f"no theme is called {shown(name)}{hint(name, names) or ';'} there are: "
            f"{', '.join(names)}"
        )
    return name
