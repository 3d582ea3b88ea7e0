"""How the states of a job look on every screen: a sign, a word, and a colour, which says nothing
alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from textual.content import Content

from meshtrain.core.job import JobState

STATE_SIGNS: Mapping[JobState, tuple[str, str]] = MappingProxyType(
    {
        JobState.RUNNING: ("▶", "$text-primary"),
        JobState.ASSIGNED: ("○", "$text-accent"),
        JobState.WAITING: ("·", "$foreground-muted"),
        JobState.COLLECTING: ("↑", "$text-primary"),
        JobState.SUCCEEDED: ("✓", "$text-success"),
        JobState.FAILED: ("✗", "$text-error"),
        JobState.CANCELLED: ("-", "$foreground-muted"),
    }
)
"""Sign and style of each, in the order in which they are counted on one line."""


def state_words(state: JobState) -> Content:
    """`▶ running`."""
    sign, style = STATE_SIGNS[state]
    return Content.styled(f"{sign} {state}", style)
