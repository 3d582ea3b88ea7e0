"""What happens to the scheduler: every input of `Scheduler.handle`.

Events carry all that a decision needs; the clock reading of the moment comes
with `handle` itself.
"""

from __future__ import annotations

import msgspec

from meshtrain.core.inventory import CacheUse, InventoryChange, RoomWanted
from meshtrain.core.job import Failure
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.node import NodeSpec
from meshtrain.spec.jobs import SweepSpec


class Tick(msgspec.Struct, frozen=True):
    """Time passed. `wall_s` lets records be stamped with the time that people know."""

    wall_s: float


class PlaceJobs(msgspec.Struct, frozen=True):
    """All events of a batch are in: give out what can be given out."""


# --- from people ---------------------------------------------------------------


class SweepSubmitted(msgspec.Struct, frozen=True):
    request_id: str
    sweep: SweepSpec
    allow_pending: bool = False


class CancelRequested(msgspec.Struct, frozen=True):
    request_id: str
    job_ids: tuple[str, ...] = ()
    sweep_ids: tuple[str, ...] = ()


class RetryRequested(msgspec.Struct, frozen=True):
    request_id: str
    job_ids: tuple[str, ...]
    change: NeedsChange = NeedsChange()
    """What they need from now on; such a change is made to waiting jobs too."""


class PriorityRequested(msgspec.Struct, frozen=True):
    request_id: str
    job_ids: tuple[str, ...]
    priority: int


class BudgetRequested(msgspec.Struct, frozen=True):
    """Set what a sweep may use; None leaves a limit as it is."""

    request_id: str
    sweep_id: str
    gpu_hours: float | None = None
    money: float | None = None
    unlimited: bool = False
    """Lift the limits that are not given."""


class DrainRequested(msgspec.Struct, frozen=True):
    request_id: str
    node_id: str
    drained: bool
    within_s: float | None = None
    """How long what runs there may still run before it moves elsewhere; None is to its end."""


class ReleaseRequested(msgspec.Struct, frozen=True):
    """Give out a node's GPUs again that were taken out of use after repeated faults."""

    request_id: str
    node_id: str


class RebuildRequested(msgspec.Struct, frozen=True):
    """Train a base anew, under a new generation."""

    request_id: str
    recipe_hash: str


class PinRequested(msgspec.Struct, frozen=True):
    """Let a base stay where it is, on one node or (node id empty) on all; or no longer."""

    request_id: str
    recipe_hash: str
    node_id: str = ""
    pinned: bool = True


class EvictRequested(msgspec.Struct, frozen=True):
    """Remove a base from a node."""

    request_id: str
    recipe_hash: str
    node_id: str


class WarmRequested(msgspec.Struct, frozen=True):
    """Place a base on so many nodes before it is asked for."""

    request_id: str
    recipe_hash: str
    nodes: int


# --- from nodes ----------------------------------------------------------------


class LiveAttempt(msgspec.Struct, frozen=True):
    """An attempt that a node says it has."""

    attempt_id: str
    epoch: int
    started: bool
    over: bool = False
    """Nothing of it runs any more: it holds no slot, and its end is told."""
    checkpoint: str | None = None
    """The artifact of the last checkpoint that its node has kept."""


class NodeSaidHello(msgspec.Struct, frozen=True):
    """A node's daemon came up, or came back; the list of attempts is complete."""

    spec: NodeSpec
    session: str
    attempts: tuple[LiveAttempt, ...]
    holds: tuple[str, ...]
    grant: int
    accepting: bool = True
    note: str = ""
    gpus_busy: tuple[int, ...] = ()
    sizes_bytes: tuple[int, ...] = ()
    """Of each artifact in `holds`, in the same order; none where they aren't known."""
    inventory: int = 0
    """The number of the last change that `holds` takes in."""
    cache: CacheUse = CacheUse()


class NodeBeat(msgspec.Struct, frozen=True):
    """A heartbeat.

    `sent_s` is when the node sent it, on the master's lease clock as the node
    knows it from the last answer, never later than the truth: leases are
    renewed from then. `seen_seq` is the last command that it has taken in.
    """

    node_id: str
    session: str
    beat: int
    sent_s: float
    seen_seq: int
    grant: int
    attempts: tuple[LiveAttempt, ...]
    accepting: bool = True
    note: str = ""
    fetching: tuple[str, ...] = ()
    gpus_busy: tuple[int, ...] = ()
    """GPUs that processes use which are not the mesh's: they are left alone."""
    first: int = 1
    changes: tuple[InventoryChange, ...] = ()
    """Changes of what it holds that the master has not said to have; `first` numbers them."""
    cache: CacheUse = CacheUse()
    room: RoomWanted | None = None


class NodeLeft(msgspec.Struct, frozen=True):
    """The node stops in good order: it has handed back all that it had."""

    node_id: str
    session: str


class NodeRevoked(msgspec.Struct, frozen=True):
    """The node is no member of the mesh any more: nothing that it has counts."""

    node_id: str


class AttemptStarted(msgspec.Struct, frozen=True):
    node_id: str
    attempt_id: str
    epoch: int


class AttemptEnded(msgspec.Struct, frozen=True):
    """An attempt is over and nothing of it runs any more.

    `failure` is None when it ended well. `artifact_id` names the output folder,
    None when that is empty. `grant` and `seen_seq` are as in a heartbeat of the
    session, so that the slot is filled again at once.
    """

    node_id: str
    attempt_id: str
    epoch: int
    session: str = ""
    grant: int = 0
    seen_seq: int = 0
    failure: Failure | None = None
    cancelled: bool = False
    handed_back: bool = False
    artifact_id: str | None = None
    size_bytes: int = 0
    metrics: dict[str, float] = {}
    run_s: float = 0.0
    checkpoint: str | None = None
    """The last checkpoint that its node has kept."""


class ArtifactHeld(msgspec.Struct, frozen=True):
    """The master holds artifacts whole and verified; or no longer."""

    node_id: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    bytes_by_node: dict[str, int] = {}
    """What each source gave, where they were fetched."""
    duration_s: float = 0.0


class ArtifactDropped(msgspec.Struct, frozen=True):
    """What the master was to remove is removed, once for each time that it was to.

    What is told after it as held came after the removal.
    """

    artifact_id: str


class InventoryTold(msgspec.Struct, frozen=True):
    """What a node holds has changed; told at once, and repeated with its heartbeats."""

    node_id: str
    session: str
    first: int
    """The number of the first change."""
    changes: tuple[InventoryChange, ...]
    bytes_by_node: dict[str, int] = {}
    """What each source gave, where a fetch has ended."""
    duration_s: float = 0.0
    cache: CacheUse | None = None
    room: RoomWanted | None = None
    banned: tuple[str, ...] = ()
    """Sources that sent something corrupt."""


class CollectFailed(msgspec.Struct, frozen=True):
    """The master could not fetch an artifact from any holder."""

    artifact_id: str
    reason: str
    no_room: bool = False
    """Whether it is the master's own disk that is full: then no holder is to blame."""


class InputPublished(msgspec.Struct, frozen=True):
    """A person gives a name to an artifact that the master holds."""

    request_id: str
    name: str
    artifact_id: str
    size_bytes: int
    files_count: int
    published_by: str = ""


class BasesArchived(msgspec.Struct, frozen=True):
    """These artifacts of bases are in the archive: a lost one can be brought back."""

    artifact_ids: tuple[str, ...]


class RestoreFailed(msgspec.Struct, frozen=True):
    """The archive did not give back an artifact."""

    artifact_id: str
    reason: str


Event = (
    Tick
    | PlaceJobs
    | SweepSubmitted
    | CancelRequested
    | RetryRequested
    | PriorityRequested
    | BudgetRequested
    | DrainRequested
    | ReleaseRequested
    | RebuildRequested
    | PinRequested
    | EvictRequested
    | WarmRequested
    | NodeSaidHello
    | NodeBeat
    | NodeLeft
    | NodeRevoked
    | AttemptStarted
    | AttemptEnded
    | ArtifactHeld
    | ArtifactDropped
    | InventoryTold
    | CollectFailed
    | BasesArchived
    | RestoreFailed
    | InputPublished
)
