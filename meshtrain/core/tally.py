"""Sums over job rows that stay true while rows come and go, at the cost of one row each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from meshtrain.core.changes import BaseRow, JobRow, SweepProgress
from meshtrain.core.job import JobKind, JobState

WAITING_FOR_MAX = 50
"""Bases of one sweep whose waiting jobs are told base by base."""


@dataclass(slots=True)
class SweepTally:
    """How far one sweep is."""

    states: Counter[JobState] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Failed jobs by the class of their failure."""
    waiting_for: Counter[str] = field(default_factory=Counter)
    """Waiting jobs by the recipe hash of the base that they start from."""
    ran: int = 0
    """Jobs that succeeded and whose times are known."""
    ran_s: float = 0.0
    """What those took together."""
    running_since_s: float = 0.0
    """The sum of the starts of those that run, in wall time."""

    @classmethod
    def told(cls, progress: SweepProgress) -> SweepTally:
        """What the master counted."""
        return cls(
            states=Counter({JobState(state): n for state, n in progress.states.items()}),
            failures=Counter(progress.failures),
            waiting_for=Counter(progress.waiting_for),
            ran=progress.ran,
            ran_s=progress.ran_s,
            running_since_s=progress.running_since_s,
        )

    def progress(self) -> SweepProgress:
        """The same, to be told."""
        waiting_for = {recipe_hash: n for recipe_hash, n in self.waiting_for.items() if n}
        if len(waiting_for) > WAITING_FOR_MAX:
            waiting_for = dict(Counter(waiting_for).most_common(WAITING_FOR_MAX))
        return SweepProgress(
            states={str(state): n for state, n in self.states.items() if n},
            failures={name: n for name, n in self.failures.items() if n},
            waiting_for=waiting_for,
            ran=self.ran,
            ran_s=self.ran_s,
            running_since_s=self.running_since_s,
        )

    @property
    def ended(self) -> int:
        return sum(count for state, count in self.states.items() if state.is_terminal)

    @property
    def running(self) -> int:
        return self.states[JobState.RUNNING]

    def left_s(self, jobs: int, now_wall_s: float) -> float | None:
        """Seconds until the last of `jobs` ends, if it goes on as so far.

        The mean of those that succeeded, for each that is left, on as many slots
        as run now. None when nothing ended well yet, or nothing runs.
        """
        if not self.ran or not self.running:
            return None
        left = jobs - self.ended
        elapsed_s = self.running * now_wall_s - self.running_since_s
        mean_s = self.ran_s / self.ran
        return max(0.0, left * mean_s - min(elapsed_s, self.running * mean_s)) / self.running


class Tally:
    """The sums of a view: by sweep, by node, by base."""

    def __init__(self) -> None:
        self.sweeps: dict[str, SweepTally] = {}
        self.on_node: dict[str, dict[str, None]] = {}
        """Node → the ids of the jobs that it holds a lease of, in the order they came."""
        self.started: Counter[str] = Counter()
        """Recipe hash → experiments that have started from its base."""

    def replace(self, old: JobRow | None, new: JobRow) -> None:
        """Take in a row that takes the place of `old`."""
        if old is not None:
            self._add(old, -1)
        self._add(new, +1)
        self.move(old, new)

    def move(self, old: JobRow | None, new: JobRow) -> None:
        """Note only which node holds a lease of the job now."""
        if old is not None and old.node_id is not None and old.node_id != new.node_id:
            self._leave(old.node_id, old.job_id)
        if new.node_id is not None:
            if new.state.is_leased:
                self.on_node.setdefault(new.node_id, {})[new.job_id] = None
            else:
                self._leave(new.node_id, new.job_id)

    def avoided(self, base: BaseRow) -> int:
        """Trainings of `base` that its jobs did not need, up to now.

        Each job that started from it would have trained its own; each generation
        that was trained is one training that did happen.
        """
        trained = base.generation if base.artifact_id is not None else base.generation - 1
        started = self.started[base.recipe_hash] if base.started is None else base.started
        return max(0, started - trained)

    def _leave(self, node_id: str, job_id: str) -> None:
        held = self.on_node.get(node_id, {})
        held.pop(job_id, None)
        if not held:
            self.on_node.pop(node_id, None)

    def _add(self, row: JobRow, sign: int) -> None:
        if row.kind is JobKind.BASE:
            return
        if row.recipe_hash is not None and row.started_wall_s is not None:
            self.started[row.recipe_hash] += sign
        if row.sweep_id is None:
            return
        tally = self.sweeps.get(row.sweep_id)
        if tally is None:
            tally = self.sweeps[row.sweep_id] = SweepTally()
        tally.states[row.state] += sign
        if row.state is JobState.WAITING and row.recipe_hash is not None:
            tally.waiting_for[row.recipe_hash] += sign
        if row.state is JobState.FAILED:
            tally.failures[row.failure.partition(":")[0]] += sign
        if row.started_wall_s is None:
            return
        if row.state is JobState.RUNNING:
            tally.running_since_s += sign * row.started_wall_s
        if row.state is JobState.SUCCEEDED and row.ended_wall_s is not None:
            tally.ran += sign
            tally.ran_s += sign * max(0.0, row.ended_wall_s - row.started_wall_s)
