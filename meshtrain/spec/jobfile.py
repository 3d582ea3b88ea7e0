"""A job file from its bytes: read, checked as a whole, never half accepted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from meshtrain.spec.check_command import check_command, command_axis
from meshtrain.spec.check_training import check_flat, check_training, training_axis
from meshtrain.spec.forms import CommandSweep, FlatJob, TrainingSweep
from meshtrain.spec.matrix import CELLS_MAX_DEFAULT, Matrix, read_matrix
from meshtrain.spec.problems import JobFileError, Path, shown
from meshtrain.spec.reader import SUFFIXES, Document, read
from meshtrain.spec.validate import Findings, validated

JOBS_MAX = 20_000
"""How many entries a flat list may have."""

__all__ = ["JobFile", "JobFileError", "parse_job_file"]

_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file without problems."""

    file_name: str
    name: str
    """The sweep's name; where the file gives none, the file's name."""
    form: TrainingSweep | CommandSweep | tuple[FlatJob, ...]
    matrix: Matrix
    document: Document

    @property
    def tree(self) -> Any:
        """The file's content, as it was written."""
        return self.document.tree

    @property
    def text(self) -> str:
        """The file's text."""
        return self.document.text

    def findings(self) -> Findings:
        """Where problems go that show only later, when digests are known."""
        return Findings(self.file_name, self.document)


def parse_job_file(data: bytes, name: str, *, cells_max: int = CELLS_MAX_DEFAULT) -> JobFile:
    """Reads and checks the job file `name`; its suffix tells the format.

    Raises JobFileError with every problem of the file, each with its place.
    """
    document = read(data, name)
    findings = Findings(name, document)
    tree = document.tree
    form: TrainingSweep | CommandSweep | tuple[FlatJob, ...] | None
    matrix = Matrix()
    if isinstance(tree, list):
        form = _flat(tree, findings)
    elif isinstance(tree, dict):
        command = _is_command(tree)
        axis_check = command_axis if command else training_axis
        matrix = read_matrix(tree.get("matrix"), axis_check, findings.at_value, cells_max=cells_max)
        form = (_command if command else _training)(tree, matrix, findings)
    else:
        findings.at_value(f"expected the keys of a sweep, or a list of jobs, got {shown(tree)}", ())
        form = None
    if findings or form is None:
        raise findings.error()
    return JobFile(name, _sweep_name(tree, name), form, matrix, document)


def _is_command(tree: dict[str, Any]) -> bool:
    base = tree.get("base")
    return (
        "command" in tree
        or ("code" in tree and "target" not in tree)
        or (isinstance(base, dict) and "command" in base and "target" not in tree)
    )


def _training(tree: dict[str, Any], matrix: Matrix, findings: Findings) -> TrainingSweep | None:
    if not tree:
        findings.at_value("the file has no keys; a sweep needs base or command", ())
        return None
    _refuse_other_form(
        tree,
        "code",
        "params",
        "env",
        "inputs",
        "prepare",
        findings=findings,
        belongs="a command",
    )
    sweep = validated(TrainingSweep, tree, findings)
    if sweep is not None:
        check_training(sweep, matrix, tree, findings)
    return sweep


def _command(tree: dict[str, Any], matrix: Matrix, findings: Findings) -> CommandSweep | None:
    _refuse_other_form(
        tree,
        "target",
        "data",
        "references",
        findings=findings,
        belongs="built-in training",
    )
    sweep = validated(CommandSweep, tree, findings)
    if sweep is not None:
        check_command(sweep, matrix, tree, findings)
    return sweep


def _refuse_other_form(tree: dict[str, Any], *keys: str, findings: Findings, belongs: str) -> None:
    this = (
        "this sweep runs a command"
        if "command" in tree or belongs != "a command"
        else ("this sweep is built-in training")
    )
    for key in keys:
        if key in tree:
            findings.at_key(f"belongs to {belongs}, and {this}", (key,))


def _flat(entries: list[Any], findings: Findings) -> tuple[FlatJob, ...]:
    if not entries:
        findings.at_value("the list is empty: it needs a job", ())
    if len(entries) > JOBS_MAX:
        findings.at_value(f"{len(entries):,} jobs; at most {JOBS_MAX:,} in one list", ())
        return ()
    jobs = []
    for index, entry in enumerate(entries):
        path: Path = (index,)
        job = validated(FlatJob, entry, findings, path)
        if job is not None:
            check_flat(job, path, findings)
            jobs.append(job)
    if not findings:
        _refuse_twins(jobs, findings)
    return tuple(jobs)


def _refuse_twins(jobs: list[FlatJob], findings: Findings) -> None:
    first_at: dict[str, int] = {}
    for index, job in enumerate(jobs):
        earlier = first_at.setdefault(job.model_dump_json(), index)
        if earlier != index and job.mode != "base_only":
            findings.at_value(f"the same job as [{earlier}]; leave one out", (index,))


def _sweep_name(tree: Any, file_name: str) -> str:
    if isinstance(tree, dict) and isinstance(tree.get("name"), str):
        return str(tree["name"])
    stem = file_name.rsplit("/", 1)[-1]
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return _NOT_NAME.sub("_", stem).strip("._-")[:64] or "sweep"
