"""One attempt on a node, and how far it is.

FETCHING ──► READY ──► STARTING ──► RUNNING ──► STORING ──► ENDED ──► forgotten
   what it    trusted    process      process    output, or  told,
   needs is   by the     asked for    runs       checkpoint  until the master
   missing    master                             kept        has it on disk
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd


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
    #: the artifact that its output is already, as a former daemon noted
    output_id: str | None = None
    report: io.Report | None = None
    #: when the next checkpoint is due; None before the job runs, or where it makes none
    checkpoint_at_s: float | None = None
    keeps_checkpoint: bool = False
    #: the artifacts of the last ones, the newest at the end
    checkpoints: list[str] = field(default_factory=list)
    #: what is told once the last checkpoint is kept
    last_word: io.Report | None = None
    #: its output could not be stored on a full disk
    waits_for_room: bool = False

    @property
    def checkpoint(self) -> str | None:
        return self.checkpoints[-1] if self.checkpoints else None
