"""The attempts on a node, and the course of each.

FETCHING ──► READY ──► STARTING ──► RUNNING ──► STORING ──► ENDED ──► forgotten
   what it    trusted    process      process    output      told,
   needs is   by the     asked for    runs       becomes an  until the master
   missing    master                             artifact    has it on disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.events import LiveAttempt


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
    stream_bytes: dict[str, int] = field(default_factory=dict)
    report: io.Report | None = None


class HeldAttempts:
    """What a node has taken on.

    Args:
        slots: how many attempts it runs at once.
        holds: ids of the artifacts that lie whole on its disk.
        session: the name of the session that messages belong to; it changes.
        do: takes each effect.
        tell_end: takes the report of an attempt that came to its end.
    """

    def __init__(
        self,
        *,
        slots: int,
        holds: Iterable[str],
        session: str,
        do: Callable[[io.AgentEffect], None],
        tell_end: Callable[[io.Report], None],
    ) -> None:
        self.slots = slots
        self.holds = set(holds)
        self.session = session
        self.by_id: dict[str, HeldAttempt] = {}
        self.fetching: dict[str, None] = {}
        #: those that wait for a slot, in the order in which they came; those that have one
        self._ready: dict[str, HeldAttempt] = {}
        self._running: dict[str, HeldAttempt] = {}
        self._ended = 0
        self._do = do
        self._tell_end = tell_end

    @property
    def active(self) -> int:
        """Attempts that hold, or will hold, a slot."""
        return len(self.by_id) - self._ended

    def _move(self, held: HeldAttempt, phase: Phase) -> None:
        attempt_id = held.assignment.attempt_id
        self._ready.pop(attempt_id, None)
        if phase is Phase.READY:
            self._ready[attempt_id] = held
        elif phase is Phase.STARTING:
            self._running[attempt_id] = held
        elif phase in (Phase.STORING, Phase.ENDED):
            self._running.pop(attempt_id, None)
            self._ended += phase is Phase.ENDED and held.phase is not Phase.ENDED
        held.phase = phase

    def reports(self) -> list[io.Report]:
        """The ends that the master has not said to have on its disk."""
        return [held.report for held in self.by_id.values() if held.report is not None]

    def listed(self) -> tuple[LiveAttempt, ...]:
        """All of them, as heartbeats name them."""
        return tuple(
            LiveAttempt(
                attempt_id,
                held.assignment.epoch,
                started=held.phase in (Phase.RUNNING, Phase.STORING, Phase.ENDED),
                over=held.phase in (Phase.STORING, Phase.ENDED),
            )
            for attempt_id, held in self.by_id.items()
        )

    def take(self, assignment: cmd.AssignAttempt, *, hand_back: bool) -> None:
        """Take an attempt on, or hand it back at once."""
        if assignment.attempt_id in self.by_id:
            return
        held = HeldAttempt(assignment, Phase.FETCHING)
        self.by_id[assignment.attempt_id] = held
        if hand_back:
            self._end(held, io.Report(assignment.attempt_id, assignment.epoch, handed_back=True))
            return
        for need in (assignment.base, assignment.code):
            if need is None or need.artifact_id in self.holds:
                continue
            held.missing.add(need.artifact_id)
            if need.artifact_id in self.fetching:
                self._do(io.AddFetchSources(need.artifact_id, need.sources))
            else:
                self.fetching[need.artifact_id] = None
                self._do(io.FetchArtifact(need.artifact_id, need.sources))
        if not held.missing:
            self._move(held, Phase.READY)

    def start_ready(self) -> None:
        """Launch what has all that it needs, as far as there are slots, and its GPUs are free.

        A GPU may still be held by an attempt that the master gave up when its
        lease ran out: until that has ended, the next one waits.
        """
        if not self._ready or len(self._running) >= self.slots:
            return
        gpus_used = {gpu for held in self._running.values() for gpu in held.assignment.gpus}
        for held in list(self._ready.values()):
            if len(self._running) >= self.slots:
                return
            if not gpus_used.isdisjoint(held.assignment.gpus):
                continue
            gpus_used.update(held.assignment.gpus)
            self._move(held, Phase.STARTING)
            self._do(io.LaunchProcess(held.assignment))

    def on_fetched(self, event: io.ArtifactFetched) -> None:
        """An artifact has come whole."""
        self.fetching.pop(event.artifact_id, None)
        self.holds.add(event.artifact_id)
        self._do(
            io.SendHolds(self.session, (event.artifact_id,), event.bytes_by_node, event.duration_s)
        )
        for held in self.by_id.values():
            held.missing.discard(event.artifact_id)
            if held.phase is Phase.FETCHING and not held.missing:
                self._move(held, Phase.READY)

    def on_fetch_gave_up(self, event: io.FetchGaveUp) -> None:
        """An artifact can't be had: what needs it fails."""
        self.fetching.pop(event.artifact_id, None)
        for held in list(self.by_id.values()):
            if held.phase is Phase.FETCHING and event.artifact_id in held.missing:
                assignment = held.assignment
                self._end(
                    held,
                    io.Report(assignment.attempt_id, assignment.epoch, failure=event.failure),
                )

    def on_started(self, event: io.ProcessStarted) -> None:
        """A process runs."""
        held = self.by_id.get(event.attempt_id)
        if held is None or held.phase is not Phase.STARTING:
            return
        self._move(held, Phase.RUNNING)
        self._do(io.SendStarted(self.session, event.attempt_id, held.assignment.epoch))

    def on_ended(self, event: io.ProcessEnded) -> None:
        """A process, and all that it started, is gone."""
        held = self.by_id.get(event.attempt_id)
        if held is None or held.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        held.run_s = event.run_s
        held.stream_bytes = event.stream_bytes
        assignment = held.assignment
        if held.ending or (held.handing_back and event.failure is not None):
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
            self._move(held, Phase.STORING)
            self._do(io.StoreOutput(assignment))

    def on_stored(self, event: io.OutputStored) -> None:
        """An output folder has become an artifact."""
        if event.artifact_id is not None and event.artifact_id not in self.holds:
            self.holds.add(event.artifact_id)
            self._do(io.SendHolds(self.session, (event.artifact_id,)))
        held = self.by_id.get(event.attempt_id)
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

    def on_output_failed(self, event: io.OutputFailed) -> None:
        """An output folder could not be stored."""
        held = self.by_id.get(event.attempt_id)
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

    def end(self, attempt_id: str) -> None:
        """End what runs of an attempt; its result doesn't count."""
        held = self.by_id.get(attempt_id)
        if held is None:
            return
        match held.phase:
            case Phase.FETCHING | Phase.READY:
                held.ending = True
                self._end(held, self._cut_short(held))
            case Phase.STARTING | Phase.RUNNING:
                if not held.ending:
                    held.ending = True
                    self._do(io.EndProcess(attempt_id))
            case Phase.STORING:
                held.ending = True
            case Phase.ENDED:
                if held.report is not None:
                    self._tell_end(held.report)

    def _end(self, held: HeldAttempt, report: io.Report) -> None:
        self._move(held, Phase.ENDED)
        if held.stream_bytes:
            report = msgspec.structs.replace(report, stream_bytes=held.stream_bytes)
        held.report = report
        self._tell_end(report)

    def forget(self, attempt_id: str) -> None:
        """The master has its end on disk."""
        held = self.by_id.get(attempt_id)
        if held is None:
            return
        if held.phase is not Phase.ENDED:
            # Its result doesn't count any more; the end will be told, and forgotten, again.
            self.end(attempt_id)
            return
        del self.by_id[attempt_id]
        self._ended -= 1
        self._do(io.DropAttempt(attempt_id))

    def hand_back_waiting(self) -> None:
        """Give back what has not started."""
        for held in list(self.by_id.values()):
            if held.phase in (Phase.FETCHING, Phase.READY):
                self._end(held, self._cut_short(held))

    def hand_back_running(self) -> None:
        """End what runs, to be run elsewhere."""
        for attempt_id, held in list(self.by_id.items()):
            if held.phase in (Phase.STARTING, Phase.RUNNING) and not held.handing_back:
                held.handing_back = True
                if not held.ending:
                    self._do(io.EndProcess(attempt_id))
