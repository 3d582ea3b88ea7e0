"""What a dashboard shows: rows, the changes to them, and the picture that they add up to."""

from __future__ import annotations

import msgspec

from meshtrain.core.job import BaseState, JobKind, JobState


class JobRow(msgspec.Struct, frozen=True, tag="job"):
    job_id: str
    name: str
    kind: JobKind
    state: JobState
    sweep_id: str | None = None
    node_id: str | None = None
    recipe_hash: str | None = None
    """The base that it starts from; of a base job: the one that it trains."""
    generation: int = 1
    retries: int = 0
    """Attempts before this one, whatever ended them."""
    failure: str = ""
    reason: str = ""
    """Why it waits, where that is known at no cost."""
    submitted_wall_s: float = 0.0
    started_wall_s: float | None = None
    ended_wall_s: float | None = None
    metrics: dict[str, float] = {}
    priority: int = 0


class SweepRow(msgspec.Struct, frozen=True, tag="sweep"):
    sweep_id: str
    name: str
    jobs: int
    bases: int
    reused: int
    """Of its bases, those that were there, or in training, when it came."""
    submitted_wall_s: float = 0.0
    cancelled: bool = False


class BaseRow(msgspec.Struct, frozen=True, tag="base"):
    recipe_hash: str
    label: str
    state: BaseState
    generation: int = 1
    artifact_id: str | None = None
    size_bytes: int = 0
    durable: bool = False
    node_id: str | None = None
    trained_s: float | None = None
    holders: tuple[str, ...] = ()
    waiting: int = 0
    """Jobs that have yet to start from it or are running on it."""


class NodeRow(msgspec.Struct, frozen=True, tag="node"):
    node_id: str
    connected: bool
    drained: bool
    accepting: bool
    cpu_slots: int
    cpus_used: int
    gpus: tuple[str, ...]
    gpus_used: tuple[int, ...]
    memory_bytes: int
    holds: int
    http_url: str = ""
    version: str = ""
    note: str = ""


class TransferRow(msgspec.Struct, frozen=True, tag="transfer"):
    """An artifact's way to one node, told when it has arrived."""

    artifact_id: str
    to_node: str
    bytes_by_node: dict[str, int]
    duration_s: float
    label: str = ""


class Note(msgspec.Struct, frozen=True, tag="note"):
    """A line for people."""

    wall_s: float
    text: str


Change = JobRow | SweepRow | BaseRow | NodeRow | TransferRow | Note

NOTES_MAX = 500
TRANSFERS_MAX = 1000


class MeshView:
    """The picture at one moment, kept up to date by changes.

    A subscriber starts from a snapshot (itself a list of changes) and applies
    what is newer.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, JobRow] = {}
        self.sweeps: dict[str, SweepRow] = {}
        self.bases: dict[str, BaseRow] = {}
        self.nodes: dict[str, NodeRow] = {}
        self.transfers: list[TransferRow] = []
        self.notes: list[Note] = []

    def apply(self, change: Change) -> None:
        match change:
            case JobRow():
                self.jobs[change.job_id] = change
            case SweepRow():
                self.sweeps[change.sweep_id] = change
            case BaseRow():
                self.bases[change.recipe_hash] = change
            case NodeRow():
                self.nodes[change.node_id] = change
            case TransferRow():
                self.transfers.append(change)
                del self.transfers[:-TRANSFERS_MAX]
            case Note():
                self.notes.append(change)
                del self.notes[:-NOTES_MAX]
