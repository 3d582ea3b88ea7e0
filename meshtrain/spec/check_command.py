"""What the fields of a command sweep must be to each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from meshtrain.spec import kinds
from meshtrain.spec.check_training import check_affinity, check_over
from meshtrain.spec.forms import CommandSweep
from meshtrain.spec.matrix import Matrix
from meshtrain.spec.placeholders import INPUTS, NODE_PLACEHOLDERS, template_problems
from meshtrain.spec.problems import Path, hint, shown
from meshtrain.spec.validate import Findings

BASE_PARAMS = "base.params."
_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")


def command_axis(name: str) -> Callable[[Any], Any]:
    """The check for the values of an axis; raises ValueError when it can't be one."""
    if name in NODE_PLACEHOLDERS:
        raise ValueError(f"{{{name}}} is filled on the node; give the axis another name")
    if not _AXIS.match(name.removeprefix(BASE_PARAMS)):
        raise ValueError(
            'an axis is a name of letters, digits, "_" and "-", or "base.params." and one'
        )
    return kinds.check_scalar


def check_command(sweep: CommandSweep, matrix: Matrix, tree: Any, findings: Findings) -> None:
    """Tells `findings` what doesn't go together in a sweep."""
    _Check(sweep, matrix, tree, findings).run()


class _Check:
    def __init__(self, sweep: CommandSweep, matrix: Matrix, tree: Any, findings: Findings) -> None:
        self._sweep = sweep
        self._tree = tree
        self._matrix = matrix
        self._findings = findings
        written = tree.get("matrix")
        axes = set(written) - {"exclude", "include"} if isinstance(written, dict) else set()
        self._axes = sorted(axes | set(matrix.axis_names))

    def run(self) -> None:
        sweep, findings = self._sweep, self._findings
        if sweep.command is None and sweep.base is None:
            findings.at_key("missing: the shell line that each job runs", ("command",))
        if sweep.command is None and sweep.base is not None and sweep.matrix is None:
            self._refuse_idle_keys()
        self._check_base()
        self._check_job()
        check_over(sweep.results, self._matrix, self._tree, findings)
        check_affinity(sweep.affinity, self._matrix, self._tree, findings)

    def _refuse_idle_keys(self) -> None:
        for key in ("params", "env", "prepare"):
            if self._tree.get(key):
                self._findings.at_key("has no effect without command", (key,))

    def _check_base(self) -> None:
        base = self._sweep.base
        if base is None:
            if any(axis.startswith(BASE_PARAMS) for axis in self._axes):
                self._findings.at_key("missing: the matrix varies its params", ("base",))
            return
        if base.command is None:
            self._findings.at_key(
                "missing: the shell line that makes the base", ("base", "command")
            )
        if base.code is not None and self._sweep.code is None:
            self._findings.at_key(
                "missing: base.code names files of it, so write the folder here", ("code",)
            )
        params = [
            *base.params,
            *(axis[len(BASE_PARAMS) :] for axis in self._axes if axis.startswith(BASE_PARAMS)),
        ]
        self._check_params(base.params, ("base", "params"))
        for index, name in enumerate(base.inputs):
            if name not in self._sweep.inputs:
                close = hint(name, self._sweep.inputs)
                path: Path = ("base", "inputs")
                if isinstance(self._tree["base"].get("inputs"), list):
                    path = (*path, index)
                self._findings.at_value(
                    f"no input is called {shown(name)}{close or '; name it under inputs: first'}",
                    path,
                )
        there = [*params, *self._axes, *self._code(), *(INPUTS + name for name in base.inputs)]
        parent = ["from"] if base.from_ is not None else []
        known = [*there, "output", *parent, *self._prepared(base.prepare)]
        self._check_template(base.command, known, ("base", "command"))
        self._check_prepare(base.prepare, there, ("base", "prepare"))
        for name, value in base.env.items():
            self._check_template(value, known, ("base", "env", name))

    def _check_job(self) -> None:
        base = ["base"] if self._sweep.base is not None else []
        inputs = [INPUTS + name for name in self._sweep.inputs]
        there = [*self._sweep.params, *self._axes, *self._code(), *inputs]
        known = [*there, "output", *base, *self._prepared(self._sweep.prepare)]
        self._check_params(self._sweep.params, ("params",))
        self._check_prepare(self._sweep.prepare, there, ("prepare",))
        for name, reference in self._sweep.inputs.items():
            self._check_template(reference, self._axes, ("inputs", name))
        self._check_template(self._sweep.command, known, ("command",))
        for name, value in self._sweep.env.items():
            self._check_template(value, known, ("env", name))

    def _check_prepare(self, lines: str | None, there: list[str], path: Path) -> None:
        if lines is not None:
            self._check_template(lines, [*there, "prepared"], path)

    def _prepared(self, lines: str | None) -> list[str]:
        return ["prepared"] if lines is not None else []

    def _code(self) -> list[str]:
        return ["code"] if self._sweep.code is not None else []

    def _check_params(self, params: Iterable[str], path: Path) -> None:
        section = (
            self._sweep.params
            if path == ("params",)
            else (self._sweep.base.params if self._sweep.base else {})
        )
        for name in params:
            if name in NODE_PLACEHOLDERS:
                self._findings.at_key(
                    f"{{{name}}} is filled on the node; give the parameter another name",
                    (*path, name),
                )
            self._check_template(section[name], self._axes, (*path, name))

    def _check_template(self, value: Any, known: Iterable[str], path: Path) -> None:
        if isinstance(value, str):
            for problem in template_problems(value, list(dict.fromkeys(known))):
                self._findings.at_value(problem, path)
