"""`meshtrain budget`: what a sweep has used, and what it may use."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshtrain.cli.context import act, ask, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.ids import new_id
from meshtrain.wire.messages import SetBudget

AMOUNT_MIN = 1e-6
AMOUNT_MAX = 1e9


def command(
    ctx: typer.Context,
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep.")],
    gpu_hours: Annotated[
        float | None,
        typer.Option(metavar="HOURS", min=AMOUNT_MIN, max=AMOUNT_MAX, help="GPU-hours in all."),
    ] = None,
    money: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", min=AMOUNT_MIN, max=AMOUNT_MAX, help="Money in all."),
    ] = None,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Lift the limits that are not given.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a sweep has used of the GPUs and what that cost; set what it may use.

    When a limit is reached, what runs goes on and nothing more is started. The
    same limits stand in a job file under `budget:`.

    \b
    Examples:
      meshtrain budget few_shot
      meshtrain budget few_shot --gpu-hours 40
      meshtrain budget few_shot --unlimited
    """
    with cli_of(ctx).link() as link:
        if gpu_hours is not None or money is not None or unlimited:
            act(link, SetBudget(new_id("budget"), sweep, gpu_hours, money, unlimited))
        (row,) = ask(link, "sweeps", [sweep]).rows
    if as_json:
        keys = ("gpu_hours", "money", "gpu_hours_max", "money_max", "budget_spent")
        print_json({"sweep_id": row["sweep_id"], **{key: row[key] for key in keys}})
        return
    say(f"{row['name']}: {budget_text(row)}")


def budget_text(row: dict[str, Any]) -> str:
    """What a sweep has used, of what: `3.1 of 20 GPU-hours, 7.75 in money; no limit`."""
    hours, money = f"{row['gpu_hours']:.3g}", f"{row['money']:.2f}"
    hours_max, money_max = row["gpu_hours_max"], row["money_max"]
    told = [f"{hours} of {hours_max:g} GPU-hours" if hours_max else f"{hours} GPU-hours"]
    if money_max:
        told.append(f"{money} of {money_max:g} in money")
    elif row["money"]:
        told.append(f"{money} in money")
    text = ", ".join(told)
    if row["budget_spent"]:
        return f"{text}; its budget is spent, and nothing more of it is started"
    return text if hours_max or money_max else f"{text}, without a limit"
