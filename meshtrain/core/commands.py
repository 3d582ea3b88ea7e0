"""What the master tells nodes to do.

Each session's commands are numbered; each is repeated until the node has seen it.
"""

from __future__ import annotations

import msgspec

from meshtrain.spec.jobs import Work


class ArtifactSource(msgspec.Struct, frozen=True):
    """A holder of an artifact."""

    node_id: str
    http_url: str


class ArtifactNeed(msgspec.Struct, frozen=True):
    """An artifact that must be on the node before the job starts, and who has it."""

    artifact_id: str
    sources: tuple[ArtifactSource, ...]
    size_bytes: int = 0
    """0 where the master doesn't know it."""


class AssignAttempt(msgspec.Struct, frozen=True, tag="assign"):
    attempt_id: str
    job_id: str
    name: str
    epoch: int
    work: Work
    gpus: tuple[int, ...]
    timeout_s: float | None
    recipe_hash: str | None
    """The recipe of the base that it starts from, or that it trains."""
    base: ArtifactNeed | None
    """The base that it starts from; of a base job: the model that the base continues from."""
    code: ArtifactNeed | None
    resume: ArtifactNeed | None = None
    """The checkpoint to go on from."""
    checkpoint_every_s: float | None = None
    user: str | None = None
    """The account that the job runs as; None is the daemon's own."""
    inputs: tuple[ArtifactNeed, ...] = ()
    """The data sets that the work reads, each once."""

    @property
    def needs(self) -> tuple[ArtifactNeed, ...]:
        """All that must be on the node, and stay there, while the attempt is."""
        parts = (self.base, self.code, self.resume, *self.inputs)
        return tuple(need for need in parts if need is not None)


class PreemptAttempt(msgspec.Struct, frozen=True, tag="preempt"):
    """Ask the job to end, keep its last checkpoint, and hand it back to go on elsewhere."""

    attempt_id: str
    grace_s: float
    """From asking to killing: time to write a checkpoint."""


class EndAttempt(msgspec.Struct, frozen=True, tag="end"):
    """End what runs of the attempt and say so; its result doesn't count."""

    attempt_id: str


class ForgetAttempt(msgspec.Struct, frozen=True, tag="forget"):
    """The attempt's end is on the master's disk: its folder may go."""

    attempt_id: str


class AddSources(msgspec.Struct, frozen=True, tag="sources"):
    """More holders of an artifact that the node may be fetching."""

    artifact_id: str
    sources: tuple[ArtifactSource, ...]


class DropArtifact(msgspec.Struct, frozen=True, tag="drop"):
    """Remove an artifact that nothing needs any more: a checkpoint that a later one replaced."""

    artifact_id: str


class CheckpointSafe(msgspec.Struct, frozen=True, tag="safe"):
    """The master holds a checkpoint, or nothing goes on from it: its node may leave."""

    artifact_id: str


class EvictArtifact(msgspec.Struct, frozen=True, tag="evict"):
    """Remove an artifact to make room, and say so; or keep it, and say why."""

    artifact_id: str


class PrefetchArtifact(msgspec.Struct, frozen=True, tag="prefetch"):
    """Fetch an artifact that will be needed, if there is room without evicting anything."""

    need: ArtifactNeed


Command = (
    AssignAttempt
    | PreemptAttempt
    | EndAttempt
    | ForgetAttempt
    | AddSources
    | DropArtifact
    | CheckpointSafe
    | EvictArtifact
    | PrefetchArtifact
)
