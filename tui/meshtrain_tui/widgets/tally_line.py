"""One line over all jobs: how many run, wait and have failed, and how many end in an hour."""

from __future__ import annotations

from collections import Counter, deque

from textual.content import Content

from meshtrain.core.job import JobState
from meshtrain.core.view import MeshView
from meshtrain_tui.feed import Picture
from meshtrain_tui.job_states import STATE_SIGNS
from meshtrain_tui.widgets.panel import Panel
from meshtrain_tui.words import duration

WINDOW_S = 600.0
"""Of the past, that the throughput is of."""
SAMPLE_EVERY_S = 5.0
WIDE_FROM = 110


def states_of(view: MeshView) -> Counter[JobState]:
    """The jobs of all sweeps by state; a result on its way counts as running."""
    states: Counter[JobState] = Counter()
    for sweep_id in view.sweeps:
        states.update(view.progress(sweep_id).states)
    states[JobState.RUNNING] += states.pop(JobState.COLLECTING, 0)
    return states


class Throughput:
    """How many jobs end in an hour, as this dashboard has seen it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, wall_s: float, ended: int) -> None:
        """At this moment so many jobs had ended."""
        if self._samples:
            last_s, last_ended = self._samples[-1]
            if wall_s < last_s or ended < last_ended:
                # Another master, or a job that runs again: what was counted means nothing now.
                self._samples.clear()
            elif wall_s - last_s < SAMPLE_EVERY_S:
                return
        self._samples.append((wall_s, ended))
        while wall_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def per_hour(self) -> float | None:
        """None until there are two samples."""
        if len(self._samples) < 2:
            return None
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return 3600.0 * (last - first) / (last_s - first_s)

    @property
    def seen_s(self) -> float:
        """The time that it is of."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0


class TallyLine(Panel):
    """All jobs in one line."""

    def __init__(self) -> None:
        super().__init__(id="tally")
        self._throughput = Throughput()

    def show(self, picture: Picture) -> None:
        if picture.link.live:
            states = states_of(picture.view)
            ended = sum(count for state, count in states.items() if state.is_terminal)
            self._throughput.add(picture.wall_s, ended)
        super().show(picture)

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        states = states_of(picture.view)
        parts = [
            Content.styled(f"{sign} {states[state]:,} {state}", style)
            for state, (sign, style) in STATE_SIGNS.items()
            if states[state]
        ]
        if not parts:
            return []
        between = Content("   " if width > WIDE_FROM else "  ")
        line = between.join(parts)
        per_hour = self._throughput.per_hour()
        if per_hour:
            seen = duration(self._throughput.seen_s)
            for words in (f"{per_hour:,.0f}/h ended in {seen}", f"{per_hour:,.0f}/h"):
                longer = between.join([line, Content.styled(words, "$foreground-muted")])
                if longer.cell_length <= width:
                    return [longer]
        return [line]
