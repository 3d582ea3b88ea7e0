"""`meshtrain plan --split`: a sweep as shell scripts, one for each server without a daemon."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshtrain.cli import words
from meshtrain.cli.output import Column, painted, say, table_lines, terminal_width
from meshtrain.cli.split_script import Script, scripts
from meshtrain.core.split import split
from meshtrain.errors import UserError
from meshtrain.ids import short
from meshtrain.results.formats import clip
from meshtrain.spec.jobs import SweepSpec

BY_SHOWN = 60
_COLUMNS = (
    Column("SCRIPT"),
    Column("CELLS", right=True),
    Column("BASES", right=True),
    Column("GROUPS", flexible=True),
)


def write_split(
    sweep: SweepSpec, parts: int, by: Sequence[str], folder: Path, file_name: str
) -> tuple[Script, ...]:
    """Writes a sweep's scripts below `folder`, all of them or none.

    Args:
        by: axes; jobs that are equal on them stay together.
        file_name: the job file, as people will name it when they merge.

    Raises UserError where the sweep can't be dealt out so, where a job needs the
    mesh, and where the folder holds scripts of another split, or can't be written.
    """
    if not sweep.jobs:
        raise UserError(f"{sweep.name} has no job to deal out: its bases alone need no scripts")
    made = scripts(sweep, split(sweep.jobs, parts, by), file_name)
    names = {script.name for script in made}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        left = sorted(
            path.name for path in folder.glob(f"{sweep.name}-*-of-*.sh") if path.name not in names
        )
        if left:
            raise UserError(
                f"{folder} holds scripts of another split, {words.listed(left, 3)}: whoever ran "
                "some of both would run cells twice. Remove them, or name another folder with --out"
            )
        # What lies there is no code: git, and with it the snapshots of code, leave it out.
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        for script in made:
            _write(folder / script.name, script.text)
    except OSError as error:
        raise UserError(
            f"the scripts can't be written to {folder}: {error.strerror or error}. Name another "
            "folder with --out"
        ) from error
    return made


def _write(path: Path, text: str) -> None:
    """Writes a script that is seen whole or not at all, and that can be run."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.chmod(0o755)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def split_document(sweep: SweepSpec, made: Sequence[Script], folder: Path) -> dict[str, Any]:
    """What was written, as `--json` prints it."""
    return {
        "sweep": sweep.name,
        "sweep_id": sweep.sweep_id,
        "folder": str(folder),
        "scripts": [
            {
                "name": script.name,
                "cells": [job.name for job in script.part.jobs],
                "groups": list(script.part.groups),
                "bases": list(script.part.recipe_hashes),
            }
            for script in made
        ],
    }


def print_split(
    sweep: SweepSpec, made: Sequence[Script], folder: Path, by: Sequence[str], file_name: str
) -> None:
    """What was written, and what to do with it."""
    told = f", by {', '.join(by)}" if by else ""
    cells = words.count(len(sweep.jobs), "cell")
    say(painted(f"{sweep.name}: {cells} in {words.count(len(made), 'script')}{told}", bold=True))
    say()
    rows = [
        [
            script.name,
            f"{len(script.part.jobs):,}",
            str(len(script.part.recipe_hashes) or ""),
            clip("  ".join(script.part.groups), BY_SHOWN),
        ]
        for script in made
    ]
    for line in table_lines(_COLUMNS, rows, width=terminal_width()):
        say(f"  {line}")
    say()
    for line in _bases_lines(sweep, made):
        say(f"  {line}")
    say(f"  scripts   {folder}/")
    say("  on each   cd CODE; bash SCRIPT --gpus 0      all it can be told: --help")
    say(f"  at home   meshtrain results {file_name} --from FOLDER --from FOLDER")


def _bases_lines(sweep: SweepSpec, made: Sequence[Script]) -> list[str]:
    counts = [len(script.part.recipe_hashes) for script in made]
    bases = {recipe_hash for script in made for recipe_hash in script.part.recipe_hashes}
    if not bases:
        return []
    twice = sum(counts) - len(bases)
    lines = [
        f"bases     {len(bases)}, trained {sum(counts)} times: once in each script that needs it"
    ]
    if not twice:
        lines = [f"bases     {len(bases)}, each in one script alone"]
    for base in sweep.bases:
        if base.recipe_hash in bases and base.parent is not None:
            lines.append(
                f"          {short(base.recipe_hash)} continues from "
                f"{short(base.parent.recipe_hash)}: give --from FOLDER"
            )
    if twice:
        lines.append("          train them first, and give --base FOLDER, to save that")
    return lines
