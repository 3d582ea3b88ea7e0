"""Which node takes a job: what fits, and what fits best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil

import msgspec

from meshtrain.core.job import Placement
from meshtrain.core.node import Node, NodeSpec
from meshtrain.core.refusal import Because, Refusal
from meshtrain.spec.jobs import Resources, TrainingWork, Work

START_STEP_S = 0.1
"""Starts that differ by less count as the same; what is there at once is before all others."""


def needs_of(resources: Resources, work: Work) -> Resources:
    """What a job of that work needs: its resources, and the trainer where it trains."""
    if isinstance(work, TrainingWork):
        return msgspec.structs.replace(resources, trainer=True)
    return resources


def gpus_needed(spec: NodeSpec, needs: Resources) -> int:
    """How many GPUs of such a node the job takes: a job that doesn't say takes one if it can."""
    if needs.gpus is not None:
        return needs.gpus
    return 1 if spec.gpus else 0


def why_never(spec: NodeSpec, needs: Resources) -> Refusal | None:
    """Why a node could not run the job even if it were idle; None when it could."""
    if needs.trainer and not spec.trains:
        return Refusal(Because.NO_TRAINER)
    for name, value in needs.labels:
        if spec.labels.get(name) != value:
            return Refusal(Because.LABEL, note=f"{name}={value}")
    gpus = gpus_needed(spec, needs)
    if gpus:
        if len(spec.gpus) < gpus:
            return Refusal(Because.GPUS, len(spec.gpus), gpus)
        large = [g for g in spec.gpus if g.memory_bytes >= needs.gpu_memory_bytes]
        if len(large) < gpus:
            most = max((g.memory_bytes for g in spec.gpus), default=0)
            if not large:
                return Refusal(Because.GPU_MEMORY, most, needs.gpu_memory_bytes)
            return Refusal(
                Because.FEW_LARGE, len(large), gpus, gpu_memory_bytes=needs.gpu_memory_bytes
            )
    elif spec.cpu_slots < needs.cpus:
        return Refusal(Because.CPUS, spec.cpu_slots, needs.cpus)
    if spec.memory_bytes and spec.memory_bytes < needs.memory_bytes:
        return Refusal(Because.MEMORY, spec.memory_bytes, needs.memory_bytes)
    return None


def fit(node: Node, needs: Resources, *, ahead: bool = False) -> Placement | Refusal:
    """The part of the node that the job would hold now, or why it can't.

    `ahead` lets it wait there for a CPU slot: right for jobs that are over in no time.
    """
    never = why_never(node.spec, needs)
    if never is not None:
        return never
    if not node.connected:
        return _AWAY
    if node.drained:
        return _DRAINED
    if not node.accepting:
        return Refusal(Because.CLOSED, note=node.note)
    if node.paused:
        return _DISK_FULL
    if node.alone is not None:
        return _HELD_ALONE
    if needs.alone and node.live:
        return Refusal(Because.NOT_ALONE, len(node.live))
    gpus = gpus_needed(node.spec, needs)
    memory = needs.memory_bytes
    # A node that doesn't know its memory says 0: that forbids nothing.
    known = node.spec.memory_bytes
    if memory and known and known - node.memory_used_bytes < memory:
        free_bytes = max(0, known - node.memory_used_bytes)
        return Refusal(Because.MEMORY_TAKEN, free_bytes, memory, of=known)
    if gpus:
        free = [
            g
            for g in node.spec.gpus
            if g.index not in node.gpus_used
            and g.index not in node.gpus_busy
            and g.index not in node.gpus_out
            and g.memory_bytes >= needs.gpu_memory_bytes
        ]
        if len(free) < gpus:
            return _gpus_taken(node, needs, len(free), gpus)
        # Those that didn't fail lately, and of them the smallest that do: the large
        # ones stay free for those who need them.
        free.sort(key=lambda g: (node.gpu_faults.get(g.index, 0), g.memory_bytes, g.index))
        chosen = tuple(sorted(g.index for g in free[:gpus]))
        placement = Placement(node.node_id, gpus=chosen, memory_bytes=memory, alone=needs.alone)
    else:
        if node.cpus_max(ahead=ahead) - node.cpus_used < needs.cpus:
            free_cpus = max(0, node.spec.cpu_slots - node.cpus_used)
            return Refusal(Because.CPUS_TAKEN, free_cpus, needs.cpus, of=node.spec.cpu_slots)
        placement = Placement(node.node_id, cpus=needs.cpus, memory_bytes=memory, alone=needs.alone)
    if node.assigned_count >= node.grant:
        return _NO_CREDIT
    return placement


_AWAY = Refusal(Because.AWAY)
_DRAINED = Refusal(Because.DRAINED)
_DISK_FULL = Refusal(Because.DISK_FULL)
_HELD_ALONE = Refusal(Because.HELD_ALONE)
_NO_CREDIT = Refusal(Because.NO_CREDIT)


def _gpus_taken(node: Node, needs: Resources, free: int, gpus: int) -> Refusal:
    """Too few GPUs are free; told with those that are not counted though nobody here uses them."""
    taken = node.gpus_used | node.gpus_busy | node.gpus_out
    small = [
        g.memory_bytes
        for g in node.spec.gpus
        if g.index not in taken and g.memory_bytes < needs.gpu_memory_bytes
    ]
    return Refusal(
        Because.GPUS_TAKEN,
        free,
        gpus,
        of=len(node.spec.gpus),
        smaller=len(small),
        smaller_bytes=max(small, default=0),
        gpu_memory_bytes=needs.gpu_memory_bytes,
        out=len(node.gpus_out),
        foreign=len(node.gpus_busy - node.gpus_used - node.gpus_out),
    )


def choose(
    nodes: Iterable[Node],
    needs: Resources,
    lacking_s: Callable[[Node], float],
    *,
    ahead: bool = False,
    run_s: float = 0.0,
    is_home: Callable[[Node], bool] | None = None,
) -> Placement | None:
    """The best placement among the nodes, or None where none fits.

    GPUs that failed lately come last. The job goes where it starts soonest: after
    the wait for a slot, and what the node has to fetch first; among equals to one
    that `is_home` to its group, then to the one that is busy least, then the name
    decides, so that the same state always gives the same answer.

    Args:
        lacking_s: how long a node would fetch what the job needs and it lacks.
        run_s: how long such jobs run, for those that wait for a slot on a node.
    """
    best: tuple[tuple[int, int, bool, bool, float, str], Placement] | None = None
    for node in nodes:
        placement = fit(node, needs, ahead=ahead)
        if isinstance(placement, Refusal):
            continue
        slots = node.spec.cpu_slots
        waits = node.cpus_used >= slots and not placement.gpus
        start_s = lacking_s(node)
        if waits:
            start_s += run_s * (node.cpus_used - slots + 1) / max(1, slots)
        known = node.gpu_faults
        faults = max((known.get(gpu, 0) for gpu in placement.gpus), default=0) if known else 0
        away = is_home is not None and not is_home(node)
        steps = ceil(start_s / START_STEP_S) if start_s else 0
        score = (faults, steps, waits, away, load(node), node.node_id)
        if best is None or score < best[0]:
            best = (score, placement)
    return None if best is None else best[1]


def load(node: Node) -> float:
    """The share of the node's slots that is taken, 0 to 1."""
    if node.spec.gpus:
        return len(node.gpus_used) / len(node.spec.gpus)
    return node.cpus_used / max(1, node.spec.cpu_slots)
