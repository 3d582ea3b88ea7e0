"""meshtrain chaos: a mesh of this host's own, hurt at random while it works, then looked at."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from meshtrain.cli import words
from meshtrain.cli.output import Column, print_json, print_table, say, tell
from meshtrain.errors import UserError
from meshtrain.spec import kinds as spec_kinds

if TYPE_CHECKING:
    from meshtrain.chaos.run import Outcome

SEED_MAX = 1_000_000


def command(
    for_: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long it is hurt: 90s, 10m.")
    ] = "1m",
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Draws the same faults and jobs again; else a new one."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="How many workers.")] = 4,
    jobs_per_s: Annotated[
        float, typer.Option(metavar="N", min=0.01, max=100, help="Job files given a second.")
    ] = 1.0,
    fault_every: Annotated[
        str, typer.Option(metavar="TIME", help="Mean time between two faults.")
    ] = "1s",
    hurt: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Of: master,worker,shim,spawner,link; else all."),
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(metavar="LIST", help="Kinds of jobs; else all that can run here.")
    ] = None,
    lease: Annotated[str, typer.Option(metavar="TIME", help="The master's lease.")] = "6s",
    settle: Annotated[
        str, typer.Option(metavar="TIME", help="How long it may take to come to rest.")
    ] = "3m",
    mild: Annotated[
        bool,
        typer.Option("--mild", help="Nothing outlasts a lease: jobs must go on, not run again."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep its folder, come what may.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hurt a mesh of this host's own while it works, heal it, and see that nothing was lost.

    Masters, workers, shims and spawners are killed, stopped and restarted,
    links cut, slowed and reset. Then every promise is looked at.

    \b
    Examples:
      meshtrain chaos --for 10m
      meshtrain chaos --for 30s --seed 7 --hurt worker,link --json
      meshtrain chaos --mild --lease 30s --hurt master,worker,spawner
    """
    if sys.platform != "linux":
        raise UserError("meshtrain chaos needs Linux: it finds what runs through /proc")
    # Only here: the command line stays quick for all other commands.
    from meshtrain.chaos import report
    from meshtrain.chaos.faults import Victim
    from meshtrain.chaos.jobs import Kind, kinds_here
    from meshtrain.chaos.run import ChaosRun, Plan

    plan = Plan(
        home=Path(),
        for_s=_seconds(for_, "--for"),
        seed=random.randrange(SEED_MAX) if seed is None else seed,
        nodes=workers,
        lease_s=_seconds(lease, "--lease"),
        jobs_per_s=jobs_per_s,
        fault_every_s=_seconds(fault_every, "--fault-every"),
        victims=tuple(Victim(name) for name in _listed(hurt, "--hurt", list(Victim))),
        kinds=tuple(Kind(name) for name in _listed(kinds, "--kinds", list(kinds_here()))),
        settle_timeout_s=_seconds(settle, "--settle"),
        mild=mild,
    )
    # Last of all: what is refused leaves nothing.
    home = Path(tempfile.mkdtemp(prefix="meshtrain-chaos-"))
    plan = msgspec.structs.replace(plan, home=home)
    tell(f"a mesh of 1 master and {workers} workers in {home}, seed {plan.seed}")
    with (home / "chaos.log").open("w", encoding="utf-8") as log:
        began_s = time.monotonic()

        def note(text: str) -> None:
            print(f"{time.monotonic() - began_s:8.2f}  {text}", file=log, flush=True)

        def show(text: str) -> None:
            note(text)
            tell(text)

        try:
            outcome = _run(lambda: ChaosRun(plan, show, note).carry_out())
        except BaseException:
            tell(f"given up; what it left lies in {home}")
            raise
    if as_json:
        print_json(report.document(outcome))
    else:
        say()
        print_table(
            [Column("hurt"), Column("times", right=True), Column("how", flexible=True)],
            report.fault_rows(outcome),
        )
        say()
        columns = [Column(""), Column("check"), Column("looked at", right=True)]
        print_table([*columns, Column("promise", flexible=True)], report.check_rows(outcome))
        say()
        say(report.job_line(outcome))
        say(
            f"{words.duration(outcome.took_s)} in all, at rest "
            f"{words.duration(outcome.settled_s)} after the healing"
        )
    if outcome.verdict.ok:
        if keep:
            tell(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
        if not as_json:
            say(f"all held (seed {plan.seed})")
        return
    for line in report.violation_lines(outcome.verdict.violations):
        tell(line)
    tell(
        f"broken. All of it is kept in {home}: chaos.log tells what was done and when, beside it "
        "lie the daemons' logs and homes. See its jobs: meshtrain master --home "
        f"{home}/master, then meshtrain --home {home}/master jobs. "
        f"Try again with --seed {plan.seed}"
    )
    raise typer.Exit(1)


def _run(carry_out: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Run to the end; SIGTERM ends it as Ctrl-C does: in good order."""

    async def main() -> Outcome:
        task = asyncio.ensure_future(carry_out())
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _seconds(text: str, flag: str) -> float:
    try:
        seconds = float(spec_kinds.DURATION.check(text))
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None
    if not 0 < seconds <= 86_400:
        raise UserError(f"{flag}: {text} is no time from above 0 to a day")
    return seconds


def _listed(text: str | None, flag: str, known: list[str]) -> list[str]:
    if text is None:
        return known
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        told = f"{unknown[0]!r} is none" if unknown else "nothing is named"
        raise UserError(f"{flag}: {told}; known: {', '.join(known)}")
    return names
