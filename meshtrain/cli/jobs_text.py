"""Sweeps and their jobs, in lines: for `meshtrain jobs`, and for those who watch them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from meshtrain.cli import words
from meshtrain.cli.context import Link, ask, ask_all
from meshtrain.cli.output import Column, painted, say, table_lines, terminal_width
from meshtrain.clock import wall_now_s
from meshtrain.core.changes import JobRow
from meshtrain.core.job import JobState
from meshtrain.results.formats import plain_text

NO_SWEEP = "base models"
INDENT = "  "
_COLUMNS = (
    Column("JOB", flexible=True),
    Column("STATE"),
    Column("NODE"),
    Column("TIME", right=True),
    Column("", flexible=True),
)


def sweeps_of(link: Link, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sweeps that jobs belong to, by their ids."""
    ids = list(dict.fromkeys(row["sweep_id"] for row in rows if row["sweep_id"]))
    if not ids:
        return {}
    sweeps, _ = ask_all(link, "sweeps", ids)
    return {sweep["sweep_id"]: sweep for sweep in sweeps}


def no_jobs_text(link: Link) -> str:
    """What to say of a mesh without jobs."""
    (ports,) = ask(link, "ports").rows
    return f"No jobs yet: drop a file into {ports['inbox']}, or meshtrain submit FILE"


def print_jobs(rows: Sequence[dict[str, Any]], sweeps: dict[str, dict[str, Any]]) -> None:
    """A block for each sweep: how far it is, then its jobs."""
    for place, (sweep_id, jobs) in enumerate(blocks_of(rows).items()):
        if place:
            say()
        sweep = sweeps.get(sweep_id) if sweep_id else None
        say(head_text(sweep))
        for line in job_lines(jobs, sweep, terminal_width()):
            say(line)


def blocks_of(rows: Sequence[dict[str, Any]]) -> dict[str | None, list[JobRow]]:
    """The jobs of each sweep; those of none train bases."""
    blocks: dict[str | None, list[JobRow]] = {}
    for row in rows:
        blocks.setdefault(row["sweep_id"], []).append(msgspec.convert(row, JobRow))
    return blocks


def job_lines(jobs: Sequence[JobRow], sweep: dict[str, Any] | None, width: int | None) -> list[str]:
    """The jobs of one sweep as a table: its titles, then a line for each."""
    prefix = f"{sweep['name']}/" if sweep else ""
    metric = sweep["metric"] if sweep else None
    rows = [_line(job, prefix, metric) for job in jobs]
    inner = None if width is None else width - len(INDENT)
    lines = table_lines(_COLUMNS, rows, state_column=1, width=inner)
    return [INDENT + line for line in lines]


def head_text(sweep: dict[str, Any] | None) -> str:
    """How far a sweep is, in a line; None stands for the jobs that train bases."""
    if sweep is None:
        return painted(NO_SWEEP, bold=True)
    states = sweep["states"]
    ended = sum(number for state, number in states.items() if JobState(state).is_terminal)
    told = [f"{ended} of {words.count(sweep['jobs'], 'job')} ended"]
    order = ("running", "collecting", "assigned", "waiting", "failed", "cancelled")
    told += [f"{states[state]} {state}" for state in order if states.get(state)]
    if sweep["budget_spent"]:
        told.append("budget spent, nothing more is started")
    elif sweep["ends_wall_s"] is not None:
        told.append(_end_text(sweep))
    return f"{painted(sweep['sweep_id'], bold=True)}   {' · '.join(told)}"


def _end_text(sweep: dict[str, Any]) -> str:
    now_s = wall_now_s()
    keys = ("ends_low_wall_s", "ends_wall_s", "ends_high_wall_s")
    low, middle, high = (words.clock(sweep[key], now_s) for key in keys)
    return f"ends about {middle}" if low == high else f"ends about {middle} ({low} to {high})"


def _line(job: JobRow, prefix: str, metric: str | None) -> list[str]:
    detail = job.failure or job.reason
    if job.state is JobState.SUCCEEDED:
        detail = words.metrics(job.metrics, metric)
    elif job.failure and not job.state.is_terminal:
        # What ended the attempt before: the job runs again, or is about to.
        detail = f"before: {job.failure}"
    if job.retries and not job.failure:
        detail = f"{detail}  run {job.retries + 1}".strip()
    return [
        job.name.removeprefix(prefix),
        str(job.state),
        job.node_id or "",
        _time_text(job),
        plain_text(detail),
    ]


def _time_text(job: JobRow) -> str:
    if job.started_wall_s is None or job.state is JobState.WAITING:
        return ""
    if job.ended_wall_s is None:
        return words.whole_seconds(wall_now_s() - job.started_wall_s)
    return words.duration(max(job.ended_wall_s - job.started_wall_s, 0.0))
