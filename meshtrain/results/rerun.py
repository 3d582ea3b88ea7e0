"""What runs the missing cells of a sweep again: a command, or a word on why none does."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import msgspec

from meshtrain.results.merge import NO_VALUE, CellState, MergedTable, MissingCell

NAMED_MAX = 4
"""Up to so many cells are named one by one in a command; more are meant by their sweep's name."""
NAMED_ELSEWHERE_MAX = 100
"""The same where other masters have results too: there a retry of all would take too much."""


class Rerun(msgspec.Struct, frozen=True):
    """Cells that are missing for one reason, and what to do about them."""

    cells: tuple[str, ...]
    command: str
    """For a shell; empty where no command helps."""
    says: str
    """What it does, or why there is none."""


def reruns(
    sweep: str,
    table: MergedTable,
    *,
    sources: Mapping[str, str] | None = None,
    scripts: bool = False,
) -> tuple[Rerun, ...]:
    """What runs the missing cells of `table` again.

    Args:
        sweep: its name; or its id, where a later sweep has its name.
        sources: cell name → the folder of the master that has it, where there are several.
        scripts: whether cells are run by scripts of `plan --split`, without a master.
    """
    missing = [cell for row in (*table.rows, *table.references) for cell in row.missing]
    ended = [c for c in missing if c.state in (CellState.FAILED, CellState.CANCELLED)]
    open_ = [c for c in missing if c.state in (CellState.WAITING, CellState.RUNNING)]
    valueless = [c for c in missing if c.state == NO_VALUE]
    known = {id(cell) for cell in (*ended, *open_, *valueless)}
    elsewhere = [c for c in missing if id(c) not in known]
    found: list[Rerun] = []
    if scripts:
        if ended or elsewhere:
            found.append(_by_script([*ended, *elsewhere]))
    else:
        found += _retries(sweep, ended, sources or {})
        if elsewhere:
            found.append(
                Rerun(_names(elsewhere), "", "in a state that this meshtrain doesn't know")
            )
    if open_:
        command = "" if scripts else f"meshtrain jobs {shlex.quote(sweep)}"
        found.append(Rerun(_names(open_), command, "still to come"))
    if valueless:
        found.append(
            Rerun(
                _names(valueless),
                "",
                f"ended well without {table.metric or 'a metric'}, so a retry leaves "
                f"{'it' if len(valueless) == 1 else 'them'} alone; when the program is mended: "
                "meshtrain submit FILE --again",
            )
        )
    return tuple(found)


def _retries(sweep: str, cells: Sequence[MissingCell], sources: Mapping[str, str]) -> list[Rerun]:
    by_source: dict[str, list[MissingCell]] = {}
    for cell in cells:
        by_source.setdefault(sources.get(cell.name, ""), []).append(cell)
    return [
        Rerun(
            _names(group),
            f"meshtrain retry {' '.join(map(shlex.quote, _targets(sweep, group, bool(source))))}",
            f"this runs {'it' if len(group) == 1 else 'them'} again"
            + (f", on the master of {source}" if source else ""),
        )
        for source, group in sorted(by_source.items())
    ]


def _targets(sweep: str, cells: Sequence[MissingCell], elsewhere_too: bool) -> list[str]:
    """A retry of a sweep takes just those of its jobs that failed or were cancelled.

    A sweep that goes by its id has jobs whose names a later sweep may have taken over.
    """
    named_max = NAMED_ELSEWHERE_MAX if elsewhere_too else NAMED_MAX
    by_name = all(cell.name.startswith(f"{sweep}/") for cell in cells)
    return [cell.name for cell in cells] if by_name and len(cells) <= named_max else [sweep]


def _by_script(cells: Sequence[MissingCell]) -> Rerun:
    return Rerun(
        _names(cells), "", "run the scripts of plan --split again: they do only what is missing"
    )


def _names(cells: Sequence[MissingCell]) -> tuple[str, ...]:
    return tuple(cell.name for cell in cells)
