"""Which screens there are. A new one is one line here.

`SCREENS` are those that a number key leads to, in the order of the line at the
top. `OPENED` are those of one thing, laid over another screen by
`desk.open(kind, name)`: of a job with its id, of a sweep with its id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from meshtrain_tui.screens.bases import Bases
from meshtrain_tui.screens.events import Events
from meshtrain_tui.screens.job import Job
from meshtrain_tui.screens.jobs import Jobs
from meshtrain_tui.screens.matrix import Matrix
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.screens.nodes import Nodes
from meshtrain_tui.screens.overview import Overview
from meshtrain_tui.screens.transfers import Transfers


class Entry(NamedTuple):
    """A screen that a number key leads to."""

    key: str
    """A digit; it can be changed in the settings under `screen.NAME`."""
    name: str
    """In the command palette, and in the settings."""
    title: str
    make: type[MeshScreen]


SCREENS = (
    Entry("1", "overview", "Overview", Overview),
    Entry("2", "jobs", "Jobs", Jobs),
    Entry("3", "matrix", "Matrix", Matrix),
    Entry("4", "bases", "Bases", Bases),
    Entry("5", "transfers", "Transfers", Transfers),
    Entry("6", "nodes", "Nodes", Nodes),
    Entry("7", "events", "Events", Events),
)

OPENED: Mapping[str, Callable[[str], MeshScreen]] = MappingProxyType(
    {
        "job": Job,
        "sweep": Jobs.of_sweep,
        "node": Jobs.on_node,
        "matrix": Matrix.of_sweep,
    }
)
