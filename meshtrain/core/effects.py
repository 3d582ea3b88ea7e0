"""What the scheduler wants done: every output of `Scheduler.handle`.

The daemon carries them out in this order: saves, one commit, sends, publications.
"""

from __future__ import annotations

import msgspec

from meshtrain.core.changes import Change
from meshtrain.core.commands import ArtifactSource, Command
from meshtrain.core.job import Attempt, Base, Job, Sweep
from meshtrain.core.named_input import NamedInput
from meshtrain.core.spending import Spending

# --- kept -----------------------------------------------------------------------


class AddSweep(msgspec.Struct, frozen=True):
    sweep: Sweep


class UpdateSweep(msgspec.Struct, frozen=True):
    sweep: Sweep


class AddJobs(msgspec.Struct, frozen=True):
    jobs: tuple[Job, ...]


class UpdateJob(msgspec.Struct, frozen=True):
    """Everything of the job but its spec, and without its attempt."""

    job: Job


class AddAttempt(msgspec.Struct, frozen=True):
    attempt: Attempt


class UpdateAttempt(msgspec.Struct, frozen=True):
    attempt: Attempt


class SaveBase(msgspec.Struct, frozen=True):
    base: Base


class SaveDrained(msgspec.Struct, frozen=True):
    node_id: str
    drained: bool
    due_wall_s: float | None = None
    """When what still runs there is moved elsewhere; None: it may come to its end there."""


class SaveGpuFaults(msgspec.Struct, frozen=True):
    """How often a GPU failed lately, and whether it is out of use; 0 and False forget it."""

    node_id: str
    gpu: int
    faults: int
    out_of_use: bool


class AddInput(msgspec.Struct, frozen=True):
    """A data set has a name, or a new version; it never changes."""

    named: NamedInput


class SavePin(msgspec.Struct, frozen=True):
    """A base stays on a node (empty: on all), or no longer has to."""

    recipe_hash: str
    node_id: str
    pinned: bool


class SaveSpending(msgspec.Struct, frozen=True):
    """What a sweep has used, and may use."""

    spending: Spending


Save = (
    AddSweep
    | UpdateSweep
    | AddJobs
    | UpdateJob
    | AddAttempt
    | UpdateAttempt
    | SaveBase
    | SaveDrained
    | SaveGpuFaults
    | SavePin
    | SaveSpending
    | AddInput
)

# --- sent ----------------------------------------------------------------------


class SendCommand(msgspec.Struct, frozen=True):
    node_id: str
    session: str
    seq: int
    command: Command


class AskHello(msgspec.Struct, frozen=True):
    """The master doesn't know this node's session: let it say hello."""

    node_id: str


class WelcomeNode(msgspec.Struct, frozen=True):
    """The session that a node asked for is taken up, and from now on is called `session`."""

    node_id: str
    asked: str
    session: str


class AnswerBeat(msgspec.Struct, frozen=True):
    node_id: str
    session: str
    beat: int
    inventory: int = 0
    """The number of the last change of what the node holds that was taken."""


class Reply(msgspec.Struct, frozen=True):
    """The answer to a person's request. `error` is empty when it was done."""

    request_id: str
    error: str = ""
    done: tuple[str, ...] = ()
    """Ids of what was acted on."""
    notes: tuple[str, ...] = ()


Send = SendCommand | AskHello | WelcomeNode | AnswerBeat | Reply


class CollectArtifact(msgspec.Struct, frozen=True):
    """Let the master fetch an artifact, to hold it too."""

    artifact_id: str
    sources: tuple[ArtifactSource, ...]


class DropArtifact(msgspec.Struct, frozen=True):
    """Let the master remove an artifact that nothing needs any more."""

    artifact_id: str


class RestoreArtifact(msgspec.Struct, frozen=True):
    """Let the master bring back a lost base from the archive."""

    artifact_id: str


class JobFinished(msgspec.Struct, frozen=True):
    """A job came to its terminal state: lay out its result and merge its sweep."""

    job: Job


class Publish(msgspec.Struct, frozen=True):
    """For dashboards."""

    changes: tuple[Change, ...]


Effect = Save | Send | CollectArtifact | DropArtifact | RestoreArtifact | JobFinished | Publish
