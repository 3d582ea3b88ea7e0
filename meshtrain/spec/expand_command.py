"""Sweeps of commands: lines with their placeholders filled, and bases made by a command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from meshtrain.spec.check_command import BASE_PARAMS
from meshtrain.spec.expansion import Digests, Expansion, JobDraft, limits_of, resources_of
from meshtrain.spec.forms import CommandBase, CommandSweep
from meshtrain.spec.inputs import filled_reference, input_digests
from meshtrain.spec.jobs import BaseSpec, CommandWork, InputData
from meshtrain.spec.lineage import from_words
from meshtrain.spec.matrix import (
    Matrix,
    Scalar,
    cells,
    cells_count_max,
    scalar_text,
)
from meshtrain.spec.placeholders import fill, fill_value
from meshtrain.spec.problems import hint
from meshtrain.spec.recipe import command_recipe, recipe_hash
from meshtrain.spec.validate import Findings

LABEL_LEN_MAX = 100
FROM_VARIABLE = "MESHTRAIN_FROM"
"""Names the folder of the base that a base continues from."""


class CommandExpansion:
    """Expands one sweep of commands."""

    def __init__(
        self, sweep: CommandSweep, matrix: Matrix, digests: Digests, findings: Findings
    ) -> None:
        self._sweep = sweep
        self._matrix = matrix
        self._findings = findings
        snapshot = digests.code[sweep.code] if sweep.code is not None else None
        self._code = snapshot.artifact_id if snapshot is not None else None
        self._files = dict(snapshot.files) if snapshot is not None else {}
        parent = sweep.base.from_ if sweep.base is not None else None
        self._parent = digests.parents[parent].parent if parent is not None else None
        self._bases: dict[tuple[Any, ...], BaseSpec] = {}
        self._found = digests.inputs
        #: those of cells that come to the same share one dict
        self._inputs: dict[tuple[str, ...], dict[str, InputData]] = {}
        self._expansion = Expansion(resources_of(sweep.resources), limits_of(sweep))

    def expand(self) -> Expansion:
        """All jobs and bases; files that aren't in the snapshot go to the findings."""
        base = self._sweep.base
        code_digests = self._base_code(base) if base is not None else {}
        if self._findings:
            return self._expansion
        result_file = self._sweep.results.file if self._sweep.results is not None else None
        for cell in cells(self._matrix, cells_max=cells_count_max(self._matrix)):
            inputs = self._inputs_of(cell.values)
            if self._findings:
                return self._expansion
            start = (
                self._base(base, cell.values, code_digests, inputs) if base is not None else None
            )
            if start is not None:
                self._expansion.bases.setdefault(start.recipe_hash, start)
            if self._sweep.command is None:
                continue
            values = {**cell.values, **_filled_params(self._sweep.params, cell.values)}
            work = CommandWork(
                command=fill(self._sweep.command, values, for_shell=True),
                code=self._code,
                env=_filled_env(self._sweep.env, values),
                result_file=result_file,
                inputs=inputs,
                prepare=_filled_lines(self._sweep.prepare, values),
            )
            self._expansion.jobs.append(
                JobDraft(cell.name, cell.values, work, start.recipe_hash if start else None)
            )
        return self._expansion

    def _inputs_of(self, cell: Mapping[str, Scalar]) -> dict[str, InputData]:
        """What each input is for one cell; what comes to no data set goes to the findings."""
        filled: dict[str, str] = {}
        for name, reference in self._sweep.inputs.items():
            try:
                filled[name] = filled_reference(reference, cell)
            except ValueError as error:
                self._findings.at_value(f"in a cell of the matrix: {error}", ("inputs", name))
        if len(filled) < len(self._sweep.inputs):
            return {}
        key = tuple(filled.values())
        if key not in self._inputs:
            self._inputs[key] = {name: self._found[what] for name, what in filled.items()}
        return self._inputs[key]

    def _base_code(self, base: CommandBase) -> dict[str, str]:
        """The digests that the recipe holds: of the files that `base.code` names."""
        if base.code is None:
            return self._files
        kept: dict[str, str] = {}
        for index, written in enumerate(base.code):
            found = _below(written, self._files)
            if not found:
                self._findings.at_value(
                    f"no such file or folder in the snapshot of {self._sweep.code}"
                    f"{hint(written, _paths(self._files))}",
                    ("base", "code", index),
                )
            kept |= found
        return kept

    def _base(
        self,
        base: CommandBase,
        cell: Mapping[str, Scalar],
        code_digests: dict[str, str],
        inputs: dict[str, InputData],
    ) -> BaseSpec:
        varied = {
            name[len(BASE_PARAMS) :]: value
            for name, value in cell.items()
            if name.startswith(BASE_PARAMS)
        }
        params = {**_filled_params(base.params, cell), **varied}
        values = {**cell, **params}
        command = fill(base.command or "", values, for_shell=True)
        env = _filled_env(base.env, values)
        prepare = _filled_lines(base.prepare, values)
        read = {name: inputs[name] for name in base.inputs}
        sources = tuple(data.source for data in read.values())
        key = (command, prepare, _typed(params), tuple(env.items()), sources)
        if key not in self._bases:
            work = CommandWork(command, self._code, env, inputs=read, prepare=prepare)
            self._bases[key] = self._make_base(base, work, params, code_digests)
        return self._bases[key]

    def _make_base(
        self,
        base: CommandBase,
        work: CommandWork,
        params: dict[str, Scalar],
        code_digests: dict[str, str],
    ) -> BaseSpec:
        recipe = command_recipe(
            work.command,
            params,
            work.env,
            code_digests,
            input_digests(work.inputs),
            prepare=work.prepare,
            parent=self._parent,
        )
        label = command_label(work.command, params)
        if self._parent is not None:
            # Beside the recipe: which folder it is differs from node to node.
            env = {**work.env, FROM_VARIABLE: "{from}"}
            work = msgspec.structs.replace(work, env=env)
            label = f"{label} · {from_words(self._parent)}"
        return BaseSpec(
            recipe_hash=recipe_hash(recipe),
            recipe=recipe,
            label=label,
            work=work,
            resources=resources_of(base.resources or self._sweep.resources),
            limits=limits_of(self._sweep, base),
            parent=self._parent,
        )


def _filled_params(params: Mapping[str, Any], cell: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {name: fill_value(value, cell) for name, value in params.items()}


def _filled_lines(lines: str | None, values: Mapping[str, Scalar]) -> str | None:
    return None if lines is None else fill(lines, values, for_shell=True)


def _filled_env(env: Mapping[str, Any], values: Mapping[str, Scalar]) -> dict[str, str]:
    return {name: fill(scalar_text(value), values, for_shell=False) for name, value in env.items()}


def _typed(params: Mapping[str, Scalar]) -> tuple[tuple[str, str, Scalar], ...]:
    return tuple((name, type(value).__name__, value) for name, value in params.items())


def _below(written: str, files: Mapping[str, str]) -> dict[str, str]:
    path = _normal(written)
    if path == "":
        return dict(files)
    if path in files and not written.endswith("/"):
        return {path: files[path]}
    return {name: value for name, value in files.items() if name.startswith(f"{path}/")}


def _normal(written: str) -> str:
    return "/".join(step for step in written.split("/") if step not in ("", "."))


def _paths(files: Iterable[str]) -> list[str]:
    folders = {f"{name.rpartition('/')[0]}/" for name in files if "/" in name}
    return [*files, *sorted(folders)]


def command_label(command: str, params: Mapping[str, Scalar]) -> str:
    """How people recognise a base that a command makes: its script and its parameters."""
    words = command.split()
    script = next((word for word in words if word.endswith((".py", ".sh"))), None)
    parts = [script or (words[0] if words else "command")]
    parts += [f"{name} {scalar_text(value)}" for name, value in params.items()]
    label = " · ".join(parts)
    return label if len(label) <= LABEL_LEN_MAX else label[: LABEL_LEN_MAX - 1] + "…"
