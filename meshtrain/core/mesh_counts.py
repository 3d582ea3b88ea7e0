"""Sums over jobs, bases and nodes that stay true as these change, at the cost of one each.

Whoever looks at them reads numbers; nothing is walked through, however many
jobs there are. What is counted since the start (ends, waits, runs) counts what
happened under this master: what a store brings back is no news.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from meshtrain.core.changes import NodeRow
from meshtrain.core.job import Base, BaseState, FailureClass, Job, JobKind, JobState

Observe = Callable[[JobKind, float], None]


class MeshCounts:
    """The sums of one mesh.

    `on_started` and `on_ended` are told what people wait for: how long a job had
    waited when it first ran, from its submission, and how long one ran that ended
    well, both in seconds.
    """

    def __init__(self) -> None:
        self.jobs: Counter[tuple[JobKind, JobState]] = Counter()
        self.of_sweep: dict[str, Counter[JobState]] = {}
        """Sweep → its jobs by state."""
        self.ended: Counter[tuple[JobKind, JobState]] = Counter()
        """Since the start; a job that is run again and ends again counts again."""
        self.failed: Counter[FailureClass] = Counter()
        """Attempts since the start that did not end well, whatever came after."""
        self.bases: Counter[BaseState] = Counter()
        self.base_bytes = 0
        """What all committed bases take, each counted once."""
        self.bases_trained = 0
        """Trainings that came to a committed base, all generations."""
        self.trainings_avoided = 0
        """Trainings that jobs did not need, since they started from a base that was there."""
        self.avoided_s = 0.0
        """What those would have taken."""
        self.on_started: Observe = lambda kind, seconds: None
        self.on_ended: Observe = lambda kind, seconds: None
        #: recipe hash → experiments that have started from it
        self._started: Counter[str] = Counter()
        #: recipe hash → (trained, seconds of one training), and what of it was avoided
        self._trained: dict[str, tuple[int, float]] = {}
        self._avoided: dict[str, tuple[int, float]] = {}

    # --- jobs -----------------------------------------------------------------------

    def replace_job(self, old: Job | None, new: Job) -> None:
        """Take in a job that takes the place of `old`; None for one that is new here."""
        kind = new.kind
        if old is None:
            self._count(new, +1)
        elif old.state is not new.state:
            self._count(old, -1)
            self._count(new, +1)
            if new.state.is_terminal:
                self.ended[kind, new.state] += 1
        recipe_hash = new.spec.recipe_hash
        had_started = old is not None and _started_wall_s(old) is not None
        has_started = _started_wall_s(new) is not None
        if had_started != has_started and recipe_hash is not None and kind is JobKind.EXPERIMENT:
            self._started[recipe_hash] += 1 if has_started else -1
            self._reckon(recipe_hash)
        if old is None:
            return
        if new.failure is not None and new.failure is not old.failure:
            self.failed[new.failure.failure_class] += 1
        self._observe(old, new, had_started)

    def _count(self, job: Job, sign: int) -> None:
        self.jobs[job.kind, job.state] += sign
        if job.sweep_id is not None:
            self.of_sweep.setdefault(job.sweep_id, Counter())[job.state] += sign

    def _observe(self, old: Job, new: Job, had_started: bool) -> None:
        started_s = _started_wall_s(new)
        if started_s is None:
            return
        is_first = new.generation == 1 and not (new.retries_used or new.losses)
        if not had_started and is_first:
            self.on_started(new.kind, max(0.0, started_s - new.submitted_wall_s))
        if new.state is JobState.SUCCEEDED and old.state is not JobState.SUCCEEDED:
            ended_s = new.attempt.ended_wall_s if new.attempt is not None else None
            self.on_ended(new.kind, max(0.0, (ended_s or started_s) - started_s))

    # --- bases ----------------------------------------------------------------------

    def replace_base(self, old: Base | None, new: Base) -> None:
        """Take in a base that takes the place of `old`."""
        if old is not None:
            self.bases[old.state] -= 1
            self.base_bytes -= _held_bytes(old)
        self.bases[new.state] += 1
        self.base_bytes += _held_bytes(new)
        trained = new.generation if new.artifact_id is not None else new.generation - 1
        known, _ = self._trained.get(new.recipe_hash, (0, 0.0))
        self.bases_trained += trained - known
        self._trained[new.recipe_hash] = (trained, new.trained_s or 0.0)
        self._reckon(new.recipe_hash)

    def _reckon(self, recipe_hash: str) -> None:
        """What a base saved: a training for each job that started from it, but its own."""
        trained, training_s = self._trained.get(recipe_hash, (0, 0.0))
        count = max(0, self._started[recipe_hash] - trained)
        former_count, former_s = self._avoided.get(recipe_hash, (0, 0.0))
        self._avoided[recipe_hash] = (count, count * training_s)
        self.trainings_avoided += count - former_count
        self.avoided_s += count * training_s - former_s


class NodeCounts:
    """The sums of all nodes, from their rows as the feed tells them."""

    def __init__(self) -> None:
        self.there = 0
        self.away = 0
        self.drained = 0
        self.taking_jobs = 0
        """Those that are there, not drained, and would take a job."""
        self.gpus = 0
        """Of nodes that are there, as are the rest."""
        self.gpus_used = 0
        self.cpu_slots = 0
        self.cpu_slots_used = 0
        self.cache_bytes = 0
        self._rows: dict[str, NodeRow] = {}

    def take(self, row: NodeRow) -> None:
        """Take in a node's row in place of its former one."""
        former = self._rows.get(row.node_id)
        if former is not None:
            self._add(former, -1)
        self._rows[row.node_id] = row
        self._add(row, +1)

    def _add(self, row: NodeRow, sign: int) -> None:
        self.drained += sign * row.drained
        if not row.connected:
            self.away += sign
            return
        self.there += sign
        self.taking_jobs += sign * (row.accepting and not row.drained)
        self.gpus += sign * len(row.gpus)
        self.gpus_used += sign * len(row.gpus_used)
        self.cpu_slots += sign * row.cpu_slots
        self.cpu_slots_used += sign * row.cpus_used
        self.cache_bytes += sign * row.cache_used_bytes


def _started_wall_s(job: Job) -> float | None:
    return job.attempt.started_wall_s if job.attempt is not None else None


def _held_bytes(base: Base) -> int:
    return base.size_bytes if base.state is BaseState.COMMITTED else 0
