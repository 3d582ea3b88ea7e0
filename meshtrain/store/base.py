"""What a job store does: keep the scheduler's records over any crash."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from meshtrain.core.effects import Save
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    Attempt,
    AttemptState,
    JobState,
    attempt_id_of,
)
from meshtrain.core.node import GpuFaults
from meshtrain.core.state import Loaded
from meshtrain.store.failures import StoreFullError

_EPOCH_DIGITS_MAX = 19
_EPOCH_MAX = (1 << 63) - 1
"""An epoch fits a signed word of 64 bits."""
INCARNATION_MAX = _EPOCH_MAX // EPOCHS_PER_INCARNATION


class StreamSize(msgspec.Struct, frozen=True):
    """How many bytes of a stream of an attempt (its log, its metrics) are stored."""

    attempt_id: str
    job_id: str
    stream: str
    size_bytes: int


class ArchiveState(StrEnum):
    """Where something that goes to an archive stands."""

    QUEUED = "queued"
    DONE = "done"
    LOST = "lost"
    """Its own copy was gone, or damaged, before it was sent."""


class ArchiveEntry(msgspec.Struct, frozen=True):
    """Something that goes to an archive, or has gone."""

    place: str
    """Its folder there."""
    artifact_id: str
    subject: str
    """The job of a result, or the recipe hash of a base."""
    state: ArchiveState
    size_bytes: int


class ReadableStore(Protocol):
    """The reading half. Every answer shows the last commit, never what is saved since.

    May be called from any thread. Each method raises StoreError when the store
    is damaged or can't be read.
    """

    def load(self) -> Loaded:
        """All that a scheduler goes on from.

        Sweeps come in the order in which they were added, jobs by `order`, bases
        in the order in which they were first saved, named data sets as they were
        added. Each job has its live attempt, else the one of its highest epoch; a
        job saved as WAITING whose attempt is live is ASSIGNED, since giving it out
        is saved as the attempt alone.
        """
        ...

    def attempts_of(self, job_id: str) -> tuple[Attempt, ...]:
        """All attempts of a job, oldest first; none for a job that is not known."""
        ...

    def stream_sizes(self, attempt_id: str) -> dict[str, int]:
        """Stream → bytes stored, for one attempt."""
        ...

    def all_stream_sizes(self) -> tuple[StreamSize, ...]:
        """The stored size of every stream of every attempt, oldest attempt first."""
        ...

    def archive_mark(self, target: str) -> str | None:
        """The word that an archive of this mesh bears; None where it never had one there."""
        ...

    def archive_entries(self, target: str) -> tuple[ArchiveEntry, ...]:
        """What goes to an archive, and what has gone, in the order in which it was queued."""
        ...

    def close(self) -> None:
        """Lets go of the store; what was saved and not committed is dropped."""
        ...


class Store(ReadableStore, Protocol):
    """A job store with one writer.

    What is saved is gathered, and stored by `commit` as a whole or not at all.
    Of one record only the last word since the last commit counts, and the rules
    of the rows are held by what is committed, not by the steps on the way. The
    rules:

    - sweeps, jobs and attempts are added once, and changed only after that;
      a job's spec, kind and sweep never change;
    - a job's sweep, an attempt's job, a base's job and the attempt of a stream
      are there;
    - generations start at 1 and never fall; within one, a job that has ended
      stays as it ended, and a base that is committed keeps its artifact;
    - a job that has ended has an end, and one that failed has a failure;
      an attempt that is not live has an end;
    - a committed base, and a durable one, has an artifact;
    - a version of a named data set is added once, and is other bytes than the others;
    - an archive keeps its mark, and what has gone to it stays so;
    - an attempt's id is `attempt_id_of` its job and epoch; an epoch is given
      once; a job's epochs rise; at most one attempt of a job is live.

    The writing methods are called from one thread at a time. Each raises
    StoreError when it fails, after which the store is as last committed and
    everything saved since is dropped; but after a StoreFullError from
    `commit` it is kept, so that the commit may be tried again.
    """

    def save(self, effects: Sequence[Save]) -> None:
        """Gathers changes for the next commit.

        Raises StoreRuleError when they contradict what was gathered before.
        """
        ...

    def set_stream_size(self, attempt_id: str, job_id: str, stream: str, size_bytes: int) -> None:
        """Gathers the size in bytes that a stream of an attempt has come to."""
        ...

    def mark_archive(self, target: str, mark: str) -> None:
        """Gathers that an archive is this mesh's, before anything is queued for it."""
        ...

    def save_archived(self, target: str, entries: Sequence[ArchiveEntry]) -> None:
        """Gathers where things stand that go to an archive."""
        ...

    def bump_incarnation(self, by: int = 1) -> None:
        """Gathers a rise of the incarnation; done when a backup is restored."""
        ...

    def commit(self) -> None:
        """Stores all that was gathered, durably; cheap when that is nothing.

        Raises StoreRuleError when a rule would be broken, StoreFullError when
        the disk is full, and StoreError when it could not be written.
        """
        ...

    def lacks_room(self) -> StoreFullError | None:
        """Why nothing should be begun that would have to be committed; None where there is room.

        Cheap, and may be called from any thread.
        """
        ...

    def rollback(self) -> None:
        """Drops what was gathered since the last commit."""
        ...


def state_shown(state: JobState, attempt: Attempt | None) -> JobState:
    """The state that `load` gives a job, from the one saved and its attempt."""
    if state is JobState.WAITING and attempt is not None and attempt.state is AttemptState.LIVE:
        return JobState.ASSIGNED
    return state


def is_forgotten(known: GpuFaults) -> bool:
    """Whether nothing is left to remember of a GPU."""
    return known.faults == 0 and not known.out_of_use


def epoch_counter_of(incarnation: int, epoch_max: int | None) -> int:
    """The counter to go on from: that of the highest epoch, if this incarnation gave it."""
    return max(0, (epoch_max or 0) - incarnation * EPOCHS_PER_INCARNATION)


def job_and_epoch_of(attempt_id: str) -> tuple[str, int] | None:
    """What `attempt_id_of` made the id from; None when it made no such id."""
    job_id, _, number = attempt_id.rpartition(".")
    if not number.isdecimal() or len(number) > _EPOCH_DIGITS_MAX:
        return None
    epoch = int(number)
    if epoch > _EPOCH_MAX or attempt_id_of(job_id, epoch) != attempt_id:
        return None
    return job_id, epoch
