"""How people are told of cells that several folders have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from meshtrain.results.copies import Copy, Twice, Verdict
from meshtrain.results.formats import cell_text, plain_text

SHOWN_MAX = 20
VALUES_SHOWN_MAX = 3

_SAID = {
    Verdict.SAME: "the same result in several folders, counted once",
    Verdict.NEWER: "ran more than once: the newest result is kept",
    Verdict.ONLY_ONE_SUCCEEDED: "succeeded in one folder only: that result is kept",
    Verdict.CONTRADICTION: "CONTRADICT each other at one time: one is kept, look at them",
}


def twice_lines(twice: Sequence[Twice]) -> list[str]:
    """A headline, counts by kind, and each cell whose copies differ, with what was left out."""
    if not twice:
        return []
    count = f"{len(twice):,} {'cell lies' if len(twice) == 1 else 'cells lie'}"
    lines = [f"{count} in more than one folder; none is averaged twice"]
    counts = Counter(one.verdict for one in twice)
    lines += [f"  {counts[verdict]:,} {_SAID[verdict]}" for verdict in Verdict if counts[verdict]]
    # What a person has to look at comes first.
    order = (Verdict.CONTRADICTION, Verdict.ONLY_ONE_SUCCEEDED, Verdict.NEWER)
    told = [one for verdict in order for one in twice if one.verdict is verdict]
    for one in told[:SHOWN_MAX]:
        lines.append(f"  {cell_name(one.kept)}")
        lines.append(f"    kept      {_copy_text(one.kept)}")
        lines += [f"    left out  {_copy_text(copy)}" for copy in one.left_out]
    if len(told) > SHOWN_MAX:
        lines.append(f"  … and {len(told) - SHOWN_MAX:,} more: --json has them all")
    return lines


def cell_name(copy: Copy) -> str:
    """`base alone fold=1`, or the cell's own name where it has no axes."""
    point = cell_text(copy.cell.cell) or plain_text(copy.cell.name)
    return " ".join(filter(None, [plain_text(copy.cell.group), point]))


def _copy_text(copy: Copy) -> str:
    metrics = list(copy.cell.metrics.items())
    values = ", ".join(f"{plain_text(k)} {v:.6g}" for k, v in metrics[:VALUES_SHOWN_MAX])
    more = f" and {len(metrics) - VALUES_SHOWN_MAX} more" if len(metrics) > VALUES_SHOWN_MAX else ""
    what = f"{values}{more}" if values else str(copy.cell.state)
    return f"{what}, {_when(copy.run.ended_s)}, {plain_text(copy.source)}"


def _when(ended_s: float | None) -> str:
    if ended_s is None:
        return "at an unknown time"
    try:
        return datetime.fromtimestamp(ended_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"
