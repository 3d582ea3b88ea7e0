"""`meshtrain results`: a sweep's results as a table, however they are grouped; or several."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from meshtrain.cli.context import cli_of
from meshtrain.cli.output import say, tell, text_width
from meshtrain.cli.results_sources import from_brought, from_master
from meshtrain.cli.results_text import rerun_lines
from meshtrain.clock import wall_now_s
from meshtrain.errors import UserError
from meshtrain.results.atomic import write_atomic
from meshtrain.results.compare import Comparison, compare
from meshtrain.results.compare_text import comparisons_csv, render_comparison
from meshtrain.results.copies import Twice
from meshtrain.results.joined import joined
from meshtrain.results.merge import CellState, MergedTable, merge
from meshtrain.results.merged import Merged, merge_sweep
from meshtrain.results.record_reader import gather_folders
from meshtrain.results.records import EXPERIMENTS_FILE
from meshtrain.results.report import Made, report
from meshtrain.results.sweep_results import SweepResults
from meshtrain.results.table import (
    TABLE_JSON,
    TABLE_JSON_VERSION,
    TableDocument,
    document_json,
    read_results,
    table_csv,
)
from meshtrain.results.text import render_text
from meshtrain.results.twice_text import twice_lines

SWEEPS_MAX = 20
"""Sweeps that are compared at once."""


class ComparisonDocument(msgspec.Struct, frozen=True):
    """What `--json` prints of several sweeps."""

    version: int
    comparisons: tuple[Comparison, ...]
    sweeps: tuple[TableDocument, ...]


class _Asked(msgspec.Struct, frozen=True):
    """How the tables are to be made."""

    by: tuple[str, ...] | None
    over: tuple[str, ...] | None
    metric: str | None


def command(
    ctx: typer.Context,
    sweeps: Annotated[
        list[str] | None,
        typer.Argument(metavar="SWEEP", help="Sweeps; several are compared with the first one."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="AXES", help="A row for each value of these; all else is averaged."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="The metric; by default the sweep's.")
    ] = None,
    over: Annotated[
        str | None, typer.Option(metavar="AXES", help="Average over these; by default the sweep's.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the table as a PNG too.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every cell as a row of a Parquet file too."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a report too: one file that needs nothing else."),
    ] = None,
    folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--folder",
            metavar="FOLDER",
            help="Read results folders, several masters' too; no master is asked.",
        ),
    ] = None,
    brought: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Merge what scripts of plan --split brought home; may be given often.",
        ),
    ] = None,
) -> None:
    """Merge a sweep's results: mean ± std, 95 % interval, best cell, and what is missing.

    Several sweeps are compared, cell by cell where they pair. What lies in several
    folders counts once: the newest result.

    \b
    Examples:
      meshtrain results batch_composition
      meshtrain results few_shot --by backbone,shots --metric miou
      meshtrain results few_shot few_shot_long --html few_shot.html
      meshtrain results --folder ./results/few_shot --plot few_shot.png
      meshtrain results few_shot --folder lab/results --folder cluster/results
      meshtrain results few_shot.yaml --from gpu1/few_shot --from gpu2/few_shot
    """
    names = tuple(dict.fromkeys(sweeps or ()))
    _check_use(names, by, over, folders, brought, as_csv=as_csv, as_json=as_json)
    asked = _Asked(_names(by), _names(over), metric)
    after: list[str] = []
    if folders and len(folders) == 1 and _is_table_alone(folders[0]):
        _show_table_alone(folders[0], asked, plot, parquet, html, as_csv=as_csv, as_json=as_json)
        return
    gathered: list[tuple[SweepResults, tuple[Twice, ...]]]
    if brought:
        results, after = from_brought(Path(names[0]), brought)
        gathered = [(results, ())]
    elif folders:
        gathered = [(one.results, one.twice) for one in gather_folders(folders, names)]
        _refuse_many(gathered, named=bool(names))
    else:
        details = html is not None or parquet is not None
        with cli_of(ctx).link() as link:
            asked_for = [from_master(link, name, details=details) for name in names]
        gathered = [(results, ()) for results in _told_apart(asked_for, names)]
    merged = [
        merge_sweep(
            results,
            twice,
            by=asked.by,
            over=asked.over,
            metric=metric,
            scripts=bool(brought),
            more=html is not None,
        )
        for results, twice in gathered
    ]
    for one in merged:
        _refuse_unknown_metric(one.table, metric)
    comparisons = tuple(
        compare(merged[0].results, other.results, by=asked.by, metric=metric)
        for other in merged[1:]
    )
    if as_json:
        _print_json(merged, comparisons)
    elif as_csv:
        only = table_csv(merged[0].table) if len(merged) == 1 else comparisons_csv(comparisons)
        typer.echo(only, nl=False)
    else:
        _print_text(merged, comparisons)
    for line in after:
        (tell if as_csv or as_json else say)(line)
    if not (as_csv or as_json):
        _print_archived(merged)
    _write_files(merged, comparisons, asked, plot, parquet, html)


# --- use ------------------------------------------------------------------------------


def _check_use(
    names: Sequence[str],
    by: str | None,
    over: str | None,
    folders: list[Path] | None,
    brought: list[Path] | None,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    if brought and folders:
        raise UserError("--from and --folder read folders of two kinds: give one of them")
    if brought and len(names) != 1:
        raise UserError(
            "--from needs the sweep's job file: meshtrain results few_shot.yaml --from FOLDER"
        )
    if not names and not folders:
        raise UserError("name a sweep, or a results folder with --folder; sweeps: meshtrain jobs")
    if len(names) > SWEEPS_MAX:
        raise UserError(f"{len(names)} sweeps are too many to compare: at most {SWEEPS_MAX}")
    if by is not None and over is not None:
        raise UserError("--by and --over say the same in two ways: give one of them")
    if as_csv and as_json:
        raise UserError("--csv and --json: give one of them")


def _refuse_many(
    gathered: Sequence[tuple[SweepResults, tuple[Twice, ...]]], *, named: bool
) -> None:
    if not named and len(gathered) > SWEEPS_MAX:
        shown = ", ".join(results.name for results, _ in gathered[:SWEEPS_MAX])
        raise UserError(
            f"the folders hold {len(gathered)} sweeps: name the ones that you mean, of {shown}, …"
        )


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _refuse_unknown_metric(table: MergedTable, wanted: str | None) -> None:
    if wanted and table.metrics and table.metric not in table.metrics:
        reason = table.notes[-1] if table.notes else f"no {wanted}"
        raise UserError(f"{reason}; metrics: {', '.join(table.metrics)}")


def _told_apart(sweeps: Sequence[SweepResults], names: Sequence[str]) -> list[SweepResults]:
    """Sweeps of one name go by their ids, as does one that was asked for by its id."""
    taken = [sweep.name for sweep in sweeps]
    return [
        sweep
        if name == sweep.name and taken.count(sweep.name) == 1
        else msgspec.structs.replace(sweep, name=sweep.sweep_ids[0])
        for name, sweep in zip(names, sweeps, strict=True)
    ]


# --- a table alone -----------------------------------------------------------------------


def _is_table_alone(folder: Path) -> bool:
    return (folder / TABLE_JSON).exists() and not (folder / EXPERIMENTS_FILE).exists()


def _show_table_alone(
    folder: Path,
    asked: _Asked,
    plot: Path | None,
    parquet: Path | None,
    html: Path | None,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    if asked.by or asked.metric or asked.over or parquet or html:
        raise UserError(
            f"{folder} has a table and no {EXPERIMENTS_FILE}: it can be shown, not merged anew"
        )
    document = read_results(folder)
    if as_json:
        typer.echo(document_json(document), nl=False)
    elif as_csv:
        typer.echo(table_csv(document.table), nl=False)
    else:
        say(render_text(document.table, header=document.header, width=text_width(120)))
        say(f"\nresults  {folder}")
    if plot is not None:
        _draw(document.table, plot, title=document.title, header=document.header)


def _document(merged: Merged) -> TableDocument:
    return TableDocument(
        version=TABLE_JSON_VERSION,
        title=merged.results.name,
        header=merged.header or merged.table.metric,
        table=merged.table,
        rerun=merged.rerun,
        twice=merged.twice,
        notes=merged.results.notes,
    )


# --- where it goes ------------------------------------------------------------------------


def _print_json(merged: Sequence[Merged], comparisons: tuple[Comparison, ...]) -> None:
    documents = tuple(_document(one) for one in merged)
    if len(documents) == 1:
        typer.echo(document_json(documents[0]), nl=False)
        return
    whole = ComparisonDocument(TABLE_JSON_VERSION, comparisons, documents)
    typer.echo(msgspec.json.format(msgspec.json.encode(whole), indent=2))


def _print_text(merged: Sequence[Merged], comparisons: Sequence[Comparison]) -> None:
    width = text_width(120)
    if len(merged) == 1:
        say(render_text(merged[0].table, header=merged[0].header, width=width))
    for place, comparison in enumerate(comparisons):
        say(("\n" if place else "") + render_comparison(comparison, header=merged[0].header,
                                                        width=width))  # fmt: skip
    say()
    for one in merged:
        lines = [
            *twice_lines(one.twice),
            *(f"note     {note}" for note in one.results.notes),
            *rerun_lines(one.rerun, named=len(merged) > 1),
        ]
        if len(merged) > 1 and lines:
            say(one.results.name)
        for line in lines:
            # Names and reasons may hold what a terminal would obey.
            say("".join(char if char.isprintable() else " " for char in line))
        if lines:
            say()
    for one in merged:
        for source in one.results.sources:
            say(f"results  {source}")


def _print_archived(merged: Sequence[Merged]) -> None:
    for one in merged:
        if one.results.archived is not None:
            ended = sum(cell.state == CellState.SUCCEEDED for cell in one.results.cells)
            of = "" if len(merged) == 1 else f" of {one.results.name}"
            say(f"archive  {one.results.archived} of {ended} results{of} are there")


def _write_files(
    merged: Sequence[Merged],
    comparisons: Sequence[Comparison],
    asked: _Asked,
    plot: Path | None,
    parquet: Path | None,
    html: Path | None,
) -> None:
    from importlib.metadata import version

    results = [one.results for one in merged]
    together: MergedTable | None = None
    if len(merged) > 1 and (plot is not None or html is not None):
        whole, axis = joined(results)
        by = None if asked.by is None else (*asked.by, axis)
        together = merge(whole.cells, whole.spec, by=by, metric=merged[0].table.metric or None)
    if plot is not None:
        title = " and ".join(one.name for one in results)
        _draw(together or merged[0].table, plot, title=title, header=merged[0].header)
    if parquet is not None:
        from meshtrain.results.parquet import write_parquet

        count = write_parquet(parquet, results, version=version("meshtrain"))
        tell(f"parquet  {parquet}, {count:,} cells")
    if html is not None:
        made = Made(wall_now_s(), version("meshtrain"), _command_line())
        text = report(merged, comparisons, made, together=together)
        write_atomic(html, text.encode("utf-8", "replace"))
        tell(f"report   {html}")


def _command_line() -> str:
    return " ".join(map(shlex.quote, ["meshtrain", *sys.argv[1:]]))


def _draw(table: MergedTable, path: Path, *, title: str, header: str) -> None:
    from meshtrain.results.plots import plot as draw

    tell(f"plot     {draw(table, path, title=title, y_label=header)}")
