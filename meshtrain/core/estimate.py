"""When a job starts and when a sweep ends, and how sure that is: several forecasts together."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshtrain.core.forecast import MIDDLE, Forecast
from meshtrain.core.run_times import RunTimes
from meshtrain.core.span import Span, span_of
from meshtrain.core.state import MeshState
from meshtrain.core.what_if import copy_of

REPLICAS_MAX = 15
REPLICAS_MIN = 3
"""Forecasts with other run times; fewer where each is long."""
STEPS_MAX = 6_000
"""Jobs placed in all forecasts of one question together: about a second's work."""
STEPS_MIN = 90
WORK_MAX = 150_000
"""The same, times the nodes that may be looked at for each."""


class StartEstimate(msgspec.Struct, frozen=True):
    """When a waiting job starts."""

    span: Span | None = None
    """On the wall clock; None where it can't be told."""
    node_id: str = ""
    """Where it most likely starts."""
    is_rough: bool = False
    """The queue ahead is so long that it is drawn out from its first part."""
    unknown: str = ""
    """Why it can't be told."""
    untimed: int = 0
    """Jobs whose run time nobody knows: they are taken to hold their places for ever."""


Try = Callable[[MeshState], None]


def nothing(state: MeshState) -> None:
    """Changes nothing."""


def steps_max(state: MeshState) -> int:
    """How many jobs the forecasts of one question may place together."""
    return max(STEPS_MIN, min(STEPS_MAX, WORK_MAX // max(1, len(state.nodes))))


def estimate_start(
    state: MeshState,
    times: RunTimes,
    job_id: str,
    *,
    change: Try = nothing,
    replicas_max: int = REPLICAS_MAX,
    budget_steps: int | None = None,
) -> StartEstimate:
    """When a waiting job starts.

    Args:
        state: looked at, never changed.
        change: made to each copy before it is played through.
        budget_steps: jobs that may be placed in all; as many as one question may if None.
    """
    ahead = sum(1 for _ in state.queue.ahead_of(job_id))
    steps = steps_max(state) if budget_steps is None else budget_steps
    found: list[float] = []
    nodes: list[str] = []
    is_rough = False
    untimed: set[str] = set()
    replica, replicas = MIDDLE, replicas_max
    while replica < replicas:
        copied = copy_of(state)
        change(copied)
        each = steps // (REPLICAS_MIN if replica == MIDDLE else replicas)
        forecast = Forecast(copied, times, replica=replica, steps_max=each)
        forecast.run(lambda played: job_id in played.starts)
        untimed.update(forecast.unknown)
        start = forecast.starts.get(job_id)
        if start is not None:
            found.append(start.at_s)
            nodes.append(start.node_id)
        elif forecast.is_cut and (at_s := forecast.after(ahead + 1 - forecast.given)) is not None:
            is_rough = True
            found.append(at_s)
        else:
            return StartEstimate(unknown=_why_unknown(state, forecast))
        if replica == MIDDLE:
            replicas = max(REPLICAS_MIN, min(replicas_max, steps // max(1, forecast.given)))
        replica += 1
    span = span_of(found).after(state.wall_s - state.now_s)
    likely = max(sorted(set(nodes)), key=nodes.count, default="")
    return StartEstimate(span, likely, is_rough, untimed=len(untimed - {job_id}))


def _why_unknown(state: MeshState, forecast: Forecast) -> str:
    if forecast.unknown:
        job = state.jobs[forecast.unknown[0]]
        others = len(set(forecast.unknown)) - 1
        more = f" and {others} more" if others else ""
        return f"no run like {job.name}{more} has ended yet"
    return "as things are it never starts"


def estimate_ends(state: MeshState, times: RunTimes) -> dict[str, Span]:
    """When each sweep that is open ends, on the wall clock; without those that can't be told."""
    steps = steps_max(state)
    if not any(state.sweep_open.values()):
        return {}
    found: dict[str, list[float]] = {}
    replica, replicas = MIDDLE, REPLICAS_MAX
    while replica < replicas:
        each = steps // (REPLICAS_MIN if replica == MIDDLE else replicas)
        forecast = Forecast(copy_of(state), times, replica=replica, steps_max=each)
        forecast.run()
        for sweep_id, at_s in forecast.sweep_ends.items():
            found.setdefault(sweep_id, []).append(at_s)
        if forecast.is_cut:
            _draw_out(state, forecast, found)
        if replica == MIDDLE:
            replicas = max(REPLICAS_MIN, min(REPLICAS_MAX, steps // max(1, forecast.given)))
        replica += 1
    offset_s = state.wall_s - state.now_s
    # What ends in some replicas alone is not known to end.
    return {
        sweep_id: span_of(ends_s).after(offset_s)
        for sweep_id, ends_s in found.items()
        if len(ends_s) == replicas
    }


def _draw_out(state: MeshState, forecast: Forecast, found: dict[str, list[float]]) -> None:
    """Of sweeps that a forecast didn't come to: all that waits goes on as it went so far."""
    if forecast.unknown:
        return
    ranks: dict[str, int] = {}
    for place, job_id in enumerate(state.queue.ordered(), start=1):
        sweep_id = state.jobs[job_id].sweep_id
        if sweep_id is not None:
            ranks[sweep_id] = place
    for sweep_id, rank in ranks.items():
        end_s = forecast.after(rank - forecast.given)
        if sweep_id not in forecast.sweep_ends and end_s is not None:
            found.setdefault(sweep_id, []).append(end_s + forecast.mean_run_s)
