"""`meshtrain plan`: what a job file comes to, before anything runs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from meshtrain.cli import words
from meshtrain.cli.context import Cli, ask_all, cli_of
from meshtrain.cli.output import painted, print_json, say, text_width
from meshtrain.cli.split import print_split, split_document, write_split
from meshtrain.cli.submission import (
    ALLOW_LARGE_CODE,
    CODE_BYTES_MAX,
    Submission,
    prepare,
    with_inputs,
    with_parents,
)
from meshtrain.cli.submission_text import (
    ALLOW_LARGE_CODE_HELP,
    code_document,
    code_texts,
    input_texts,
    inputs_document,
    largest_texts,
)
from meshtrain.core.job import BaseState
from meshtrain.core.nearest import Difference
from meshtrain.core.plan import (
    KnownBase,
    PastRuns,
    Plan,
    PlannedBase,
    PlanNode,
    make_plan,
    work_kind,
)
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.ids import DIGEST_HEX_LEN, short
from meshtrain.results.formats import clip
from meshtrain.spec.expand import needed
from meshtrain.spec.forms import SweepKeys
from meshtrain.spec.jobs import SweepSpec
from meshtrain.spec.matrix import scalar_text

MASTER_TIMEOUT_S = 2.0
"""A plan works without a master: none is waited for any longer."""
RECIPES_MAX = 200
"""Known recipes that a new base is compared with, the newest."""
BASES_SHOWN_MAX = 12
DIFFERENCES_SHOWN_MAX = 4
VALUE_SHOWN_MAX = 40
WHY_LINES_MAX = 3
FACT_WIDTH = 18
CODE_FIELD = "code."

_WORK_WORDS = {
    "full_fine_tuning": ("fine-tune", "fine-tunes"),
    "target_only_fine_tuning": ("target-only fine-tune", "target-only fine-tunes"),
    "target_only": ("run on the target alone", "runs on the target alone"),
    "base_alone": ("test of the base alone", "tests of the base alone"),
    "command": ("command", "commands"),
}


class Mesh(msgspec.Struct, frozen=True):
    """What a master knows that a plan needs; all empty when there is none."""

    known: dict[str, KnownBase] = {}
    recipes: dict[str, dict[str, Any]] = {}
    nodes: tuple[PlanNode, ...] = ()
    history: tuple[PastRuns, ...] = ()
    away: str = ""
    """Why nothing is known."""


def command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A job file.")],
    base_hours: Annotated[
        float | None,
        typer.Option(metavar="HOURS", min=0, help="Hours that the training of a base takes."),
    ] = None,
    job_hours: Annotated[
        float | None, typer.Option(metavar="HOURS", min=0, help="Hours that a job takes.")
    ] = None,
    bases_only: Annotated[bool, typer.Option(help="Plan just the bases.")] = False,
    allow_large_code: Annotated[
        bool, typer.Option(ALLOW_LARGE_CODE, help=ALLOW_LARGE_CODE_HELP)
    ] = False,
    parts: Annotated[
        int | None,
        typer.Option(
            "--split", metavar="N", min=1, help="Write N shell scripts, for servers without daemon."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="AXES", help="With --split: groups; by default of affinity."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With --split: where; by default NAME_scripts."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a job file comes to: jobs, bases, what is reused, time and disk.

    Nothing is started. Durations come from earlier runs; give them where there
    are none. Without a master no base counts as there.

    \b
    Examples:
      meshtrain plan batch_composition.yaml --base-hours 2 --job-hours 1
      meshtrain plan few_shot.yaml --split 4 --by dataset,backbone
    """
    if parts is None and (by is not None or out is not None):
        raise UserError("--by and --out go with --split N")
    cli = cli_of(ctx)
    submission = prepare(file, code_bytes_max=None if allow_large_code else CODE_BYTES_MAX)
    wanted = needed(submission.job_file)
    if wanted.parent is not None or wanted.inputs:
        # What it continues from and reads is hashed: without a master nobody can tell it.
        with cli.link() as link:
            submission = with_inputs(with_parents(submission, link), link)
    sweep = submission.sweep(bases_only=bases_only)
    if parts is not None:
        _split(sweep, parts, by, out, submission, as_json=as_json)
        return
    mesh = look_up(cli)
    plan = make_plan(
        sweep,
        known=mesh.known,
        recipes=mesh.recipes,
        nodes=mesh.nodes,
        history=mesh.history,
        base_s=None if base_hours is None else base_hours * 3600,
        job_s=None if job_hours is None else job_hours * 3600,
    )
    if as_json:
        document = plan_document(plan, mesh)
        inputs = inputs_document(sweep)
        print_json({**document, "code": code_document(submission), "inputs": inputs})
        return
    given = [
        f"{flag} {value:g}"
        for flag, value in (("--base-hours", base_hours), ("--job-hours", job_hours))
        if value is not None
    ]
    for line in plan_lines(plan, sweep, submission, mesh, given=given):
        say(line)


def _split(
    sweep: SweepSpec,
    parts: int,
    by: str | None,
    out: Path | None,
    submission: Submission,
    *,
    as_json: bool,
) -> None:
    """Write the scripts, and say what is in them."""
    form, file = submission.job_file.form, submission.path
    if by is None:
        axes = list(form.affinity) if isinstance(form, SweepKeys) else []
    else:
        axes = [name.strip() for name in by.split(",") if name.strip()]
    folder = Path(f"{sweep.name}_scripts") if out is None else out
    made = write_split(sweep, parts, axes, folder, file.name)
    if as_json:
        print_json(split_document(sweep, made, folder))
    else:
        print_split(sweep, made, folder, axes, file.name)


def look_up(cli: Cli) -> Mesh:
    """What the master knows of bases, nodes and earlier runs, if there is one."""
    try:
        with cli.link(min(cli.timeout_s, MASTER_TIMEOUT_S)) as link:
            bases, _ = ask_all(link, "bases")
            recipes, _ = ask_all(link, "recipes", rows_max=RECIPES_MAX)
            nodes, _ = ask_all(link, "nodes")
            history, _ = ask_all(link, "history")
    except UserError:
        raise
    except MeshtrainError as error:
        return Mesh(away=str(error))
    return Mesh(
        known={row["recipe_hash"]: msgspec.convert(row, KnownBase) for row in bases},
        recipes={row["recipe_hash"]: row["recipe"] for row in recipes},
        nodes=tuple(msgspec.convert(row, PlanNode) for row in nodes),
        history=tuple(msgspec.convert(row, PastRuns) for row in history),
    )


# --- as JSON --------------------------------------------------------------------------


def plan_document(plan: Plan, mesh: Mesh) -> dict[str, Any]:
    """The plan as `--json` prints it."""
    return {
        "sweep": plan.sweep,
        "sweep_id": plan.sweep_id,
        "jobs": plan.jobs,
        "bases": [
            {
                "hash": base.recipe_hash,
                "jobs": base.jobs,
                "cached": base.cached,
                "state": None if base.state is None else str(base.state),
                "label": base.label,
                "nearest": None if base.nearest is None else msgspec.to_builtins(base.nearest),
                "estimated_s": base.estimated_s,
            }
            for base in plan.bases
        ],
        "base_trainings_avoided": plan.base_trainings_avoided,
        "compute_saved_pct": plan.compute_saved_pct,
        "trainings": plan.trainings,
        "trainings_without_reuse": plan.instead_of,
        "compute_s": plan.compute_s,
        "compute_without_reuse_s": plan.compute_without_s,
        "finish_s": plan.finish_s,
        "finish_unknown": plan.finish_unknown or None,
        "slots": msgspec.to_builtins(plan.slots),
        "disk_bytes": plan.disk_bytes,
        "works": plan.works,
        "axes": {axis.name: axis.values for axis in plan.axes},
        "master_away": mesh.away or None,
    }


# --- for people ------------------------------------------------------------------------


def plan_lines(
    plan: Plan, sweep: SweepSpec, submission: Submission, mesh: Mesh, *, given: list[str]
) -> list[str]:
    """The plan as people read it."""
    parts = [words.count(plan.jobs, "job")] if plan.jobs else []
    parts += [words.count(len(plan.bases), "base model")] if plan.bases else []
    head = " on ".join(parts)
    lines = [painted(f"{plan.sweep}: {head}", bold=True), ""]
    lines += _base_lines(plan, sweep)
    lines.append("")
    lines += _facts(plan, sweep, submission, mesh, given)
    lines.append("")
    if mesh.away:
        told = (
            "No master answered, so nothing is known of bases that are there, of earlier runs "
            f"or of nodes: {mesh.away}."
        )
        lines += [*textwrap.wrap(told, text_width()), ""]
    lines.append(f"Nothing was started. Start it: meshtrain submit {submission.path}")
    return lines


def _base_lines(plan: Plan, sweep: SweepSpec) -> list[str]:
    works: dict[str | None, Counter[str]] = {}
    for job in sweep.jobs:
        works.setdefault(job.recipe_hash, Counter())[work_kind(job.work)] += 1
    axes = f"   {_axes_text(plan)}" if _is_one_group(plan) else ""
    lines: list[str] = []
    for base in plan.bases[:BASES_SHOWN_MAX]:
        lines += _one_base(base)
        jobs = works.get(base.recipe_hash)
        if jobs:
            lines.append(f"    └─ {_works_text(jobs)}{axes}")
    if len(plan.bases) > BASES_SHOWN_MAX:
        more = plan.bases[BASES_SHOWN_MAX:]
        cached = sum(base.cached for base in more)
        lines.append(f"  … and {len(more)} more bases, {cached} of them there: --json lists all")
    if works.get(None):
        lines += ["  no base", f"    └─ {_works_text(works[None])}{axes}"]
    return lines


def _is_one_group(plan: Plan) -> bool:
    """Whether the matrix is of all jobs there are, on one base or none."""
    return len(plan.works) == 1 and len(plan.bases) <= 1


def _one_base(base: PlannedBase) -> list[str]:
    line = f"  base {short(base.recipe_hash)}  {base.label}"
    why = _why_text(base)
    if len(line) + 5 + len(why) <= text_width():
        return [f"{line}     {why}"]
    wrapped = textwrap.wrap(why, text_width() - 7, max_lines=WHY_LINES_MAX, placeholder=" …")
    return [clip(line, text_width()), *(f"       {part}" for part in wrapped)]


def _why_text(base: PlannedBase) -> str:
    if base.state is BaseState.COMMITTED:
        return "cached: it is there"
    if base.state is BaseState.NEEDED:
        return "in training: it is waited for"
    if base.state is not None:
        return f"new: it was {base.state} before"
    if base.nearest is None:
        return "new"
    told = [_difference_text(each) for each in base.nearest.differences[:DIFFERENCES_SHOWN_MAX]]
    rest = len(base.nearest.differences) - DIFFERENCES_SHOWN_MAX
    if rest > 0:
        told.append(f"and {words.count(rest, 'more field')}")
    return f"new: {short(base.nearest.recipe_hash)} with {', '.join(told)}"


def _difference_text(difference: Difference) -> str:
    """One field of the nearest recipe, and what became of it: `lr: 0.001 -> 0.002`."""
    field, was, now = difference.field, difference.theirs, difference.ours
    if isinstance(was, list) and isinstance(now, list):
        changes = [f"+{item}" for item in now if item not in was]
        changes += [f"-{item}" for item in was if item not in now]
        return f"{field}: {clip(' '.join(changes) or 'another order', VALUE_SHOWN_MAX)}"
    if field.startswith(CODE_FIELD):
        field = field.removeprefix(CODE_FIELD)
        if was is None or now is None:
            return f"{field} {'added' if was is None else 'removed'}"
    if _is_digest(was) or _is_digest(now):
        return f"{field} changed"
    return f"{field}: {_value_text(was)} -> {_value_text(now)}"


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping) and set(value) == {"recipe", "artifact"}:
        return f"{short(value['recipe'])}, model {short(value['artifact'])}"
    if isinstance(value, list):
        text = " ".join(str(item) for item in value)
    elif isinstance(value, bool | int | float | str):
        text = scalar_text(value)
    else:
        text = str(value)
    return clip(text, VALUE_SHOWN_MAX)


def _is_digest(value: Any) -> bool:
    """Whether a value tells people nothing."""
    return (
        isinstance(value, str)
        and len(value) == DIGEST_HEX_LEN
        and all(char in "0123456789abcdef" for char in value)
    )


def _works_text(jobs: Counter[str]) -> str:
    return words.listed(
        [
            words.count(number, *_WORK_WORDS.get(kind, ("run", "runs")))
            for kind, number in jobs.items()
        ]
    )


def _axes_text(plan: Plan) -> str:
    names = " × ".join(axis.name for axis in plan.axes)
    if len(plan.axes) < 2:
        return names
    sizes = " × ".join(str(axis.values) for axis in plan.axes)
    return f"{names} = {sizes}{'' if plan.full_matrix else ', not all of it'}"


def _facts(
    plan: Plan, sweep: SweepSpec, submission: Submission, mesh: Mesh, given: list[str]
) -> list[str]:
    facts = [("trainings", _trainings_text(plan)), ("compute", _compute_text(plan, given))]
    if not _is_one_group(plan):
        facts.insert(0, ("matrix", _axes_text(plan)))
    if not mesh.away:
        facts.append(("to finish", _finish_text(plan)))
    if plan.disk_bytes is not None:
        facts.append(("disk", f"about {words.size(plan.disk_bytes)}"))
    for place, text in enumerate(input_texts(sweep)):
        facts.append(("inputs" if place == 0 else "", text))
    code = code_texts(submission)
    if len("     ".join(code)) + FACT_WIDTH <= text_width():
        code = ["     ".join(code)]
    facts += [("code" if place == 0 else "", text) for place, text in enumerate(code)]
    for snapshot in submission.snapshots.values():
        for place, text in enumerate(largest_texts(snapshot)):
            facts.append(("  its largest" if place == 0 else "", text))
    return [f"  {name:<{FACT_WIDTH - 2}}{text}" for name, text in facts if text]


def _trainings_text(plan: Plan) -> str:
    avoided = plan.base_trainings_avoided
    if not avoided:
        return str(plan.trainings)
    trainings = words.count(avoided, "base training")
    return f"{plan.trainings} instead of {plan.instead_of} ({trainings} avoided)"


def _compute_text(plan: Plan, given: list[str]) -> str:
    if plan.compute_s is None or plan.compute_without_s is None:
        asked = ("--base-hours", "--job-hours") if plan.bases else ("--job-hours",)
        flags = [flag for flag in asked if flag not in " ".join(given)]
        return f"not known before any run: say {' and '.join(flags) or '--job-hours'}"
    source = [*given]
    if plan.past_runs:
        source.append(words.count(plan.past_runs, "earlier run"))
    spent, without = words.hours(plan.compute_s), words.hours(plan.compute_without_s)
    if plan.compute_saved_pct:
        spent = f"{spent} instead of {without} ({plan.compute_saved_pct:.0f}% saved)"
    if not source:
        return spent
    told = f"from {' '.join(source)}"
    fits = FACT_WIDTH + len(spent) + 6 + len(told) <= text_width()
    return f"{spent}{' ' * 6 if fits else chr(10) + ' ' * FACT_WIDTH}{told}"


def _finish_text(plan: Plan) -> str:
    slots = []
    kind = "" if plan.slots.busy else "free "
    if plan.slots.gpus:
        slots.append(words.count(plan.slots.gpus, f"{kind}GPU"))
    if plan.slots.cpus:
        slots.append(words.count(plan.slots.cpus, f"{kind}CPU slot"))
    on = f" on {' and '.join(slots)}" if slots else ""
    if plan.finish_s is None:
        return f"not known{on}: {plan.finish_unknown}"
    busy = ", once they are free" if plan.slots.busy else ""
    return f"about {words.duration(plan.finish_s)}{on}{busy}"
