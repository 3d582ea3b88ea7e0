"""The attempts on a node, and the course of each: see held_attempt for its phases."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.events import LiveAttempt
from meshtrain.core.held_attempt import HeldAttempt, Phase
from meshtrain.core.job import FailureClass
from meshtrain.core.stock import Stock

UNSAFE_MAX = 100
"""Checkpoints that a leaving node waits for its master to fetch."""
CHECKPOINTS_KEPT = 3
"""Checkpoints of one attempt that lie on its node: the newest, and the oldest that the master has
not let go, which it may be fetching; between them those that come while it does."""


class HeldAttempts:
    """What a node has taken on.

    Args:
        slots: how many attempts it runs at once.
        stock: the artifacts of the node.
        session: the name of the session that messages belong to; it changes.
        do: takes each effect.
        tell_end: takes the report of an attempt that came to its end.
    """

    def __init__(
        self,
        *,
        slots: int,
        stock: Stock,
        session: str,
        do: Callable[[io.AgentEffect], None],
        tell_end: Callable[[io.Report], None],
    ) -> None:
        self.slots = slots
        self.stock = stock
        self.session = session
        self.by_id: dict[str, HeldAttempt] = {}
        self.gpus_busy: tuple[int, ...] = ()
        #: checkpoints that may lie here alone, and that their jobs go on from
        self.unsafe: dict[str, None] = {}
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
                checkpoint=held.checkpoint,
            )
            for attempt_id, held in self.by_id.items()
        )

    def adopt(self, adopted: io.AdoptedAttempt) -> None:
        """Go on with what a former daemon started; its end comes as that of any other."""
        assignment = adopted.assignment
        held = HeldAttempt(assignment, Phase.FETCHING, output_id=adopted.output_id)
        self.by_id[assignment.attempt_id] = held
        self._move(held, Phase.STARTING)
        self._move(held, Phase.RUNNING)

    def take(self, assignment: cmd.AssignAttempt, *, hand_back: bool) -> None:
        """Take an attempt on, or hand it back at once."""
        if assignment.attempt_id in self.by_id:
            return
        held = HeldAttempt(assignment, Phase.FETCHING)
        self.by_id[assignment.attempt_id] = held
        if hand_back:
            self._end(held, io.Report(assignment.attempt_id, assignment.epoch, handed_back=True))
            return
        for need in assignment.needs:
            if not self.stock.has(need):
                held.missing.add(need.artifact_id)
                self.stock.want(need)
        if not held.missing:
            self._move(held, Phase.READY)

    def start_ready(self) -> None:
        """Launch what has all that it needs, as far as there are slots, and its GPUs are free.

        A GPU may still be held by an attempt that the master gave up when its
        lease ran out, or by somebody else's process: until that has ended, the
        next one waits.
        """
        if not self._ready or len(self._running) >= self.slots:
            return
        gpus_used = {gpu for held in self._running.values() for gpu in held.assignment.gpus}
        gpus_used.update(self.gpus_busy)
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
        if self.stock.came(event):
            self._is_here(event.artifact_id)

    def on_removed(self, event: io.ArtifactRemoved) -> None:
        """An artifact is gone, or could not be removed."""
        if not self.stock.removed(event):
            self._is_here(event.artifact_id)

    def _is_here(self, artifact_id: str) -> None:
        for held in self.by_id.values():
            held.missing.discard(artifact_id)
            if held.phase is Phase.FETCHING and not held.missing:
                self._move(held, Phase.READY)

    def on_fetch_gave_up(self, event: io.FetchGaveUp, *, master_is_there: bool) -> None:
        """An artifact can't be had now: what needs it waits, or fails."""
        if not self.stock.gave_up(event, master_is_there=master_is_there):
            return
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
            self._end_with_checkpoint(held, self._cut_short(held))
        elif event.failure is not None:
            report = io.Report(
                assignment.attempt_id,
                assignment.epoch,
                failure=event.failure,
                run_s=event.run_s,
            )
            self._end_with_checkpoint(held, report)
        else:
            self._move(held, Phase.STORING)
            self.stock.store(io.StoreOutput(assignment))

    def on_stored(self, event: io.OutputStored) -> None:
        """An output folder has become an artifact."""
        self.stock.store_is_over(io.StoreOutput, event.attempt_id)
        self._on_stored(event)
        self.stock.take_turns()

    def _on_stored(self, event: io.OutputStored) -> None:
        self.stock.stored(event.artifact_id, event.size_bytes)
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
        self.stock.store_is_over(io.StoreOutput, event.attempt_id)
        self._on_output_failed(event)
        self.stock.take_turns()

    def _on_output_failed(self, event: io.OutputFailed) -> None:
        held = self.by_id.get(event.attempt_id)
        if held is None or held.phase is not Phase.STORING:
            return
        assignment = held.assignment
        if held.ending:
            self._end(held, self._cut_short(held))
            return
        if event.failure.failure_class is FailureClass.DISK:
            # Days of training may lie there: it waits for room.
            held.waits_for_room = True
            return
        report = io.Report(
            assignment.attempt_id, assignment.epoch, failure=event.failure, run_s=held.run_s
        )
        self._end(held, report)

    def store_again(self) -> None:
        """Try again to store the outputs that the disk had no room for."""
        for held in self.by_id.values():
            if held.waits_for_room and held.phase is Phase.STORING:
                held.waits_for_room = False
                self.stock.store(io.StoreOutput(held.assignment))

    def _cut_short(self, held: HeldAttempt) -> io.Report:
        assignment = held.assignment
        return io.Report(
            assignment.attempt_id,
            assignment.epoch,
            cancelled=held.ending,
            handed_back=not held.ending,
            run_s=held.run_s,
        )

    # --- checkpoints -----------------------------------------------------------------------

    def keep_checkpoints(self, now_s: float) -> None:
        """Have the newest checkpoint of each job kept whose time has come."""
        for held in self._running.values():
            every_s = held.assignment.checkpoint_every_s
            if every_s is None or held.phase is not Phase.RUNNING:
                continue
            if held.checkpoint_at_s is None:
                held.checkpoint_at_s = now_s + every_s
            elif now_s >= held.checkpoint_at_s and not held.keeps_checkpoint:
                held.checkpoint_at_s = now_s + every_s
                self._keep_checkpoint(held)

    def _keep_checkpoint(self, held: HeldAttempt) -> None:
        held.keeps_checkpoint = True
        self.stock.store(io.StoreCheckpoint(held.assignment))

    def on_checkpoint(self, attempt_id: str, artifact_id: str | None, size_bytes: int = 0) -> None:
        """A checkpoint is kept, or there was none to keep."""
        self.stock.store_is_over(io.StoreCheckpoint, attempt_id)
        self._on_checkpoint(attempt_id, artifact_id, size_bytes)
        self.stock.take_turns()

    def _on_checkpoint(self, attempt_id: str, artifact_id: str | None, size_bytes: int) -> None:
        self.stock.stored(artifact_id, size_bytes)
        held = self.by_id.get(attempt_id)
        if held is None:
            return
        was_last = held.last_word is not None and not held.keeps_checkpoint
        held.keeps_checkpoint = False
        if artifact_id is not None and artifact_id != held.checkpoint:
            held.checkpoints.append(artifact_id)
            if len(held.checkpoints) > CHECKPOINTS_KEPT:
                self.stock.drop(held.checkpoints.pop(-2))
        if held.last_word is not None:
            if was_last:
                self._end(held, held.last_word)
            else:
                # It was being kept while the job ended: a newer one may lie there.
                self.stock.store(io.StoreCheckpoint(held.assignment))

    def _end_with_checkpoint(self, held: HeldAttempt, report: io.Report) -> None:
        """Tell an end that the job is run again after, with what it can go on from."""
        makes_them = held.assignment.checkpoint_every_s is not None
        failure = report.failure
        own_fault = failure is not None and failure.failure_class is FailureClass.USER_ERROR
        if not makes_them or report.cancelled or own_fault:
            self._end(held, report)
            return
        self._move(held, Phase.STORING)
        held.last_word = report
        if not held.keeps_checkpoint:
            self.stock.store(io.StoreCheckpoint(held.assignment))

    def drop_artifact(self, artifact_id: str) -> None:
        """The master needs an artifact no more: remove it when nothing here does either."""
        self.unsafe.pop(artifact_id, None)
        for held in self.by_id.values():
            if artifact_id in held.checkpoints[:-1]:
                held.checkpoints.remove(artifact_id)
        self.stock.drop(artifact_id, later=True)

    def needed(self) -> dict[str, str]:
        """The artifacts that must stay here, and what needs each."""
        found: dict[str, str] = {}
        for held in self.by_id.values():
            name = held.assignment.name
            if held.phase is not Phase.ENDED:
                for need in held.assignment.needs:
                    found[need.artifact_id] = f"{name} starts from it, or runs on it"
            for checkpoint in held.checkpoints:
                found[checkpoint] = f"{name} can go on from it"
            output_id = held.output_id if held.report is None else held.report.artifact_id
            if output_id is not None:
                found[output_id] = f"{name} left it, and the master hasn't taken that in"
        return found

    # --- ending ----------------------------------------------------------------------------

    def preempt(self, attempt_id: str, grace_s: float) -> None:
        """Hand an attempt back, once it had `grace_s` to write a checkpoint."""
        held = self.by_id.get(attempt_id)
        if held is None:
            return
        if held.phase in (Phase.FETCHING, Phase.READY):
            self._end(held, self._cut_short(held))
        elif held.phase in (Phase.STARTING, Phase.RUNNING) and not held.handing_back:
            held.handing_back = True
            if not held.ending:
                self._do(io.EndProcess(attempt_id, grace_s))

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
                if held.last_word is not None or held.waits_for_room:
                    self._end(held, self._cut_short(held))
            case Phase.ENDED:
                if held.report is not None:
                    self._tell_end(held.report)

    def _end(self, held: HeldAttempt, report: io.Report) -> None:
        for need in held.assignment.needs if held.phase is not Phase.FETCHING else ():
            self.stock.use(need.artifact_id)
        self._move(held, Phase.ENDED)
        held.last_word = None
        if held.checkpoint is not None and not report.cancelled:
            report = msgspec.structs.replace(report, checkpoint=held.checkpoint)
            if report.failure is not None or report.handed_back:
                self.unsafe[held.checkpoint] = None
                if len(self.unsafe) > UNSAFE_MAX:
                    del self.unsafe[next(iter(self.unsafe))]
        if held.stream_bytes:
            report = msgspec.structs.replace(report, stream_bytes=held.stream_bytes)
        held.report = report
        self.stock.drop_unwanted()
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
        report = held.report
        goes_on = report is not None and (report.failure is not None or report.handed_back)
        # The last one is the master's to drop, where the job may go on from it.
        for artifact_id in held.checkpoints[:-1] if goes_on else held.checkpoints:
            self.stock.drop(artifact_id)
        self.stock.drop_unwanted()
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
