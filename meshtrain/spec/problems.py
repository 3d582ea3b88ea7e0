"""What is wrong with a job file, told with its place, all at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from meshtrain.errors import UserError

PROBLEMS_SHOWN_MAX = 50
SHOWN_LEN_MAX = 48

Path = tuple[str | int, ...]
"""Where a value lies in a file: keys and list indexes, from the top."""


class Spot(NamedTuple):
    """A line and a column, both counted from 1; a column of None is not known."""

    line: int
    column: int | None = None


class Place(NamedTuple):
    """Where a value stands, and where the key that names it stands."""

    key: Spot
    value: Spot


Places = dict[Path, Place]


class Problem(NamedTuple):
    """One thing that is wrong: where, and what was expected."""

    text: str
    path: Path = ()
    spot: Spot | None = None


class JobFileError(UserError):
    """Raised when a job file has problems; its text is fit for NAME.error.txt.

    Args:
        more: how many there are beside these.
    """

    def __init__(self, file_name: str, problems: Iterable[Problem], more: int = 0) -> None:
        self.file_name = file_name
        self.problems = tuple(sorted(problems, key=_reading_order))
        super().__init__(_report(shown_name(file_name), self.problems, more))


def _reading_order(problem: Problem) -> tuple[int, int]:
    if problem.spot is None:
        return (0, 0)
    return (problem.spot.line, problem.spot.column or 0)


def _report(file_name: str, problems: Sequence[Problem], more: int) -> str:
    in_all = len(problems) + more
    count = "1 problem" if in_all == 1 else f"{in_all} problems"
    shown = problems[:PROBLEMS_SHOWN_MAX]
    spots = [_spot_text(problem.spot) for problem in shown]
    width = max((len(spot) for spot in spots), default=0)
    lines = [f"{file_name} was not accepted: {count}. Nothing was started.", ""]
    for problem, spot in zip(shown, spots, strict=True):
        cells = [spot.ljust(width)] if width else []
        where = path_text(problem.path)
        cells.append(f"{where}   {problem.text}" if where else problem.text)
        lines.append("  " + "  ".join(cells))
    if in_all > len(shown):
        lines.append(f"  … and {in_all - len(shown)} more")
    lines += ["", "Mend the file and drop it again. All keys: meshtrain schema --explain"]
    return "\n".join(lines)


def _spot_text(spot: Spot | None) -> str:
    if spot is None:
        return ""
    if spot.column is None:
        return f"line {spot.line}"
    return f"line {spot.line}, column {spot.column}"


def path_text(path: Path) -> str:
    """A path as people read it: `matrix.target_batch_pct[1]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + shown_name(step)
    return text


def shown_name(text: str) -> str:
    """A key or a file's name, on one line whatever it holds."""
    safe = text if text.isprintable() else json.dumps(text)
    return _cut(safe)


def shown(value: Any) -> str:
    """A value as a message shows it: short, on one line, in the file's own spelling."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _cut(repr(value))
    if isinstance(value, str):
        return _cut(json.dumps(value[: SHOWN_LEN_MAX + 1], ensure_ascii=not value.isprintable()))
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list | tuple):
        return "a list"
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LEN_MAX else text[: SHOWN_LEN_MAX - 1] + "…"


ALIASES = {
    "learning_rate": "lr",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "aug": "augmentation",
    "augment": "augmentation",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "people": "participants",
    "subjects": "participants",
    "writers": "participants",
    "users": "participants",
    "arch": "model",
    "architecture": "model",
    "network": "model",
    "optim": "optimizer",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "random_seed": "seed",
    "grid": "matrix",
    "sweep": "matrix",
    "axes": "matrix",
    "parameters": "params",
    "cmd": "command",
    "run": "command",
    "environment": "env",
    "gpu": "gpus",
    "num_gpus": "gpus",
    "gpu_mem": "gpu_memory",
    "vram": "gpu_memory",
    "mem": "memory",
    "ram": "memory",
    "batch_pct": "target_batch_pct",
    "data_pct": "target_data_pct",
    "num_folds": "folds",
    "n_folds": "folds",
    "max_retries": "retries",
    "time_limit": "timeout",
    "baselines": "references",
    "target_participant": "participant",
}
"""What people write for a key in other tools; used for hints alone, never accepted."""


def did_you_mean(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` most likely stands for, or None."""
    known = list(choices)
    spellings = {choice.lower(): choice for choice in known}
    if word.lower() not in spellings:
        spellings |= {
            alias: meant
            for alias, meant in ALIASES.items()
            if meant in known and alias not in spellings
        }
    close = difflib.get_close_matches(word[:64].lower(), list(spellings), n=1, cutoff=0.7)
    return spellings[close[0]] if close else None


def hint(word: str, choices: Iterable[str]) -> str:
    """`; did you mean "lr"?`, or nothing where no choice is close."""
    close = did_you_mean(word, choices)
    return f'; did you mean "{close}"?' if close else ""
