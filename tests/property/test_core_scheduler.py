"""Whatever happens, in whatever order: the scheduler never contradicts itself, and ends all jobs.

The machine throws events at a scheduler that real nodes would never send, beside
those that they do: stale epochs, other nodes' attempts, doubled hellos, numbers of
commands that were never given. Its effects are kept in a store that holds the rows'
rules, from which it is restarted now and then. At the end the mesh heals, and
everything has to come to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core_records import node_spec, recipe_hash, sweep_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.invariants import check
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import BaseState, Failure, FailureClass, JobState
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import Resources
from meshtrain.spec.lineage import Parent
from meshtrain.store.memory import MemoryStore

CONFIG = SchedulerConfig(lease_s=10.0, base_lost_s=20.0)
SPECS = {
    "gpu": node_spec("gpu", cpu_slots=1, gpu_gib=(8, 24)),
    "cpu": node_spec("cpu", cpu_slots=2),
}
NODES = st.sampled_from(sorted(SPECS))
HOLDERS = st.sampled_from([*sorted(SPECS), MASTER_NODE_ID])
NUMBERS = st.integers(0, 10_000)
RECIPES = st.lists(st.sampled_from(["", "r1", "r2"]), min_size=1, max_size=3).map(tuple)
FAILURES = st.sampled_from([None, None, None, *FailureClass])
HEAL_ROUNDS_MAX = 600


class Mesh(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.now_s = 0.0
        self.sweeps = 0
        self.lives = 0
        self.beats = 0
        self.ended: set[tuple[str, int]] = set()
        #: (node, attempt, epoch) that were given out, and which the node still has
        self.given: list[tuple[str, str, int]] = []
        self.running: dict[str, dict[str, int]] = {name: {} for name in SPECS}
        self.artifacts: list[str] = []
        #: every artifact that was a base's → its recipe hash
        self.models: dict[str, str] = {}
        self.wanted: list[str] = []
        self.start()

    def start(self) -> None:
        self.scheduler = Scheduler(CONFIG, self.store.load(), self.now_s)
        self.state = self.scheduler.state

    def do(self, event: ev.Event) -> list[fx.Effect]:
        """One batch of the daemon: an event, then jobs are given out."""
        effects = self.scheduler.handle(event, self.now_s)
        check(self.state)
        effects += self.scheduler.handle(ev.PlaceJobs(), self.now_s)
        self.store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        self.store.commit()
        for base in self.state.bases.values():
            if base.artifact_id is not None:
                self.models[base.artifact_id] = base.recipe_hash
        for effect in effects:
            match effect:
                case fx.SendCommand(node_id=node_id, command=cmd.AssignAttempt() as given):
                    one = (node_id, given.attempt_id, given.epoch)
                    if one in self.given:
                        continue
                    self.given.append(one)
                    self.running[node_id][given.attempt_id] = given.epoch
                    sweep_id = self.state.jobs[given.job_id].sweep_id
                    assert sweep_id not in self.state.spent, "nothing more of it is started"
                    trained = self.state.bases.get(given.recipe_hash or "")
                    if given.job_id in self.state.base_of_job and trained is not None:
                        pin = trained.spec.parent
                        assert (pin and pin.artifact_id) == (given.base and given.base.artifact_id)
                    if given.base is not None:
                        assert self.state.is_held(given.base.artifact_id), "P5: nobody has the base"
                case fx.CollectArtifact():
                    self.wanted.append(effect.artifact_id)
                case fx.JobFinished(job=job):
                    key = (job.job_id, job.generation)
                    assert key not in self.ended, f"P2: {job.name} ended twice"
                    self.ended.add(key)
                case _:
                    pass
        return effects

    @invariant()
    def is_consistent(self) -> None:
        check(self.state)

    # --- people ------------------------------------------------------------------------

    @rule(recipes=RECIPES, gpus=st.sampled_from([None, 0, 1]), many=st.integers(0, 5))
    def submit(self, recipes: tuple[str, ...], gpus: int | None, many: int) -> None:
        self.sweeps += 1
        sweep = sweep_of(
            f"s{self.sweeps}",
            recipes,
            resources=Resources(gpus=gpus),
            priority=many,
            bases_only=many == 0,
            groups=many % 3,
        )
        self.do(ev.SweepSubmitted("r", sweep, allow_pending=True))
        self.do(ev.SweepSubmitted("again", sweep))

    @rule(recipes=RECIPES, pick=NUMBERS)
    def submit_continued(self, recipes: tuple[str, ...], pick: int) -> None:
        """Bases that continue from a model that is there now, also when it was replaced since."""
        if not self.models:
            return
        artifact_id = sorted(self.models)[pick % len(self.models)]
        self.sweeps += 1
        parent = Parent(self.models[artifact_id], artifact_id)
        sweep = sweep_of(f"s{self.sweeps}", recipes, parent=parent)
        self.do(ev.SweepSubmitted("r", sweep, allow_pending=True))

    def some_jobs(self, pick: int) -> tuple[str, ...]:
        known = sorted(self.state.jobs)
        return tuple(known[(pick + step) % len(known)] for step in (0, 7)) if known else ()

    @rule(pick=NUMBERS, whole=st.booleans())
    def cancel(self, pick: int, whole: bool) -> None:
        sweeps = sorted(self.state.sweeps)
        if whole and sweeps:
            self.do(ev.CancelRequested("r", sweep_ids=(sweeps[pick % len(sweeps)],)))
        else:
            self.do(ev.CancelRequested("r", job_ids=self.some_jobs(pick)))

    @rule(pick=NUMBERS)
    def retry(self, pick: int) -> None:
        self.do(ev.RetryRequested("r", self.some_jobs(pick)))

    @rule(pick=NUMBERS, priority=st.integers(-5, 5))
    def reprioritise(self, pick: int, priority: int) -> None:
        self.do(ev.PriorityRequested("r", self.some_jobs(pick), priority))

    @rule(
        pick=NUMBERS, gpus=st.sampled_from([None, 0, 1]), size=st.sampled_from([None, 0, 1 << 33])
    )
    def need_something_else(self, pick: int, gpus: int | None, size: int | None) -> None:
        change = NeedsChange(gpus=gpus, gpu_memory_bytes=size, cpus=1)
        self.do(ev.RetryRequested("r", self.some_jobs(pick), change))

    @rule(pick=NUMBERS, hours=st.sampled_from([None, 1e-6, 0.01, 1.0]))
    def set_budget(self, pick: int, hours: float | None) -> None:
        sweeps = sorted(self.state.sweeps)
        if sweeps:
            sweep_id = sweeps[pick % len(sweeps)]
            self.do(ev.BudgetRequested("r", sweep_id, hours, unlimited=hours is None))

    @rule(recipe=st.sampled_from(["r1", "r2", "r3"]))
    def rebuild(self, recipe: str) -> None:
        self.do(ev.RebuildRequested("r", recipe_hash(recipe)))

    @rule(name=NODES, drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        self.do(ev.DrainRequested("r", name, drained))

    # --- nodes -------------------------------------------------------------------------

    def listed(self, name: str, keep: int) -> tuple[ev.LiveAttempt, ...]:
        """What a node says to have: most of what it was given, and now and then others' too."""
        if keep % 3:
            own, lies = list(self.running[name].items()), []
        else:
            own = [a for number, a in enumerate(self.running[name].items()) if keep % (number + 2)]
            lies = [(a, e + keep % 2) for _, a, e in self.given[-(keep % 5) :]]
        return tuple(
            ev.LiveAttempt(attempt_id, epoch, started=keep % 2 == 0, over=keep % 15 == 0)
            for attempt_id, epoch in dict([*own, *lies]).items()
        )

    @initialize()
    def all_join(self) -> None:
        for name in SPECS:
            self.hello(name, keep=1, new_life=True, grant=3)

    @rule(name=NODES, keep=NUMBERS, new_life=st.booleans(), grant=st.sampled_from([0, 1, 3, 2**62]))
    def hello(self, name: str, keep: int, new_life: bool, grant: int) -> None:
        node = self.state.nodes.get(name)
        if new_life or node is None:
            self.lives += 1
            session = f"life{self.lives}/0"
        else:
            life, _, number = node.session.rpartition("/")
            session = f"{life}/{int(number) + keep % 3 - 1}"
        holds = tuple(self.artifacts[: keep % 3])
        self.do(ev.NodeSaidHello(SPECS[name], session, self.listed(name, keep), holds, grant))

    @rule(name=NODES, keep=NUMBERS, seen=st.sampled_from([-1, 0, 1, 2**62]), stale=st.booleans())
    def beat(self, name: str, keep: int, seen: int, stale: bool) -> None:
        node = self.state.nodes.get(name)
        session = node.session if node is not None and not stale else "life0/0"
        seen_seq = node.seq if node is not None and seen < 0 else max(0, seen)
        self.beats += 1
        self.do(
            ev.NodeBeat(
                name,
                session,
                beat=self.beats - keep % 3,
                sent_s=self.now_s + keep % 20 - 10,
                seen_seq=seen_seq,
                grant=keep % 8,
                attempts=self.listed(name, keep),
                accepting=keep % 7 != 0,
                fetching=tuple(self.artifacts[: keep % 2]),
            )
        )

    @rule(name=NODES)
    def leave(self, name: str) -> None:
        node = self.state.nodes.get(name)
        self.do(ev.NodeLeft(name, node.session if node is not None else ""))

    @rule(name=NODES, pick=NUMBERS, wrong=st.integers(0, 3))
    def started(self, name: str, pick: int, wrong: int) -> None:
        if self.given:
            owner, attempt_id, epoch = self.given[-1 - pick % len(self.given)]
            node_id = name if wrong == 1 else owner
            self.do(ev.AttemptStarted(node_id, attempt_id, epoch + (wrong == 2)))

    @rule(name=NODES, pick=st.integers(0, 6), failure=FAILURES, wrong=st.integers(0, 9))
    def end(self, name: str, pick: int, failure: FailureClass | None, wrong: int) -> None:
        if not self.given:
            return
        owner, attempt_id, epoch = self.given[-1 - pick % len(self.given)]
        before = self.state.live.get(attempt_id)
        node_id = name if wrong == 1 else owner
        failed = failure is not None and failure is not FailureClass.BASE_FAILED
        self.do(
            ev.AttemptEnded(
                node_id=node_id,
                attempt_id=attempt_id,
                epoch=epoch + (wrong == 2),
                grant=wrong,
                seen_seq=wrong,
                failure=Failure(failure, "as drawn") if failed and failure else None,
                cancelled=wrong == 3,
                handed_back=wrong == 4,
                artifact_id=None if wrong == 5 or failed else self.new_artifact(),
                metrics={"accuracy": 0.5},
                run_s=1.0,
            )
        )
        if node_id != owner or wrong == 2:
            assert self.state.live.get(attempt_id) == before, "a word that doesn't count counted"
        else:
            self.running[owner].pop(attempt_id, None)

    def new_artifact(self) -> str:
        self.artifacts.append(digest(str(len(self.artifacts)).encode()))
        return self.artifacts[-1]

    @rule(name=HOLDERS, pick=NUMBERS, gone=st.booleans())
    def hold(self, name: str, pick: int, gone: bool) -> None:
        if self.artifacts:
            some = (self.artifacts[pick % len(self.artifacts)],)
            node = self.state.nodes.get(name)
            # Numbers that may have come before, come in order, or leave a gap.
            first = (node.inventory if node is not None else 0) + pick % 3
            session = node.session if node is not None and pick % 5 else "another"
            what = Holding.GONE if gone else Holding.HELD
            changes = (InventoryChange(some[0], what, 100),)
            self.do(ev.InventoryTold(name, session, first, changes))

    @rule(well=st.booleans())
    def collected(self, well: bool) -> None:
        if self.wanted:
            artifact_id = self.wanted.pop()
            if well:
                self.do(ev.ArtifactHeld(MASTER_NODE_ID, (artifact_id,)))
            else:
                self.do(ev.CollectFailed(artifact_id, "as drawn"))

    # --- time and the master -----------------------------------------------------------

    @rule(wait_s=st.sampled_from([0.0, 0.5, 1.0, 2.5, 11.0, 100.0]))
    def tick(self, wait_s: float) -> None:
        self.now_s += wait_s
        self.do(ev.Tick(wall_s=self.now_s + 1e9))

    @rule(wait_s=st.sampled_from([12.0, 40.0]))
    def pass_time(self, wait_s: float) -> None:
        for _ in range(int(wait_s)):
            self.tick(1.0)

    @rule()
    def restart(self) -> None:
        before = {job_id: (job.state, job.generation) for job_id, job in self.state.jobs.items()}
        spending = dict(self.state.spending)
        needs = {job_id: self.state.needs(job) for job_id, job in self.state.jobs.items()}
        self.start()
        assert self.state.spending == spending
        assert {job_id: self.state.needs(job) for job_id, job in self.state.jobs.items()} == needs
        for job_id, (state, generation) in before.items():
            job = self.state.jobs[job_id]
            assert job.generation == generation
            assert job.state is state or (state.is_leased and job.state.is_leased), job.name
        held = tuple(a for number, a in enumerate(self.artifacts) if number % 2)
        self.do(ev.ArtifactHeld(MASTER_NODE_ID, held))

    # --- in the end --------------------------------------------------------------------

    def teardown(self) -> None:
        """Good nodes and no more weather: nothing may wait for ever, and nothing end twice."""
        for sweep_id in self.state.sweeps:
            self.do(ev.BudgetRequested("r", sweep_id, unlimited=True))
        for name in SPECS:
            self.do(ev.DrainRequested("r", name, False))
            self.running[name].clear()
            self.hello(name, keep=0, new_life=True, grant=0)
        for _ in range(HEAL_ROUNDS_MAX):
            if all(job.state.is_terminal for job in self.state.jobs.values()):
                break
            self.now_s += 1.0
            self.serve(self.do(ev.Tick(wall_s=self.now_s + 1e9)))
            for name in SPECS:
                self.serve(self.good_beat(name))
            check(self.state)
        waiting = [(j.name, j.state) for j in self.state.jobs.values() if not j.state.is_terminal]
        assert not waiting, f"waits for ever: {waiting}"
        for base in self.state.bases.values():
            assert base.state is not BaseState.NEEDED, base.spec.label
            assert (self.state.jobs[base.job_id].state is JobState.SUCCEEDED) == (
                base.state is BaseState.COMMITTED
            )
        assert not self.state.leases

    def good_beat(self, name: str) -> list[fx.Effect]:
        node = self.state.nodes[name]
        self.beats += 3
        mine = tuple(ev.LiveAttempt(a, e, True) for a, e in self.running[name].items())
        grant = node.assigned_count + 4
        return self.do(
            ev.NodeBeat(name, node.session, self.beats, self.now_s, node.seq, grant, mine)
        )

    def serve(self, effects: Iterable[fx.Effect]) -> None:
        """Do at once what the scheduler wants."""
        todo: list[Any] = list(effects)
        while todo:
            match todo.pop():
                case fx.SendCommand(node_id=node_id, command=cmd.AssignAttempt() as given):
                    self.running[node_id].pop(given.attempt_id, None)
                    todo += self.do(
                        ev.AttemptEnded(
                            node_id,
                            given.attempt_id,
                            given.epoch,
                            artifact_id=self.new_artifact(),
                        )
                    )
                case fx.CollectArtifact(artifact_id=artifact_id):
                    todo += self.do(ev.ArtifactHeld(MASTER_NODE_ID, (artifact_id,)))
                case _:
                    pass


Mesh.TestCase.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)
TestMesh = Mesh.TestCase
