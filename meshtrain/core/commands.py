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
    code: ArtifactNeed | None


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


Command = AssignAttempt | EndAttempt | ForgetAttempt | AddSources
