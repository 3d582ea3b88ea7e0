"""Where `meshtrain results` takes cells from: the master, results folders, what scripts left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress

from meshtrain.cli.brought_home import missing_lines, read_brought, subject_of
from meshtrain.cli.context import PAGE_ROWS, Link, ask, ask_all
from meshtrain.results.machines import Machine
from meshtrain.results.merge import CellResult
from meshtrain.results.sweep_results import Base, Run, SweepResults
from meshtrain.spec.jobs import ResultsSpec

PAGE_CELLS = 5000


def from_master(link: Link, sweep: str, *, details: bool = False) -> SweepResults:
    """The cells of a sweep as the master knows them.

    `details` also asks where and when each ran, and for bases and nodes. Raises
    UserError with the master's words when there is no such sweep.
    """
    answer = ask(link, "results", [sweep], limit=PAGE_CELLS)
    (first,) = answer.rows
    total = answer.total
    # A name may come to mean a newer sweep between two pages.
    sweep_id = first["sweep_id"]
    cells: list[Any] = list(first["cells"])
    with _progress(total, f"cells of {first['name']}") as advance:
        advance(len(cells))
        while len(cells) < total:
            (row,) = ask(link, "results", [sweep_id], offset=len(cells), limit=PAGE_CELLS).rows
            if not row["cells"]:
                break
            cells += row["cells"]
            advance(len(row["cells"]))
    results = SweepResults(
        name=first["name"],
        spec=msgspec.convert(first["results"], ResultsSpec),
        cells=tuple(msgspec.convert(cells, list[CellResult])),
        sources=(first["folder"],),
        subject=first["target"] or "",
        sweep_ids=(sweep_id,),
        job_file=first.get("source") or "",
        archived=first.get("archived"),
    )
    return _with_details(link, results, first) if details else results


class _Advance:
    """Tells a person at a terminal how far the pages are; nobody else is told anything."""

    def __init__(self, total: int, what: str) -> None:
        shown = sys.stderr.isatty() and total > PAGE_CELLS
        console = Console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=not shown)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> _Advance:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def __call__(self, count: int) -> None:
        self._progress.advance(self._task, count)


def _progress(total: int, what: str) -> _Advance:
    return _Advance(total, what)


def _with_details(link: Link, results: SweepResults, first: dict[str, Any]) -> SweepResults:
    (sweep_id,) = results.sweep_ids
    runs: dict[str, Run] = {}
    with _progress(len(results.cells), "where they ran") as advance:
        for rows in _pages(link, "jobs", [sweep_id]):
            for row in rows:
                if row.get("sweep_id") == sweep_id:
                    runs[row["job_id"]] = _run(row)
            advance(len(rows))
    hashes = list(first.get("recipe_hashes") or ())
    reused = set(first.get("reused") or ())
    bases: list[Base] = []
    if hashes:
        recipes = {row["recipe_hash"]: row for row in ask_all(link, "recipes", hashes)[0]}
        bases = [
            _base(row, recipes.get(row["recipe_hash"], {}), reused)
            for row in ask_all(link, "bases", hashes)[0]
        ]
    ran_on = {node for run in runs.values() for node in run.nodes}
    machines = [_machine(row) for row in ask_all(link, "nodes")[0] if row.get("node_id") in ran_on]
    return msgspec.structs.replace(results, runs=runs, bases=tuple(bases), machines=tuple(machines))


def _pages(link: Link, what: str, names: list[str]) -> Iterator[list[Any]]:
    offset = 0
    while True:
        answer = ask(link, what, names, offset=offset, limit=PAGE_ROWS)
        yield list(answer.rows)
        offset += len(answer.rows)
        if not answer.rows or offset >= answer.total:
            return


def _run(row: dict[str, Any]) -> Run:
    node = row.get("node_id")
    return Run(
        nodes=(node,) if node else (),
        started_s=row.get("started_wall_s"),
        ended_s=row.get("ended_wall_s"),
        attempts=int(row.get("retries") or 0) + (1 if row.get("started_wall_s") else 0),
        recipe_hash=row.get("recipe_hash"),
    )


def _base(row: dict[str, Any], recipe: dict[str, Any], reused: set[str]) -> Base:
    return Base(
        recipe_hash=row["recipe_hash"],
        label=row.get("label") or "",
        state=str(row.get("state") or ""),
        reused=row["recipe_hash"] in reused,
        artifact_id=row.get("artifact_id"),
        generation=int(row.get("generation") or 1),
        node=row.get("node_id"),
        trained_s=row.get("trained_s"),
        recipe=recipe.get("recipe") or {},
    )


def _machine(row: dict[str, Any]) -> Machine:
    return Machine(
        node=row["node_id"],
        version=row.get("version") or "",
        cpu_slots=int(row.get("cpu_slots") or 0),
        gpus=tuple(row.get("gpus") or ()),
        memory_bytes=int(row.get("memory_bytes") or 0),
    )


def from_brought(file: Path, folders: list[Path]) -> tuple[SweepResults, list[str]]:
    """The cells of a job file's sweep as folders have them, and what is missing there."""
    sweep, brought = read_brought(file, folders)
    results = SweepResults(
        name=sweep.name,
        spec=sweep.results,
        cells=brought.cells,
        sources=tuple(str(folder) for folder in folders),
        subject=subject_of(sweep),
        job_file=sweep.source,
    )
    return results, missing_lines(sweep, brought)
