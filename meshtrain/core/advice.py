"""What would let a waiting job start now, or sooner: small changes, each tried first."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

import msgspec

from meshtrain.core import budget
from meshtrain.core.estimate import REPLICAS_MIN, Try, estimate_start, steps_max
from meshtrain.core.job import Job, JobKind, Placement
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.placement import gpus_needed, why_never
from meshtrain.core.placing import PlacePass
from meshtrain.core.run_times import RunTimes
from meshtrain.core.span import Span
from meshtrain.core.state import MeshState
from meshtrain.core.what_if import copy_of

ADVICE_MAX = 5
"""Pieces of advice that are told."""
TRIED_MAX = 24
"""Changes that are tried."""
FORECAST_MAX = 6
"""Of those that don't help at once, so many are played through."""
SOONER_S_MIN = 30.0
SOONER_SHARE_MIN = 0.1
"""What gains less than this, of the wait that is left, is not worth a word."""
PRIORITY_MAX = (1 << 31) - 1


class Advice(msgspec.Struct, frozen=True):
    """A change under which the job starts now, or sooner."""

    words: str
    """`with 1 GPU`, `with gpu3 in use again`."""
    command: str
    """What makes the change."""
    now: bool
    node_id: str = ""
    starts: Span | None = None
    """On the wall clock; None where it starts now."""


class Change(msgspec.Struct, frozen=True):
    """Something small that a person could do."""

    words: str
    command: str
    needs: NeedsChange = NeedsChange()
    undrained: str = ""
    released: str = ""
    priority: int | None = None
    waiter_id: str = ""
    """Of a base: the job whose priority it takes."""
    more_budget: str = ""
    """The sweep that may use more."""


def advise(
    state: MeshState, times: RunTimes, job_id: str, starts: Span | None, waiter_id: str = ""
) -> tuple[Advice, ...]:
    """The changes that help, those that help at once first.

    Args:
        state: looked at, never changed.
        starts: when the job starts as things are, where that is known.
        waiter_id: of a base: the job that waits on it, and is asked about.
    """
    job = state.jobs[job_id]
    at_once: list[Advice] = []
    slower: list[Change] = []
    for change in _distinct(_changes(state, job, waiter_id)):
        node_id = starts_now_on(state, job_id, change)
        if node_id is None:
            slower.append(change)
        else:
            at_once.append(Advice(change.words, change.command, now=True, node_id=node_id))
    found = at_once[:ADVICE_MAX]
    steps = steps_max(state) // FORECAST_MAX
    for change in slower[:FORECAST_MAX]:
        if len(found) >= ADVICE_MAX:
            break
        then = estimate_start(
            state,
            times,
            job_id,
            change=_maker(job_id, change),
            replicas_max=REPLICAS_MIN,
            budget_steps=steps,
        )
        if then.span is None or then.is_rough or not _is_sooner(state, then.span, starts):
            continue
        found.append(
            Advice(change.words, change.command, now=False, node_id=then.node_id, starts=then.span)
        )
    return tuple(found)


def _is_sooner(state: MeshState, then: Span, starts: Span | None) -> bool:
    if starts is None:
        return True
    gain_s = starts.mid_s - then.mid_s
    return gain_s >= max(SOONER_S_MIN, SOONER_SHARE_MIN * (starts.mid_s - state.wall_s))


def starts_now_on(state: MeshState, job_id: str, change: Change) -> str | None:
    """The node that a waiting job would go to at once after a change; None where it would not."""
    copied = copy_of(state)
    make(copied, job_id, change)
    found: list[str] = []

    def give(job: Job, placement: Placement) -> None:
        node = copied.nodes[placement.node_id]
        short = job.sweep_id in copied.short_sweeps
        node.occupy(f"{job.job_id} in thought", placement, short=short)
        node.assigned_count += 1
        if job.job_id == job_id:
            found.append(placement.node_id)

    PlacePass(copied, give).run()
    return found[0] if found else None


def make(state: MeshState, job_id: str, change: Change) -> None:
    """Make a change to a copy of the state, as the request of its command would."""
    job = state.jobs[job_id]
    if not change.needs.is_empty:
        asked = change.needs.applied_to(job.asked or job.spec.resources)
        raised = job.gpu_memory_bytes if change.needs.gpu_memory_bytes is None else 0
        job = state.change_job(job, asked=asked, gpu_memory_bytes=raised)
        state.passed_over.pop(job_id, None)
    if change.priority is not None:
        job = _raise(state, job, change)
    if change.undrained:
        state.drained.discard(change.undrained)
        state.nodes[change.undrained].drained = False
    if change.released:
        state.nodes[change.released].gpus_out = set()
    if change.more_budget:
        known = state.spending[change.more_budget]
        more = budget.more_of(state, change.more_budget)
        state.spending[change.more_budget] = msgspec.structs.replace(
            known, gpu_hours_max=more.gpu_hours_max, money_max=more.money_max
        )
        budget.judge(state, quietly=True)
    if job.job_id in state.queue:
        state.enqueue(job)


def _raise(state: MeshState, job: Job, change: Change) -> Job:
    if job.kind is not JobKind.BASE:
        return state.change_job(job, priority=change.priority)
    # A base has the priority of the most urgent job that waits on it.
    waiter = state.change_job(state.jobs[change.waiter_id], priority=change.priority)
    if waiter.job_id in state.queue:
        state.enqueue(waiter)
    return job


def _maker(job_id: str, change: Change) -> Try:
    return lambda copied: make(copied, job_id, change)


def _distinct(changes: Iterator[Change]) -> list[Change]:
    return list({change.command: change for change in changes}.values())[:TRIED_MAX]


# --- what could be tried ------------------------------------------------------------------


def _changes(state: MeshState, job: Job, waiter_id: str) -> Iterator[Change]:
    """The smallest changes of each kind first."""
    yield from _of_budget(state, job)
    yield from _of_nodes(state, job)
    yield from _of_needs(state, job)
    yield from _of_priority(state, job, waiter_id)


def _of_budget(state: MeshState, job: Job) -> Iterator[Change]:
    for sweep_id in budget.payers(state, job):
        if sweep_id in state.spent:
            name = state.sweeps[sweep_id].name
            command = budget.more_command(state, sweep_id)
            yield Change(f"with more budget for {name}", command, more_budget=sweep_id)


def _of_nodes(state: MeshState, job: Job) -> Iterator[Change]:
    needs = state.needs(job)
    for node_id in sorted(state.nodes):
        node = state.nodes[node_id]
        if not node.connected or why_never(node.spec, needs) is not None:
            continue
        if node.drained:
            command = f"meshtrain drain {node_id} --undo"
            yield Change(f"with {node_id} in use again", command, undrained=node_id)
        elif node.gpus_out and gpus_needed(node.spec, needs):
            command = f"meshtrain nodes release {node_id}"
            yield Change(f"with the GPUs of {node_id} released", command, released=node_id)


def _of_needs(state: MeshState, job: Job) -> Iterator[Change]:
    needs = state.needs(job)
    nodes = [node for node in state.nodes.values() if node.connected]
    retry = f"meshtrain retry {called(state, job)}"
    if needs.gpu_memory_bytes and job.gpu_memory_bytes < needs.gpu_memory_bytes:
        # What was raised after it ran out of memory is not lowered.
        sizes = {_floored(gpu.memory_bytes) for node in nodes for gpu in node.spec.gpus}
        for size_bytes in sorted(
            (s for s in sizes if 0 < s < needs.gpu_memory_bytes), reverse=True
        ):
            size = size_text(size_bytes)
            yield Change(
                f"with gpu_memory {size}",
                f"{retry} --gpu-memory {size}",
                NeedsChange(gpu_memory_bytes=size_bytes),
            )
    for gpus in range((needs.gpus or 0) - 1, 0, -1):
        words = f"with {gpus} GPU" if gpus == 1 else f"with {gpus} GPUs"
        yield Change(words, f"{retry} --gpus {gpus}", NeedsChange(gpus=gpus))
    if not needs.gpus:
        for cpus in sorted({needs.cpus - 1, needs.cpus // 2, 1} - {0}, reverse=True):
            if cpus < needs.cpus:
                words = f"with {cpus} CPU slot" if cpus == 1 else f"with {cpus} CPU slots"
                yield Change(words, f"{retry} --cpus {cpus}", NeedsChange(cpus=cpus))
    if needs.memory_bytes:
        free = {_floored(n.spec.memory_bytes - n.memory_used_bytes) for n in nodes}
        for size_bytes in sorted((s for s in free if 0 < s < needs.memory_bytes), reverse=True)[:3]:
            size = size_text(size_bytes)
            yield Change(
                f"with memory {size}",
                f"{retry} --memory {size}",
                NeedsChange(memory_bytes=size_bytes),
            )
    for name, text in needs.labels:
        yield Change(
            f"without the label {name}={text}",
            f"{retry} --drop-label {name}",
            NeedsChange(labels_dropped=(name,)),
        )


def _of_priority(state: MeshState, job: Job, waiter_id: str) -> Iterator[Change]:
    above = [priority for _, _, priority in state.queue.ahead_of(job.job_id)]
    if not above or max(above) >= PRIORITY_MAX:
        return
    if job.kind is JobKind.BASE and not waiter_id:
        return
    name = called(state, state.jobs[waiter_id] if waiter_id else job)
    priority = max(above) + 1
    yield Change(
        f"with priority {priority}",
        f"meshtrain priority {name} {priority}",
        priority=priority,
        waiter_id=waiter_id,
    )


def called(state: MeshState, job: Job) -> str:
    """What commands know a job by: its name, or its id where a later sweep has that name."""
    sweep = state.sweeps.get(job.sweep_id or "")
    if sweep is None:
        return job.name
    for other in reversed(state.sweeps.values()):
        if other.name == sweep.name:
            return quote(job.name) if other.sweep_id == sweep.sweep_id else job.job_id
    return job.name


SIZE_STEP = 100_000_000


def _floored(size_bytes: int) -> int:
    """To what is short to write, and no more."""
    return size_bytes // SIZE_STEP * SIZE_STEP


def size_text(size_bytes: int) -> str:
    """A size as commands take it: `9GB`, `9.8GB`."""
    return f"{size_bytes / 1e9:g}GB"
