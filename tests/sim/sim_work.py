"""What the jobs' processes do on the simulated hosts: they work, fail, end, or are ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sim_sweeps import SHARE, reads_of

from meshtrain.core import agent_io as io
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.job import Failure, FailureClass

if TYPE_CHECKING:
    from mesh_model import SimMesh
    from sim_host import Host


@dataclass
class Process:
    """A job under its shim, with its folder: both outlive the daemon that started it."""

    assignment: AssignAttempt
    started_s: float
    #: seconds of work that lay in the checkpoint it went on from
    done_s: float = 0.0
    alive: bool = True
    failure: Failure | None = None
    ended_s: float | None = None
    #: the artifact that its output became
    output: str | None = None
    #: seconds of work in the last checkpoint that was kept
    kept_s: float = 0.0

    def end(self, failure: Failure | None, now_s: float) -> None:
        """It is over."""
        self.alive = False
        self.ended_s = now_s
        self.failure = failure

    def ended(self) -> io.ProcessEnded:
        """What its shim tells of its end."""
        return io.ProcessEnded(self.assignment.attempt_id, self.failure, 1.0)

    def work_done_s(self, now_s: float) -> float:
        """Seconds of work, with what lay in its checkpoint."""
        until_s = now_s if self.ended_s is None else self.ended_s
        return self.done_s + until_s - self.started_s


class SimWork:
    """How long each job works, whether it fails, and what became of it."""

    def __init__(self, mesh: SimMesh) -> None:
        self._mesh = mesh
        #: how an attempt fails, before the weather is asked; and how long its job works
        self.pick_failure: Callable[[AssignAttempt], Failure | None] = lambda assignment: None
        self.duration_s: Callable[[AssignAttempt], float] = lambda a: mesh.random.uniform(1, 8)
        #: nodes where the share isn't mounted, and those that found so
        self.unmounted: set[str] = set()
        self.lacked: list[str] = []
        #: attempts whose process ended well, and how the others failed
        self.completed: set[str] = set()
        self.failed: dict[str, FailureClass] = {}
        #: job id, and the seconds of work that its attempt went on from
        self.resumed: list[tuple[str, float]] = []
        self._work_s: dict[str, float] = {}

    def launch(self, host: Host, assignment: AssignAttempt) -> None:
        """Start a process, where its node has the share that it reads."""
        mesh = self._mesh
        attempt_id = assignment.attempt_id
        mesh.promises.check_start(host, assignment)
        if host.name in self.unmounted and SHARE in reads_of(assignment):
            # The node looks before it starts anything.
            told = Failure(FailureClass.INPUT, f"{SHARE.source} is not on {host.name}", host.name)
            self.lacked.append(host.name)
            process = Process(assignment, started_s=mesh.now_s)
            host.attempts[attempt_id] = process
            mesh.after(0.02, partial(self._end, host, process, told))
            return
        mesh.promises.check_run(host, assignment)
        failure = self.pick_failure(assignment)
        if failure is None:
            failure = mesh.weather.failure_of(assignment, mesh.random)
        work_s = self._work_s.get(assignment.job_id)
        if work_s is None:
            work_s = self._work_s[assignment.job_id] = self.duration_s(assignment)
        done_s = 0.0
        if assignment.resume is not None:
            job_id, done_s = mesh.artifacts.checkpoints[assignment.resume.artifact_id]
            assert job_id == assignment.job_id, "P5: goes on from another job's checkpoint"
            self.resumed.append((assignment.job_id, done_s))
        process = Process(assignment, started_s=mesh.now_s, done_s=done_s, kept_s=done_s)
        host.attempts[attempt_id] = process
        assert len(host.running) <= host.slots, "P9: more jobs than slots"
        life = host.life

        def started() -> None:
            if host.life == life and process.alive:
                host.tell(io.ProcessStarted(attempt_id))

        mesh.after(0.01, started)
        mesh.after(
            max(0.02, work_s - done_s),
            partial(self._end, host, process, failure, well=not failure),
        )

    def end(self, host: Host, effect: io.EndProcess) -> None:
        """The daemon ends a process, which takes a while."""
        process = host.attempts.get(effect.attempt_id)
        if process is None or not process.alive:
            return
        self._mesh.promises.check_may_end(host, effect.attempt_id)
        failure = Failure(FailureClass.HOST_LOST, "ended on request")
        grace_s = 1.0 if effect.grace_s is None else effect.grace_s
        delay_s = self._mesh.random.uniform(0.05, grace_s)
        self._mesh.after(delay_s, partial(self._end, host, process, failure))

    def _end(
        self, host: Host, process: Process, failure: Failure | None, *, well: bool = False
    ) -> None:
        """A process ends by itself, or because it was told to, whether or not a daemon is there."""
        if not process.alive:
            return
        process.end(failure, self._mesh.now_s)
        if well:
            self.completed.add(process.assignment.attempt_id)
        if failure is not None:
            self.failed[process.assignment.attempt_id] = failure.failure_class
        host.tell(process.ended())
