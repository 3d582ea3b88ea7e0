"""The picture of a mesh that a dashboard shows: rows, kept up by changes, and their sums."""

from __future__ import annotations

import msgspec

from meshtrain.core.changes import (
    BaseRow,
    Change,
    JobRow,
    Lists,
    Moved,
    NodeRow,
    Note,
    SweepRow,
    TransferRow,
)
from meshtrain.core.tally import SweepTally, Tally
from meshtrain.core.use_history import UseHistory

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

    It has all jobs, or, once a `Lists` was applied, only those that run: then the
    sums are the master's, and the other jobs are asked for in pages.
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
        self.lists: Lists | None = None
        """The last one that was told; None while all jobs are here."""
        self.use_history: dict[str, UseHistory] = {}
        """Node → how busy its host was; a new picture of the same mesh goes on with it."""
        self._told: dict[str, SweepTally] = {}

    @property
    def jobs_total(self) -> int:
        """How many jobs the mesh has, also those that are not here."""
        return len(self.jobs) if self.lists is None else self.lists.jobs

    def apply(self, change: Change) -> None:
        match change:
            case JobRow():
                self._apply_job(change)
            case SweepRow():
                self.sweeps[change.sweep_id] = change
                self._told.pop(change.sweep_id, None)
            case BaseRow():
                self.bases[change.recipe_hash] = change
            case NodeRow():
                self._note_use(change)
                self.nodes[change.node_id] = change
            case Lists():
                self.lists = change
            case TransferRow():
                self.moved = self.moved.plus(change)
                self.transfers.append(change)
                del self.transfers[:-TRANSFERS_MAX]
            case Note():
                self.notes.append(change)
                del self.notes[:-NOTES_MAX]
            case Moved():
                self.moved = change

    def _apply_job(self, row: JobRow) -> None:
        if self.lists is None:
            self.tally.replace(self.jobs.get(row.job_id), row)
            self.jobs[row.job_id] = row
        elif row.state.is_leased:
            self.tally.move(self.jobs.get(row.job_id), row)
            self.jobs[row.job_id] = row
        elif (old := self.jobs.pop(row.job_id, None)) is not None:
            self.tally.move(old, row)

    def _note_use(self, row: NodeRow) -> None:
        known = self.nodes.get(row.node_id)
        if row.use is None or (known is not None and known.use == row.use):
            return
        history = self.use_history.get(row.node_id)
        if history is None or history.memory_bytes != row.memory_bytes:
            history = self.use_history[row.node_id] = UseHistory(row.memory_bytes)
        history.add(row.use)

    def running_on(self, node_id: str) -> list[JobRow]:
        """The jobs that a node holds a lease of, in the order in which they came."""
        return [self.jobs[job_id] for job_id in self.tally.on_node.get(node_id, ())]

    def progress(self, sweep_id: str) -> SweepTally:
        """How far a sweep is."""
        if self.lists is None:
            return self.tally.sweeps.get(sweep_id) or SweepTally()
        told = self._told.get(sweep_id)
        if told is None:
            row = self.sweeps.get(sweep_id)
            if row is None or row.progress is None:
                return SweepTally()
            told = self._told[sweep_id] = SweepTally.told(row.progress)
        return told

    def saved(self) -> Saved:
        """What training each base once has saved up to now."""
        trainings, training_s = 0, 0.0
        for base in self.bases.values():
            avoided = self.tally.avoided(base)
            trainings += avoided
            training_s += avoided * (base.trained_s or 0.0)
        return Saved(trainings, training_s)
