"""A sweep's results with all that is known of where they came from."""

from __future__ import annotations

from typing import Any

import msgspec

from meshtrain.results.machines import Machine
from meshtrain.results.merge import CellResult
from meshtrain.spec.jobs import ResultsSpec


class Run(msgspec.Struct, frozen=True):
    """Where and when a cell ran, its last attempt."""

    nodes: tuple[str, ...] = ()
    started_s: float | None = None
    """Seconds since 1970."""
    ended_s: float | None = None
    attempts: int = 1
    recipe_hash: str | None = None
    """The base that it starts from."""
    base_artifact: str | None = None
    """The very model that it started from."""

    @property
    def took_s(self) -> float | None:
        """How long it ran; a clock that was set back meanwhile gives 0."""
        if self.started_s is None or self.ended_s is None:
            return None
        return max(self.ended_s - self.started_s, 0.0)


class Base(msgspec.Struct, frozen=True):
    """A base that cells start from, as one master knows it."""

    recipe_hash: str
    label: str = ""
    state: str = ""
    reused: bool = False
    """Whether it was there before the sweep."""
    artifact_id: str | None = None
    generation: int = 1
    node: str | None = None
    """The node that trained it."""
    trained_s: float | None = None
    ended_s: float | None = None
    """When its training ended, in seconds since 1970."""
    recipe: dict[str, Any] = {}
    source: str = ""
    """The folder or master that tells of it."""

    @property
    def parent(self) -> str | None:
        """The recipe hash of the base that it continues from."""
        start = self.recipe.get("from")
        found = start.get("recipe") if isinstance(start, dict) else None
        return found if isinstance(found, str) else None


class SweepResults(msgspec.Struct, frozen=True):
    """A sweep's cells, how they are to be merged, and where they came from."""

    name: str
    spec: ResultsSpec
    cells: tuple[CellResult, ...]
    sources: tuple[str, ...] = ()
    """The folders that were read, or the master's."""
    subject: str = ""
    """Whose values they are, after `accuracy on`."""
    sweep_ids: tuple[str, ...] = ()
    runs: dict[str, Run] = {}
    """Job id → its run."""
    bases: tuple[Base, ...] = ()
    machines: tuple[Machine, ...] = ()
    job_file: str = ""
    """Its text, as it was submitted."""
    cell_sources: dict[str, str] = {}
    """Cell name → the one of several folders that its result is from."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how they were put together."""
    archived: int | None = None
    """How many results are in the master's archive; None where it has none."""
