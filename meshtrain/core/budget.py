"""What sweeps have used of the GPUs, what that costs, and what they may use at most.

A GPU is used from when it is given to an attempt until the attempt has ended.
What the training of a base uses is borne by the sweeps that wait on it then, in
equal parts. A sweep whose budget is spent goes on with what runs, and starts
nothing more; a base that only such sweeps wait on isn't started either.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor, log10
from typing import TYPE_CHECKING

import msgspec

from meshtrain.core import effects as fx
from meshtrain.core.job import Attempt, BaseState, Job, JobState
from meshtrain.core.node import NodeSpec
from meshtrain.core.spending import Spending
from meshtrain.spec.labels import DEFAULT_PRICE

if TYPE_CHECKING:
    from meshtrain.core.state import MeshState

WALL_KNOWN_S = 1e9
"""What was given out before the master's first tick bears no time of day, only that of its host."""
RISE_MIN = 1.2
"""A budget that is raised leaves this much beyond what is used, or expected."""
REBUILD = "rebuild"
"""Stands among a base's requesters while somebody's request to train it anew is open."""


def price_of(spec: NodeSpec, prices: Mapping[str, float]) -> float:
    """What an hour of one of a node's GPUs costs; 0 where nobody says.

    The node's own word counts, else the dearest of the prices of its labels.

    Args:
        prices: label (`gpu=a100`) or "default" → price.
    """
    if spec.price_per_gpu_hour:
        return spec.price_per_gpu_hour
    labels = [f"{name}={value}" for name, value in spec.labels.items()]
    by_label = [prices[label] for label in labels if label in prices]
    return max(by_label) if by_label else prices.get(DEFAULT_PRICE, 0.0)


def used_by(attempt: Attempt, now_wall_s: float) -> tuple[float, float]:
    """GPU-seconds and money that an attempt has taken up to its end, or to now."""
    until_s = now_wall_s if attempt.ended_wall_s is None else attempt.ended_wall_s
    since_s = attempt.assigned_wall_s
    if since_s < WALL_KNOWN_S <= until_s:
        since_s = max(attempt.started_wall_s or until_s, WALL_KNOWN_S)
    held_s = max(0.0, until_s - since_s)
    gpu_s = held_s * sum(len(placement.gpus) for placement in attempt.placements)
    money = held_s / 3600 * sum(len(p.gpus) * p.price_per_gpu_hour for p in attempt.placements)
    return gpu_s, money


def payers(state: MeshState, job: Job) -> tuple[str, ...]:
    """The sweeps that bear what a job uses: its own; of a base, those that wait on it."""
    if job.sweep_id is not None:
        return (job.sweep_id,)
    return _payers_of_base(state, state.base_of_job[job.job_id])


def _payers_of_base(state: MeshState, recipe_hash: str) -> tuple[str, ...]:
    sweeps = {state.jobs[job_id].sweep_id for job_id in state.waiters.get(recipe_hash, ())}
    sweeps |= state.requesters.get(recipe_hash, set()) - {REBUILD}
    return tuple(sorted(sweep_id for sweep_id in sweeps if sweep_id in state.sweeps))


def charge(state: MeshState, job: Job, attempt: Attempt) -> None:
    """An attempt is over: note what it used, for good."""
    gpu_s, money = used_by(attempt, state.wall_s)
    if not gpu_s:
        return
    bearers = payers(state, job)
    for sweep_id in bearers:
        known = state.spending.get(sweep_id) or Spending(sweep_id)
        keep(state, known.plus(gpu_s / len(bearers), money / len(bearers)))


def keep(state: MeshState, spending: Spending) -> None:
    """Note, and have stored, what a sweep has used, or may use."""
    state.spending[spending.sweep_id] = spending
    state.out.append(fx.SaveSpending(spending))
    state.touched_sweeps[spending.sweep_id] = None
    if spending.has_limit:
        state.limited.add(spending.sweep_id)
    elif spending.sweep_id in state.limited:
        state.limited.discard(spending.sweep_id)
    else:
        return
    judge(state)


def spent(state: MeshState, sweep_id: str) -> Spending:
    """What a sweep has used up to now, by what runs too."""
    known = state.spending.get(sweep_id) or Spending(sweep_id)
    return known.plus(*_running(state).get(sweep_id, (0.0, 0.0)))


def _running(state: MeshState) -> dict[str, tuple[float, float]]:
    """What the attempts that are live have taken so far, by sweep."""
    found: dict[str, tuple[float, float]] = {}
    for job_id in state.live.values():
        job = state.jobs[job_id]
        if job.attempt is None:
            continue
        gpu_s, money = used_by(job.attempt, state.wall_s)
        if not gpu_s:
            continue
        bearers = payers(state, job)
        for sweep_id in bearers:
            before_s, before = found.get(sweep_id, (0.0, 0.0))
            found[sweep_id] = before_s + gpu_s / len(bearers), before + money / len(bearers)
    return found


def check(state: MeshState) -> None:
    """Time has passed: see whose budget is spent now."""
    if state.limited:
        judge(state)


def judge(state: MeshState, *, quietly: bool = False) -> None:
    """Find whose budget is spent, and which bases nobody is left to pay for."""
    limited = [
        state.spending[sweep_id]
        for sweep_id in sorted(state.limited)
        if state.sweep_open.get(sweep_id) or not state.sweeps[sweep_id].job_ids
    ]
    running = _running(state) if limited else {}
    over = set()
    for spending in limited:
        gpu_s, money = running.get(spending.sweep_id, (0.0, 0.0))
        if spending.plus(gpu_s, money).is_spent:
            over.add(spending.sweep_id)
    for sweep_id in sorted(over ^ state.spent):
        if sweep_id not in state.sweeps:
            continue
        state.touched_sweeps[sweep_id] = None
        if sweep_id in over and not quietly:
            name = state.sweeps[sweep_id].name
            state.note(f"sweep {name}: {spent_text(state, sweep_id)}")
    state.spent = over
    state.unpaid = {
        recipe_hash
        for recipe_hash in _waiting_bases(state, over)
        if (bearers := _payers_of_base(state, recipe_hash)) and over.issuperset(bearers)
    }


def _waiting_bases(state: MeshState, over: set[str]) -> set[str]:
    """The bases of sweeps whose budget is spent that would have to be trained."""
    asked = {recipe for sweep_id in over for recipe in state.sweeps[sweep_id].recipe_hashes}
    return {
        recipe_hash
        for recipe_hash in asked
        if state.bases[recipe_hash].state is BaseState.NEEDED
        and state.jobs[state.bases[recipe_hash].job_id].state is JobState.WAITING
    }


def is_blocked(state: MeshState, purse: str | None) -> bool:
    """Whether nothing more of a sweep with a budget, or of a base, is to be started."""
    return purse is not None and (purse in state.spent or purse in state.unpaid)


def spent_text(state: MeshState, sweep_id: str) -> str:
    """That a budget is spent, and what lets the sweep go on."""
    told = limits_text(spent(state, sweep_id))
    return (
        f"its budget is spent ({told}), so nothing more of it is started; "
        f"to go on: {more_command(state, sweep_id)}"
    )


def more_command(state: MeshState, sweep_id: str) -> str:
    """The command that lets a sweep whose budget is spent go on to its end."""
    known, more = state.spending[sweep_id], more_of(state, sweep_id)
    flags = ""
    if more.gpu_hours_max is not None and more.gpu_hours_max != known.gpu_hours_max:
        flags += f" --gpu-hours {more.gpu_hours_max:g}"
    if more.money_max is not None and more.money_max != known.money_max:
        flags += f" --money {more.money_max:g}"
    return f"meshtrain budget {sweep_id}{flags}"


def more_of(state: MeshState, sweep_id: str) -> Spending:
    """The limits that are reached, raised to what all of the sweep comes to if it goes on so."""
    spending = spent(state, sweep_id)
    jobs = len(state.sweeps[sweep_id].job_ids)
    ended = jobs - state.sweep_open.get(sweep_id, 0)
    rise = max(RISE_MIN, RISE_MIN * jobs / ended if ended else 0.0)
    hours, money = spending.gpu_s / 3600, spending.money
    hours_max, money_max = spending.gpu_hours_max, spending.money_max
    if hours_max is not None and hours >= hours_max:
        hours_max = _rounded_up(rise * hours)
    if money_max is not None and money >= money_max:
        money_max = _rounded_up(rise * money)
    return msgspec.structs.replace(spending, gpu_hours_max=hours_max, money_max=money_max)


def _rounded_up(amount: float) -> float:
    """To two digits, so that it is easy to read and never less."""
    if amount <= 0:
        return 1.0
    step = 10.0 ** (floor(log10(amount)) - 1)
    # A step more where rounding of the product fell below.
    up = ceil(amount / step) * step
    return float(f"{up if up >= amount else up + step:.6g}")


def limits_text(spending: Spending) -> str:
    """What is used of each limit: `20.1 of 20 GPU-hours, 31.50 of 30`."""
    told = []
    if spending.gpu_hours_max is not None:
        told.append(f"{spending.gpu_s / 3600:.3g} of {spending.gpu_hours_max:g} GPU-hours")
    if spending.money_max is not None:
        told.append(f"{spending.money:.2f} of {spending.money_max:g} in money")
    return ", ".join(told)
