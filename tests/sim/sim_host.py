"""A host of the simulated mesh: its daemon, around the production agent, and what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from sim_network import MASTER

from meshtrain.core import agent_io as io
from meshtrain.core import events as ev
from meshtrain.core.agent import Agent
from meshtrain.core.cache import Cached, CacheLimits
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.node import NodeSpec
from meshtrain.core.source_book import KnownSources

if TYPE_CHECKING:
    from mesh_model import SimMesh
    from sim_work import Process

BEAT_S = 2.0


class Host:
    """A node: its disk (artifacts, folders of attempts) and its jobs outlive its daemon.

    Args:
        spec: what it has.
        slots: jobs that it runs at a time.
        clock_ahead_s: its lease clock beside the master's.
    """

    def __init__(self, mesh: SimMesh, spec: NodeSpec, slots: int, clock_ahead_s: float) -> None:
        self._mesh = mesh
        self.spec = spec
        self.name = spec.node_id
        self.slots = slots
        self.clock_ahead_s = clock_ahead_s
        self.holds: set[str] = set()
        self.attempts: dict[str, Process] = {}
        #: what its cache may take, 0 for anything
        self.cache_bytes = 0
        #: who it knows to hold what, as its disk has it
        self.sources: tuple[KnownSources, ...] = ()
        #: None while its daemon is down
        self.agent: Agent | None = None
        #: grows at each start; what belongs to a former life of the daemon is dropped
        self.life = 0
        self.paused_until_s = 0.0
        self.is_full = False
        self.gpus_busy: tuple[int, ...] = ()
        #: since when its daemon sends heartbeats
        self.beating_since_s = 0.0

    @property
    def running(self) -> list[Process]:
        """The processes that are alive."""
        return [process for process in self.attempts.values() if process.alive]

    # --- its daemon ----------------------------------------------------------

    def start_daemon(self) -> None:
        """The daemon comes up, if it is down, and goes on with what its disk says is there."""
        if self.agent is not None:
            return
        mesh = self._mesh
        self.life += 1
        life = self.life
        self.agent = Agent(
            slots=self.slots,
            holds=(),
            cached=[Cached(one, mesh.artifacts.sizes.get(one, 0)) for one in sorted(self.holds)],
            cache_limits=CacheLimits(self.cache_bytes),
            known_sources=self.sources,
            now_s=self._clock_s,
            life=f"{self.name}-{life}",
            adopted=[
                io.AdoptedAttempt(process.assignment, process.output)
                for process in self.attempts.values()
            ],
            gpus_busy=self.gpus_busy,
        )
        self.beating_since_s = mesh.now_s
        self._apply(self.agent.start(self._clock_s))
        for process in list(self.attempts.values()):
            if not process.alive:
                self.tell(process.ended())

        def beat() -> None:
            if self.life == life and self.agent is not None:
                self._look_around()
                self.tell(io.BeatDue())
                mesh.after(BEAT_S, beat)

        mesh.after(mesh.random.uniform(0, BEAT_S), beat)

    def crash_daemon(self) -> None:
        """The daemon is gone; what it started runs on under its shims, and its disk stays."""
        self.agent = None

    def pause_daemon(self, duration_s: float) -> None:
        """The daemon is stopped: what comes waits, and its timers too."""
        self.paused_until_s = max(self.paused_until_s, self._mesh.now_s + duration_s)

    def tell(self, event: io.AgentEvent) -> None:
        """Something has happened; a daemon that is stopped hears of it when it goes on."""
        if self.agent is None:
            return
        now_s = self._mesh.now_s
        if now_s < self.paused_until_s:
            life = self.life

            def later() -> None:
                if self.life == life:
                    self.tell(event)

            self._mesh.after(self.paused_until_s - now_s, later)
            return
        self._apply(self.agent.handle(event, self._clock_s))

    @property
    def _clock_s(self) -> float:
        return self._mesh.now_s + self.clock_ahead_s

    # --- the host under it ---------------------------------------------------

    def crash(self) -> None:
        """All processes of the host are gone; its disk is not."""
        self.agent = None
        for process in self.attempts.values():
            if process.alive:
                failure = Failure(FailureClass.HOST_LOST, "the host went down")
                process.end(failure, self._mesh.now_s)

    def fill_disk(self, *, full: bool) -> None:
        """Its disk is full from now on, or has room again."""
        if self.is_full != full:
            self.is_full = full
            self._look_around()

    def use_gpus(self, gpus: tuple[int, ...]) -> None:
        """Somebody else's processes use these GPUs from now on."""
        if self.gpus_busy != gpus:
            self.gpus_busy = gpus
            self._look_around()

    def _look_around(self) -> None:
        """The daemon looks at its disk and its GPUs."""
        if self.agent is None or self._mesh.now_s < self.paused_until_s:
            return
        note = "its disk is full" if self.is_full else ""
        self.tell(io.RoomChanged(not self.is_full, note))
        self.tell(io.GpusChanged(self.gpus_busy))
        self.tell(io.DiskSeen(0 if self.is_full else 1 << 40))

    def heal(self) -> None:
        """Its daemon is there and goes on, its disk has room, and its GPUs are its own."""
        self.paused_until_s = self._mesh.now_s
        self.start_daemon()
        self.fill_disk(full=False)
        self.use_gpus(())

    # --- what its daemon does ------------------------------------------------

    def _apply(self, effects: Sequence[io.AgentEffect]) -> None:
        """Carry out what the agent decided; a crash may come between any two."""
        mesh = self._mesh
        artifacts, draw = mesh.artifacts, mesh.random
        for effect in effects:
            if mesh.crash_strikes():
                self.crash_daemon()
                mesh.after(draw.uniform(0.1, 25), self.start_daemon)
                return
            match effect:
                case io.FetchArtifact():
                    self._later(draw.uniform(0.05, 1.0), partial(artifacts.fetch, self, effect))
                case io.LaunchProcess():
                    mesh.work.launch(self, effect.assignment)
                case io.EndProcess():
                    mesh.work.end(self, effect)
                case io.StoreOutput():
                    self._later(0.02, partial(artifacts.store_output, self, effect))
                case io.StoreCheckpoint():
                    self._later(0.05, partial(artifacts.store_checkpoint, self, effect))
                case io.RemoveArtifact():
                    self._later(draw.uniform(0.001, 0.5), partial(artifacts.remove, self, effect))
                case io.KeepSources():
                    self.sources = effect.known
                case io.DropAttempt():
                    process = self.attempts.pop(effect.attempt_id, None)
                    assert process is None or not process.alive, "P8: forgotten, and it runs"
                case io.LeaveMesh():
                    self.agent = None
                case _:
                    self._send(effect)

    def _later(self, delay_s: float, act: Callable[[], io.AgentEvent]) -> None:
        """The daemon does something, and hears what came of it; unless it is gone by then."""
        life = self.life

        def fire() -> None:
            if self.life == life and self.agent is not None:
                self.tell(act())

        self._mesh.after(delay_s, fire)

    def _send(self, effect: io.AgentEffect) -> None:
        """Tell the master, where it is a message that the agent wants to have sent."""
        event = self._message_of(effect)
        if event is not None:
            mesh = self._mesh
            deliver = partial(mesh.master.tell, event, travelled=True)
            mesh.network.carry(self.name, MASTER, deliver)

    def _message_of(self, effect: io.AgentEffect) -> ev.Event | None:
        match effect:
            case io.SendHello():
                return ev.NodeSaidHello(
                    self.spec,
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
                )
            case io.SendBeat():
                return ev.NodeBeat(
                    self.name,
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
                )
            case io.SendStarted():
                return ev.AttemptStarted(self.name, effect.attempt_id, effect.epoch)
            case io.SendEnded():
                return self._end_message(effect)
            case io.SendHolds():
                return ev.InventoryTold(
                    self.name,
                    effect.session,
                    effect.first,
                    effect.changes,
                    effect.bytes_by_node,
                    effect.duration_s,
                    effect.cache,
                    effect.room,
                )
            case io.SendGoodbye():
                return ev.NodeLeft(self.name, effect.session)
            case _:
                return None

    def _end_message(self, effect: io.SendEnded) -> ev.AttemptEnded:
        self._mesh.promises.check_told(self, effect.report.attempt_id)
        report = msgspec.structs.asdict(effect.report)
        # The simulation has no streams.
        del report["stream_bytes"]
        return ev.AttemptEnded(
            self.name,
            session=effect.session,
            grant=effect.grant,
            seen_seq=effect.seen_seq,
            **report,
        )
