"""Every cell as a row of a Parquet file, for pandas, polars, DuckDB and the like.

Columns: `sweep`, `job_id`, `name`, `reference`, `state`, `reason`, `nodes`, `started`,
`ended`, `took_s`, `attempts`, `base`; then `params.AXIS` for each axis and
`metrics.NAME` for each metric. What a cell doesn't have is null.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.results.atomic import write_atomic
from meshtrain.results.axes import axis_names, plain_value
from meshtrain.results.errors import MissingExtraError, ResultsError
from meshtrain.results.merge import in_sweep_order
from meshtrain.results.sweep_results import Run, SweepResults

COLUMNS_MAX = 20_000
METADATA_KEY = b"meshtrain"


def write_parquet(path: Path, sweeps: Sequence[SweepResults], *, version: str) -> int:
    """Writes the cells of `sweeps` to `path`, whole or not at all; returns how many rows.

    `version` is meshtrain's, and goes into the file's metadata. Raises
    MissingExtraError without pyarrow, ResultsError when it can't be written.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"Parquet needs pyarrow, which can't be imported ({error}): "
            "pip install 'meshtrain[parquet]'"
        ) from error
    columns, count = _columns(pa, sweeps)
    if len(columns) > COLUMNS_MAX:
        raise ResultsError(
            f"{len(columns):,} columns are more than {COLUMNS_MAX:,}: write fewer metrics"
        )
    told = {
        "version": version,
        "sweeps": [
            {"name": s.name, "ids": s.sweep_ids, "metric": s.spec.metric, "over": s.spec.over}
            for s in sweeps
        ],
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: msgspec.json.encode(told)})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
    return count


def _columns(pa: Any, sweeps: Sequence[SweepResults]) -> tuple[dict[str, Any], int]:
    rows = [
        (sweep.name, cell, sweep.runs.get(cell.job_id))
        for sweep in sweeps
        for cell in in_sweep_order(sweep.cells)
    ]
    runs = [run or Run(attempts=0) for _, _, run in rows]
    columns: dict[str, Any] = {
        "sweep": _texts(pa, [name for name, _, _ in rows]),
        "job_id": _texts(pa, [cell.job_id for _, cell, _ in rows]),
        "name": _texts(pa, [cell.name for _, cell, _ in rows]),
        "reference": _texts(pa, [cell.group or None for _, cell, _ in rows]),
        "state": _texts(pa, [str(cell.state) for _, cell, _ in rows]),
        "reason": _texts(pa, [cell.reason or None for _, cell, _ in rows]),
        "nodes": _texts(pa, [", ".join(run.nodes) or None for run in runs]),
        "started": _times(pa, [run.started_s for run in runs]),
        "ended": _times(pa, [run.ended_s for run in runs]),
        "took_s": pa.array([run.took_s for run in runs], pa.float64()),
        "attempts": pa.array([run.attempts or None for run in runs], pa.int64()),
        "base": _texts(pa, [run.recipe_hash for run in runs]),
    }
    for axis in axis_names(cell.cell for _, cell, _ in rows):
        values = [plain_value(cell.cell.get(axis)) for _, cell, _ in rows]
        columns[_name(f"params.{axis}")] = _values(pa, values)
    metrics = dict.fromkeys(name for _, cell, _ in rows for name in cell.metrics)
    for metric in metrics:
        numbers = [cell.metrics.get(metric) for _, cell, _ in rows]
        columns[_name(f"metrics.{metric}")] = pa.array(numbers, pa.float64())
    return columns, len(rows)


def _values(pa: Any, values: Sequence[Any]) -> Any:
    """One type for an axis: its own where all values have it, else text."""
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in present) and present:
        return pa.array(values, pa.bool_())
    if present and not any(isinstance(value, bool | str) for value in present):
        if all(isinstance(value, int) for value in present):
            return pa.array(values, pa.int64())
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return _texts(pa, [None if value is None else str(value) for value in values])


def _times(pa: Any, seconds: Sequence[float | None]) -> Any:
    micros = [
        None if s is None or not math.isfinite(s) or abs(s) > 1e11 else round(s * 1e6)
        for s in seconds
    ]
    return pa.array(micros, pa.timestamp("us", tz="UTC"))


def _texts(pa: Any, values: Sequence[str | None]) -> Any:
    return pa.array([None if v is None else _name(v) for v in values], pa.string())


def _name(text: str) -> str:
    """Text that UTF-8 can carry."""
    return text.encode("utf-8", "replace").decode()
