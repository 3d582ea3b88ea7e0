"""The picture of a mesh that a dashboard shows: rows, kept up by changes, and their sums."""

from __future__ import annotations

import msgspec

from meshtrain.core.changes import (
    BaseRow,
    Change,
    JobRow,
    Moved,
    NodeRow,
    Note,
    SweepRow,
    TransferRow,
)
from meshtrain.core.tally import SweepTally, Tally

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
