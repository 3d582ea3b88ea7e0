"""Several sweeps as one, with their names as one more axis: for a picture of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshtrain.results.merge import CellResult
from meshtrain.results.sweep_results import SweepResults

SWEEP_AXIS = "sweep"


def joined(sweeps: Sequence[SweepResults]) -> tuple[SweepResults, str]:
    """All cells of the sweeps as those of one, and the name of the axis that tells them apart."""
    axis = SWEEP_AXIS
    while any(axis in cell.cell for sweep in sweeps for cell in sweep.cells):
        axis = f"of {axis}"
    cells: list[CellResult] = []
    for number, sweep in enumerate(sweeps):
        cells += [
            msgspec.structs.replace(
                cell,
                job_id=f"{number}/{cell.job_id}",
                cell={**cell.cell, axis: sweep.name},
                index=None if cell.index is None else len(cells) + place,
            )
            for place, cell in enumerate(sweep.cells)
        ]
    over = tuple(dict.fromkeys(axis for sweep in sweeps for axis in sweep.spec.over))
    first = sweeps[0]
    return (
        msgspec.structs.replace(
            first,
            name=" and ".join(sweep.name for sweep in sweeps),
            cells=tuple(cells),
            spec=msgspec.structs.replace(first.spec, over=over),
        ),
        axis,
    )
