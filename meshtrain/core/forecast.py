"""The queue ahead, played through: the scheduler's own passes, with run times drawn from history.

Nothing here decides anything of its own: jobs are placed by `PlacePass` on a
copy of the state, and end after as long as runs like them took. What is not
foreseen: failures, nodes that come and go, and jobs that are still to be submitted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from zlib import crc32

import msgspec

from meshtrain.core import budget
from meshtrain.core.job import BaseState, Job, JobKind, JobState, Placement
from meshtrain.core.placing import PlacePass
from meshtrain.core.run_times import RunTimes, elapsed_s, kind_of
from meshtrain.core.spending import Spending
from meshtrain.core.state import MeshState
from meshtrain.core.what_if import hold

MIDDLE = 0
"""The replica in which every run takes what half of those like it took."""
COLLECT_S = 1.0
"""What a job whose result is on its way still takes."""
CREDITS = 1 << 62


class Start(msgspec.Struct, frozen=True):
    """When and where a job would start."""

    at_s: float
    """On the lease clock; with what its node has to fetch first."""
    node_id: str


def drawn(replica: int, job_id: str) -> float:
    """A share between 0 and 1 for a job: another one in each replica, the same each time."""
    if replica == MIDDLE:
        return 0.5
    return crc32(f"{replica}:{job_id}".encode()) / 0xFFFFFFFF


class Forecast:
    """One way in which it may go.

    Args:
        state: a copy, which is used up.
        times: what is known of run times.
        replica: which way: 0 is the middle one.
        steps_max: jobs that are placed before it stops.
    """

    def __init__(
        self, state: MeshState, times: RunTimes, *, replica: int = MIDDLE, steps_max: int
    ) -> None:
        self._state = state
        self._times = times
        self._replica = replica
        self._steps_max = steps_max
        self._from_s = state.now_s
        #: (when, number, attempt, its job, what it holds)
        self._ends: list[tuple[float, int, str, Job, Placement | None]] = []
        #: moments at which placement may change though nothing ends; each counts once
        self._wakes: list[float] = []
        self._woken: set[float] = set()
        self._count = 0
        self.starts: dict[str, Start] = {}
        #: sweep → when the last of its jobs is over
        self.sweep_ends: dict[str, float] = {}
        self.given = 0
        #: Jobs whose run time nobody knows: they never end here.
        self.unknown: list[str] = []
        self.is_cut = False
        #: Of the runs that are known: how many, and what they take together.
        self._runs = 0
        self._runs_s = 0.0

    def run(self, until: Callable[[Forecast], bool] = lambda forecast: False) -> None:
        """Play on until there is nothing more to happen, or `until` says so."""
        state = self._state
        for attempt_id, job_id in state.live.items():
            self._go_on(attempt_id, state.jobs[job_id])
        for at_s in (*state.paused_until_s.values(), *(entry[0] for entry in state.delayed)):
            self._wake(at_s)
        self._place()
        for node in state.nodes.values():
            node.grant = CREDITS
        # With the next heartbeat they allow more.
        self._place()
        while (self._ends or self._wakes) and not until(self):
            if self.given >= self._steps_max:
                self.is_cut = True
                return
            state.now_s = max(state.now_s, self._next_s())
            while self._wakes and self._wakes[0] <= state.now_s:
                heapq.heappop(self._wakes)
            while self._ends and self._ends[0][0] <= state.now_s:
                _, _, attempt_id, job, placement = heapq.heappop(self._ends)
                self._end(attempt_id, job, placement)
            self._let_time_pass()
            self._place()

    def _next_s(self) -> float:
        first_s = [self._ends[0][0]] if self._ends else []
        return min(first_s + self._wakes[:1])

    @property
    def now_s(self) -> float:
        """How far it has come, on the lease clock."""
        return self._state.now_s

    # --- what runs ------------------------------------------------------------------------

    def _go_on(self, attempt_id: str, job: Job) -> None:
        """Take up what runs now: it ends when runs that took longer than it so far did."""
        attempt = job.attempt
        if attempt is None:
            return
        if job.state is JobState.COLLECTING:
            self._push(self._from_s + COLLECT_S, attempt_id, job, None)
            return
        placement = attempt.placements[0]
        known = self._times.of(self._state, job, kind_of(placement, self._state.nodes))
        if known is None:
            self.unknown.append(job.job_id)
            return
        so_far_s = elapsed_s(attempt, self._state.wall_s)
        share = drawn(self._replica, job.job_id)
        self._count_run(known.at(share))
        left_s = known.left(so_far_s, share)
        self._push(self._from_s + left_s, attempt_id, job, placement)

    def _give(self, job: Job, placement: Placement) -> None:
        """A job has got a place: it starts when its node has what it needs."""
        state, node = self._state, self._state.nodes[placement.node_id]
        self.given += 1
        attempt_id = f"{job.job_id} in thought"
        node.occupy(attempt_id, placement, short=job.sweep_id in state.short_sweeps)
        node.assigned_count += 1
        state.passed_over.pop(job.job_id, None)
        group = state.group_of(job)
        if group is not None:
            state.homes.note(group, node.node_id)
        start_s = state.now_s + PlacePass(state, self._give).lacking_s(state.shape_of(job))(node)
        if job.spec.recipe_hash is not None:
            artifact_id = state.bases[job.spec.recipe_hash].artifact_id
            if artifact_id is not None and artifact_id not in node.holds:
                hold(state, node, artifact_id, state.bases[job.spec.recipe_hash].size_bytes)
        self.starts[job.job_id] = Start(start_s, node.node_id)
        known = self._times.of(state, job, kind_of(placement, state.nodes))
        if known is None:
            self.unknown.append(job.job_id)
            return
        run_s = known.at(drawn(self._replica, job.job_id))
        self._count_run(start_s - state.now_s + run_s)
        self._push(start_s + run_s, attempt_id, job, placement)

    def _count_run(self, run_s: float) -> None:
        self._runs += 1
        self._runs_s += run_s

    def after(self, jobs: int) -> float | None:
        """When so many more jobs have got their places, where it was cut short.

        As many are under way at a time as now, and take what they took so far (J. D. C.
        Little, A proof for the queuing formula L = λW, 1961). None where none is known.
        """
        if not self._ends or not self._runs:
            return None
        return self.now_s + max(0, jobs) * self.mean_run_s / len(self._ends)

    @property
    def mean_run_s(self) -> float:
        """What the runs took that it came to, each with its way to the start."""
        return self._runs_s / max(1, self._runs)

    def _push(self, at_s: float, attempt_id: str, job: Job, placement: Placement | None) -> None:
        self._count += 1
        heapq.heappush(self._ends, (at_s, self._count, attempt_id, job, placement))

    def _end(self, attempt_id: str, job: Job, placement: Placement | None) -> None:
        state = self._state
        if placement is not None:
            state.nodes[placement.node_id].release(attempt_id, placement)
            self._charge(job, placement)
        if job.kind is JobKind.BASE:
            self._commit(job, placement)
            return
        if job.spec.recipe_hash is not None:
            state.waiters.get(job.spec.recipe_hash, set()).discard(job.job_id)
        if job.sweep_id is not None:
            state.sweep_open[job.sweep_id] -= 1
            if state.sweep_open[job.sweep_id] <= 0:
                self.sweep_ends[job.sweep_id] = state.now_s

    def _commit(self, job: Job, placement: Placement | None) -> None:
        """A base is there: what waits on it may start."""
        state, recipe_hash = self._state, self._state.base_of_job[job.job_id]
        base = state.bases[recipe_hash]
        artifact_id = f"{recipe_hash} in thought"
        sizes = [b.size_bytes for b in state.bases.values() if b.size_bytes]
        size_bytes = sum(sizes) // len(sizes) if sizes else 0
        state.bases[recipe_hash] = msgspec.structs.replace(
            base, state=BaseState.COMMITTED, artifact_id=artifact_id, size_bytes=size_bytes
        )
        if placement is not None:
            hold(state, state.nodes[placement.node_id], artifact_id, size_bytes)

    def _charge(self, job: Job, placement: Placement) -> None:
        """Let budgets run out here as they will: by what has ended."""
        state = self._state
        if not state.limited or not placement.gpus:
            return
        start = self.starts.get(job.job_id)
        if start is not None:
            gpu_s = len(placement.gpus) * (state.now_s - start.at_s)
        elif job.attempt is not None:
            gpu_s, _ = budget.used_by(job.attempt, state.wall_s)
        else:
            return
        price = budget.price_of(state.nodes[placement.node_id].spec, state.config.prices)
        bearers = budget.payers(state, job)
        for sweep_id in bearers:
            known = state.spending.get(sweep_id) or Spending(sweep_id)
            share_s = gpu_s / len(bearers)
            state.spending[sweep_id] = known.plus(share_s, share_s / 3600 * price)
            if state.spending[sweep_id].is_spent:
                state.spent.add(sweep_id)

    # --- what waits -----------------------------------------------------------------------

    def _place(self) -> None:
        state = self._state
        left = self._steps_max - self.given
        if left <= 0:
            return
        PlacePass(state, self._give).run(left)
        after_s = state.config.reserve_after_s
        for since_s, _ in state.passed_over.values():
            self._wake(since_s + after_s)

    def _wake(self, at_s: float) -> None:
        if at_s > self._state.now_s and at_s not in self._woken:
            self._woken.add(at_s)
            heapq.heappush(self._wakes, at_s)

    def _let_time_pass(self) -> None:
        """What the scheduler's tick does to what placement looks at."""
        state = self._state
        for node_id, until_s in list(state.paused_until_s.items()):
            if until_s <= state.now_s:
                del state.paused_until_s[node_id]
                if node_id in state.nodes:
                    state.nodes[node_id].paused = False
        due = [entry for entry in state.delayed if entry[0] <= state.now_s]
        if due:
            state.delayed = [entry for entry in state.delayed if entry[0] > state.now_s]
            for _, job_id, generation in due:
                job = state.jobs[job_id]
                if job.state is JobState.WAITING and job.generation == generation:
                    state.enqueue(job)
