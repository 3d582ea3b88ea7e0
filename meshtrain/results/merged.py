"""A sweep with its merged tables, and what runs its missing cells again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshtrain.results.copies import Twice
from meshtrain.results.merge import MergedTable, is_bookkeeping, merge
from meshtrain.results.rerun import Rerun, reruns
from meshtrain.results.sweep_results import SweepResults

MORE_METRICS_MAX = 4
"""Other metrics that a report draws too."""
MORE_METRICS_CELLS_MAX = 20_000


class Merged(msgspec.Struct, frozen=True):
    """A sweep with its merged tables."""

    results: SweepResults
    table: MergedTable
    header: str
    """What the values are: `accuracy on w07`."""
    more: tuple[MergedTable, ...] = ()
    """The same by other metrics."""
    rerun: tuple[Rerun, ...] = ()
    twice: tuple[Twice, ...] = ()


def merge_sweep(
    results: SweepResults,
    twice: tuple[Twice, ...] = (),
    *,
    by: Sequence[str] | None = None,
    over: Sequence[str] | None = None,
    metric: str | None = None,
    scripts: bool = False,
    more: bool = False,
) -> Merged:
    """Merges a sweep's cells.

    `by` and `metric` are as for `merge`; `over` takes the place of what the sweep
    averages over. `scripts` says that cells are run by scripts, without a master;
    `more` also merges other metrics. Raises NotFoundError when `by` names an axis
    that no cell has.
    """
    if over is not None:
        spec = msgspec.structs.replace(results.spec, over=tuple(over))
        results = msgspec.structs.replace(results, spec=spec)
    table = merge(results.cells, results.spec, by=by, metric=metric)
    sources = results.cell_sources if len(results.sources) > 1 and not scripts else {}
    others: list[str] = []
    if more and len(results.cells) <= MORE_METRICS_CELLS_MAX:
        others = [m for m in table.metrics if m != table.metric and not is_bookkeeping(m)]
    return Merged(
        results=results,
        table=table,
        header=f"{table.metric or 'value'} on {results.subject}"
        if results.subject
        else table.metric,
        more=tuple(
            merge(results.cells, results.spec, by=by, metric=other)
            for other in others[:MORE_METRICS_MAX]
        ),
        rerun=reruns(results.name, table, sources=sources, scripts=scripts),
        twice=twice,
    )
