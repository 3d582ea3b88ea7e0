"""A node's decisions: `Agent.handle(event, now_s) -> list[AgentEffect]`.

Here are its sessions with the master: hello, heartbeats, commands, and leaving.
The course of each attempt is in held.py.

Lost trust (no answered heartbeat for a lease) forbids new starts; it never
ends a running job. That ends only on the master's word.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.cache import Cached, CacheLimits
from meshtrain.core.held import HeldAttempts
from meshtrain.core.node import AHEAD_PER_SLOT
from meshtrain.core.session import session_name
from meshtrain.core.source_book import KnownSources
from meshtrain.core.stock import Stock

BEATS_REMEMBERED_MAX = 100
COMMANDS_EARLY_MAX = 10_000
"""Commands kept that came before others of lower number."""
_NO_LIMITS = CacheLimits()
LEAVE_ANYWAY_S = 5.0
"""A stopping daemon whose master is away ends this long after its last job."""
LEAVE_UNSAFE_S = 60.0
"""One whose master is there stays this long for it to fetch what jobs go on from."""


class Agent:
    """What a node has taken on, and what to do at each event.

    Args:
        slots: how many attempts it runs at once.
        holds: ids of the artifacts that lie whole on its disk.
        life: what tells this start of the daemon from all others.
        adopted: what a former daemon on this node had started, and which runs on, or
            has ended and is not told.
        gpus_busy: GPUs that are used by processes which are not the mesh's.
        cached: the same artifacts with their sizes and last uses, where they are known.
        cache_limits: what they may take.
        known_sources: who held what, as the former daemon knew.
        free_bytes: what the disk has left; None where nobody has looked yet.
        now_s: the node's lease clock.
    """

    def __init__(
        self,
        *,
        slots: int,
        holds: Iterable[str],
        life: str,
        adopted: Iterable[io.AdoptedAttempt] = (),
        gpus_busy: tuple[int, ...] = (),
        cached: Iterable[Cached] = (),
        cache_limits: CacheLimits = _NO_LIMITS,
        known_sources: Iterable[KnownSources] = (),
        free_bytes: int | None = None,
        now_s: float = 0.0,
    ) -> None:
        self._life = life
        self._session_number = 0
        self._granted: str | None = None
        self._out: list[io.AgentEffect] = []
        found = {artifact_id: Cached(artifact_id) for artifact_id in holds}
        found |= {one.artifact_id: one for one in cached}
        self.stock = Stock(
            limits=cache_limits,
            found=found.values(),
            known=known_sources,
            session=self.session,
            do=self._do,
            needed=lambda: self.held.needed(),
            now_s=now_s,
        )
        self.stock.cache.free_bytes = free_bytes
        self.held = HeldAttempts(
            slots=slots,
            stock=self.stock,
            session=self.session,
            do=self._do,
            tell_end=self._tell_end,
        )
        self.held.gpus_busy = gpus_busy
        for attempt in adopted:
            self.held.adopt(attempt)
        self.now_s = now_s
        self._seen_seq = 0
        self._early: dict[int, cmd.Command] = {}
        self._received = 0
        self._beat = 0
        self._beat_sent_s: dict[int, float] = {}
        self._lease_s = 0.0
        #: what the master's clock shows more than ours, never more than the truth
        self._master_ahead_s = 0.0
        self._trusted_until_s = 0.0
        self._has_room = True
        self._room_note = ""
        self._stop_at_s: float | None = None
        self._idle_since_s: float | None = None
        self._left = False

    @property
    def session(self) -> str:
        """The session with the master: as it is asked for until it is granted."""
        return self._granted or self._asked

    @property
    def _asked(self) -> str:
        return session_name(self._life, self._session_number)

    # --- what the outside may ask ---------------------------------------------------------

    @property
    def accepting(self) -> bool:
        waits = bool(self.stock.paused_note)
        return self._has_room and not waits and self._stop_at_s is None

    @property
    def stays_for(self) -> int:
        """Checkpoints that alone keep a stopping node from leaving."""
        return len(self.held.unsafe) if self._idle_since_s is not None and not self._left else 0

    @property
    def welcomed(self) -> bool:
        return self._granted is not None

    @property
    def trusted(self) -> bool:
        """Whether the master has heard of us lately enough to keep our leases."""
        return self.now_s <= self._trusted_until_s

    @property
    def active(self) -> int:
        """Attempts that hold, or will hold, a slot."""
        return self.held.active

    def start(self, now_s: float) -> list[io.AgentEffect]:
        """The first effects of a daemon that came up."""
        self.now_s = self.stock.now_s = now_s
        self._say_hello()
        self.stock.go_on()
        return self._take_out()

    def handle(self, event: io.AgentEvent, now_s: float) -> list[io.AgentEffect]:
        """Take in one event; `now_s` is the node's lease clock in seconds."""
        self.now_s = self.stock.now_s = max(self.now_s, now_s)
        match event:
            case io.CommandCame():
                self._on_command(event)
            case io.ProcessStarted():
                self.held.on_started(event)
            case io.ProcessEnded():
                self.held.on_ended(event)
            case io.OutputStored():
                self.held.on_stored(event)
            case io.OutputFailed():
                self.held.on_output_failed(event)
            case io.CheckpointStored():
                self.held.on_checkpoint(event.attempt_id, event.artifact_id, event.size_bytes)
            case io.CheckpointFailed():
                self.held.on_checkpoint(event.attempt_id, None)
            case io.GpusChanged():
                self.held.gpus_busy = event.busy
            case io.BeatDue():
                self._on_beat_due()
            case io.BeatAnswered():
                self._on_beat_answered(event)
            case io.Welcomed():
                self._on_welcomed(event)
            case io.HelloAsked():
                self._on_hello_asked()
            case io.ArtifactFetched():
                self.held.on_fetched(event)
            case io.FetchGaveUp():
                self.held.on_fetch_gave_up(event, master_is_there=self.trusted)
            case io.ArtifactRemoved():
                self.held.on_removed(event)
            case io.DiskSeen():
                self._on_disk_seen(event.free_bytes)
            case io.StopAsked():
                self._on_stop_asked(event)
            case io.RoomChanged():
                self._has_room = event.has_room
                self._room_note = event.note
                if event.has_room:
                    self.stock.try_again(has_room=True)
        if self.trusted and self._stop_at_s is None:
            self.held.start_ready()
        known = self.stock.book.take_news()
        if known is not None:
            self._do(io.KeepSources(known))
        return self._take_out()

    # --- the master ---------------------------------------------------------------------------

    def _say_hello(self) -> None:
        holds = tuple(sorted(self.stock.holds))
        self._do(
            io.SendHello(
                session=self.session,
                attempts=self.held.listed(),
                holds=holds,
                sizes_bytes=tuple(self.stock.cache.size_of(one) for one in holds),
                inventory=self.stock.log.number,
                cache=self.stock.use_told(),
                grant=self._grant(),
                accepting=self.accepting,
                note=self._note(),
                gpus_busy=self.held.gpus_busy,
            )
        )

    def _on_hello_asked(self) -> None:
        if not self.welcomed:
            self._say_hello()
            return
        # A session is a numbering of commands: the master starts from nothing, so do we.
        self._session_number += 1
        self._granted = None
        self.held.session = self.stock.session = self.session
        self.stock.log.restart()
        self._seen_seq = 0
        self._early.clear()
        self._received = 0
        self._say_hello()

    def _on_welcomed(self, event: io.Welcomed) -> None:
        if event.asked != self._asked or self.welcomed:
            return
        self._granted = self.held.session = self.stock.session = event.session
        self._lease_s = event.lease_s
        self._master_ahead_s = event.master_now_s - self.now_s
        # The first answered heartbeat brings trust.
        self._send_beat()
        for report in self.held.reports():
            self._tell_end(report)

    def _on_beat_due(self) -> None:
        if self._stop_at_s is not None and self.now_s >= self._stop_at_s:
            self.held.hand_back_running()
        self._leave_if_done()
        self.held.keep_checkpoints(self.now_s)
        self.held.store_again()
        self.stock.try_again()
        if self.stock.log.overfull:
            self._on_hello_asked()
            return
        if not self.welcomed:
            self._say_hello()
            return
        for report in self.held.reports():
            self._tell_end(report)
        self._send_beat()

    def _send_beat(self) -> None:
        first, changes = self.stock.log.pending()
        room = self.stock.room_wanted()
        if room is not None:
            # Should none of these be granted, the next ask names others.
            self.stock.cache.pass_over()
        self._beat += 1
        self._beat_sent_s[self._beat] = self.now_s
        while len(self._beat_sent_s) > BEATS_REMEMBERED_MAX:
            del self._beat_sent_s[next(iter(self._beat_sent_s))]
        self._do(
            io.SendBeat(
                session=self.session,
                beat=self._beat,
                sent_s=self.now_s + self._master_ahead_s,
                seen_seq=self._seen_seq,
                grant=self._grant(),
                attempts=self.held.listed(),
                accepting=self.accepting,
                note=self._note(),
                fetching=tuple(self.stock.fetching),
                gpus_busy=self.held.gpus_busy,
                first=first,
                changes=changes,
                cache=self.stock.use_told(),
                room=room,
            )
        )

    def _on_beat_answered(self, event: io.BeatAnswered) -> None:
        sent_s = self._beat_sent_s.get(event.beat)
        if event.session != self.session or sent_s is None:
            return
        self._master_ahead_s = event.master_now_s - self.now_s
        self.stock.log.confirm(event.inventory)
        self._trusted_until_s = max(self._trusted_until_s, sent_s + self._lease_s)
        for beat in [b for b in self._beat_sent_s if b <= event.beat]:
            del self._beat_sent_s[beat]

    def _on_command(self, event: io.CommandCame) -> None:
        if event.session != self.session or event.seq <= self._seen_seq:
            return
        # In order and each once: what came early waits for the gap to be filled.
        if len(self._early) < COMMANDS_EARLY_MAX or event.seq == self._seen_seq + 1:
            self._early[event.seq] = event.command
        while (command := self._early.pop(self._seen_seq + 1, None)) is not None:
            self._seen_seq += 1
            self._obey(command)

    def _obey(self, command: cmd.Command) -> None:
        match command:
            case cmd.AssignAttempt():
                self._received += 1
                self.held.take(command, hand_back=self._stop_at_s is not None)
            case cmd.PreemptAttempt():
                self.held.preempt(command.attempt_id, command.grace_s)
            case cmd.EndAttempt():
                self.held.end(command.attempt_id)
            case cmd.DropArtifact():
                self.held.drop_artifact(command.artifact_id)
                self._leave_if_done()
            case cmd.CheckpointSafe():
                self.held.unsafe.pop(command.artifact_id, None)
                self._leave_if_done()
            case cmd.ForgetAttempt():
                self.held.forget(command.attempt_id)
                self._leave_if_done()
            case cmd.AddSources():
                self.stock.add_sources(command.artifact_id, command.sources)
            case cmd.EvictArtifact():
                self.stock.evict(command.artifact_id)
            case cmd.PrefetchArtifact():
                self.stock.fetch_ahead(command.need)

    def _grant(self) -> int:
        """How many assignments of this session the master may send in all."""
        if not self.accepting:
            return self._received
        takes = self.held.slots * (1 + AHEAD_PER_SLOT)
        return self._received + max(0, takes - self.held.active)

    def _note(self) -> str:
        if self._stop_at_s is not None:
            return "is stopping"
        return self._room_note or self.stock.paused_note

    def _on_disk_seen(self, free_bytes: int) -> None:
        self.stock.cache.free_bytes = free_bytes
        if self.stock.room_wanted() is None:
            self.stock.try_again(has_room=True)

    # --- leaving ----------------------------------------------------------------------

    def _on_stop_asked(self, event: io.StopAsked) -> None:
        stop_at_s = self.now_s + event.finish_s
        if self._stop_at_s is None or stop_at_s < self._stop_at_s:
            self._stop_at_s = stop_at_s
        self.held.hand_back_waiting()
        if event.finish_s <= 0:
            self.held.hand_back_running()
        if self.welcomed:
            self._send_beat()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._stop_at_s is None or self._left or self.held.active:
            self._idle_since_s = None
            return
        if self._idle_since_s is None:
            self._idle_since_s = self.now_s
        waited_s = self.now_s - self._idle_since_s
        untold = bool(self.held.by_id) and waited_s < LEAVE_ANYWAY_S
        unsafe = bool(self.held.unsafe) and waited_s < LEAVE_UNSAFE_S and self.trusted
        if not (untold or unsafe):
            self._left = True
            self._do(io.SendGoodbye(self.session))
            self._do(io.LeaveMesh())

    def _tell_end(self, report: io.Report) -> None:
        if self.welcomed:
            self._do(io.SendEnded(self.session, report, self._grant(), self._seen_seq))

    def _do(self, effect: io.AgentEffect) -> None:
        self._out.append(effect)

    def _take_out(self) -> list[io.AgentEffect]:
        out, self._out = self._out, []
        return out
