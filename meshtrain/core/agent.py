"""A node's decisions: `Agent.handle(event, now_s) -> list[AgentEffect]`.

The course of an attempt on its node:

    FETCHING ──► READY ──► STARTING ──► RUNNING ──► STORING ──► ENDED ──► forgotten
       what it    trusted    process      process    output      told,
       needs is   by the     asked for    runs       becomes an  until the master
       missing    master                             artifact    has it on disk

Lost trust (no answered heartbeat for a lease) forbids new starts; it never
ends a running job. That ends only on the master's word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.events import LiveAttempt
from meshtrain.core.session import session_name

BEATS_REMEMBERED_MAX = 100
COMMANDS_EARLY_MAX = 10_000
"""Commands kept that came before others of lower number."""
LEAVE_ANYWAY_S = 5.0
"""A stopping daemon whose master is away ends this long after its last job."""


class Phase(Enum):
    FETCHING = auto()
    READY = auto()
    STARTING = auto()
    RUNNING = auto()
    STORING = auto()
    ENDED = auto()


@dataclass(slots=True)
class HeldAttempt:
    """An attempt on this node."""

    assignment: cmd.AssignAttempt
    phase: Phase
    #: artifacts that are not here yet
    missing: set[str] = field(default_factory=set)
    #: told to end: its result doesn't count
    ending: bool = False
    #: ended to be run elsewhere
    handing_back: bool = False
    run_s: float = 0.0
    report: io.Report | None = None


class Agent:
    """What a node has taken on, and what to do at each event.

    Args:
        slots: how many attempts it runs at once.
        prefetch: how many more it takes, to fetch what they need meanwhile.
        holds: ids of the artifacts that lie whole on its disk.
        life: what tells this start of the daemon from all others.
    """

    def __init__(self, *, slots: int, prefetch: int, holds: Iterable[str], life: str) -> None:
        self.slots = slots
        self.prefetch = prefetch
        self.holds = set(holds)
        self._life = life
        self._session_number = 0
        self.attempts: dict[str, HeldAttempt] = {}
        self.fetching: dict[str, None] = {}
        self.now_s = 0.0
        self._welcomed = False
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
        self._out: list[io.AgentEffect] = []

    @property
    def session(self) -> str:
        return session_name(self._life, self._session_number)

    # --- what the outside may ask ---------------------------------------------------------

    @property
    def accepting(self) -> bool:
        return self._has_room and self._stop_at_s is None

    @property
    def welcomed(self) -> bool:
        return self._welcomed

    @property
    def trusted(self) -> bool:
        """Whether the master has heard of us lately enough to keep our leases."""
        return self.now_s <= self._trusted_until_s

    @property
    def active(self) -> int:
        """Attempts that hold, or will hold, a slot."""
        return sum(1 for held in self.attempts.values() if held.phase is not Phase.ENDED)

    def start(self, now_s: float) -> list[io.AgentEffect]:
        """The first effects of a daemon that came up."""
        self.now_s = now_s
        self._say_hello()
        return self._take_out()

    def handle(self, event: io.AgentEvent, now_s: float) -> list[io.AgentEffect]:
        """Take in one event; `now_s` is the node's lease clock in seconds."""
        self.now_s = max(self.now_s, now_s)
        match event:
            case io.CommandCame():
                self._on_command(event)
            case io.ProcessStarted():
                self._on_started(event)
            case io.ProcessEnded():
                self._on_ended(event)
            case io.OutputStored():
                self._on_stored(event)
            case io.OutputFailed():
                self._on_output_failed(event)
            case io.BeatDue():
                self._on_beat_due()
            case io.BeatAnswered():
                self._on_beat_answered(event)
            case io.Welcomed():
                self._on_welcomed(event)
            case io.HelloAsked():
                self._on_hello_asked()
            case io.ArtifactFetched():
                self._on_fetched(event)
            case io.FetchGaveUp():
                self._on_fetch_gave_up(event)
            case io.StopAsked():
                self._on_stop_asked(event)
            case io.RoomChanged():
                self._has_room = event.has_room
                self._room_note = event.note
        self._start_what_is_ready()
        return self._take_out()

    # --- the master ---------------------------------------------------------------------------

    def _say_hello(self) -> None:
        self._out.append(
            io.SendHello(
                session=self.session,
                attempts=self._live(),
                holds=tuple(sorted(self.holds)),
                grant=self._grant(),
                accepting=self.accepting,
                note=self._note(),
            )
        )

    def _on_hello_asked(self) -> None:
        if not self._welcomed:
            self._say_hello()
            return
        # A session is a numbering of commands: the master starts from nothing, so do we.
        self._session_number += 1
        self._welcomed = False
        self._seen_seq = 0
        self._early.clear()
        self._received = 0
        self._say_hello()

    def _on_welcomed(self, event: io.Welcomed) -> None:
        if event.session != self.session or self._welcomed:
            return
        self._welcomed = True
        self._lease_s = event.lease_s
        self._master_ahead_s = event.master_now_s - self.now_s
        # The first answered heartbeat brings trust.
        self._send_beat()
        for held in self.attempts.values():
            self._tell_end(held)

    def _on_beat_due(self) -> None:
        if self._stop_at_s is not None and self.now_s >= self._stop_at_s:
            self._hand_back_all()
        self._leave_if_done()
        if not self._welcomed:
            self._say_hello()
            return
        for held in self.attempts.values():
            self._tell_end(held)
        self._send_beat()

    def _send_beat(self) -> None:
        self._beat += 1
        self._beat_sent_s[self._beat] = self.now_s
        while len(self._beat_sent_s) > BEATS_REMEMBERED_MAX:
            del self._beat_sent_s[next(iter(self._beat_sent_s))]
        self._out.append(
            io.SendBeat(
                session=self.session,
                beat=self._beat,
                sent_s=self.now_s + self._master_ahead_s,
                seen_seq=self._seen_seq,
                grant=self._grant(),
                attempts=self._live(),
                accepting=self.accepting,
                note=self._note(),
                fetching=tuple(self.fetching),
            )
        )

    def _on_beat_answered(self, event: io.BeatAnswered) -> None:
        sent_s = self._beat_sent_s.get(event.beat)
        if event.session != self.session or sent_s is None:
            return
        self._master_ahead_s = event.master_now_s - self.now_s
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
                self._on_assigned(command)
            case cmd.EndAttempt():
                self._on_end_asked(command.attempt_id)
            case cmd.ForgetAttempt():
                self._forget(command.attempt_id)
            case cmd.AddSources():
                if command.artifact_id in self.fetching:
                    self._out.append(io.AddFetchSources(command.artifact_id, command.sources))

    def _grant(self) -> int:
        """How many assignments of this session the master may send in all."""
        if not self.accepting:
            return self._received
        return self._received + max(0, self.slots + self.prefetch - self.active)

    def _live(self) -> tuple[LiveAttempt, ...]:
        return tuple(
            LiveAttempt(
                attempt_id,
                held.assignment.epoch,
                held.phase in (Phase.RUNNING, Phase.STORING, Phase.ENDED),
            )
            for attempt_id, held in self.attempts.items()
        )

    def _note(self) -> str:
        if self._stop_at_s is not None:
            return "is stopping"
        return self._room_note

    # --- the course of an attempt ---------------------------------------------------------------

    def _on_assigned(self, assignment: cmd.AssignAttempt) -> None:
        self._received += 1
        if assignment.attempt_id in self.attempts:
            return
        held = HeldAttempt(assignment, Phase.FETCHING)
        self.attempts[assignment.attempt_id] = held
        if self._stop_at_s is not None:
            self._end(held, io.Report(assignment.attempt_id, assignment.epoch, handed_back=True))
            return
        for need in (assignment.base, assignment.code):
            if need is None or need.artifact_id in self.holds:
                continue
            held.missing.add(need.artifact_id)
            if need.artifact_id in self.fetching:
                self._out.append(io.AddFetchSources(need.artifact_id, need.sources))
            else:
                self.fetching[need.artifact_id] = None
                self._out.append(io.FetchArtifact(need.artifact_id, need.sources))
        if not held.missing:
            held.phase = Phase.READY

    def _start_what_is_ready(self) -> None:
        if not self.trusted or self._stop_at_s is not None:
            return
        running = None
        for held in self.attempts.values():
            if held.phase is not Phase.READY:
                continue
            if running is None:
                running = sum(
                    1
                    for other in self.attempts.values()
                    if other.phase in (Phase.STARTING, Phase.RUNNING)
                )
            if running >= self.slots:
                return
            running += 1
            held.phase = Phase.STARTING
            self._out.append(io.LaunchProcess(held.assignment))

    def _on_fetched(self, event: io.ArtifactFetched) -> None:
        self.fetching.pop(event.artifact_id, None)
        self.holds.add(event.artifact_id)
        self._out.append(
            io.SendHolds(self.session, (event.artifact_id,), event.bytes_by_node, event.duration_s)
        )
        for held in self.attempts.values():
            held.missing.discard(event.artifact_id)
            if held.phase is Phase.FETCHING and not held.missing:
                held.phase = Phase.READY

    def _on_fetch_gave_up(self, event: io.FetchGaveUp) -> None:
        self.fetching.pop(event.artifact_id, None)
        for held in list(self.attempts.values()):
            if held.phase is Phase.FETCHING and event.artifact_id in held.missing:
                assignment = held.assignment
                self._end(
                    held,
                    io.Report(assignment.attempt_id, assignment.epoch, failure=event.failure),
                )

    def _on_started(self, event: io.ProcessStarted) -> None:
        held = self.attempts.get(event.attempt_id)
        if held is None or held.phase is not Phase.STARTING:
            return
        held.phase = Phase.RUNNING
        self._out.append(io.SendStarted(self.session, event.attempt_id, held.assignment.epoch))

    def _on_ended(self, event: io.ProcessEnded) -> None:
        held = self.attempts.get(event.attempt_id)
        if held is None or held.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        held.run_s = event.run_s
        assignment = held.assignment
        if held.ending or held.handing_back:
            self._end(held, self._cut_short(held))
        elif event.failure is not None:
            self._end(
                held,
                io.Report(
                    assignment.attempt_id,
                    assignment.epoch,
                    failure=event.failure,
                    run_s=event.run_s,
                ),
            )
        else:
            held.phase = Phase.STORING
            self._out.append(io.StoreOutput(assignment))

    def _on_stored(self, event: io.OutputStored) -> None:
        if event.artifact_id is not None and event.artifact_id not in self.holds:
            self.holds.add(event.artifact_id)
            self._out.append(io.SendHolds(self.session, (event.artifact_id,)))
        held = self.attempts.get(event.attempt_id)
        if held is None or held.phase is not Phase.STORING:
            return
        if held.ending:
            self._end(held, self._cut_short(held))
            return
        assignment = held.assignment
        self._end(
            held,
            io.Report(
                assignment.attempt_id,
                assignment.epoch,
                artifact_id=event.artifact_id,
                size_bytes=event.size_bytes,
                metrics=event.metrics,
                run_s=held.run_s,
            ),
        )

    def _on_output_failed(self, event: io.OutputFailed) -> None:
        held = self.attempts.get(event.attempt_id)
        if held is None or held.phase is not Phase.STORING:
            return
        assignment = held.assignment
        if held.ending:
            self._end(held, self._cut_short(held))
            return
        report = io.Report(
            assignment.attempt_id, assignment.epoch, failure=event.failure, run_s=held.run_s
        )
        self._end(held, report)

    def _cut_short(self, held: HeldAttempt) -> io.Report:
        assignment = held.assignment
        return io.Report(
            assignment.attempt_id,
            assignment.epoch,
            cancelled=held.ending,
            handed_back=not held.ending,
            run_s=held.run_s,
        )

    def _on_end_asked(self, attempt_id: str) -> None:
        held = self.attempts.get(attempt_id)
        if held is None:
            return
        match held.phase:
            case Phase.FETCHING | Phase.READY:
                held.ending = True
                self._end(held, self._cut_short(held))
            case Phase.STARTING | Phase.RUNNING:
                if not held.ending:
                    held.ending = True
                    self._out.append(io.EndProcess(attempt_id))
            case Phase.STORING:
                held.ending = True
            case Phase.ENDED:
                self._tell_end(held)

    def _end(self, held: HeldAttempt, report: io.Report) -> None:
        held.phase = Phase.ENDED
        held.report = report
        self._tell_end(held)

    def _tell_end(self, held: HeldAttempt) -> None:
        if held.report is not None and self._welcomed:
            self._out.append(io.SendEnded(self.session, held.report, self._grant(), self._seen_seq))

    def _forget(self, attempt_id: str) -> None:
        held = self.attempts.get(attempt_id)
        if held is None:
            return
        if held.phase is not Phase.ENDED:
            # Its result doesn't count any more; the end will be told, and forgotten, again.
            self._on_end_asked(attempt_id)
            return
        del self.attempts[attempt_id]
        self._out.append(io.DropAttempt(attempt_id))
        self._leave_if_done()

    # --- leaving ----------------------------------------------------------------------

    def _on_stop_asked(self, event: io.StopAsked) -> None:
        stop_at_s = self.now_s + event.finish_s
        if self._stop_at_s is None or stop_at_s < self._stop_at_s:
            self._stop_at_s = stop_at_s
        for held in list(self.attempts.values()):
            if held.phase in (Phase.FETCHING, Phase.READY):
                self._end(held, self._cut_short(held))
        if event.finish_s <= 0:
            self._hand_back_all()
        if self._welcomed:
            self._send_beat()
        self._leave_if_done()

    def _hand_back_all(self) -> None:
        for attempt_id, held in list(self.attempts.items()):
            if held.phase in (Phase.STARTING, Phase.RUNNING) and not held.handing_back:
                held.handing_back = True
                if not held.ending:
                    self._out.append(io.EndProcess(attempt_id))

    def _leave_if_done(self) -> None:
        if self._stop_at_s is None or self._left or self.active:
            self._idle_since_s = None
            return
        if self._idle_since_s is None:
            self._idle_since_s = self.now_s
        if not self.attempts or self.now_s - self._idle_since_s >= LEAVE_ANYWAY_S:
            self._left = True
            self._out.append(io.SendGoodbye(self.session))
            self._out.append(io.LeaveMesh())

    def _take_out(self) -> list[io.AgentEffect]:
        out, self._out = self._out, []
        return out
