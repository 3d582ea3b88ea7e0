"""All that the scheduler knows, and the few ways in which it changes.

Every change goes through a method here, so that what must be kept, sent and
shown for it can't be forgotten. The decisions are in the modules beside this:
requests (of people), roster (of nodes) and attempts (their course).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core.affinity import Group, Homes
from meshtrain.core.changes import Note
from meshtrain.core.copies import Copies, Pin, given_with
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    TRANSITIONS,
    Attempt,
    Base,
    BaseState,
    Job,
    JobKind,
    JobState,
    Sweep,
)
from meshtrain.core.mesh_counts import MeshCounts
from meshtrain.core.named_input import NamedInput, Versions
from meshtrain.core.node import MASTER_NODE_ID, GpuFaults, Node
from meshtrain.core.placement import needs_of
from meshtrain.core.queue import Shape, WaitingQueue
from meshtrain.core.session import split_session
from meshtrain.core.span import Span
from meshtrain.core.spending import Spending
from meshtrain.core.work_inputs import read_by
from meshtrain.spec.jobs import Resources
from meshtrain.spec.lineage import Parent

LIVES_MAX = 64
"""Lives of one node's daemon that are remembered, so that a late hello of one is known as such."""
OUTBOX_MAX = 10_000
"""Commands that one node may leave unseen; what comes on top is asked for again later."""

SHORT_RUN_S = 0.5
"""Jobs that run for less may wait on a node that is busy: they soon have their turn there."""
RUN_TIME_WEIGHT = 0.2
"""What the last run time counts in the mean of a sweep's."""


class SchedulerConfig(msgspec.Struct, frozen=True):
    lease_s: float = 30.0
    """How long a node may be silent before its jobs are given to others."""
    base_lost_s: float = 60.0
    """How long jobs wait for the holders of a base to come back before it is trained anew."""
    preempt_grace_s: float = 60.0
    """How long a job that is moved elsewhere has to write a checkpoint."""
    pause_s: float = 60.0
    """How long a node gets no jobs after one failed because its disk was full."""
    reserve_after_s: float = 60.0
    """How long a job that needs much of a node is passed over before one is kept free for it."""
    collect_retry_s: float = 2.0
    """Wait before the master tries again to fetch what it failed to fetch."""
    warm_copies: int = 0
    """On how many nodes popular bases are placed before they are asked for."""
    prefetch: bool = True
    """Whether a busy node fetches what its next job will start from."""
    prices: dict[str, float] = {}
    """Label, or "default" → what an hour of one GPU costs on nodes that don't say it."""


class Loaded(msgspec.Struct, frozen=True):
    """What a store gives back at the start."""

    incarnation: int = 1
    epoch_counter: int = 0
    """The highest counter of an epoch ever given out in this incarnation."""
    sweeps: tuple[Sweep, ...] = ()
    jobs: tuple[Job, ...] = ()
    """Each with its live attempt, or else its last."""
    bases: tuple[Base, ...] = ()
    drained: tuple[str, ...] = ()
    drains_due_wall_s: dict[str, float] = {}
    """Drained node → when what still runs there is moved elsewhere, where that has a time."""
    gpu_faults: tuple[GpuFaults, ...] = ()
    pins: tuple[Pin, ...] = ()
    named_inputs: tuple[NamedInput, ...] = ()
    spending: tuple[Spending, ...] = ()


class MeshState:
    def __init__(
        self, config: SchedulerConfig, incarnation: int, epoch_counter: int, life: str = ""
    ) -> None:
        self.config = config
        self.incarnation = incarnation
        #: the name of this life of the master: sessions with nodes are of one life
        self.life = life
        self.epoch_counter = epoch_counter
        self.now_s = 0.0
        #: the last Tick; a long time without one is a stall of the master itself
        self.ticked_s = 0.0
        self.wall_offset_s = 0.0

        self.counts = MeshCounts()
        self.jobs: dict[str, Job] = {}
        self.sweeps: dict[str, Sweep] = {}
        #: jobs of a sweep that have not ended
        self.sweep_open: dict[str, int] = {}
        self.bases: dict[str, Base] = {}
        self.base_of_job: dict[str, str] = {}
        #: sweep → how long its jobs ran lately, in seconds; those whose jobs are over in no time
        self.run_s_mean: dict[str, float] = {}
        self.short_sweeps: set[str] = set()
        #: sweep → what it used; those with a budget, and of them those that have spent it
        self.spending: dict[str, Spending] = {}
        self.limited: set[str] = set()
        self.spent: set[str] = set()
        #: recipe hashes of bases that only such sweeps wait on
        self.unpaid: set[str] = set()
        #: sweep → when it is over, as it was estimated last
        self.sweep_ends: dict[str, Span] = {}
        #: recipe hash → jobs that have not ended and start from that base
        self.waiters: dict[str, set[str]] = {}
        #: recipe hash → sweeps that ask for the base itself
        self.requesters: dict[str, set[str]] = {}
        self.nodes: dict[str, Node] = {}
        self.homes = Homes(self._is_there)
        #: node id → life of its daemon → number of the last session taken up
        self.lives: dict[str, dict[str, int]] = {}
        self.drained: set[str] = set()
        #: node id → when what runs there is moved elsewhere, or when its pause ends (lease clock)
        self.drain_at_s: dict[str, float] = {}
        self.drains_due: set[str] = set()
        #: node id → the first by the wall clock, which a master that starts doesn't know yet
        self.drains_due_wall_s: dict[str, float] = {}
        self.paused_until_s: dict[str, float] = {}
        #: node id → GPU → its faults
        self.gpu_faults: dict[str, dict[int, GpuFaults]] = {}
        #: name → the versions of that data set
        self.named_inputs: dict[str, Versions] = {}
        #: share → node id → until when it is taken to lack it (lease clock), and how it says so
        self.lacking_shares: dict[str, dict[str, tuple[float, str]]] = {}
        #: artifact id of a checkpoint → the job that can go on from it
        self.checkpoint_jobs: dict[str, str] = {}
        #: job id → its checkpoints that are known, the newest last; and the one being fetched
        self.announced: dict[str, list[str]] = {}
        self.flights: dict[str, str] = {}
        #: checkpoints that nothing needs any more: one may still be on its way to the master
        self.dropped: dict[str, None] = {}
        #: job id → how often its checkpoint could not be fetched, one time after the other
        self.resume_failures: dict[str, int] = {}
        #: job id → since when it is passed over, and the node that is kept free for it
        self.passed_over: dict[str, tuple[float, str | None]] = {}
        #: attempt id → job id, and → when its lease ends (lease clock, seconds)
        self.live: dict[str, str] = {}
        self.leases: dict[str, float] = {}
        self.queue = WaitingQueue()
        #: (lease clock, job id, generation): jobs that wait out a delay
        self.delayed: list[tuple[float, str, int]] = []
        #: artifact id → jobs that end when the master holds it
        self.collecting: dict[str, set[str]] = {}
        self.collect_again_s: dict[str, float] = {}
        self.collect_tries: dict[str, int] = {}
        self.held_by_master: set[str] = set()
        #: artifact that the master is removing → how often it was ordered: what came of it
        #: before goes with the rest
        self.dropping: dict[str, int] = {}
        #: who has which artifact, which copies stay, go and come
        self.copies = Copies()
        self.unheld_since_s: dict[str, float] = {}
        #: the same of models that bases continue from, by artifact id
        self.parents_unheld_since_s: dict[str, float] = {}
        #: artifacts of bases that the archive has, and those that come back from it now
        self.archived: set[str] = set()
        self.restoring: set[str] = set()
        self.order = 0
        #: jobs that came to their end and whose consequences are not drawn yet
        self.finished: deque[str] = deque()

        self.out: list[fx.Effect] = []
        self.touched_jobs: dict[str, None] = {}
        self.touched_bases: dict[str, None] = {}
        self.touched_nodes: dict[str, None] = {}
        self.touched_sweeps: dict[str, None] = {}
        self.notes: list[Note] = []

    # --- clocks and numbers --------------------------------------------------------

    @property
    def wall_s(self) -> float:
        return self.now_s + self.wall_offset_s

    def next_epoch(self) -> int:
        self.epoch_counter += 1
        return self.incarnation * EPOCHS_PER_INCARNATION + self.epoch_counter

    def next_order(self) -> int:
        self.order += 1
        return self.order

    # --- jobs -----------------------------------------------------------------------

    def register(self, job: Job) -> None:
        """Take in a job that the store holds, or will hold: indices only."""
        self.counts.replace_job(self.jobs.get(job.job_id), job)
        self.jobs[job.job_id] = job
        self.order = max(self.order, job.order)
        self.copies.needed.update(given_with(job.spec.work))
        if job.attempt is not None and job.attempt.artifact_id is not None:
            self.copies.needed.add(job.attempt.artifact_id)
        for checkpoint in (job.checkpoint, job.checkpoint_safe):
            if checkpoint is not None:
                self.checkpoint_jobs[checkpoint] = job.job_id
        if not job.state.is_terminal:
            if job.sweep_id is not None:
                self.sweep_open[job.sweep_id] = self.sweep_open.get(job.sweep_id, 0) + 1
            if job.spec.recipe_hash is not None:
                self.waiters.setdefault(job.spec.recipe_hash, set()).add(job.job_id)
        self.touched_jobs[job.job_id] = None

    def change_job(self, job: Job, state: JobState | None = None, **changes: Any) -> Job:
        """Change a job in memory; `keep_job` also has it stored.

        Raises AssertionError for a transition that the table doesn't know.
        """
        if state is not None and state is not job.state:
            assert state in TRANSITIONS[job.state], f"{job.name}: {job.state} → {state}"
            changes["state"] = state
        job = msgspec.structs.replace(job, **changes)
        self.counts.replace_job(self.jobs[job.job_id], job)
        self.jobs[job.job_id] = job
        self.touched_jobs[job.job_id] = None
        if job.spec.recipe_hash is not None:
            self.touched_bases[job.spec.recipe_hash] = None
        return job

    def keep_job(self, job: Job, state: JobState | None = None, **changes: Any) -> Job:
        job = self.change_job(job, state, **changes)
        self.out.append(fx.UpdateJob(job))
        return job

    def keep_attempt(self, attempt: Attempt) -> None:
        self.out.append(fx.UpdateAttempt(attempt))

    def reopen(self, job: Job) -> Job:
        """A new generation of a job that had ended."""
        assert job.state.is_terminal
        job = msgspec.structs.replace(
            job,
            state=JobState.WAITING,
            generation=job.generation + 1,
            cancelling=False,
            attempt=None,
            retries_used=0,
            losses=0,
            failure=None,
            metrics={},
            ended_wall_s=None,
        )
        self.register(job)
        self.out.append(fx.UpdateJob(job))
        return job

    def enqueue(self, job: Job, delay_s: float = 0.0) -> None:
        """Let a waiting job compete for places, at once or after a delay."""
        assert job.state is JobState.WAITING
        if delay_s > 0:
            self.delayed.append((self.now_s + delay_s, job.job_id, job.generation))
            return
        priority = job.priority
        if job.kind is JobKind.BASE:
            priority = self.base_priority(self.base_of_job[job.job_id])
            if priority != job.priority:
                job = self.change_job(job, priority=priority)
        self.queue.push(
            job.job_id,
            self.shape_of(job),
            priority=priority,
            order=job.order,
            is_base=job.kind is JobKind.BASE,
        )

    def _is_there(self, node_id: str) -> bool:
        node = self.nodes.get(node_id)
        return node is not None and node.connected

    def shape_of(self, job: Job) -> Shape:
        datasets, shares = read_by(job.spec.work)
        parent = self.parent_of(job)
        return Shape(
            self.needs(job),
            job.spec.recipe_hash,
            datasets,
            shares,
            parent=None if parent is None else parent.artifact_id,
            group=self.group_of(job),
            purse=self._purse(job),
        )

    def _purse(self, job: Job) -> str | None:
        if not self.limited:
            return None
        if job.kind is JobKind.BASE:
            return self.base_of_job[job.job_id]
        return job.sweep_id if job.sweep_id in self.limited else None

    def group_of(self, job: Job) -> Group | None:
        """The jobs that it is best on one node with; None where its sweep has no affinity."""
        if not job.spec.affinity or job.sweep_id is None or not self.sweep_open.get(job.sweep_id):
            return None
        return job.sweep_id, job.spec.affinity

    def parent_of(self, job: Job) -> Parent | None:
        """The model that a base job continues from; None for all others."""
        if job.kind is not JobKind.BASE:
            return None
        return self.bases[self.base_of_job[job.job_id]].spec.parent

    def is_parent(self, artifact_id: str) -> bool:
        """Whether a base that is still to be trained continues from the artifact."""
        return any(
            base.state is BaseState.NEEDED
            and base.spec.parent is not None
            and base.spec.parent.artifact_id == artifact_id
            for base in self.bases.values()
        )

    def needs(self, job: Job) -> Resources:
        """What the job needs now: as asked last, with more room after it ran out of memory."""
        needs = needs_of(job.asked or job.spec.resources, job.spec.work)
        if job.gpu_memory_bytes > needs.gpu_memory_bytes:
            needs = msgspec.structs.replace(needs, gpu_memory_bytes=job.gpu_memory_bytes)
        return msgspec.structs.replace(needs, alone=True) if job.alone else needs

    def learn_run_time(self, job: Job, run_s: float) -> None:
        """Note how long a job ran: what is over in no time is handed out ahead."""
        if job.sweep_id is None:
            return
        known_s = self.run_s_mean.get(job.sweep_id, run_s)
        mean_s = known_s + RUN_TIME_WEIGHT * (run_s - known_s)
        self.run_s_mean[job.sweep_id] = mean_s
        if mean_s < SHORT_RUN_S:
            self.short_sweeps.add(job.sweep_id)
        else:
            self.short_sweeps.discard(job.sweep_id)

    # --- bases ----------------------------------------------------------------------

    def keep_base(self, base: Base, **changes: Any) -> Base:
        base = self.know_base(msgspec.structs.replace(base, **changes))
        self.base_of_job[base.job_id] = base.recipe_hash
        self.touched_bases[base.recipe_hash] = None
        self.out.append(fx.SaveBase(base))
        return base

    def know_base(self, base: Base) -> Base:
        """Take in a base that the store holds, or will hold: indices only."""
        known = self.bases.get(base.recipe_hash)
        self.counts.replace_base(known, base)
        former = known.artifact_id if known is not None else None
        self.copies.learn_base(base.recipe_hash, former, base.artifact_id)
        self.bases[base.recipe_hash] = base
        return base

    def is_wanted(self, recipe_hash: str) -> bool:
        return bool(self.waiters.get(recipe_hash) or self.requesters.get(recipe_hash))

    def base_priority(self, recipe_hash: str) -> int:
        """The highest priority of the jobs that wait on the base."""
        return max(
            (self.jobs[job_id].priority for job_id in self.waiters.get(recipe_hash, ())),
            default=0,
        )

    def is_ready(self, recipe_hash: str) -> bool:
        """Whether jobs may start from the base: committed, and somebody there has it."""
        base = self.bases[recipe_hash]
        return base.state is BaseState.COMMITTED and self.is_held(base.artifact_id)

    # --- artifacts --------------------------------------------------------------------

    def is_held(self, artifact_id: str | None) -> bool:
        if artifact_id is None:
            return False
        if artifact_id in self.held_by_master:
            return True
        return any(self.nodes[n].connected for n in self.copies.directory.holders(artifact_id))

    def holders(self, artifact_id: str) -> list[str]:
        """Every node known to hold the artifact, away or not; the master last."""
        names = sorted(self.copies.directory.holders(artifact_id))
        if artifact_id in self.held_by_master:
            names.append(MASTER_NODE_ID)
        return names

    # --- nodes ------------------------------------------------------------------------

    def command(self, node_id: str, command: cmd.Command) -> None:
        """Send a command to a node; it is repeated until the node has seen it."""
        node = self.nodes.get(node_id)
        if node is None:
            return
        if len(node.outbox) >= OUTBOX_MAX and not isinstance(command, cmd.AssignAttempt):
            # A node that lists or ends what nobody gave it must not fill the memory:
            # it says so again, and what it is told then comes too.
            return
        if isinstance(command, cmd.EndAttempt | cmd.ForgetAttempt | cmd.PreemptAttempt):
            if command in node.pending:
                return
            node.pending.add(command)
        node.seq += 1
        node.outbox.append((node.seq, command))
        self.out.append(fx.SendCommand(node_id, node.session, node.seq, command))

    def take_session(self, node_id: str, session: str) -> bool:
        """Whether a hello opens a session; False for one that was overtaken by a later one."""
        life, number = split_session(session)
        lives = self.lives.setdefault(node_id, {})
        if number <= lives.get(life, -1):
            return False
        lives[life] = number
        while len(lives) > LIVES_MAX:
            del lives[next(iter(lives))]
        return True

    # --- words --------------------------------------------------------------------------

    def note(self, text: str) -> None:
        self.notes.append(Note(self.wall_s, text))

    def touch_bases(self, recipe_hashes: Iterable[str]) -> None:
        for recipe_hash in recipe_hashes:
            self.touched_bases[recipe_hash] = None
