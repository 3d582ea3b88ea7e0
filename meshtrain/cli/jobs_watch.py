"""`meshtrain jobs --watch`: the jobs as they go on, drawn in place, or as lines into a pipe."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from meshtrain.cli.context import Cli, Link, ask_all
from meshtrain.cli.jobs_text import (
    INDENT,
    blocks_of,
    head_text,
    job_lines,
    no_jobs_text,
    sweeps_of,
)
from meshtrain.cli.output import painted, say, state_painted
from meshtrain.clock import lease_now_s
from meshtrain.core.changes import JobRow
from meshtrain.core.job import JobState
from meshtrain.net.base import MasterAwayError, NotAdmittedError
from meshtrain.results.formats import plain_text

EVERY_S = 1.0
SHARE_MAX = 0.05
"""Of the time, that the master may be asked; a long list is asked for less often."""
ROWS_MAX = 2000
"""Jobs that are looked at; of more, those of the newest sweeps."""
_FIRST = (
    JobState.RUNNING,
    JobState.COLLECTING,
    JobState.ASSIGNED,
    JobState.FAILED,
    JobState.WAITING,
    JobState.SUCCEEDED,
    JobState.CANCELLED,
)
"""What people look for first stands first where not all has room."""
_ORDER = {state: place for place, state in enumerate(_FIRST)}


class Picture(msgspec.Struct, frozen=True):
    """The jobs at one moment."""

    rows: tuple[dict[str, Any], ...]
    total: int
    """Of them there are so many, seen or not."""
    sweeps: dict[str, dict[str, Any]]
    nothing: str = ""
    """What to say where there are none."""

    @property
    def is_over(self) -> bool:
        """Whether all of it has ended."""
        if not all(JobState(row["state"]).is_terminal for row in self.rows):
            return False
        if self.total <= len(self.rows):
            return True
        # Not all are seen: over if they are those of the sweeps that are, and these have ended.
        ended: list[int] = [
            sum(n for state, n in sweep["states"].items() if JobState(state).is_terminal)
            for sweep in self.sweeps.values()
        ]
        return sum(ended) >= self.total


def watch_jobs(cli: Cli, names: Sequence[str], states: Collection[str], *, as_json: bool) -> None:
    """Show jobs until those named have ended; without names until somebody stops it.

    A master that goes away is waited for, and the picture says since when it is old.

    Args:
        names: sweeps and jobs; empty for all.
        states: show only jobs in these; empty for any.
        as_json: print each change as a line of JSON.

    Raises MasterAwayError when nobody answers from the beginning, NotFoundError for
    a name that names nothing.
    """
    shows = _Changes(states, as_json=as_json)
    if sys.stdout.isatty() and not as_json:
        with _Drawing(states) as drawing:
            _go_on(cli, names, drawing)
        return
    _go_on(cli, names, shows)


def _go_on(cli: Cli, names: Sequence[str], shows: _Changes | _Drawing) -> None:
    link: Link | None = None
    seen = False
    try:
        while True:
            began_s = lease_now_s()
            try:
                link = link or cli.link().__enter__()
                picture = look(link, names)
            except NotAdmittedError:
                raise
            except MasterAwayError as error:
                if not seen:
                    raise
                shows.away(str(error))
                if link is not None:
                    link.__exit__(None, None, None)
                link = None
            else:
                seen = True
                shows.show(picture)
                if names and picture.is_over:
                    return
            cli.sleep(max(EVERY_S, (lease_now_s() - began_s) / SHARE_MAX))
    finally:
        if link is not None:
            link.__exit__(None, None, None)


def look(link: Link, names: Sequence[str]) -> Picture:
    """How the jobs stand now. Raises as `ask` does."""
    rows, total = ask_all(link, "jobs", names, rows_max=ROWS_MAX)
    nothing = "" if rows else no_jobs_text(link)
    return Picture(tuple(rows), total, sweeps_of(link, rows), nothing)


class _Changes:
    """For a pipe: a line for each job as it stands first, and for each change."""

    def __init__(self, states: Collection[str], *, as_json: bool) -> None:
        self._states = states
        self._as_json = as_json
        self._known: dict[str, tuple[str, str | None, int, int]] = {}

    def show(self, picture: Picture) -> None:
        for row in picture.rows:
            now = (row["state"], row["node_id"], row["generation"], row["retries"])
            if self._known.get(row["job_id"]) == now:
                continue
            self._known[row["job_id"]] = now
            if self._states and row["state"] not in self._states:
                continue
            if self._as_json:
                say(msgspec.json.encode(row).decode())
            else:
                say(change_text(row))
        sys.stdout.flush()

    def away(self, trouble: str) -> None:
        """Nothing changes while nobody can tell."""


def change_text(row: Mapping[str, Any]) -> str:
    """`14:02:09  running    few_shot/shots=5,fold=2  gpu1`."""
    state = row["state"]
    detail = row["failure"] if state == "failed" else row["node_id"] or row["reason"]
    clock = time.strftime("%H:%M:%S")
    return f"{clock}  {state:<10}  {row['name']}  {plain_text(detail or '')}".rstrip()


class _Drawing:
    """For a terminal: the picture in place, as high as the terminal is."""

    def __init__(self, states: Collection[str]) -> None:
        from rich.live import Live

        self._states = states
        self._live = Live(auto_refresh=False, vertical_overflow="crop")
        self._picture: Picture | None = None
        self._stale_since = ""

    def __enter__(self) -> _Drawing:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._live.__exit__(*exc)

    def show(self, picture: Picture) -> None:
        self._picture = picture
        self._stale_since = ""
        self._draw()

    def away(self, trouble: str) -> None:
        self._stale_since = self._stale_since or time.strftime("%H:%M:%S")
        self._draw(f"stale since {self._stale_since}: {trouble}")

    def _draw(self, trouble: str = "") -> None:
        from rich.text import Text

        assert self._picture is not None, "nothing is drawn before the master has answered"
        columns, height = shutil.get_terminal_size()
        lines = list(picture_lines(self._picture, self._states, columns, height - 2))
        if trouble:
            lines = [*lines[: max(height - 3, 1)], painted(trouble, "yellow")]
        text = Text("\n", no_wrap=True, overflow="ellipsis").join(map(Text.from_ansi, lines))
        self._live.update(text, refresh=True)


def picture_lines(
    picture: Picture, states: Collection[str], width: int, height: int
) -> Iterator[str]:
    """The picture in `height` lines at most: each sweep's head, and of its jobs what has room."""
    rows = [row for row in picture.rows if not states or row["state"] in states]
    if not rows:
        yield picture.nothing or "No such jobs."
        return
    blocks = list(blocks_of(rows).items())
    # An open sweep is shown before one that has ended.
    blocks.sort(key=lambda block: _has_ended(block[1]))
    shown = blocks[: max(height // 2, 1)]
    room = height - len(shown) - (len(shown) < len(blocks))
    still_open = sum(not _has_ended(jobs) for _, jobs in shown)
    for place, (sweep_id, jobs) in enumerate(shown):
        sweep = picture.sweeps.get(sweep_id) if sweep_id else None
        yield head_text(sweep)
        # Those that are open share all the room; what they leave goes to the others.
        sharing = (still_open if place < still_open else len(shown)) - place
        lines = _some(jobs, sweep, width, room // sharing)
        room -= len(lines)
        yield from lines
    if len(shown) < len(blocks):
        yield painted(f"… and {len(blocks) - len(shown):,} more sweeps", dim=True)


def _has_ended(jobs: Sequence[JobRow]) -> bool:
    return all(job.state.is_terminal for job in jobs)


def _some(jobs: Sequence[JobRow], sweep: dict[str, Any] | None, width: int, room: int) -> list[str]:
    """Of a sweep's jobs the titles and those that have room, those at work first."""
    if room < 2:
        return []
    first = sorted(jobs, key=lambda job: _ORDER[job.state])
    fit = first if len(first) < room else first[: room - 2]
    lines = job_lines(fit, sweep, width) if fit else []
    if len(fit) < len(first):
        left: dict[str, int] = {}
        for job in first[len(fit) :]:
            left[str(job.state)] = left.get(str(job.state), 0) + 1
        told = ", ".join(state_painted(f"{n:,} {state}", state) for state, n in left.items())
        lines.append(f"{INDENT}… and {told}")
    return lines
