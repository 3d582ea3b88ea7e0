"""Jobs, attempts, bases and sweeps: the records that the scheduler keeps and the store holds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from meshtrain.spec.jobs import BaseSpec, JobSpec, Resources, ResultsSpec


class JobKind(StrEnum):
    BASE = "base"
    EXPERIMENT = "experiment"


class JobState(StrEnum):
    """Where a job stands. WAITING → ASSIGNED → RUNNING → COLLECTING → one terminal state."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    """A node holds its lease and gets ready: it fetches what the job needs."""
    RUNNING = "running"
    COLLECTING = "collecting"
    """It ended well; its result is on the way to the master."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL

    @property
    def is_leased(self) -> bool:
        return self in LEASED


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
LEASED = frozenset({JobState.ASSIGNED, JobState.RUNNING, JobState.COLLECTING})

#: Which state may follow which within one generation. A retry opens a new
#: generation, and with it leads from FAILED and CANCELLED back to WAITING; so
#: does the loss of a base, from SUCCEEDED, for base jobs alone.
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.WAITING: frozenset({JobState.ASSIGNED, JobState.FAILED, JobState.CANCELLED}),
        JobState.ASSIGNED: frozenset(
            {JobState.WAITING, JobState.RUNNING, JobState.COLLECTING} | TERMINAL
        ),
        JobState.RUNNING: frozenset({JobState.WAITING, JobState.COLLECTING} | TERMINAL),
        JobState.COLLECTING: frozenset({JobState.WAITING} | TERMINAL),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
    }
)


class FailureClass(StrEnum):
    """Why an attempt, or a job, did not end well. core/retry.py says what follows."""

    USER_ERROR = "user error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out of memory"
    BAD_GPU = "bad gpu"
    HOST_LOST = "host lost"
    PREEMPTED = "preempted"
    DISK = "disk full"
    NETWORK = "network"
    BASE_FAILED = "base failed"
    INPUT = "input"
    """The node doesn't have what a path on a share held when the sweep was submitted."""


class Failure(msgspec.Struct, frozen=True):
    failure_class: FailureClass
    message: str
    node_id: str | None = None
    exit_code: int | None = None


class Placement(msgspec.Struct, frozen=True):
    """The part of one node that an attempt holds."""

    node_id: str
    gpus: tuple[int, ...] = ()
    """Indices of whole GPUs."""
    cpus: int = 0
    """CPU slots."""
    memory_bytes: int = 0
    alone: bool = False
    """Whether it holds the whole node."""
    price_per_gpu_hour: float = 0.0
    """What an hour of one of these GPUs cost when they were given out."""


class AttemptState(StrEnum):
    LIVE = "live"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    HANDED_BACK = "handed back"


class Attempt(msgspec.Struct, frozen=True):
    """One execution of a job. It holds one placement a node: one today, a gang's later."""

    attempt_id: str
    job_id: str
    generation: int
    epoch: int
    placements: tuple[Placement, ...]
    state: AttemptState = AttemptState.LIVE
    base_artifact: str | None = None
    """The artifact of the base that it started from; of a base job: of its parent."""
    assigned_wall_s: float = 0.0
    started_wall_s: float | None = None
    ended_wall_s: float | None = None
    failure: Failure | None = None
    artifact_id: str | None = None
    """What it left: the artifact of its output folder, or None if that was empty."""
    resumed_from: str | None = None
    """The artifact of the checkpoint that it went on from; None for one that began anew."""

    @property
    def node_id(self) -> str:
        """The node that leads the attempt."""
        return self.placements[0].node_id


class Job(msgspec.Struct, frozen=True):
    """A job as it stands. `spec` never changes; all else does."""

    spec: JobSpec
    kind: JobKind
    order: int
    """Position in the order of submission."""
    sweep_id: str | None = None
    """None for base jobs: they belong to no sweep."""
    state: JobState = JobState.WAITING
    generation: int = 1
    priority: int = 0
    """The spec's, until somebody changes it; a base's is the highest of those that wait on it."""
    cancelling: bool = False
    attempt: Attempt | None = None
    """The live attempt; or, in a terminal state, the one that decided."""
    retries_used: int = 0
    losses: int = 0
    """How often infrastructure took an attempt in this generation."""
    gpu_memory_bytes: int = 0
    """Raised above the spec's after the job ran out of memory."""
    alone: bool = False
    """It ran out of main memory: from then on it has a node to itself."""
    asked: Resources | None = None
    """What somebody asked for since, in place of the spec's resources."""
    checkpoint: str | None = None
    """The artifact of the last checkpoint of this generation: the next attempt goes on from it."""
    checkpoint_safe: str | None = None
    """The last one that the master holds, should the host of a later one be lost."""
    failure: Failure | None = None
    """The last failure; the reason why, in state FAILED."""
    metrics: dict[str, float] = {}
    submitted_wall_s: float = 0.0
    ended_wall_s: float | None = None

    @property
    def job_id(self) -> str:
        return self.spec.job_id

    @property
    def name(self) -> str:
        return self.spec.name


class BaseState(StrEnum):
    NEEDED = "needed"
    """Not there yet: its job waits or runs."""
    COMMITTED = "committed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Base(msgspec.Struct, frozen=True):
    """A base model, known by its recipe hash."""

    spec: BaseSpec
    job_id: str
    generation: int = 1
    state: BaseState = BaseState.NEEDED
    artifact_id: str | None = None
    size_bytes: int = 0
    durable: bool = False
    """Whether two nodes, of which the master may be one, have held it."""
    node_id: str | None = None
    """Where it was trained."""
    trained_s: float | None = None
    """How long its training took."""
    committed_wall_s: float | None = None

    @property
    def recipe_hash(self) -> str:
        return self.spec.recipe_hash


class Sweep(msgspec.Struct, frozen=True):
    """A submission that was acknowledged."""

    sweep_id: str
    name: str
    job_ids: tuple[str, ...]
    recipe_hashes: tuple[str, ...]
    """Every base that it asked for, also those that no job of it needs."""
    results: ResultsSpec = ResultsSpec()
    source: str = ""
    submitted_wall_s: float = 0.0
    cancelled: bool = False
    reused: tuple[str, ...] = ()
    """The recipes whose base was committed, or in training, when it came in."""


def attempt_id_of(job_id: str, epoch: int) -> str:
    """The id of the attempt that runs `job_id` under `epoch`."""
    return f"{job_id}.{epoch}"


EPOCHS_PER_INCARNATION = 1 << 40
"""An epoch is incarnation × this + a counter, so a restored store never repeats one."""
