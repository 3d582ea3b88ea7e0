"""Writes the HTML report of a results folder beside its tables."""

from __future__ import annotations

from pathlib import Path

from meshtrain.results.atomic import write_atomic
from meshtrain.results.merged import merge_sweep
from meshtrain.results.record_reader import gather_folders
from meshtrain.results.report import Made, report

REPORT_FILE = "report.html"


def write_report(folder: Path, made: Made) -> Path:
    """Writes `report.html` into a sweep's results folder, whole or not at all.

    Raises ResultsError or UserError when the folder can't be read or written.
    """
    merged = [merge_sweep(one.results, one.twice, more=True) for one in gather_folders([folder])]
    path = folder / REPORT_FILE
    write_atomic(path, report(merged, (), made).encode("utf-8", "replace"))
    return path
