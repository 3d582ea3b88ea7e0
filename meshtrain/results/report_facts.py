"""The parts of the HTML report beside the results: parameters, bases, machines, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshtrain.ids import short
from meshtrain.results import page
from meshtrain.results.axes import AxisKey, axis_key, plain_value
from meshtrain.results.formats import NOTHING, axis_texts, cell_text, plain_text
from meshtrain.results.merge import CellState, MergedTable
from meshtrain.results.page import Cell, escaped, number
from meshtrain.results.saved import BaseSaved, Saved
from meshtrain.results.svg_timeline import Span, timeline
from meshtrain.results.sweep_results import Base, SweepResults

VALUES_SHOWN_MAX = 24
CELLS_SHOWN_MAX = 500
RECIPE_DEPTH_MAX = 6
RECIPE_KEYS_MAX = 400
LINE_DEPTH_MAX = 64
"""As many bases as a line may have."""


# --- parameters ------------------------------------------------------------------------


def about_parameters(sweeps: Sequence[SweepResults]) -> str:
    """The axes with their values, and the job files."""
    parts = []
    for sweep in sweeps:
        values: dict[str, dict[AxisKey, Any]] = {}
        for cell in sweep.cells:
            for axis in cell.cell:
                values.setdefault(axis, {}).setdefault(axis_key(cell.cell, axis), cell.cell[axis])
        pairs = [
            (plain_text(axis), _listed(list(found.values()))) for axis, found in values.items()
        ]
        if sweep.spec.over:
            pairs.append(("averaged over", ", ".join(map(plain_text, sweep.spec.over))))
        inner = page.facts(pairs) if pairs else ""
        if sweep.job_file:
            inner += page.details("The job file", page.preformatted(sweep.job_file))
        if inner:
            title = f"<h3>{escaped(plain_text(sweep.name))}</h3>" if len(sweeps) > 1 else ""
            parts.append(title + inner)
    return "".join(parts)


def _listed(values: list[Any]) -> str:
    texts = axis_texts([plain_value(value) for value in values])
    shown = ", ".join(texts[:VALUES_SHOWN_MAX])
    more = len(texts) - VALUES_SHOWN_MAX
    return f"{shown} and {more:,} more" if more > 0 else shown


# --- bases ------------------------------------------------------------------------------


def about_bases(total: Saved) -> str:
    """Which base each cell started from, where those came from, and what sharing them saved."""
    if not total.by_base:
        return ""
    rows: list[list[str | Cell]] = []
    for one in total.by_base:
        base = one.base
        origin = f"trained {one.trained} times" if one.trained > 1 else "trained for it"
        if not one.trained:
            origin = "was there before" if base.artifact_id else base.state or "not ready"
        rows.append(
            [
                plain_text(base.label) or short(base.recipe_hash),
                Cell(f"{origin}{f', on {base.node}' if base.node and one.trained else ''}"),
                number(NOTHING if base.trained_s is None else hours(base.trained_s)),
                number(f"{one.jobs:,}"),
                number(f"{one.avoided:,}"),
                number(NOTHING if one.saved_s is None else hours(one.saved_s)),
            ]
        )
    classes = [""] * len(rows)
    if len(rows) > 1:
        jobs = sum(one.jobs for one in total.by_base)
        rows.append(["all", "", "", number(f"{jobs:,}"), number(f"{total.avoided:,}"),
                     number(hours(total.saved_s))])  # fmt: skip
        classes.append("total")
    titles: list[str | Cell] = ["base", "origin", number("one training"), number("cells"),
                                number("trainings avoided"), number("saved")]  # fmt: skip
    told = page.table(titles, rows, classes=classes)
    told += page.paragraph(
        "Avoided are the trainings that would have run, had each cell trained its own base; "
        "saved is their number times what one took.",
        "quiet",
    )
    if total.unknown:
        told += page.paragraph(
            f"How long a training took isn't known for {total.unknown:,} of those avoided: "
            "their time isn't in the sum.",
            "quiet",
        )
    return told + "<h3>Lineage</h3>" + _lineage(total.by_base)


def _lineage(bases: Sequence[BaseSaved]) -> str:
    """The bases below those that they continue from, with the recipe of each."""
    by_hash = {one.base.recipe_hash: one for one in bases}
    below: dict[str, list[BaseSaved]] = {}
    for one in bases:
        parent = one.base.parent
        known = parent if parent is not None and parent in by_hash else ""
        below.setdefault(known, []).append(one)
    seen: set[str] = set()

    def branch(one: BaseSaved, depth: int) -> str:
        seen.add(one.base.recipe_hash)
        children = [
            child
            for child in below.get(one.base.recipe_hash, ())
            if child.base.recipe_hash not in seen
        ]
        inner = ""
        if children and depth < LINE_DEPTH_MAX:
            inner = f"<ul>{''.join(branch(child, depth + 1) for child in children)}</ul>"
        return f"<li>{_base(one.base)}{inner}</li>"

    roots = "".join(branch(one, 0) for one in below.get("", ()))
    # Records that name each other as parents: told flat rather than not at all.
    rest = "".join(branch(one, 0) for one in bases if one.base.recipe_hash not in seen)
    return f'<ul class="tree">{roots}{rest}</ul>'


def _base(base: Base) -> str:
    parent = f", continues from {short(base.parent)}" if base.parent else ""
    model = f", model <code>{escaped(base.artifact_id)}</code>" if base.artifact_id else ""
    generation = f", generation {base.generation}" if base.generation > 1 else ""
    head = (
        f"<b>{escaped(plain_text(base.label) or short(base.recipe_hash))}</b><br>"
        f'<span class="quiet">recipe <code>{escaped(base.recipe_hash)}</code>{model}'
        f"{escaped(generation + parent)}</span>"
    )
    pairs = list(_flat(base.recipe))[:RECIPE_KEYS_MAX]
    return head + (page.details("the recipe", page.facts(pairs)) if pairs else "")


def _flat(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """A recipe as dotted names and texts."""
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, dict) and inner and depth < RECIPE_DEPTH_MAX:
            yield from _flat(inner, f"{name}.", depth + 1)
        elif isinstance(inner, list):
            yield name, ", ".join(str(plain_value(item)) for item in inner)
        else:
            yield name, str(plain_value(inner))


# --- machines ----------------------------------------------------------------------------


def about_machines(sweeps: Sequence[SweepResults]) -> str:
    """What ran where, and when."""
    known = {machine.node: machine for sweep in sweeps for machine in sweep.machines}
    runs: dict[str, int] = {}
    busy_s: dict[str, float] = {}
    spans: dict[tuple[str, float, str], Span] = {}
    for base in (base for sweep in sweeps for base in sweep.bases):
        if base.node and base.trained_s is not None and base.ended_s is not None:
            started_s = base.ended_s - base.trained_s
            name = f"base {plain_text(base.label) or short(base.recipe_hash)}"
            if not base.reused:
                spans[(base.node, started_s, name)] = Span(
                    base.node, started_s, base.ended_s, name, "base"
                )
    for sweep in sweeps:
        states = {cell.job_id: cell for cell in sweep.cells}
        for job_id, run in sweep.runs.items():
            cell = states.get(job_id)
            for node in run.nodes:
                runs[node] = runs.get(node, 0) + 1
                busy_s[node] = busy_s.get(node, 0.0) + (run.took_s or 0.0)
                if cell is None or run.started_s is None or run.ended_s is None:
                    continue
                kind = "good" if cell.state == CellState.SUCCEEDED else "bad"
                ended_s = max(run.ended_s, run.started_s)
                span = Span(node, run.started_s, ended_s, cell.name, kind)
                spans[(node, run.started_s, cell.name)] = span
    if not runs:
        return ""
    rows: list[list[str | Cell]] = []
    for node in sorted(runs):
        machine = known.get(node)
        rows.append(
            [
                plain_text(node),
                _gpus(machine.gpus) if machine else NOTHING,
                number(str(machine.cpu_slots) if machine else NOTHING),
                number(f"{machine.memory_bytes / 2**30:.0f} GiB" if machine else NOTHING),
                machine.version or NOTHING if machine else NOTHING,
                number(f"{runs[node]:,}"),
                number(hours(busy_s[node])),
            ]
        )
    titles: list[str | Cell] = ["node", "GPUs", number("CPU slots"), number("memory"), "meshtrain",
                                number("cells"), number("busy")]  # fmt: skip
    told = page.table(titles, rows)
    drawing = timeline(list(spans.values()))
    if drawing:
        kinds = {span.kind for span in spans.values()}
        caption = "Each bar is the last attempt of one cell"
        caption += ", each ochre one the training of a base" if "base" in kinds else ""
        caption += "; orange did not succeed." if "bad" in kinds else "."
        told += page.figure(drawing, caption)
    return told


def _gpus(models: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for model in models:
        counts[model] = counts.get(model, 0) + 1
    texts = [f"{n} × {plain_text(model)}" for model, n in counts.items()]
    return ", ".join(texts) or "none"


# --- cells and versions --------------------------------------------------------------------


def about_cells(sweep: SweepResults, table: MergedTable) -> str:
    """Every cell with its value and where it ran, folded up; the first ones of very many."""
    cells = sweep.cells[:CELLS_SHOWN_MAX]
    if not cells:
        return ""
    rows: list[list[str | Cell]] = []
    for cell in cells:
        run = sweep.runs.get(cell.job_id)
        value = cell.metrics.get(table.metric)
        took = run.took_s if run is not None else None
        rows.append(
            [
                " ".join(filter(None, [plain_text(cell.group), cell_text(cell.cell)]))
                or plain_text(cell.name),
                plain_text(str(cell.state)),
                number(NOTHING if value is None else f"{value:.6g}"),
                plain_text(", ".join(run.nodes)) if run is not None else NOTHING,
                number(NOTHING if took is None else hours(took)),
                plain_text(cell.reason or cell.absent.get(table.metric, "")),
            ]
        )
    told = page.table(
        ["cell", "state", number(table.metric or "value"), "node", number("took"), ""], rows
    )
    if len(sweep.cells) > len(cells):
        told += page.paragraph(
            f"The first {len(cells):,} of {len(sweep.cells):,} cells; all of them: --parquet.",
            "quiet",
        )
    return page.details(f"All cells of {plain_text(sweep.name)}", told)


def about_versions(sweeps: Sequence[SweepResults], version: str, command: str) -> str:
    """What made the report, what ran, and from where the results were read."""
    pairs = [("report made by", f"meshtrain {version}, Python {platform.python_version()}")]
    nodes = sorted({m.version for sweep in sweeps for m in sweep.machines if m.version})
    if nodes:
        pairs.append(("nodes ran", f"meshtrain {', '.join(nodes)}"))
    recipes = [base.recipe for sweep in sweeps for base in sweep.bases]
    for key, name in (("version", "recipe format"), ("trainer_version", "built-in training")):
        found = sorted({str(r[key]) for r in recipes if key in r})
        if found:
            pairs.append((name, f"version {', '.join(found)}"))
    for sweep in sweeps:
        name = plain_text(sweep.name)
        if sweep.sweep_ids:
            pairs.append((f"{name} is", ", ".join(sweep.sweep_ids)))
        if sweep.sources:
            pairs.append((f"{name} was read from", ", ".join(sweep.sources)))
    if command:
        pairs.append(("command", command))
    return page.facts(pairs)


def hours(seconds: float) -> str:
    """A length of time as people read it: `2.3 h`, `4 min`, `8.1 s`."""
    if seconds >= 100 * 3600:
        return f"{seconds / 3600:,.0f} h"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
