"""A host of the simulated mesh: its daemon, and what outlives it."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.agent import Agent
from meshtrain.core.job import Failure
from meshtrain.core.node import NodeSpec
from meshtrain.core.source_book import KnownSources


@dataclass
class Process:
    """A job under its shim, with its folder: both outlive the daemon that started it."""

    assignment: cmd.AssignAttempt
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
        self.alive = False
        self.ended_s = now_s
        self.failure = failure

    def ended(self) -> io.ProcessEnded:
        return io.ProcessEnded(self.assignment.attempt_id, self.failure, 1.0)

    def work_done_s(self, now_s: float) -> float:
        until_s = now_s if self.ended_s is None else self.ended_s
        return self.done_s + until_s - self.started_s


@dataclass
class Host:
    """A node: its disk (artifacts, folders of attempts) and its jobs outlive its daemon."""

    spec: NodeSpec
    #: its lease clock beside the master's
    clock_ahead_s: float = 0.0
    holds: set[str] = field(default_factory=set)
    attempts: dict[str, Process] = field(default_factory=dict)
    #: what its cache may take, 0 for anything; and who it knows to hold what, as its disk has it
    cache_bytes: int = 0
    sources: tuple[KnownSources, ...] = ()
    agent: Agent | None = None
    #: grows at each start; what belongs to a former life of the daemon is dropped
    life: int = 0
    paused_until_s: float = 0.0
    is_full: bool = False
    gpus_busy: tuple[int, ...] = ()
    #: since when its daemon sends heartbeats
    beating_since_s: float = 0.0

    @property
    def running(self) -> list[Process]:
        return [process for process in self.attempts.values() if process.alive]
