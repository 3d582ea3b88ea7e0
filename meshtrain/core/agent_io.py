"""What happens to a node's agent, and what it wants done.

Events carry what a decision needs, ids and readings of other clocks included;
the node's own lease clock comes with `Agent.handle`.
"""

from __future__ import annotations

import msgspec

from meshtrain.core.commands import ArtifactSource, AssignAttempt, Command
from meshtrain.core.events import LiveAttempt
from meshtrain.core.inventory import CacheUse, InventoryChange, RoomWanted
from meshtrain.core.job import Failure
from meshtrain.core.source_book import KnownSources

# --- events: from the master ----------------------------------------------------------


class Welcomed(msgspec.Struct, frozen=True):
    """The master took up the session that the node `asked` for, and calls it `session`."""

    asked: str
    session: str
    lease_s: float
    master_now_s: float


class HelloAsked(msgspec.Struct, frozen=True):
    """The master doesn't know the session."""


class BeatAnswered(msgspec.Struct, frozen=True):
    session: str
    beat: int
    master_now_s: float
    inventory: int = 0


class CommandCame(msgspec.Struct, frozen=True):
    session: str
    seq: int
    command: Command


# --- events: from the node itself --------------------------------------------------------


class BeatDue(msgspec.Struct, frozen=True):
    """Time for a heartbeat."""


class ArtifactFetched(msgspec.Struct, frozen=True):
    artifact_id: str
    bytes_by_node: dict[str, int] = {}
    duration_s: float = 0.0
    size_bytes: int = 0
    bytes_reused: int = 0
    """What artifacts that were here already had of it."""
    banned: tuple[str, ...] = ()
    """Sources that sent something corrupt."""


class ArtifactRemoved(msgspec.Struct, frozen=True):
    """What was to be removed is gone; or, with an error, still there."""

    artifact_id: str
    error: str = ""


class FetchGaveUp(msgspec.Struct, frozen=True):
    artifact_id: str
    failure: Failure


class ProcessStarted(msgspec.Struct, frozen=True):
    attempt_id: str


class ProcessEnded(msgspec.Struct, frozen=True):
    """The job's processes are all gone. `failure` is None when it ended with exit code 0."""

    attempt_id: str
    failure: Failure | None
    run_s: float
    stream_bytes: dict[str, int] = {}
    """The whole length of each stream whose bytes are not all with the master yet."""


class OutputStored(msgspec.Struct, frozen=True):
    """The output folder is an artifact of this node; None when it was empty."""

    attempt_id: str
    artifact_id: str | None
    size_bytes: int = 0
    metrics: dict[str, float] = {}


class OutputFailed(msgspec.Struct, frozen=True):
    attempt_id: str
    failure: Failure


class CheckpointStored(msgspec.Struct, frozen=True):
    """The newest checkpoint of a job is an artifact of this node; None: there is no new one."""

    attempt_id: str
    artifact_id: str | None
    size_bytes: int = 0


class CheckpointFailed(msgspec.Struct, frozen=True):
    """A checkpoint could not be kept; the next one may be."""

    attempt_id: str
    failure: Failure


class GpusChanged(msgspec.Struct, frozen=True):
    """Other GPUs than before are used by processes that are not the mesh's, or don't answer."""

    busy: tuple[int, ...]


class StopAsked(msgspec.Struct, frozen=True):
    """Take no more jobs; what runs may go on for `finish_s`, then it is handed back."""

    finish_s: float


class RoomChanged(msgspec.Struct, frozen=True):
    """The disk got too full for new jobs, or has room again."""

    has_room: bool
    note: str = ""


class DiskSeen(msgspec.Struct, frozen=True):
    """How much the node's disk has left."""

    free_bytes: int


AgentEvent = (
    Welcomed
    | HelloAsked
    | BeatAnswered
    | CommandCame
    | BeatDue
    | ArtifactFetched
    | FetchGaveUp
    | ProcessStarted
    | ProcessEnded
    | OutputStored
    | OutputFailed
    | CheckpointStored
    | CheckpointFailed
    | GpusChanged
    | StopAsked
    | RoomChanged
    | DiskSeen
    | ArtifactRemoved
)


# --- effects: to the master ----------------------------------------------------------------


class SendHello(msgspec.Struct, frozen=True):
    session: str
    attempts: tuple[LiveAttempt, ...]
    holds: tuple[str, ...]
    grant: int
    accepting: bool
    note: str
    gpus_busy: tuple[int, ...] = ()
    sizes_bytes: tuple[int, ...] = ()
    inventory: int = 0
    cache: CacheUse = CacheUse()


class SendBeat(msgspec.Struct, frozen=True):
    session: str
    beat: int
    sent_s: float
    seen_seq: int
    grant: int
    attempts: tuple[LiveAttempt, ...]
    accepting: bool
    note: str
    fetching: tuple[str, ...]
    gpus_busy: tuple[int, ...] = ()
    first: int = 1
    changes: tuple[InventoryChange, ...] = ()
    cache: CacheUse = CacheUse()
    room: RoomWanted | None = None


class SendStarted(msgspec.Struct, frozen=True):
    session: str
    attempt_id: str
    epoch: int


class AdoptedAttempt(msgspec.Struct, frozen=True):
    """What a former daemon on this node had started, and the next one goes on with."""

    assignment: AssignAttempt
    output_id: str | None = None
    """The artifact that its output is already; None where it has left none yet."""


class Report(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    attempt_id: str
    epoch: int
    failure: Failure | None = None
    cancelled: bool = False
    handed_back: bool = False
    artifact_id: str | None = None
    size_bytes: int = 0
    metrics: dict[str, float] = {}
    run_s: float = 0.0
    stream_bytes: dict[str, int] = {}
    checkpoint: str | None = None
    """The last checkpoint that was kept: what the next attempt goes on from."""


class SendEnded(msgspec.Struct, frozen=True):
    session: str
    report: Report
    grant: int
    seen_seq: int


class SendHolds(msgspec.Struct, frozen=True):
    session: str
    first: int
    changes: tuple[InventoryChange, ...]
    bytes_by_node: dict[str, int] = {}
    duration_s: float = 0.0
    cache: CacheUse | None = None
    room: RoomWanted | None = None
    bytes_reused: int = 0
    banned: tuple[str, ...] = ()


class SendGoodbye(msgspec.Struct, frozen=True):
    session: str


# --- effects: on the node -------------------------------------------------------------------


class FetchArtifact(msgspec.Struct, frozen=True):
    artifact_id: str
    sources: tuple[ArtifactSource, ...]


class AddFetchSources(msgspec.Struct, frozen=True):
    artifact_id: str
    sources: tuple[ArtifactSource, ...]


class LaunchProcess(msgspec.Struct, frozen=True):
    assignment: AssignAttempt


class EndProcess(msgspec.Struct, frozen=True):
    attempt_id: str
    grace_s: float | None = None
    """From asking to killing; None is the node's own setting."""


class StoreOutput(msgspec.Struct, frozen=True):
    assignment: AssignAttempt


class StoreCheckpoint(msgspec.Struct, frozen=True):
    """Make the newest checkpoint of a job an artifact, if there is one that is not yet."""

    assignment: AssignAttempt


class RemoveArtifact(msgspec.Struct, frozen=True):
    artifact_id: str


class NoteUse(msgspec.Struct, frozen=True):
    """Let the disk remember that an artifact is used now."""

    artifact_id: str


class KeepSources(msgspec.Struct, frozen=True):
    """Let the disk remember who holds what."""

    known: tuple[KnownSources, ...]


class DropAttempt(msgspec.Struct, frozen=True):
    """Nothing of the attempt is needed any more, but for streams not stored yet."""

    attempt_id: str


class LeaveMesh(msgspec.Struct, frozen=True):
    """All is handed back: the daemon may end."""


AgentEffect = (
    SendHello
    | SendBeat
    | SendStarted
    | SendEnded
    | SendHolds
    | SendGoodbye
    | FetchArtifact
    | AddFetchSources
    | LaunchProcess
    | EndProcess
    | StoreOutput
    | StoreCheckpoint
    | RemoveArtifact
    | NoteUse
    | KeepSources
    | DropAttempt
    | LeaveMesh
)
