"""`meshtrain results`: a sweep's results as a table, however they are grouped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from meshtrain.cli.brought_home import missing_lines, read_brought, subject_of
from meshtrain.cli.context import Link, ask, cli_of
from meshtrain.cli.output import say, tell, text_width
from meshtrain.errors import UserError
from meshtrain.results.merge import CellResult, CellState, MergedTable, merge
from meshtrain.results.records import EXPERIMENTS_FILE
from meshtrain.results.table import TableDocument, read_results, table_csv, table_json
from meshtrain.results.text import render_text
from meshtrain.spec.jobs import ResultsSpec

PAGE_CELLS = 5000
RECORD_BYTES_MAX = 256 * 1024 * 1024


class Merged(msgspec.Struct, frozen=True):
    """A sweep's cells, and how they are to be merged."""

    name: str
    folder: str
    spec: ResultsSpec
    cells: tuple[CellResult, ...]
    subject: str = ""
    """Whose values they are, after `accuracy on`."""
    archived: int | None = None
    """How many results are in the master's archive; None where it has none."""


def command(
    ctx: typer.Context,
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="A sweep; with --folder none, with --from its file."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="AXES", help="A row for each value of these; all else is averaged."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The metric; by default the sweep's.")] = None,
    over: Annotated[
        str | None, typer.Option(metavar="AXES", help="Average over these; by default the sweep's.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the table as a PNG too.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Read a results folder; no master is asked."),
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
    """Merge a sweep's results: a row a group, mean ± std, n, and what is missing.

    \b
    Examples:
      meshtrain results batch_composition
      meshtrain results few_shot --by backbone,shots --metric miou
      meshtrain results --folder ./results/few_shot --plot few_shot.png
      meshtrain results few_shot.yaml --from gpu1/few_shot --from gpu2/few_shot
    """
    _check_use(sweep, folder, by, over, as_csv=as_csv, as_json=as_json, brought=brought)
    after: list[str] = []
    if brought and sweep is not None:
        merged, after = from_brought(Path(sweep), brought)
    elif folder is not None:
        in_folder = from_folder(folder)
        if in_folder is None:
            document = _table_alone(folder, by, metric, over)
            _show(document, folder=str(folder), plot=plot, as_csv=as_csv, as_json=as_json)
            return
        merged = in_folder
    else:
        assert sweep is not None
        with cli_of(ctx).link() as link:
            merged = from_master(link, sweep)
    if over is not None:
        merged = msgspec.structs.replace(
            merged, spec=msgspec.structs.replace(merged.spec, over=_names(over))
        )
    table = merge(merged.cells, merged.spec, by=None if by is None else _names(by), metric=metric)
    _refuse_unknown_metric(table, metric)
    header = f"{table.metric or 'value'} on {merged.subject}" if merged.subject else table.metric
    document = TableDocument(1, merged.name, header, table)
    _show(document, folder=merged.folder, plot=plot, as_csv=as_csv, as_json=as_json)
    for line in after:
        (tell if as_csv or as_json else say)(line)
    if merged.archived is not None and not (as_csv or as_json):
        ended = sum(cell.state == CellState.SUCCEEDED for cell in merged.cells)
        say(f"archive  {merged.archived} of {ended} results are there")


def _check_use(
    sweep: str | None,
    folder: Path | None,
    by: str | None,
    over: str | None,
    *,
    as_csv: bool,
    as_json: bool,
    brought: list[Path] | None = None,
) -> None:
    if brought and (sweep is None or folder is not None):
        raise UserError(
            "--from needs the sweep's job file: meshtrain results few_shot.yaml --from FOLDER"
            if sweep is None
            else "--from and --folder read folders of two kinds: give one of them"
        )
    if (sweep is None) == (folder is None):
        raise UserError(
            "name a sweep, or a results folder with --folder; sweeps: meshtrain jobs"
            if sweep is None
            else "name a sweep or a folder, not both"
        )
    if by is not None and over is not None:
        raise UserError("--by and --over say the same in two ways: give one of them")
    if as_csv and as_json:
        raise UserError("--csv and --json: give one of them")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _refuse_unknown_metric(table: MergedTable, wanted: str | None) -> None:
    if wanted and table.metrics and table.metric not in table.metrics:
        reason = table.notes[-1] if table.notes else f"no {wanted}"
        raise UserError(f"{reason}; metrics: {', '.join(table.metrics)}")


# --- where they come from -----------------------------------------------------------


def from_master(link: Link, sweep: str) -> Merged:
    """The cells of a sweep as the master knows them."""
    cells: list[Any] = []
    while True:
        answer = ask(link, "results", [sweep], offset=len(cells), limit=PAGE_CELLS)
        (row,) = answer.rows
        cells += row["cells"]
        if not row["cells"] or len(cells) >= answer.total:
            break
        # A name may come to mean a newer sweep between two pages.
        sweep = row["sweep_id"]
    return Merged(
        name=row["name"],
        folder=row["folder"],
        spec=msgspec.convert(row["results"], ResultsSpec),
        cells=tuple(msgspec.convert(cells, list[CellResult])),
        subject=row["target"] or "",
        archived=row.get("archived"),
    )


def from_brought(file: Path, folders: list[Path]) -> tuple[Merged, list[str]]:
    """The cells of a job file's sweep as folders have them, and what is missing there."""
    sweep, brought = read_brought(file, folders)
    merged = Merged(
        name=sweep.name,
        folder=", ".join(str(folder) for folder in folders),
        spec=sweep.results,
        cells=brought.cells,
        subject=subject_of(sweep),
    )
    return merged, missing_lines(sweep, brought)


class _Experiment(msgspec.Struct, frozen=True):
    job_id: str
    name: str
    cell: dict[str, Any]
    state: str
    group: str | None = None
    metrics: dict[str, float] = {}
    reason: str | None = None


class _Record(msgspec.Struct, frozen=True):
    sweep: dict[str, str]
    experiments: list[_Experiment]


_record_decoder = msgspec.json.Decoder(_Record)


def from_folder(folder: Path) -> Merged | None:
    """The cells as the record of a results folder has them; None where it has no record.

    Raises ResultsError when there is no table either, UserError for a broken record.
    """
    document = read_results(folder)
    path = folder / EXPERIMENTS_FILE
    if not path.exists():
        return None
    try:
        if path.stat().st_size > RECORD_BYTES_MAX:
            raise UserError(f"{path} is larger than {RECORD_BYTES_MAX:,} bytes")
        record = _record_decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {error}; have the sweep written again") from error
    subject = document.header.removeprefix(document.table.metric).removeprefix(" on ")
    return Merged(
        name=record.sweep.get("name", folder.name),
        folder=str(folder),
        spec=ResultsSpec(metric=document.table.metric or None, over=document.table.over),
        cells=tuple(
            CellResult(
                job_id=experiment.job_id,
                name=experiment.name,
                cell=experiment.cell,
                group=experiment.group or "",
                state="running" if experiment.state == "collecting" else experiment.state,
                metrics=experiment.metrics,
                reason=experiment.reason or "",
                index=index,
            )
            for index, experiment in enumerate(record.experiments)
        ),
        subject=subject,
    )


def _table_alone(
    folder: Path, by: str | None, metric: str | None, over: str | None
) -> TableDocument:
    if by or metric or over:
        raise UserError(
            f"{folder} has a table and no {EXPERIMENTS_FILE}: it can be shown, not merged anew"
        )
    return read_results(folder)


# --- where they go ----------------------------------------------------------------------


def _show(
    document: TableDocument, *, folder: str, plot: Path | None, as_csv: bool, as_json: bool
) -> None:
    table = document.table
    if as_json:
        typer.echo(table_json(table, title=document.title, header=document.header), nl=False)
    elif as_csv:
        typer.echo(table_csv(table), nl=False)
    else:
        say(render_text(table, header=document.header, width=text_width(120)))
        say(f"\nresults  {folder}")
    if plot is not None:
        from meshtrain.results.plots import plot as draw

        drawn = draw(table, plot, title=document.title, y_label=document.header)
        tell(f"plot     {drawn}")
