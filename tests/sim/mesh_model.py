"""A mesh on a virtual clock: the production scheduler and agents, a network that misbehaves.

Messages between them are lost, doubled and reordered; daemons crash and come
back; the master crashes and comes back with what it had committed. All of it
is drawn from one seed, so that a failure replays exactly.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.agent import Agent
from meshtrain.core.invariants import check
from meshtrain.core.job import Failure, FailureClass, JobKind, JobState
from meshtrain.core.node import MASTER_NODE_ID, Gpu, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, Limits, Resources, SweepSpec
from meshtrain.store.memory import MemoryStore

LEASE_S = 10.0
BEAT_S = 2.0


@dataclass
class Weather:
    """How badly the network and the hosts behave."""

    loss: float = 0.0
    doubling: float = 0.0
    delay_max_s: float = 0.05
    crash_every_s: float | None = None
    """Mean time between crashes of a daemon or the master."""
    job_failure: float = 0.0


@dataclass
class Host:
    """A node: its disk (artifacts) outlives its daemon."""

    spec: NodeSpec
    holds: set[str] = field(default_factory=set)
    agent: Agent | None = None
    #: grows at each start; what belongs to a former life of the daemon is dropped
    life: int = 0
    running: dict[str, cmd.AssignAttempt] = field(default_factory=dict)


class SimMesh:
    def __init__(self, seed: int, *, hosts: int = 3, slots: int = 2, gpus: int = 0) -> None:
        self.random = random.Random(seed)
        self.now_s = 1000.0
        self.weather = Weather()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.store = MemoryStore()
        self.master: Scheduler | None = None
        self.master_life = 0
        self.master_holds: set[str] = set()
        self.replies: dict[str, fx.Reply] = {}
        #: (recipe hash, generation) → artifacts ever committed for it
        self.committed: dict[tuple[str, int], set[str]] = {}
        #: attempts of base jobs now running: recipe hash → attempt ids
        self.base_runs: list[tuple[str, str]] = []
        self.terminal: dict[tuple[str, int], JobState] = {}
        self.finished: list[tuple[str, int]] = []
        self.pick_failure: Callable[[cmd.AssignAttempt], Failure | None] = lambda a: None
        self.duration_s: Callable[[cmd.AssignAttempt], float] = lambda a: self.random.uniform(1, 8)
        self.hosts = {
            f"node-{i}": Host(
                NodeSpec(
                    node_id=f"node-{i}",
                    http_url=f"http://node-{i}",
                    cpu_slots=slots,
                    gpus=tuple(Gpu(g, "sim", 1 << 34) for g in range(gpus)),
                )
            )
            for i in range(hosts)
        }
        self.slots = max(slots, gpus)
        self.start_master()
        for name in self.hosts:
            self.start_daemon(name)
        self._at(1.0, self._tick)

    # --- time ------------------------------------------------------------------------------

    def _at(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_s + delay_s, self._count, action))

    def step(self) -> None:
        self.now_s, _, action = heapq.heappop(self._events)
        action()

    def run_for(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        while self._events and self._events[0][0] <= end_s:
            self.step()
        self.now_s = end_s

    def run_until(self, condition: Callable[[], bool], limit_s: float = 3600.0) -> None:
        end_s = self.now_s + limit_s
        while not condition():
            assert self.now_s < end_s, f"not reached in {limit_s} s of virtual time"
            self.step()

    def _tick(self) -> None:
        if self.master is not None:
            self.tell_master(ev.Tick(wall_s=self.now_s + 1e9))
        if (
            self.weather.crash_every_s is not None
            and self.random.random() < 0.5 / self.weather.crash_every_s
        ):
            self._crash_something()
        self._at(0.5, self._tick)

    def _crash_something(self) -> None:
        if self.random.random() < 0.3:
            self.crash_master()
            self._at(self.random.uniform(0.1, 15), self.start_master)
        else:
            name = self.random.choice(list(self.hosts))
            self.crash_daemon(name)
            self._at(self.random.uniform(0.1, 25), lambda: self.start_daemon(name))

    def heal(self) -> None:
        """Good weather from now on; whatever is down comes up."""
        self.weather = Weather()
        if self.master is None:
            self.start_master()
        for name, host in self.hosts.items():
            if host.agent is None:
                self.start_daemon(name)

    # --- the network ---------------------------------------------------------------------------

    def _travel(self, deliver: Callable[[], None]) -> None:
        if self.random.random() < self.weather.loss:
            return
        copies = 2 if self.random.random() < self.weather.doubling else 1
        for _ in range(copies):
            self._at(self.random.uniform(0.001, self.weather.delay_max_s), deliver)

    # --- the master -----------------------------------------------------------------------------

    def start_master(self) -> None:
        if self.master is not None:
            return
        self.master_life += 1
        config = SchedulerConfig(lease_s=LEASE_S, base_lost_s=20.0, collect_retry_s=1.0)
        self.master = Scheduler(config, self.store.load(), self.now_s)
        self.tell_master(ev.Tick(wall_s=self.now_s + 1e9))
        self.tell_master(ev.ArtifactHeld(MASTER_NODE_ID, tuple(sorted(self.master_holds))))

    def crash_master(self) -> None:
        self.master = None

    def tell_master(self, event: ev.Event) -> None:
        if self.master is None:
            return
        for effects in (
            self.master.handle(event, self.now_s),
            self.master.handle(ev.PlaceJobs(), self.now_s),
        ):
            self._apply(effects)
            if self.master is not None:
                check(self.master.state)
                self._check_history()

    def _check_history(self) -> None:
        assert self.master is not None
        for base in self.master.state.bases.values():
            if base.artifact_id is not None:
                known = self.committed.setdefault((base.recipe_hash, base.generation), set())
                known.add(base.artifact_id)
                assert len(known) == 1, f"P3: base {base.recipe_hash} committed twice"

    def _apply(self, effects: list[fx.Effect]) -> None:
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if saves:
            self.store.save(saves)
            self.store.commit()
        life = self.master_life
        for effect in effects:
            match effect:
                case fx.SendCommand() | fx.AskHello() | fx.WelcomeNode() | fx.AnswerBeat():
                    self._send_to_node(effect)
                case fx.Reply():
                    self.replies[effect.request_id] = effect
                case fx.CollectArtifact():
                    self._at(
                        self.random.uniform(0.01, 0.5),
                        lambda e=effect: self._collect(e, life),  # type: ignore[misc]
                    )
                case fx.JobFinished():
                    key = (effect.job.job_id, effect.job.generation)
                    assert key not in self.terminal, f"P2: {effect.job.name} ended twice"
                    self.terminal[key] = effect.job.state
                case _:
                    pass

    def _collect(self, effect: fx.CollectArtifact, life: int) -> None:
        if life != self.master_life or self.master is None:
            return
        if self._reachable(effect.artifact_id, effect.sources):
            self.master_holds.add(effect.artifact_id)
            self.tell_master(ev.ArtifactHeld(MASTER_NODE_ID, (effect.artifact_id,)))
        else:
            self.tell_master(ev.CollectFailed(effect.artifact_id, "no source answered"))

    def _reachable(self, artifact_id: str, sources: tuple[cmd.ArtifactSource, ...]) -> bool:
        for source in sources:
            if source.node_id == MASTER_NODE_ID:
                if self.master is not None and artifact_id in self.master_holds:
                    return True
                continue
            host = self.hosts[source.node_id]
            if host.agent is not None and artifact_id in host.holds:
                return True
        return False

    def _send_to_node(self, effect: fx.Effect) -> None:
        name = effect.node_id  # type: ignore[union-attr]
        if name not in self.hosts:
            return
        now_s = self.now_s

        def deliver() -> None:
            event: io.AgentEvent
            match effect:
                case fx.SendCommand():
                    event = io.CommandCame(effect.session, effect.seq, effect.command)
                case fx.AskHello():
                    event = io.HelloAsked()
                case fx.WelcomeNode():
                    event = io.Welcomed(effect.session, LEASE_S, now_s)
                case fx.AnswerBeat():
                    event = io.BeatAnswered(effect.session, effect.beat, now_s)
                case _:
                    raise AssertionError(effect)
            self.tell_agent(name, event)

        self._travel(deliver)

    # --- nodes -----------------------------------------------------------------------------------

    def start_daemon(self, name: str) -> None:
        host = self.hosts[name]
        if host.agent is not None:
            return
        host.life += 1
        life = host.life
        host.agent = Agent(slots=self.slots, holds=host.holds, life=f"{name}-{life}")
        self._apply_agent(name, host.agent.start(self.now_s))

        def beat() -> None:
            if host.life == life and host.agent is not None:
                self.tell_agent(name, io.BeatDue())
                self._at(BEAT_S, beat)

        self._at(self.random.uniform(0, BEAT_S), beat)

    def crash_daemon(self, name: str) -> None:
        """The daemon and all that it runs are gone; its disk is not."""
        host = self.hosts[name]
        host.agent = None
        host.running.clear()

    def tell_agent(self, name: str, event: io.AgentEvent) -> None:
        agent = self.hosts[name].agent
        if agent is not None:
            self._apply_agent(name, agent.handle(event, self.now_s))

    def _apply_agent(self, name: str, effects: list[io.AgentEffect]) -> None:
        host = self.hosts[name]
        life = host.life

        def later(delay_s: float, make: Callable[[], io.AgentEvent | None]) -> None:
            def fire() -> None:
                if host.life == life and host.agent is not None:
                    event = make()
                    if event is not None:
                        self.tell_agent(name, event)

            self._at(delay_s, fire)

        for effect in effects:
            match effect:
                case io.SendHello():
                    self._to_master(
                        ev.NodeSaidHello(
                            host.spec,
                            effect.session,
                            effect.attempts,
                            effect.holds,
                            effect.grant,
                            effect.accepting,
                            effect.note,
                        )
                    )
                case io.SendBeat():
                    self._to_master(
                        ev.NodeBeat(
                            name,
                            effect.session,
                            effect.beat,
                            effect.sent_s,
                            effect.seen_seq,
                            effect.grant,
                            effect.attempts,
                            effect.accepting,
                            effect.note,
                            effect.fetching,
                        )
                    )
                case io.SendStarted():
                    self._to_master(ev.AttemptStarted(name, effect.attempt_id, effect.epoch))
                case io.SendEnded():
                    report = msgspec.structs.asdict(effect.report)
                    # The simulation has no streams.
                    del report["stream_bytes"]
                    self._to_master(
                        ev.AttemptEnded(
                            name,
                            session=effect.session,
                            grant=effect.grant,
                            seen_seq=effect.seen_seq,
                            **report,
                        )
                    )
                case io.SendHolds():
                    self._to_master(ev.ArtifactHeld(name, effect.added))
                case io.SendGoodbye():
                    self._to_master(ev.NodeLeft(name, effect.session))
                case io.FetchArtifact():
                    later(
                        self.random.uniform(0.05, 1.0),
                        lambda e=effect: self._fetch(host, e),  # type: ignore[misc]
                    )
                case io.LaunchProcess():
                    self._launch(name, effect.assignment, later)
                case io.EndProcess():
                    if host.running.pop(effect.attempt_id, None) is not None:
                        ended = io.ProcessEnded(
                            effect.attempt_id, Failure(FailureClass.USER_ERROR, "ended"), 0.5
                        )
                        later(0.1, lambda e=ended: e)  # type: ignore[misc]
                case io.StoreOutput():
                    artifact_id = digest(effect.assignment.attempt_id.encode())
                    host.holds.add(artifact_id)
                    stored = io.OutputStored(effect.assignment.attempt_id, artifact_id, 100)
                    later(0.02, lambda e=stored: e)  # type: ignore[misc]
                case io.LeaveMesh():
                    host.agent = None
                case _:
                    pass

    def _to_master(self, event: ev.Event) -> None:
        self._travel(lambda: self.tell_master(event))

    def _fetch(self, host: Host, effect: io.FetchArtifact) -> io.AgentEvent:
        if self._reachable(effect.artifact_id, effect.sources):
            host.holds.add(effect.artifact_id)
            return io.ArtifactFetched(effect.artifact_id)
        return io.FetchGaveUp(
            effect.artifact_id, Failure(FailureClass.NETWORK, "no source answered")
        )

    def _launch(
        self,
        name: str,
        assignment: cmd.AssignAttempt,
        later: Callable[[float, Callable[[], io.AgentEvent | None]], None],
    ) -> None:
        host = self.hosts[name]
        attempt_id = assignment.attempt_id
        if assignment.base is not None:
            assert assignment.base.artifact_id in host.holds, "P5: started without its base"
        host.running[attempt_id] = assignment
        assert len(host.running) <= self.slots, "P9: more jobs than slots"
        if assignment.base is None and assignment.recipe_hash is not None:
            self._check_single_trainer(name, assignment)
        later(0.01, lambda: io.ProcessStarted(attempt_id))
        failure = self.pick_failure(assignment)
        if failure is None and self.random.random() < self.weather.job_failure:
            failure = Failure(FailureClass.OUT_OF_MEMORY, "simulated")
        run_s = self.duration_s(assignment)

        def end() -> io.AgentEvent | None:
            if host.running.pop(attempt_id, None) is None:
                return None
            return io.ProcessEnded(attempt_id, failure, run_s)

        later(run_s, end)

    def _check_single_trainer(self, name: str, assignment: cmd.AssignAttempt) -> None:
        """P3: while the lease of a base lives, nobody else trains it."""
        if self.master is None:
            return
        state = self.master.state
        for other_name, host in self.hosts.items():
            for other in host.running.values():
                if other.recipe_hash != assignment.recipe_hash or other.base is not None:
                    continue
                if other.attempt_id == assignment.attempt_id and other_name == name:
                    continue
                both_live = other.attempt_id in state.live and assignment.attempt_id in state.live
                assert not both_live, f"P3: {assignment.name} is trained twice at once"

    # --- people ----------------------------------------------------------------------

    def submit(self, sweep: SweepSpec) -> None:
        """Submit until it is acknowledged, as a client does."""
        request_id = f"submit-{sweep.sweep_id}"

        def attempt() -> None:
            if request_id not in self.replies:
                self.tell_master(ev.SweepSubmitted(request_id, sweep))
                self._at(1.0, attempt)

        attempt()

    def jobs(self, kind: JobKind = JobKind.EXPERIMENT) -> list[JobState]:
        if self.master is None:
            return []
        return [job.state for job in self.master.state.jobs.values() if job.kind is kind]

    def all_ended(self) -> bool:
        states = self.jobs() + self.jobs(JobKind.BASE)
        return bool(states) and all(state.is_terminal for state in states)


def make_sweep(
    name: str,
    *,
    jobs: int,
    recipes: tuple[str, ...] = ("r1",),
    priority: int = 0,
    resources: Resources = Resources(),
    retries_max: int = 2,
    offset: int = 0,
) -> SweepSpec:
    """A sweep of commands whose jobs take turns on the recipes; an empty recipe is no base."""
    hashes = {recipe: digest(recipe.encode()) for recipe in recipes if recipe}
    limits = Limits(retries_max=retries_max)
    return SweepSpec(
        sweep_id=name,
        name=name,
        jobs=tuple(
            JobSpec(
                job_id=f"{name}-{i + offset}",
                name=f"{name}/i={i + offset}",
                cell={"i": i + offset},
                work=CommandWork("true"),
                recipe_hash=hashes.get(recipes[i % len(recipes)]) if recipes else None,
                resources=resources,
                limits=limits,
                priority=priority,
            )
            for i in range(jobs)
        ),
        bases=tuple(
            BaseSpec(h, {"name": r}, r, CommandWork("train"), resources, limits)
            for r, h in hashes.items()
        ),
    )
