"""Results that scripts left on servers without a daemon, as the table that a mesh would give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meshtrain.cli import words
from meshtrain.cli.submission import read_job_file
from meshtrain.errors import UserError
from meshtrain.results.brought import Brought, gather
from meshtrain.spec.expand import expand
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.jobs import SweepSpec, TrainingWork
from meshtrain.spec.stand_in import stand_in_digests

MISSING_SHOWN_MAX = 20


def read_brought(file: Path, folders: Sequence[Path]) -> tuple[SweepSpec, Brought]:
    """A job file's sweep, and what folders hold of it. No master is asked, no code is needed.

    Raises JobFileError with every problem of the file, UserError when it or a
    folder can't be read, or when the sweep has no jobs.
    """
    job_file = parse_job_file(read_job_file(file), file.name)
    sweep = expand(job_file, stand_in_digests(job_file))
    if not sweep.jobs:
        raise UserError(f"{file} has no job: there are no results to merge")
    return sweep, gather(folders, sweep)


def subject_of(sweep: SweepSpec) -> str:
    """The person whose model all runs are for; empty where they differ, or are commands."""
    targets = {
        job.work.config.get("target") if isinstance(job.work, TrainingWork) else None
        for job in sweep.jobs
    }
    (target, *others) = targets
    return target if isinstance(target, str) and not others else ""


def missing_lines(sweep: SweepSpec, brought: Brought) -> list[str]:
    """Which cells have no result, by their names; and what else a reader should know."""
    lines = []
    if brought.missing:
        count = words.count(len(sweep.jobs), "cell")
        lines.append(f"missing  {len(brought.missing):,} of {count} have no result here:")
        names = [name.removeprefix(f"{sweep.name}/") for name in brought.missing]
        lines += [f"  {name}" for name in names[:MISSING_SHOWN_MAX]]
        if len(names) > MISSING_SHOWN_MAX:
            lines.append(f"  … and {len(names) - MISSING_SHOWN_MAX:,} more")
    return [*lines, *(f"note     {note}" for note in brought.notes)]
