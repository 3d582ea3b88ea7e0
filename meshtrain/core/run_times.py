"""How long jobs run, by what earlier ones took: the most alike that are known.

    an experiment   same sweep name and recipe on the same kind of node, then on any;
                    same sweep name on the same kind of node, then on any;
                    the same mode of the built-in training
    a base          the same recipe on the same kind of node, then on any;
                    the same mode of the built-in training

Of two commands nothing is known to be alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meshtrain.core.job import Attempt, Base, BaseState, Job, JobKind, JobState, Placement
from meshtrain.core.node import Node
from meshtrain.core.plan import COMMAND_KIND, work_kind
from meshtrain.core.span import quantile
from meshtrain.core.state import MeshState

SAMPLES_MAX = 200
"""Of one kind of run: the newest are kept."""
OVERDUE_SHARE = 0.1
"""A run that takes longer than all before it is taken to need this share more."""
OVERDUE_S_MIN = 1.0
CPU = "cpu"

Key = tuple[str, ...]


class Known(msgspec.Struct, frozen=True):
    """The times of runs that are like one."""

    times_s: tuple[float, ...]
    """Shortest first; never empty."""

    def at(self, share: float) -> float:
        """The time that a share of them didn't exceed."""
        return quantile(self.times_s, share)

    def left(self, elapsed_s: float, share: float) -> float:
        """How long one that has run for a time runs on, by those that took longer."""
        longer = [time_s for time_s in self.times_s if time_s >= elapsed_s]
        if not longer:
            return max(OVERDUE_S_MIN, OVERDUE_SHARE * elapsed_s)
        return quantile(longer, share) - elapsed_s


class RunTimes:
    """What is known of runs that ended well; it learns, and keeps the newest."""

    def __init__(self) -> None:
        self._times: dict[Key, list[float]] = {}
        self._learned: set[tuple[str, int]] = set()
        self._sorted: dict[Key, Known] = {}

    def learn(
        self,
        jobs: Iterable[Job],
        bases: Iterable[Base],
        sweep_names: Mapping[str, str],
        nodes: Mapping[str, Node],
    ) -> None:
        """Take in what has ended since; what was learned before counts once."""
        if not nodes:
            # What kind of node each ran on is known when they have said hello.
            return
        for job in jobs:
            took_s = took(job)
            if took_s is None or (job.job_id, job.generation) in self._learned:
                continue
            attempt = job.attempt
            assert attempt is not None
            self._learned.add((job.job_id, job.generation))
            kind = kind_of(attempt.placements[0], nodes)
            self._note(self._keys(job, sweep_names.get(job.sweep_id or "", ""), kind), took_s)
        for base in bases:
            trained_s, node_id = base.trained_s, base.node_id
            known = (base.job_id, base.generation)
            if base.state is not BaseState.COMMITTED or trained_s is None or known in self._learned:
                continue
            node = nodes.get(node_id or "")
            self._learned.add(known)
            self._note(_keys_of_base(base, kind_of_node(node)), trained_s)

    def of(self, state: MeshState, job: Job, kind: str) -> Known | None:
        """The runs that are most like a job on a kind of node; None where none is."""
        if job.kind is JobKind.BASE:
            keys = _keys_of_base(state.bases[state.base_of_job[job.job_id]], kind)
        else:
            sweep = state.sweeps.get(job.sweep_id or "")
            keys = self._keys(job, "" if sweep is None else sweep.name, kind)
        for key in keys:
            known = self._sorted.get(key)
            if known is None and (times_s := self._times.get(key)):
                known = self._sorted[key] = Known(tuple(sorted(times_s)))
            if known is not None:
                return known
        return None

    def _keys(self, job: Job, sweep: str, kind: str) -> tuple[Key, ...]:
        work, recipe = work_kind(job.spec.work), job.spec.recipe_hash or ""
        alike = (
            ("sweep and recipe", sweep, recipe, work, kind),
            ("sweep and recipe", sweep, recipe, work),
            ("sweep", sweep, work, kind),
            ("sweep", sweep, work),
        )
        if work == COMMAND_KIND:
            return alike
        return (*alike, ("work", work, kind), ("work", work))

    def _note(self, keys: Iterable[Key], time_s: float) -> None:
        for key in keys:
            times_s = self._times.setdefault(key, [])
            times_s.append(time_s)
            del times_s[:-SAMPLES_MAX]
            self._sorted.pop(key, None)


def _keys_of_base(base: Base, kind: str) -> tuple[Key, ...]:
    recipe, work = base.recipe_hash, work_kind(base.spec.work)
    alike = (("base", recipe, kind), ("base", recipe))
    if work == COMMAND_KIND:
        return alike
    return (*alike, ("base work", work, kind), ("base work", work))


def took(job: Job) -> float | None:
    """How long an experiment that ended well ran, in seconds; None for all else."""
    attempt = job.attempt
    if (
        job.kind is not JobKind.EXPERIMENT
        or job.state is not JobState.SUCCEEDED
        or attempt is None
        or attempt.started_wall_s is None
        or attempt.ended_wall_s is None
    ):
        return None
    return max(0.0, attempt.ended_wall_s - attempt.started_wall_s)


def elapsed_s(attempt: Attempt, now_wall_s: float) -> float:
    """How long an attempt has run so far; 0 while it gets ready."""
    if attempt.started_wall_s is None:
        return 0.0
    return max(0.0, now_wall_s - attempt.started_wall_s)


def kind_of(placement: Placement, nodes: Mapping[str, Node]) -> str:
    """The kind of node that a placement is on: its GPUs' model, or `cpu`; "" if unknown."""
    node = nodes.get(placement.node_id)
    if not placement.gpus:
        return CPU
    if node is None:
        return ""
    models = sorted({gpu.model for gpu in node.spec.gpus if gpu.index in placement.gpus})
    return " ".join(models)


def kind_of_node(node: Node | None) -> str:
    """The kind that a base was trained on, of which only the node is known; "" if unknown."""
    if node is None:
        return ""
    return " ".join(sorted({gpu.model for gpu in node.spec.gpus})) or CPU


def times_of(state: MeshState) -> RunTimes:
    """All that a mesh's records tell of run times."""
    times = RunTimes()
    learn_from(times, state)
    return times


def learn_from(times: RunTimes, state: MeshState) -> None:
    """Take in what a mesh's records tell beyond what is known."""
    names = {sweep.sweep_id: sweep.name for sweep in state.sweeps.values()}
    times.learn(state.jobs.values(), state.bases.values(), names, state.nodes)
