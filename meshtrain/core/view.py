"""What a dashboard shows: rows, the changes to them, and the picture that they add up to."""

from __future__ import annotations

import msgspec

from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.core.tally import SweepTally, Tally


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


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """Bytes that travelled since the master came up; a snapshot brings it."""

    since_wall_s: float = 0.0
    between_nodes_bytes: int = 0
    from_master_bytes: int = 0
    to_master_bytes: int = 0

    def plus(self, transfer: TransferRow) -> Moved:
        """These, and what `transfer` brought."""
        total = sum(transfer.bytes_by_node.values())
        by_master = transfer.bytes_by_node.get(MASTER_NODE_ID, 0)
        if transfer.to_node == MASTER_NODE_ID:
            return msgspec.structs.replace(self, to_master_bytes=self.to_master_bytes + total)
        return msgspec.structs.replace(
            self,
            between_nodes_bytes=self.between_nodes_bytes + total - by_master,
            from_master_bytes=self.from_master_bytes + by_master,
        )


Change = JobRow | SweepRow | BaseRow | NodeRow | TransferRow | Note | Moved

NOTES_MAX = 500
TRANSFERS_MAX = 1000


class Saved(msgspec.Struct, frozen=True):
    """What training each base once has saved up to now."""

    trainings: int
    """Base trainings that no job had to do again."""
    training_s: float
    """What those would have taken, as far as the time of one is known."""


class MeshView:
    """The picture at one moment, kept up to date by changes.

    A subscriber starts from a snapshot (itself a list of changes) and applies
    what is newer. Sums are kept as rows change, so that reading them costs
    nothing however many jobs there are.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, JobRow] = {}
        self.sweeps: dict[str, SweepRow] = {}
        self.bases: dict[str, BaseRow] = {}
        self.nodes: dict[str, NodeRow] = {}
        self.transfers: list[TransferRow] = []
        self.notes: list[Note] = []
        self.moved = Moved()
        """All transfers since the master came up, also those that `transfers` has forgotten."""
        self.tally = Tally()

    def apply(self, change: Change) -> None:
        match change:
            case JobRow():
                self.tally.replace(self.jobs.get(change.job_id), change)
                self.jobs[change.job_id] = change
            case SweepRow():
                self.sweeps[change.sweep_id] = change
            case BaseRow():
                self.bases[change.recipe_hash] = change
            case NodeRow():
                self.nodes[change.node_id] = change
            case TransferRow():
                self.moved = self.moved.plus(change)
                self.transfers.append(change)
                del self.transfers[:-TRANSFERS_MAX]
            case Note():
                self.notes.append(change)
                del self.notes[:-NOTES_MAX]
            case Moved():
                self.moved = change

    def running_on(self, node_id: str) -> list[JobRow]:
        """The jobs that a node holds a lease of, in the order in which they came."""
        return [self.jobs[job_id] for job_id in self.tally.on_node.get(node_id, ())]

    def progress(self, sweep_id: str) -> SweepTally:
        """How far a sweep is."""
        return self.tally.sweeps.get(sweep_id) or SweepTally()

    def saved(self) -> Saved:
        """What training each base once has saved up to now."""
        trainings, training_s = 0, 0.0
        for base in self.bases.values():
            avoided = self.tally.avoided(base)
            trainings += avoided
            training_s += avoided * (base.trained_s or 0.0)
        return Saved(trainings, training_s)
