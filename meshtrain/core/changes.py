"""The rows that a dashboard shows, and the changes to them as the feed tells them."""

from __future__ import annotations

import msgspec

from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.node import MASTER_NODE_ID, HostUse


class JobRow(msgspec.Struct, frozen=True, tag="job", gc=False):
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


class SweepProgress(msgspec.Struct, frozen=True):
    """How far a sweep is, as the master counts, so that nobody needs its jobs for that."""

    states: dict[str, int] = {}
    """Jobs by their state."""
    failures: dict[str, int] = {}
    """Failed jobs by the class of their failure."""
    waiting_for: dict[str, int] = {}
    """Waiting jobs by the recipe hash of the base that they start from; the most of them."""
    ran: int = 0
    """Jobs that succeeded and whose times are known."""
    ran_s: float = 0.0
    """What those took together."""
    running_since_s: float = 0.0
    """The sum of the starts of those that run, in wall time."""


class SweepRow(msgspec.Struct, frozen=True, tag="sweep"):
    sweep_id: str
    name: str
    jobs: int
    bases: int
    reused: int
    """Of its bases, those that were there, or in training, when it came."""
    submitted_wall_s: float = 0.0
    cancelled: bool = False
    progress: SweepProgress | None = None
    """Told where jobs that don't run aren't; see `Lists`."""
    gpu_hours: float = 0.0
    """What its attempts that have ended used of the GPUs."""
    money: float = 0.0
    """What that cost."""
    gpu_hours_max: float | None = None
    """Its budget; None is no limit."""
    money_max: float | None = None
    budget_spent: bool = False
    """Nothing more of it is started."""
    ends_wall_s: float | None = None
    """When it is likely to end; and the range that this falls into in 8 cases of 10."""
    ends_low_wall_s: float | None = None
    ends_high_wall_s: float | None = None


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
    pinned: tuple[str, ...] = ()
    """The nodes that it stays on whatever comes; "" is all that hold it."""
    started: int | None = None
    """Experiments that have started from it; told where jobs that don't run aren't."""
    parent: str | None = None
    """The recipe hash of the base that it continues from."""


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
    cache_used_bytes: int = 0
    cache_budget_bytes: int = 0
    """0 is as much as the disk has, but for a reserve."""
    disk_free_bytes: int = 0
    use: HostUse | None = None
    """How busy its host is; None while it is away, or hasn't told."""
    fetching: tuple[str, ...] = ()
    """The artifacts that are on their way to it."""


class TransferRow(msgspec.Struct, frozen=True, tag="transfer"):
    """An artifact's way to one node, told when it has arrived."""

    artifact_id: str
    to_node: str
    bytes_by_node: dict[str, int]
    duration_s: float
    label: str = ""
    bytes_reused: int = 0
    """What the node had of it in other artifacts."""
    wall_s: float = 0.0
    """When all of it was there; 0 where that isn't known."""


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


class Lists(msgspec.Struct, frozen=True, tag="lists"):
    """Some of the jobs have changed, and only those that run are told: the others are asked
    for in pages. What sums need of them comes with sweeps and bases."""

    jobs: int
    """How many there are."""


Change = JobRow | SweepRow | BaseRow | NodeRow | TransferRow | Note | Moved | Lists
