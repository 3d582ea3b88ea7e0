"""The master of the simulated mesh: the production scheduler, its process, its disk.

Its process crashes between any two effects, is stopped for a while, or holds back
what it decides while its disk is full; it comes back with what its store has.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sim_network import MASTER

from meshtrain.core import agent_io as io
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.invariants import check
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import MeshState, SchedulerConfig
from meshtrain.store.memory import MemoryStore

if TYPE_CHECKING:
    from mesh_model import SimMesh

LEASE_S = 10.0
CONFIG = SchedulerConfig(
    lease_s=LEASE_S,
    base_lost_s=20.0,
    collect_retry_s=1.0,
    preempt_grace_s=3.0,
    pause_s=5.0,
    reserve_after_s=20.0,
)


class SimMaster:
    """Its store and what it holds outlive its process; `scheduler` is None while that is down."""

    def __init__(self, mesh: SimMesh) -> None:
        self._mesh = mesh
        self.config = CONFIG
        self.store = MemoryStore()
        #: artifacts that lie on its disk
        self.holds: set[str] = set()
        self.scheduler: Scheduler | None = None
        #: grows at each start; what was set off in a former life is dropped
        self.life = 0
        #: artifact → how often it was removed
        self._drops: dict[str, int] = {}
        #: since when this life is there
        self.since_s = 0.0
        #: request id → the answer
        self.replies: dict[str, fx.Reply] = {}
        self._paused_until_s = 0.0
        self._is_full = False
        self._is_deaf = False
        #: events that it has not read while it stands still, and effects that wait for room
        self._unread: list[ev.Event] = []
        self._withheld: list[list[fx.Effect]] = []

    # --- its process ---------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether its process is there, even if it stands still."""
        return self.scheduler is not None

    @property
    def state(self) -> MeshState:
        """What it has in mind; only while it is up."""
        assert self.scheduler is not None, "the master is down"
        return self.scheduler.state

    def start(self) -> None:
        """It comes up, if it is down, with what its disk has."""
        if self.scheduler is not None:
            return
        mesh = self._mesh
        self.life += 1
        self.since_s = mesh.now_s
        self._unread.clear()
        self._withheld.clear()
        self._is_full = False
        self.scheduler = Scheduler(
            self.config, self.store.load(), mesh.now_s, life=self.name_of_life()
        )
        mesh.promises.check_started(self.state)
        self.tell(ev.Tick(wall_s=mesh.wall_s))
        self.tell(ev.ArtifactHeld(MASTER_NODE_ID, tuple(sorted(self.holds))))
        if mesh.archive is not None:
            self.tell(ev.BasesArchived(tuple(sorted(mesh.archive.holds))))

    def name_of_life(self) -> str:
        """What its sessions with nodes are told by from those of its former lives."""
        return str(self.life)

    def crash(self) -> None:
        """Its process is gone."""
        self.scheduler = None

    def pause(self, duration_s: float, *, deaf: bool = False) -> None:
        """Its process is stopped: what comes waits in its sockets. Deaf: it is lost."""
        mesh = self._mesh
        self._is_deaf = deaf
        self._paused_until_s = max(self._paused_until_s, mesh.now_s + duration_s)
        # Also for the one that came up meanwhile: its host stands still.
        mesh.after(duration_s, self._read_on)

    def fill_disk(self, duration_s: float) -> None:
        """What it decides next is held back until there is room."""
        self._is_full = True
        life = self.life

        def free() -> None:
            if life == self.life:
                self._is_full = False
                self._read_on()

        self._mesh.after(duration_s, free)

    def heal(self) -> None:
        """It is there, and stands still no more."""
        self._paused_until_s = self._mesh.now_s
        self._is_full = False
        self.start()
        self._read_on()

    # --- what it is told, and decides ----------------------------------------

    def tell(self, event: ev.Event, *, travelled: bool = False) -> None:
        """Something has happened.

        Args:
            travelled: it came over the network, and is lost on a master that is deaf.
        """
        if self.scheduler is None:
            return
        if self._stands_still:
            lost = travelled and self._is_deaf and self._mesh.now_s < self._paused_until_s
            if not lost and not isinstance(event, ev.Tick):
                self._unread.append(event)
            return
        self._decide(event)

    @property
    def _stands_still(self) -> bool:
        paused = self._mesh.now_s < self._paused_until_s
        # What comes of effects that were held back comes after what is still to be read.
        return paused or bool(self._withheld) or bool(self._unread)

    def _read_on(self) -> None:
        """What was held back is carried out; then the unread is read, heartbeats first."""
        if self.scheduler is None or self._mesh.now_s < self._paused_until_s:
            return
        if not self._is_full:
            withheld, self._withheld = self._withheld, []
            for effects in withheld:
                self.apply(effects)
                if self.scheduler is None:
                    return
        # Also on a full disk: what comes next must not overtake it.
        unread, self._unread = self._unread, []
        unread.sort(key=lambda event: not isinstance(event, ev.NodeBeat))
        for event in unread:
            self.tell(event)

    def _decide(self, event: ev.Event) -> None:
        for next_event in (event, ev.PlaceJobs()):
            if self.scheduler is None:
                return
            effects = self.scheduler.handle(next_event, self._mesh.now_s)
            if next_event is event or any(isinstance(e, fx.Save) for e in effects):
                # What places nothing changes nothing.
                check(self.scheduler.state)
            waits = self._is_full and any(isinstance(e, fx.Save) for e in effects)
            if waits or self._withheld:
                self._withheld.append(effects)
            else:
                self.apply(effects)

    # --- what it does --------------------------------------------------------

    def apply(self, effects: list[fx.Effect]) -> None:
        """Save, commit, then all else; a crash may come between any two."""
        mesh = self._mesh
        saves = [effect for effect in effects if isinstance(effect, fx.Save)]
        if saves and mesh.crash_strikes():
            self._crash_and_restart()
            return
        if saves:
            self.store.save(saves)
            self.store.commit()
            for save in saves:
                mesh.promises.check_saved(save)
        life = self.life
        for effect in effects:
            if not isinstance(effect, fx.Save | fx.Publish) and mesh.crash_strikes():
                self._crash_and_restart()
                return
            match effect:
                case fx.SendCommand() | fx.AskHello() | fx.WelcomeNode() | fx.AnswerBeat():
                    self._send(effect)
                case fx.Reply():
                    self.replies[effect.request_id] = effect
                    mesh.promises.note_reply(effect)
                case fx.CollectArtifact():
                    delay_s = mesh.random.uniform(0.01, 0.5)
                    drops = self._drops.get(effect.artifact_id, 0)
                    mesh.after(delay_s, partial(self._collect, effect, life, drops))
                case fx.DropArtifact():
                    self._drop(effect.artifact_id)
                case fx.RestoreArtifact():
                    assert mesh.archive is not None
                    mesh.archive.restore(effect.artifact_id, life)
                case fx.JobFinished():
                    mesh.promises.check_finished(effect.job)
                case _:
                    pass

    def _crash_and_restart(self) -> None:
        self.crash()
        self._mesh.after(self._mesh.random.uniform(0.1, 15), self.start)

    def _drop(self, artifact_id: str) -> None:
        # What is being fetched is given up for it.
        self._drops[artifact_id] = self._drops.get(artifact_id, 0) + 1
        self.holds.discard(artifact_id)
        life = self.life

        def tell() -> None:
            if life == self.life:
                self.tell(ev.ArtifactDropped(artifact_id))

        self._mesh.after(0.0, tell)

    def _collect(self, effect: fx.CollectArtifact, life: int, drops: int) -> None:
        if life != self.life or self.scheduler is None:
            return
        if drops != self._drops.get(effect.artifact_id, 0):
            return
        if self._mesh.artifacts.reachable(MASTER, effect.artifact_id, effect.sources):
            self.holds.add(effect.artifact_id)
            self.tell(ev.ArtifactHeld(MASTER_NODE_ID, (effect.artifact_id,)))
        else:
            self.tell(ev.CollectFailed(effect.artifact_id, "no source answered"))

    def _send(self, effect: fx.SendCommand | fx.AskHello | fx.WelcomeNode | fx.AnswerBeat) -> None:
        host = self._mesh.hosts.get(effect.node_id)
        if host is None:
            return
        event = _message_of(effect, self._mesh.now_s)
        self._mesh.network.carry(MASTER, effect.node_id, partial(host.tell, event))


def _message_of(
    effect: fx.SendCommand | fx.AskHello | fx.WelcomeNode | fx.AnswerBeat, sent_s: float
) -> io.AgentEvent:
    """What a node hears of an effect."""
    match effect:
        case fx.SendCommand():
            return io.CommandCame(effect.session, effect.seq, effect.command)
        case fx.AskHello():
            return io.HelloAsked()
        case fx.WelcomeNode():
            return io.Welcomed(effect.asked, effect.session, LEASE_S, sent_s)
        case fx.AnswerBeat():
            return io.BeatAnswered(effect.session, effect.beat, sent_s, effect.inventory)
