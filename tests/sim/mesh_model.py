"""A mesh on a virtual clock: the production scheduler and agents in bad weather.

Messages between them are lost, doubled, reordered, and cut off in one direction
or both; daemons and the master crash between any two effects, are stopped for a
while, find their disks full, and come back with what they had on disk; hosts
lose all that runs; wall clocks jump. All of it is drawn from one seed, so that
a failure replays exactly.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import msgspec
from sim_archive import SimArchive
from sim_host import Host, Process
from sim_weather import Weather

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.agent import Agent
from meshtrain.core.cache import Cached, CacheLimits
from meshtrain.core.invariants import check
from meshtrain.core.job import AttemptState, BaseState, Failure, FailureClass, JobKind, JobState
from meshtrain.core.node import MASTER_NODE_ID, Gpu, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import (
    BaseSpec,
    CommandWork,
    InputData,
    JobSpec,
    Limits,
    Resources,
    SweepSpec,
)
from meshtrain.spec.lineage import Parent
from meshtrain.store.memory import MemoryStore

LEASE_S = 10.0
BEAT_S = 2.0
OUTPUT_BYTES = 100
MASTER = "master"
DATA = InputData("voc@1", digest(b"voc"), size_bytes=100, files_count=1)
SHARE = InputData("/mnt/coco", digest(b"listing"), on_share=True, size_bytes=100, files_count=1)
CONFIG = SchedulerConfig(
    lease_s=LEASE_S,
    base_lost_s=20.0,
    collect_retry_s=1.0,
    preempt_grace_s=3.0,
    pause_s=5.0,
    reserve_after_s=20.0,
)


class SimMesh:
    def __init__(self, seed: int, *, hosts: int = 3, slots: int = 2, gpus: int = 0) -> None:
        self.random = random.Random(seed)
        self.now_s = 1000.0
        self.wall_ahead_s = 1e9
        self.weather = Weather()
        self.config = CONFIG
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.store = MemoryStore()
        self.master: Scheduler | None = None
        self.master_life = 0
        self.master_holds: set[str] = set()
        self.master_paused_until_s = 0.0
        self.master_is_full = False
        self.master_is_deaf = False
        #: events that a master which stands still has not read, and effects that wait for room
        self._unread: list[ev.Event] = []
        self._withheld: list[list[fx.Effect]] = []
        #: directions in which nothing arrives: (from, to)
        self.cut: set[tuple[str, str]] = set()
        #: when the last cut was mended, and since when this master is there
        self.mended_s = 0.0
        self.master_since_s = 0.0
        self.replies: dict[str, fx.Reply] = {}
        #: nodes where the share isn't mounted, and those that found so
        self.unmounted: set[str] = set()
        self.lacked: list[str] = []
        self.acknowledged: set[str] = set()
        #: (recipe hash, generation) → artifacts ever committed for it
        self.committed: dict[tuple[str, int], set[str]] = {}
        self.terminal: dict[tuple[str, int], JobState] = {}
        #: recipe hash of a base that continues from another → the model that it is pinned to
        self.parents: dict[str, str] = {}
        #: attempts whose process ended well; and what each checkpoint holds: job, seconds of work
        self.completed: set[str] = set()
        self.checkpoints: dict[str, tuple[str, float]] = {}
        self.resumed: list[tuple[str, float]] = []
        #: (job id, generation) → seconds of work in the last checkpoint that the master held
        self.secured_s: dict[tuple[str, int], float] = {}
        self._work_s: dict[str, float] = {}
        #: where bases go and lost ones come from; None where there is no archive
        self.archive: SimArchive | None = None
        #: artifact → size in bytes; and how many copies of bases were evicted
        self.sizes: dict[str, int] = {}
        self.evicted = 0
        self.pick_failure: Callable[[cmd.AssignAttempt], Failure | None] = lambda a: None
        self.duration_s: Callable[[cmd.AssignAttempt], float] = lambda a: self.random.uniform(1, 8)
        self.hosts = {
            f"node-{i}": Host(
                NodeSpec(
                    node_id=f"node-{i}",
                    http_url=f"http://node-{i}",
                    cpu_slots=slots,
                    gpus=tuple(Gpu(g, "sim", 1 << 34) for g in range(gpus)),
                ),
                clock_ahead_s=self.random.uniform(-500, 500),
            )
            for i in range(hosts)
        }
        self.slots = slots + gpus
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
            self.tell_master(ev.Tick(wall_s=self.now_s + self.wall_ahead_s))
        self.weather.strike(self)
        self._at(0.5, self._tick)

    def cut_off(self, directions: Sequence[tuple[str, str]], duration_s: float) -> None:
        """Nothing arrives in these directions for a while."""
        self.cut.update(directions)

        def mend() -> None:
            self.cut.difference_update(directions)
            self.mended_s = self.now_s

        self._at(duration_s, mend)

    def heal(self) -> None:
        """Good weather from now on; whatever is down, cut, stopped or full comes back."""
        self.weather = Weather()
        self.cut.clear()
        self.mended_s = self.now_s
        self.master_paused_until_s = self.now_s
        self.master_is_full = False
        self.start_master()
        self._read_on()
        for name, host in self.hosts.items():
            host.paused_until_s = self.now_s
            if host.agent is None:
                self.start_daemon(name)
            self.fill_disk(name, full=False)
            self.use_gpus(name, ())
            self.tell_master(ev.DrainRequested(f"undrain-{name}", name, False))
            self.tell_master(ev.ReleaseRequested(f"release-{name}", name))

    # --- the network ---------------------------------------------------------------------------

    def _travel(self, source: str, dest: str, deliver: Callable[[], None]) -> None:
        if (source, dest) in self.cut or self.random.random() < self.weather.loss:
            return
        copies = 2 if self.random.random() < self.weather.doubling else 1
        for _ in range(copies):
            self._at(self.random.uniform(0.001, self.weather.delay_max_s), deliver)

    def _reachable(
        self, dest: str, artifact_id: str, sources: tuple[cmd.ArtifactSource, ...]
    ) -> bool:
        for source in sources:
            name = source.node_id
            if (name, dest) in self.cut or (dest, name) in self.cut:
                continue
            if name == MASTER_NODE_ID:
                if self.master is not None and artifact_id in self.master_holds:
                    return True
                continue
            host = self.hosts[name]
            if host.agent is not None and artifact_id in host.holds:
                return True
        return False

    # --- the master -----------------------------------------------------------------------------

    def start_master(self) -> None:
        if self.master is not None:
            return
        self.master_life += 1
        self.master_since_s = self.now_s
        self._unread.clear()
        self._withheld.clear()
        self.master_is_full = False
        self.master = Scheduler(self.config, self.store.load(), self.now_s)
        known = self.master.state.sweeps.keys()
        assert self.acknowledged <= known, f"P1: lost {self.acknowledged - known}"
        self.tell_master(ev.Tick(wall_s=self.now_s + self.wall_ahead_s))
        self.tell_master(ev.ArtifactHeld(MASTER_NODE_ID, tuple(sorted(self.master_holds))))
        if self.archive is not None:
            self.tell_master(ev.BasesArchived(tuple(sorted(self.archive.holds))))

    def crash_master(self) -> None:
        self.master = None

    @property
    def _stands_still(self) -> bool:
        return self.now_s < self.master_paused_until_s or bool(self._withheld)

    def tell_master(self, event: ev.Event, *, travelled: bool = False) -> None:
        if self.master is None:
            return
        if self._stands_still:
            lost = travelled and self.master_is_deaf and self.now_s < self.master_paused_until_s
            if not lost and not isinstance(event, ev.Tick):
                self._unread.append(event)
            return
        self._decide(event)

    def pause_master(self, duration_s: float, *, deaf: bool = False) -> None:
        """Its process is stopped: what comes waits in its sockets. Deaf: it is lost."""
        self.master_is_deaf = deaf
        self.master_paused_until_s = max(self.master_paused_until_s, self.now_s + duration_s)
        # Also for the one that came up meanwhile: its host stands still.
        self._at(duration_s, self._read_on)

    def fill_master_disk(self, duration_s: float) -> None:
        """What it decides next is held back until there is room."""
        self.master_is_full = True
        life = self.master_life

        def free() -> None:
            if life == self.master_life:
                self.master_is_full = False
                self._read_on()

        self._at(duration_s, free)

    def _read_on(self) -> None:
        """What was held back is carried out; then the unread is read, heartbeats first."""
        if self.master is None or self.now_s < self.master_paused_until_s or self.master_is_full:
            return
        withheld, self._withheld = self._withheld, []
        for effects in withheld:
            self._apply(effects)
            if self.master is None:
                return
        unread, self._unread = self._unread, []
        unread.sort(key=lambda event: not isinstance(event, ev.NodeBeat))
        for event in unread:
            self.tell_master(event)

    def _decide(self, event: ev.Event) -> None:
        for next_event in (event, ev.PlaceJobs()):
            if self.master is None:
                return
            effects = self.master.handle(next_event, self.now_s)
            if next_event is event or any(isinstance(e, fx.Save) for e in effects):
                # What places nothing changes nothing.
                check(self.master.state)
            waits = self.master_is_full and any(isinstance(e, fx.Save) for e in effects)
            if waits or self._withheld:
                self._withheld.append(effects)
            else:
                self._apply(effects)

    def _apply(self, effects: list[fx.Effect]) -> None:
        """Save, commit, then all else; a crash may come between any two."""
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if saves and self._struck():
            self._crash_and_restart_master()
            return
        if saves:
            self.store.save(saves)
            self.store.commit()
            for save in saves:
                self._check_save(save)
        life = self.master_life
        for effect in effects:
            if not isinstance(effect, fx.Save | fx.Publish) and self._struck():
                self._crash_and_restart_master()
                return
            match effect:
                case fx.SendCommand() | fx.AskHello() | fx.WelcomeNode() | fx.AnswerBeat():
                    self._send_to_node(effect)
                case fx.Reply():
                    self.replies[effect.request_id] = effect
                    if effect.request_id.startswith("submit-") and not effect.error:
                        self.acknowledged.update(effect.done)
                case fx.CollectArtifact():
                    self._at(
                        self.random.uniform(0.01, 0.5),
                        lambda e=effect: self._collect(e, life),  # type: ignore[misc]
                    )
                case fx.DropArtifact():
                    self.master_holds.discard(effect.artifact_id)
                case fx.RestoreArtifact():
                    assert self.archive is not None
                    self.archive.restore(effect.artifact_id, life)
                case fx.JobFinished():
                    self._check_finished(effect)
                case _:
                    pass

    def _struck(self) -> bool:
        return bool(self.weather.crash_point) and self.random.random() < self.weather.crash_point

    def _crash_and_restart_master(self) -> None:
        self.crash_master()
        self._at(self.random.uniform(0.1, 15), self.start_master)

    def _collect(self, effect: fx.CollectArtifact, life: int) -> None:
        if life != self.master_life or self.master is None:
            return
        if self._reachable(MASTER, effect.artifact_id, effect.sources):
            self.master_holds.add(effect.artifact_id)
            self.tell_master(ev.ArtifactHeld(MASTER_NODE_ID, (effect.artifact_id,)))
        else:
            self.tell_master(ev.CollectFailed(effect.artifact_id, "no source answered"))

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
                    event = io.BeatAnswered(effect.session, effect.beat, now_s, effect.inventory)
                case _:
                    raise AssertionError(effect)
            self.tell_agent(name, event)

        self._travel(MASTER, name, deliver)

    # --- what must hold of what is kept and told --------------------------------------

    def _check_save(self, save: fx.Save) -> None:
        if isinstance(save, fx.SaveBase) and save.base.artifact_id is not None:
            key = (save.base.recipe_hash, save.base.generation)
            known = self.committed.setdefault(key, set())
            known.add(save.base.artifact_id)
            assert len(known) == 1, f"P3: base {save.base.recipe_hash} committed twice"
        if isinstance(save, fx.UpdateJob) and save.job.checkpoint_safe is not None:
            done_s = self.checkpoints[save.job.checkpoint_safe][1]
            key = (save.job.job_id, save.job.generation)
            self.secured_s[key] = done_s
        if isinstance(save, fx.AddAttempt):
            attempt = save.attempt
            secured_s = self.secured_s.get((attempt.job_id, attempt.generation), 0.0)
            goes_on_s = self.checkpoints.get(attempt.resumed_from or "", ("", 0.0))[1]
            # One that the last attempt kept is newer, whatever came to the master meanwhile.
            assert self.master is not None
            newest = self.master.state.jobs[attempt.job_id].checkpoint
            is_newest = newest is not None and attempt.resumed_from == newest
            assert is_newest or goes_on_s >= secured_s, (
                f"P7: {attempt.attempt_id} begins at {goes_on_s:.1f} s, and the master held "
                f"a checkpoint of {secured_s:.1f} s"
            )
        if isinstance(save, fx.UpdateAttempt) and save.attempt.state is AttemptState.LOST:
            self._check_lost(save.attempt.node_id, save.attempt.attempt_id)

    def _check_lost(self, name: str, attempt_id: str) -> None:
        """P12: a master that stood still takes no lease from a node that was there all along."""
        host = self.hosts[name]
        process = host.attempts.get(attempt_id)
        troubled_s = max(
            self.master_since_s, host.beating_since_s, host.paused_until_s, self.mended_s
        )
        calm = self.weather.loss == 0 and self.weather.delay_max_s <= 0.5 and not self.cut
        if not calm or self.now_s - troubled_s < 2 * LEASE_S or host.agent is None:
            return
        assert process is None or not process.alive, (
            f"P12: {attempt_id} is given up, and it runs on a node that was never silent"
        )

    def _check_finished(self, effect: fx.JobFinished) -> None:
        job = effect.job
        key = (job.job_id, job.generation)
        assert key not in self.terminal, f"P2: {job.name} ended twice"
        self.terminal[key] = job.state
        if job.state is JobState.SUCCEEDED:
            assert job.attempt is not None
            attempt = job.attempt
            assert attempt.attempt_id in self.completed, f"P2: {job.name} never ran to its end"
            epochs = [a.epoch for a in self.store.attempts_of(job.job_id)]
            assert attempt.epoch == max(epochs), f"P2: {job.name} counts an old epoch"
        if job.state in (JobState.CANCELLED, JobState.FAILED) and job.attempt is not None:
            self._check_nothing_runs(job.attempt.attempt_id, job.attempt.state)

    def _check_nothing_runs(self, attempt_id: str, state: AttemptState) -> None:
        # What was lost with its host may run on, until that hears of it.
        if state in (AttemptState.LOST, AttemptState.LIVE):
            return
        for host in self.hosts.values():
            process = host.attempts.get(attempt_id)
            assert process is None or not process.alive, f"P8: {attempt_id} is told, and runs"

    # --- nodes -----------------------------------------------------------------------------------

    def start_daemon(self, name: str) -> None:
        """The daemon comes up, and goes on with what its disk says is there."""
        host = self.hosts[name]
        if host.agent is not None:
            return
        host.life += 1
        life = host.life
        host.agent = Agent(
            slots=self.slots,
            holds=(),
            cached=[Cached(one, self.sizes.get(one, 0)) for one in sorted(host.holds)],
            cache_limits=CacheLimits(host.cache_bytes),
            known_sources=host.sources,
            now_s=self._clock(host),
            life=f"{name}-{life}",
            adopted=[process.assignment for process in host.attempts.values()],
            gpus_busy=host.gpus_busy,
        )
        host.beating_since_s = self.now_s
        self._apply_agent(name, host.agent.start(self._clock(host)))
        for process in list(host.attempts.values()):
            if not process.alive:
                self.tell_agent(name, process.ended())

        def beat() -> None:
            if host.life == life and host.agent is not None:
                self._look_at_host(name, host)
                self.tell_agent(name, io.BeatDue())
                self._at(BEAT_S, beat)

        self._at(self.random.uniform(0, BEAT_S), beat)

    def crash_daemon(self, name: str) -> None:
        """The daemon is gone; what it started runs on under its shims, and its disk stays."""
        self.hosts[name].agent = None

    def crash_host(self, name: str) -> None:
        """All processes of the host are gone; its disk is not."""
        host = self.hosts[name]
        host.agent = None
        for process in host.attempts.values():
            if process.alive:
                process.end(Failure(FailureClass.HOST_LOST, "the host went down"), self.now_s)

    def pause_daemon(self, name: str, duration_s: float) -> None:
        """The daemon is stopped: what comes waits, and its timers too."""
        host = self.hosts[name]
        host.paused_until_s = max(host.paused_until_s, self.now_s + duration_s)

    def fill_disk(self, name: str, *, full: bool) -> None:
        host = self.hosts[name]
        if host.is_full != full:
            host.is_full = full
            self._look_at_host(name, host)

    def use_gpus(self, name: str, gpus: tuple[int, ...]) -> None:
        """Somebody else's processes use these GPUs from now on."""
        host = self.hosts[name]
        if host.gpus_busy != gpus:
            host.gpus_busy = gpus
            self._look_at_host(name, host)

    def _look_at_host(self, name: str, host: Host) -> None:
        if host.agent is None or self.now_s < host.paused_until_s:
            return
        note = "its disk is full" if host.is_full else ""
        self.tell_agent(name, io.RoomChanged(not host.is_full, note))
        self.tell_agent(name, io.GpusChanged(host.gpus_busy))
        self.tell_agent(name, io.DiskSeen(0 if host.is_full else 1 << 40))

    def _clock(self, host: Host) -> float:
        return self.now_s + host.clock_ahead_s

    def tell_agent(self, name: str, event: io.AgentEvent) -> None:
        host = self.hosts[name]
        if host.agent is None:
            return
        if self.now_s < host.paused_until_s:
            life = host.life

            def later() -> None:
                if host.life == life:
                    self.tell_agent(name, event)

            self._at(host.paused_until_s - self.now_s, later)
            return
        self._apply_agent(name, host.agent.handle(event, self._clock(host)))

    def _apply_agent(self, name: str, effects: Sequence[io.AgentEffect]) -> None:
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
            if self._struck():
                self.crash_daemon(name)
                self._at(self.random.uniform(0.1, 25), lambda: self.start_daemon(name))
                return
            match effect:
                case io.SendHello():
                    self._to_master(
                        name,
                        ev.NodeSaidHello(
                            host.spec,
                            effect.session,
                            effect.attempts,
                            effect.holds,
                            effect.grant,
                            effect.accepting,
                            effect.note,
                            effect.gpus_busy,
                            effect.sizes_bytes,
                            effect.inventory,
                            effect.cache,
                        ),
                    )
                case io.SendBeat():
                    self._to_master(
                        name,
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
                            effect.gpus_busy,
                            effect.first,
                            effect.changes,
                            effect.cache,
                            effect.room,
                        ),
                    )
                case io.SendStarted():
                    self._to_master(name, ev.AttemptStarted(name, effect.attempt_id, effect.epoch))
                case io.SendEnded():
                    self._tell_ended(name, host, effect)
                case io.SendHolds():
                    self._to_master(
                        name,
                        ev.InventoryTold(
                            name,
                            effect.session,
                            effect.first,
                            effect.changes,
                            effect.bytes_by_node,
                            effect.duration_s,
                            effect.cache,
                            effect.room,
                        ),
                    )
                case io.SendGoodbye():
                    self._to_master(name, ev.NodeLeft(name, effect.session))
                case io.FetchArtifact():
                    later(
                        self.random.uniform(0.05, 1.0),
                        lambda e=effect: self._fetch(name, host, e),  # type: ignore[misc]
                    )
                case io.LaunchProcess():
                    self._launch(name, host, effect.assignment)
                case io.EndProcess():
                    self._end_process(name, host, effect)
                case io.StoreOutput():
                    later(
                        0.02,
                        lambda e=effect: self._store(host, e),  # type: ignore[misc]
                    )
                case io.StoreCheckpoint():
                    later(
                        0.05,
                        lambda e=effect: self._store_checkpoint(host, e),  # type: ignore[misc]
                    )
                case io.RemoveArtifact():
                    later(
                        self.random.uniform(0.001, 0.5),
                        lambda e=effect: self._remove(name, host, e),  # type: ignore[misc]
                    )
                case io.KeepSources():
                    host.sources = effect.known
                case io.DropAttempt():
                    process = host.attempts.pop(effect.attempt_id, None)
                    assert process is None or not process.alive, "P8: forgotten, and it runs"
                case io.LeaveMesh():
                    host.agent = None
                case _:
                    pass

    def _to_master(self, name: str, event: ev.Event) -> None:
        self._travel(name, MASTER, lambda: self.tell_master(event, travelled=True))

    def _tell_ended(self, name: str, host: Host, effect: io.SendEnded) -> None:
        process = host.attempts.get(effect.report.attempt_id)
        assert process is None or not process.alive, (
            f"P8: {effect.report.attempt_id} is told as ended, and runs"
        )
        report = msgspec.structs.asdict(effect.report)
        # The simulation has no streams.
        del report["stream_bytes"]
        event = ev.AttemptEnded(
            name, session=effect.session, grant=effect.grant, seen_seq=effect.seen_seq, **report
        )
        self._to_master(name, event)

    def _fetch(self, name: str, host: Host, effect: io.FetchArtifact) -> io.AgentEvent:
        if host.is_full:
            return io.FetchGaveUp(effect.artifact_id, Failure(FailureClass.DISK, "no room"))
        if self._reachable(name, effect.artifact_id, effect.sources):
            host.holds.add(effect.artifact_id)
            size_bytes = self.sizes.get(effect.artifact_id, 0)
            return io.ArtifactFetched(
                effect.artifact_id, {"node-0": size_bytes << 20}, 1.0, size_bytes
            )
        return io.FetchGaveUp(
            effect.artifact_id, Failure(FailureClass.NETWORK, "no source answered")
        )

    def _remove(self, name: str, host: Host, effect: io.RemoveArtifact) -> io.AgentEvent:
        artifact_id = effect.artifact_id
        if self.random.random() < self.weather.rename_failure:
            return io.ArtifactRemoved(artifact_id, "the disk refused")
        for process in host.running:
            needs = {need.artifact_id for need in process.assignment.needs}
            assert artifact_id not in needs, f"P5: {artifact_id} goes from under a job on {name}"
        made = [
            process.assignment.attempt_id
            for process in host.attempts.values()
            if process.output == artifact_id and not self._is_thrown_away(host, process)
        ]
        assert not made, f"P7: what {made} made goes before the master has taken it in"
        host.holds.discard(artifact_id)
        self._check_evicted(name, artifact_id)
        return io.ArtifactRemoved(artifact_id)

    def _is_thrown_away(self, host: Host, process: Process) -> bool:
        """Whether what an attempt made counts for nothing any more.

        It was told as ended without it, since it was cancelled, say; or the job was given
        to another since: a result counts only with the current epoch.
        """
        assert host.agent is not None
        attempt_id = process.assignment.attempt_id
        held = host.agent.held.by_id.get(attempt_id)
        if held is not None and held.report is not None and held.report.artifact_id is None:
            return True
        if self.master is None:
            return True
        is_collected = process.output in self.master.state.collecting
        return self.store_live(attempt_id) is None and not is_collected

    def _check_evicted(self, name: str, artifact_id: str) -> None:
        """The last durable copy of a base that is committed and not superseded never goes."""
        for base in self.store.load().bases:
            if base.artifact_id != artifact_id or base.state is not BaseState.COMMITTED:
                continue
            self.evicted += 1
            left = sum(artifact_id in host.holds for host in self.hosts.values())
            if artifact_id not in self.master_holds:
                assert left >= 2, f"the last durable copy went from {name}, {left} are left"

    # --- processes --------------------------------------------------------------------------------

    def _launch(self, name: str, host: Host, assignment: cmd.AssignAttempt) -> None:
        attempt_id = assignment.attempt_id
        assert attempt_id not in host.attempts, f"P2: {attempt_id} is started twice"
        for need in assignment.needs:
            assert need.artifact_id in host.holds, "P5: started without what it needs"
        if name in self.unmounted and SHARE in reads_of(assignment):
            # The node looks before it starts anything.
            told = Failure(FailureClass.INPUT, f"{SHARE.source} is not on {name}", name)
            self.lacked.append(name)
            process = Process(assignment, started_s=self.now_s)
            host.attempts[attempt_id] = process
            self._at(0.02, lambda: self._end(name, process, told))
            return
        for other in host.running:
            shared = set(other.assignment.gpus) & set(assignment.gpus)
            assert not shared, f"P9: GPU {shared} of {name} is given out twice"
        # As far as its last look goes: somebody may have come since.
        assert host.agent is not None
        seen = set(host.agent.held.gpus_busy)
        assert not set(assignment.gpus) & seen, "P9: a GPU that somebody else uses"
        if trains_base(assignment):
            self._check_single_trainer(name, assignment)
            assert assignment.recipe_hash is not None
            pin = self.parents.get(assignment.recipe_hash)
            given = None if assignment.base is None else assignment.base.artifact_id
            assert given == pin, "P5: a base continues from another model than it is pinned to"
        failure = self.pick_failure(assignment)
        if failure is None:
            failure = self.weather.failure_of(assignment, self.random)
        work_s = self._work_s.get(assignment.job_id)
        if work_s is None:
            work_s = self._work_s[assignment.job_id] = self.duration_s(assignment)
        done_s = 0.0
        if assignment.resume is not None:
            job_id, done_s = self.checkpoints[assignment.resume.artifact_id]
            assert job_id == assignment.job_id, "P5: goes on from another job's checkpoint"
            self.resumed.append((assignment.job_id, done_s))
        process = Process(assignment, started_s=self.now_s, done_s=done_s, kept_s=done_s)
        host.attempts[attempt_id] = process
        assert len(host.running) <= self.slots, "P9: more jobs than slots"
        life = host.life

        def started() -> None:
            if host.life == life and process.alive:
                self.tell_agent(name, io.ProcessStarted(attempt_id))

        self._at(0.01, started)
        self._at(
            max(0.02, work_s - done_s), lambda: self._end(name, process, failure, well=not failure)
        )

    def _end(
        self, name: str, process: Process, failure: Failure | None, *, well: bool = False
    ) -> None:
        """A process ends by itself, or because it was told to, whether or not a daemon is there."""
        if not process.alive:
            return
        process.end(failure, self.now_s)
        if well:
            self.completed.add(process.assignment.attempt_id)
        self.tell_agent(name, process.ended())

    def _end_process(self, name: str, host: Host, effect: io.EndProcess) -> None:
        process = host.attempts.get(effect.attempt_id)
        if process is None or not process.alive:
            return
        self._check_may_end(effect.attempt_id, host)
        failure = Failure(FailureClass.HOST_LOST, "ended on request")
        grace_s = 1.0 if effect.grace_s is None else effect.grace_s
        self._at(self.random.uniform(0.05, grace_s), lambda: self._end(name, process, failure))

    def _check_may_end(self, attempt_id: str, host: Host) -> None:
        """P7: what runs under a lease that the master holds up is ended on its word alone."""
        agent = host.agent
        if self.master is None or agent is None or agent.held.by_id[attempt_id].handing_back:
            return
        job_id = self.store_live(attempt_id)
        if job_id is not None:
            job = self.master.state.jobs[job_id]
            assert job.cancelling, f"P7: {attempt_id} is ended under its lease"

    def store_live(self, attempt_id: str) -> str | None:
        """The job whose live attempt this is, for the master that is there."""
        assert self.master is not None
        return self.master.state.live.get(attempt_id)

    def _store(self, host: Host, effect: io.StoreOutput) -> io.AgentEvent:
        attempt_id = effect.assignment.attempt_id
        process = host.attempts[attempt_id]
        if process.output is None:
            if host.is_full:
                return io.OutputFailed(attempt_id, Failure(FailureClass.DISK, "no room"))
            process.output = digest(attempt_id.encode())
            self.sizes[process.output] = OUTPUT_BYTES
        host.holds.add(process.output)
        return io.OutputStored(attempt_id, process.output, OUTPUT_BYTES)

    def _store_checkpoint(self, host: Host, effect: io.StoreCheckpoint) -> io.AgentEvent:
        attempt_id = effect.assignment.attempt_id
        process = host.attempts.get(attempt_id)
        if process is None or host.is_full:
            failure = Failure(FailureClass.DISK, "no room")
            return io.CheckpointFailed(attempt_id, failure)
        done_s = process.work_done_s(self.now_s)
        if done_s - process.kept_s < 0.5:
            return io.CheckpointStored(attempt_id, None)
        process.kept_s = done_s
        artifact_id = digest(f"{attempt_id} after {done_s}".encode())
        host.holds.add(artifact_id)
        self.sizes[artifact_id] = 50
        self.checkpoints[artifact_id] = (effect.assignment.job_id, done_s)
        return io.CheckpointStored(attempt_id, artifact_id, 50)

    def _check_single_trainer(self, name: str, assignment: cmd.AssignAttempt) -> None:
        """P3: while the lease of a base lives, nobody else trains it."""
        if self.master is None:
            return
        state = self.master.state
        for other_name, host in self.hosts.items():
            for process in host.running:
                other = process.assignment
                if other.recipe_hash != assignment.recipe_hash or not trains_base(other):
                    continue
                if other.attempt_id == assignment.attempt_id and other_name == name:
                    continue
                both_live = other.attempt_id in state.live and assignment.attempt_id in state.live
                assert not both_live, f"P3: {assignment.name} is trained twice at once"

    # --- people ----------------------------------------------------------------------

    def meddle_with_bases(self) -> None:
        """Somebody pins, unpins, evicts or warms a base, and again after a while."""
        draw = self.random
        if self.master is not None and self.master.state.bases:
            recipe_hash = draw.choice(sorted(self.master.state.bases))
            name = draw.choice(["", *self.hosts])
            event = draw.choice(
                [
                    ev.PinRequested("pin", recipe_hash, name),
                    ev.PinRequested("unpin", recipe_hash, name, pinned=False),
                    ev.EvictRequested("evict", recipe_hash, name),
                    ev.EvictRequested("evict", recipe_hash, draw.choice(sorted(self.hosts))),
                    ev.WarmRequested("warm", recipe_hash, draw.randint(1, len(self.hosts))),
                ]
            )
            self.tell_master(event)
        self._at(draw.uniform(0.5, 10), self.meddle_with_bases)

    def publish(self, data: InputData) -> None:
        """Give a data set that the master holds a name, until it is acknowledged."""
        request_id = f"publish-{data.source}"
        self.master_holds.add(data.digest)

        def attempt() -> None:
            if request_id not in self.replies:
                name = data.source.partition("@")[0]
                self.tell_master(ev.ArtifactHeld(MASTER_NODE_ID, (data.digest,)))
                self.tell_master(
                    ev.InputPublished(request_id, name, data.digest, data.size_bytes, 1)
                )
                self._at(1.0, attempt)

        attempt()

    def continue_a_base(self, name: str, draw: random.Random) -> None:
        """Submit a sweep whose base continues from a model that is there, once there is one."""
        models = []
        if self.master is not None:
            state = self.master.state
            models = [b for b in state.bases.values() if state.is_held(b.artifact_id)]
        if not models:
            self._at(5.0, lambda: self.continue_a_base(name, draw))
            return
        base = draw.choice(models)
        assert base.artifact_id is not None
        parent = Parent(base.recipe_hash, base.artifact_id)
        sweep = make_sweep(name, jobs=2, recipes=("child",), parent=parent, groups=2)
        self.parents[sweep.bases[0].recipe_hash] = base.artifact_id
        self.submit(sweep)
        if draw.random() < 0.5:
            # From then on its recipe has another model.
            self.tell_master(ev.RebuildRequested("rebuild", base.recipe_hash))

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


def reads_of(assignment: cmd.AssignAttempt) -> list[InputData]:
    """What an attempt reads."""
    work = assignment.work
    return list(work.inputs.values()) if isinstance(work, CommandWork) else []


def trains_base(assignment: cmd.AssignAttempt) -> bool:
    """Whether an attempt trains a base, from nothing or from another one's model."""
    return assignment.job_id.startswith("base-")


def make_sweep(
    name: str,
    *,
    jobs: int,
    recipes: tuple[str, ...] = ("r1",),
    priority: int = 0,
    resources: Resources = Resources(),
    retries_max: int = 2,
    offset: int = 0,
    checkpoint_every_s: float | None = None,
    inputs: tuple[InputData, ...] = (),
    groups: int = 0,
    parent: Parent | None = None,
) -> SweepSpec:
    """A sweep of commands whose jobs take turns on the recipes; an empty recipe is no base.

    Args:
        groups: of its affinity; 0 for none.
        parent: the model that its bases continue from.
    """
    above = "" if parent is None else f" from {parent.artifact_id}"
    hashes = {recipe: digest((recipe + above).encode()) for recipe in recipes if recipe}
    limits = Limits(retries_max=retries_max, checkpoint_every_s=checkpoint_every_s)
    return SweepSpec(
        sweep_id=name,
        name=name,
        jobs=tuple(
            JobSpec(
                job_id=f"{name}-{i + offset}",
                name=f"{name}/i={i + offset}",
                cell={"i": i + offset},
                work=CommandWork("true", inputs={data.source: data for data in inputs}),
                recipe_hash=hashes.get(recipes[i % len(recipes)]) if recipes else None,
                resources=resources,
                limits=limits,
                priority=priority,
                affinity=f"group={i % groups}" if groups else "",
            )
            for i in range(jobs)
        ),
        bases=tuple(
            BaseSpec(h, {"name": r}, r, CommandWork("train"), resources, limits, parent)
            for r, h in hashes.items()
        ),
    )
