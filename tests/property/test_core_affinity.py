"""Affinity: jobs of one group come together, and no slot stays free for it."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import msgspec
from core_records import node_spec, sweep_of
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.affinity import AT_HOME, ELSEWHERE, NOWHERE, Homes
from meshtrain.core.invariants import check
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import JobState
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.placement import choose, fit
from meshtrain.core.queue import Shape, WaitingQueue
from meshtrain.core.refusal import Refusal
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.spec.jobs import Resources, SweepSpec


@dataclass
class Course:
    """A mesh on a virtual clock: what ran where, and when."""

    slots: tuple[int, ...]
    seed: int = 0
    run_s_max: int = 1
    scheduler: Scheduler = field(
        default_factory=lambda: Scheduler(SchedulerConfig(lease_s=1e9), Loaded())
    )
    now_s: float = 0.0
    #: (end in seconds, number, node, attempt, epoch)
    running: list[tuple[float, int, str, str, int]] = field(default_factory=list)
    #: in the order in which they were given out
    starts: list[tuple[float, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.tell(ev.Tick(0.0))
        for number, slots in enumerate(self.slots):
            spec = node_spec(f"n{number}", cpu_slots=slots)
            self.tell(ev.NodeSaidHello(spec, f"n{number}/1", (), (), grant=10**6))

    def tell(self, event: ev.Event) -> None:
        effects = self.scheduler.handle(event, self.now_s)
        effects += self.scheduler.handle(ev.PlaceJobs(), self.now_s)
        check(self.scheduler.state)
        for effect in effects:
            if isinstance(effect, fx.SendCommand) and isinstance(effect.command, cmd.AssignAttempt):
                given_out = effect.command
                # Whole seconds, from the job's own name: the same with affinity and without.
                run_s = 1 + random.Random(f"{self.seed}{given_out.name}").randrange(self.run_s_max)
                end = (
                    self.now_s + run_s,
                    len(self.starts),
                    effect.node_id,
                    given_out.attempt_id,
                    given_out.epoch,
                )
                heapq.heappush(self.running, end)
                self.starts.append((self.now_s, effect.node_id, given_out.job_id))

    def run(self, *sweeps: SweepSpec) -> float:
        """Runs sweeps to their end; how long that took, in seconds."""
        state = self.scheduler.state
        for sweep in sweeps:
            self.tell(ev.SweepSubmitted(sweep.sweep_id, sweep))
        while self.running:
            self.check_nothing_idles()
            self.now_s, _, node_id, attempt_id, epoch = heapq.heappop(self.running)
            self.tell(ev.AttemptEnded(node_id, attempt_id, epoch, run_s=60.0))
        assert all(job.state is JobState.SUCCEEDED for job in state.jobs.values())
        return self.now_s

    def check_nothing_idles(self) -> None:
        state = self.scheduler.state
        waiting = [job for job in state.jobs.values() if job.state is JobState.WAITING]
        for job in waiting:
            for node in state.nodes.values():
                assert isinstance(fit(node, state.needs(job)), Refusal), (
                    "a slot idles while a job waits"
                )

    def moves(self) -> int:
        """How often a group came to a node: once for each group is the least."""
        jobs = self.scheduler.state.jobs
        return len({(node_id, jobs[job_id].spec.cell["g"]) for _, node_id, job_id in self.starts})


def grouped(sweep: SweepSpec, groups: int, *, affinity: bool = True) -> SweepSpec:
    """The sweep with its jobs dealt out to groups at random, by the sweep's name."""
    draw = random.Random(sweep.name)
    jobs = []
    for job in sweep.jobs:
        group = draw.randrange(groups)
        told = f"g={group}" if affinity else ""
        jobs.append(msgspec.structs.replace(job, cell={**job.cell, "g": group}, affinity=told))
    return msgspec.structs.replace(sweep, jobs=tuple(jobs))


SLOTS = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


@given(SLOTS, st.integers(1, 25), st.integers(1, 6), st.integers(0, 5))
def test_affinity_costs_no_waiting(
    slots: tuple[int, ...], jobs: int, groups: int, seed: int
) -> None:
    """No slot is free while a job waits; with runs of one length all ends when it would have."""
    took_s = []
    for affinity in (True, False):
        course = Course(slots, seed)
        took_s.append(course.run(grouped(sweep_of("s", ("",) * jobs), groups, affinity=affinity)))
        # As many start at each time as could.
        starts = Counter(at_s for at_s, _, _ in course.starts)
        assert max(starts.values()) <= sum(slots)
        assert sorted(job for _, _, job in course.starts) == sorted(f"s-{n}" for n in range(jobs))
    assert took_s[0] == took_s[1] == -(-jobs // sum(slots))


@given(SLOTS, st.integers(2, 6), st.integers(0, 5), st.integers(0, 1))
def test_other_sweeps_have_the_slots_that_they_would_have(
    slots: tuple[int, ...], groups: int, seed: int, urgent: int
) -> None:
    """At each time as many jobs of each sweep start as without affinity."""
    starts = []
    for affinity in (True, False):
        course = Course(slots, seed)
        first = grouped(sweep_of("first", ("",) * 9), groups, affinity=affinity)
        other = grouped(sweep_of("other", ("",) * 5, priority=urgent), 1, affinity=False)
        course.run(first, other)
        jobs = course.scheduler.state.jobs
        starts.append(Counter((at_s, jobs[job_id].sweep_id) for at_s, _, job_id in course.starts))
    assert starts[0] == starts[1]


def test_groups_stay_where_they_are() -> None:
    """On 4 nodes, 8 groups of 12 jobs of random length: without affinity each is everywhere."""
    moves = {}
    for affinity in (True, False):
        found = []
        for seed in range(5):
            course = Course((1, 1, 2, 2), seed, run_s_max=20)
            course.run(grouped(sweep_of(f"s{seed}", ("",) * 96), 8, affinity=affinity))
            found.append(course.moves())
        moves[affinity] = sum(found) / len(found)
    assert moves[False] > 28
    assert moves[True] < 15


def test_a_group_begins_on_a_node_of_its_own_and_others_help_at_the_end() -> None:
    course = Course((1, 1))
    course.run(
        msgspec.structs.replace(
            sweep_of("s", ("",) * 8),
            jobs=tuple(
                msgspec.structs.replace(job, cell={"g": number // 6}, affinity=f"g={number // 6}")
                for number, job in enumerate(sweep_of("s", ("",) * 8).jobs)
            ),
        )
    )
    jobs = course.scheduler.state.jobs
    where = [(at_s, node, jobs[job_id].spec.cell["g"]) for at_s, node, job_id in course.starts]
    assert where == [
        *((0.0, "n0", 0), (0.0, "n1", 1), (1.0, "n0", 0), (1.0, "n1", 1)),
        # The second group has ended: its node takes of the first what would have to wait.
        *((2.0, "n0", 0), (2.0, "n1", 0), (3.0, "n0", 0), (3.0, "n1", 0)),
    ]


def test_no_base_is_fetched_for_the_sake_of_a_group() -> None:
    """A group that has no home yet doesn't go first where its base would have to come."""
    course = Course((1, 1))
    sweep = sweep_of("s", ("here", "there"))
    jobs = [
        msgspec.structs.replace(job, cell={"g": g}, affinity=f"g={g}")
        for g, job in enumerate(sweep.jobs)
    ]
    course.tell(ev.SweepSubmitted("r", msgspec.structs.replace(sweep, jobs=tuple(jobs))))
    state = course.scheduler.state
    training = {node_id: (attempt, epoch) for _, _, node_id, attempt, epoch in course.running}
    here, there = "a" * 32, "b" * 32
    # The second base lies on the master alone, and its node takes no more jobs.
    course.tell(ev.DrainRequested("d", "n1", True))
    course.tell(ev.AttemptEnded("n1", *training["n1"], artifact_id=there, size_bytes=10**9))
    course.tell(ev.ArtifactHeld(MASTER_NODE_ID, (there,)))
    assert len(course.starts) == 2
    # The first one lies on n0; its group has run on n1 before.
    state.homes.note(("s", "g=0"), "n1")
    held = InventoryChange(here, Holding.HELD, 10**9)
    course.tell(ev.InventoryTold("n0", state.nodes["n0"].session, 1, (held,)))
    course.tell(ev.AttemptEnded("n0", *training["n0"], artifact_id=here, size_bytes=10**9))
    assert course.starts[2][1:] == ("n0", "s-0")


def test_homes_are_known_again_after_a_restart_and_forgotten_with_the_sweep() -> None:
    course = Course((1, 1))
    sweep = grouped(sweep_of("s", ("",) * 6), 2)
    course.tell(ev.SweepSubmitted("r", sweep))
    state = course.scheduler.state
    loaded = Loaded(
        sweeps=tuple(state.sweeps.values()), jobs=tuple(state.jobs.values()), epoch_counter=9
    )
    again = Scheduler(SchedulerConfig(), loaded).state
    ran = [(node, state.jobs[job_id].spec.affinity) for _, node, job_id in course.starts]
    assert ran
    for node, values in ran:
        assert list(again.homes.nodes(("s", values))) == [node]
    course.run()
    for _, values in ran:
        assert list(state.homes.nodes(("s", values))) == []


def test_a_home_that_is_away_is_none() -> None:
    there = {"n0", "n1"}
    homes = Homes(there.__contains__)
    group = ("s", "g=1")
    assert homes.rank(group, "n0") == NOWHERE
    homes.note(group, "n0")
    assert (homes.rank(group, "n0"), homes.rank(group, "n1")) == (AT_HOME, ELSEWHERE)
    there.discard("n0")
    assert homes.rank(group, "n1") == NOWHERE
    assert homes.rank(None, "n1") == AT_HOME


def test_home_decides_only_among_equals() -> None:
    course = Course((2, 2, 2))
    nodes = list(course.scheduler.state.nodes.values())
    missing = {"n0": 5, "n1": 0, "n2": 0}

    def place(home: str) -> str:
        placement = choose(
            nodes,
            Resources(),
            lambda node: missing[node.node_id],
            is_home=lambda node: node.node_id == home,
        )
        assert placement is not None
        return placement.node_id

    assert (place("n2"), place("n0")) == ("n2", "n1")


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "c"]), st.integers(1, 2)),
        min_size=1,
        max_size=20,
    ),
    st.data(),
)
def test_a_job_that_goes_first_is_taken_once_and_the_other_competes_again(
    jobs: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    queue = WaitingQueue()
    urgency: dict[str, tuple[int, int]] = {}
    for order, (priority, group, cpus) in enumerate(jobs):
        job_id = f"j{order}"
        shape = Shape(Resources(cpus=cpus), None, group=("s", group))
        queue.push(job_id, shape, priority=priority, order=order)
        urgency[job_id] = (priority, cpus)
    taken: list[str] = []
    for job_id, shape, turn in queue.in_order(lambda _: True):
        kin = list(queue.kin(job_id))
        for other_id, other in kin:
            assert urgency[other_id] == urgency[job_id]
            assert other.group != shape.group
        if kin and data.draw(st.booleans()):
            other_id = data.draw(st.sampled_from([other_id for other_id, _ in kin]))
            turn.give_to(other_id)
            taken.append(other_id)
        else:
            turn.take()
            taken.append(job_id)
    assert sorted(taken) == sorted(urgency)
    # More urgent ones have all gone before.
    assert [urgency[j][0] for j in taken] == sorted((p for p, _, _ in jobs), reverse=True)
    assert len(queue) == 0
