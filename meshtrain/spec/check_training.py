"""What the fields of a built-in training must be to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from meshtrain.spec.forms import FlatJob, ResultsSection, TargetSection, TrainingBase, TrainingSweep
from meshtrain.spec.kinds import Kind
from meshtrain.spec.matrix import Matrix, Scalar
from meshtrain.spec.problems import Path, hint
from meshtrain.spec.training_keys import (
    BASE_DEFAULTS,
    MODES_FROM_BASE,
    TARGET_DEFAULTS,
    Mode,
)
from meshtrain.spec.validate import Findings

TARGET_AXES = tuple(key for key in TargetSection.model_fields if key != "folds")
BASE_AXES = ("model", *BASE_DEFAULTS)
LEAK = "is also in base.participants: its test data would leak into the base"


def split_axis(name: str) -> tuple[str, str]:
    """The section and the key that an axis of a training sweep sets."""
    section, dot, key = name.partition(".")
    return (section, key) if dot else ("target", name)


def field_kind(model: Any, key: str) -> Kind:
    """The kind of a field of a form."""
    metadata: Iterable[Any] = model.model_fields[key].metadata
    return next(item for item in metadata if isinstance(item, Kind))


def training_axis(name: str) -> Callable[[Any], Any]:
    """The check for the values of an axis; raises ValueError when there is no such axis."""
    section, key = split_axis(name)
    if section == "target" and key in TARGET_AXES:
        return field_kind(TargetSection, key).check
    if section == "base" and key in BASE_AXES:
        return field_kind(TrainingBase, key).check
    if section in ("target", "base"):
        axes = TARGET_AXES if section == "target" else BASE_AXES
        prefix = f"{section}." if "." in name else ""
        close = hint(key, axes)
        if close and prefix:
            close = close.replace('mean "', f'mean "{prefix}')
        raise ValueError(f"no key that can vary{close or '; can vary: ' + ', '.join(axes)}")
    raise ValueError('no key that can vary; write "base.lr", or "target.lr" in short: "lr"')


def _written_at(tree: Any, axis: str) -> Iterator[tuple[Scalar, Path]]:
    """Every scalar that the file gives on an axis, with its path."""
    matrix = tree["matrix"]
    values, include = matrix.get(axis), matrix.get("include")
    written: list[tuple[Any, Path]] = []
    if isinstance(values, list):
        written += [(value, ("matrix", axis, index)) for index, value in enumerate(values)]
    if isinstance(include, list):
        written += [
            (entry[axis], ("matrix", "include", index, axis))
            for index, entry in enumerate(include)
            if isinstance(entry, dict) and axis in entry
        ]
    for value, path in written:
        if isinstance(value, str | int | float):
            yield value, path


def check_training(sweep: TrainingSweep, matrix: Matrix, tree: Any, findings: Findings) -> None:
    """Tells `findings` what doesn't go together in a sweep."""
    _Check(sweep, matrix, tree, findings).run()


class _Check:
    def __init__(self, sweep: TrainingSweep, matrix: Matrix, tree: Any, findings: Findings) -> None:
        self._sweep = sweep
        self._matrix = matrix
        self._tree = tree
        self._findings = findings
        self._target = sweep.target
        self._axes = {split_axis(name): name for name in matrix.axis_names}

    def run(self) -> None:
        modes = self._modes()
        self._check_axes(modes)
        self._check_base(modes)
        if self._target is not None and modes and modes != {Mode.BASE_ONLY}:
            self._check_target(self._target, modes)
            self._check_leak(self._target)
        self._check_references(modes)
        self._check_over()
        self._check_data()

    def _modes(self) -> set[str]:
        if self._target is None:
            return set() if self._tree.get("target") else {Mode.BASE_ONLY}
        axis = self._axes.get(("target", "mode"))
        if axis is not None:
            modes = {str(mode) for mode in self._matrix.values_of(axis)}
            if Mode.BASE_ONLY in modes:
                self._findings.at_value(
                    "base_only has no target to vary; leave it out of the list", ("matrix", axis)
                )
            return modes
        if self._target.mode is None:
            self._findings.at_key(
                "missing: base_only, full_fine_tuning, target_only_fine_tuning or target_only",
                ("target", "mode"),
            )
            return set()
        return {self._target.mode}

    def _check_axes(self, modes: set[str]) -> None:
        for name in self._matrix.axis_names:
            path: Path = ("matrix", name)
            section, key = split_axis(name)
            if self._axes[section, key] != name:
                self._findings.at_key(
                    f'the same as "{self._axes[section, key]}"; leave one out', path
                )
            if section == "target" and modes == {Mode.BASE_ONLY}:
                self._findings.at_key(
                    f'there is no target; for the base write "base.{key}"'
                    if key in BASE_AXES
                    else "there is no target, so nothing would vary",
                    path,
                )
        if modes and not modes & {Mode.FULL_FINE_TUNING, Mode.BASE_ONLY}:
            self._refuse_key(
                "target_batch_pct", "has no effect: only full_fine_tuning mixes batches"
            )
        if modes & set(MODES_FROM_BASE):
            self._refuse_key(
                "model", "a target that starts from the base has its model; set base.model"
            )

    def _refuse_key(self, key: str, why: str) -> None:
        axis = self._axes.get(("target", key))
        if axis is not None:
            self._findings.at_key(why, ("matrix", axis))
        if self._target is not None and getattr(self._target, key) is not None:
            self._findings.at_key(why, ("target", key))

    def _check_base(self, modes: set[str]) -> None:
        base = self._sweep.base
        wanted = modes & {Mode.BASE_ONLY, *MODES_FROM_BASE} or set(self._sweep.references) & set(
            MODES_FROM_BASE
        )
        if base is None:
            if wanted:
                self._findings.at_key("missing: the model that the runs start from", ("base",))
            return
        if base.participants is not None and not base.participants:
            self._findings.at_value(
                "the list is empty: a base needs data", ("base", "participants")
            )
        if not wanted:
            return
        if base.participants is None:
            self._findings.at_key(
                "missing: whose data the base is trained on", ("base", "participants")
            )
        if base.model is None and ("base", "model") not in self._axes:
            self._findings.at_key("missing: softmax, mlp, cnn or cnn_wide", ("base", "model"))

    def _check_target(self, target: TargetSection, modes: set[str]) -> None:
        if target.participant is None and ("target", "participant") not in self._axes:
            self._findings.at_key("missing: whose model is wanted", ("target", "participant"))
        base_model = self._sweep.base is not None and (
            self._sweep.base.model is not None or ("base", "model") in self._axes
        )
        if (
            Mode.TARGET_ONLY in modes
            and not base_model
            and target.model is None
            and ("target", "model") not in self._axes
        ):
            self._findings.at_key("missing: softmax, mlp, cnn or cnn_wide", ("target", "model"))
        folds = target.folds or TARGET_DEFAULTS["folds"]
        self._check_fold(target, folds)

    def _check_fold(self, target: TargetSection, folds: int) -> None:
        why = f"there are {folds} folds, counted from 0; raise target.folds"
        axis = self._axes.get(("target", "fold"))
        if axis is None:
            if target.fold is not None and target.fold >= folds:
                self._findings.between(f"fold {target.fold}: {why}", ("target", "fold"))
            return
        written = list(_written_at(self._tree, axis))
        for value, path in written:
            if isinstance(value, int | float) and value >= folds:
                self._findings.at_value(f"fold {value}: {why}", path)
        highest = max((float(value) for value in self._matrix.values_of(axis)), default=0)
        if highest >= folds and not any(value == highest for value, _ in written):
            self._findings.at_value(f"fold {highest:g}: {why}", ("matrix", axis))

    def _check_leak(self, target: TargetSection) -> None:
        base = self._sweep.base
        trained_on = set(base.participants or ()) if base is not None else set()
        axis = self._axes.get(("target", "participant"))
        if axis is not None:
            for value, path in _written_at(self._tree, axis):
                if value in trained_on:
                    self._findings.at_value(f"{value} {LEAK}", path)
        elif target.participant in trained_on:
            self._findings.between(f"{target.participant} {LEAK}", ("target", "participant"))

    def _check_references(self, modes: set[str]) -> None:
        if self._sweep.references and modes == {Mode.BASE_ONLY}:
            self._findings.at_key("there is no target to compare with", ("references",))
        if len(set(self._sweep.references)) != len(self._sweep.references):
            self._findings.at_value("a reference is here twice", ("references",))

    def _check_over(self) -> None:
        check_over(self._sweep.results, self._matrix, self._tree, self._findings)
        check_affinity(self._sweep.affinity, self._matrix, self._tree, self._findings)

    def _check_data(self) -> None:
        base = self._sweep.base
        if (
            base is not None
            and base.data is not None
            and self._sweep.data is not None
            and base.data != self._sweep.data
        ):
            self._findings.between(
                "another source than data at the top; write it in one place", ("base", "data")
            )


def check_affinity(affinity: Iterable[str], matrix: Matrix, tree: Any, findings: Findings) -> None:
    """Tells `findings` which names of `affinity` are no axes."""
    _check_axes(affinity, tree.get("affinity"), ("affinity",), matrix, tree, findings)


def check_over(
    results: ResultsSection | None, matrix: Matrix, tree: Any, findings: Findings
) -> None:
    """Tells `findings` which names of `results.over` are no axes."""
    over = results.over if results is not None else ()
    written = tree["results"].get("over") if isinstance(tree.get("results"), dict) else None
    _check_axes(over, written, ("results", "over"), matrix, tree, findings)


def _check_axes(
    names: Iterable[str], written: Any, at: Path, matrix: Matrix, tree: Any, findings: Findings
) -> None:
    axes = tree.get("matrix")
    for name in names:
        if name in matrix.axis_names or (isinstance(axes, dict) and name in axes):
            continue
        path = (*at, written.index(name)) if isinstance(written, list) else at
        findings.at_value(f'"{name}" is no axis of the matrix{hint(name, matrix.axis_names)}', path)


def check_flat(job: FlatJob, path: Path, findings: Findings) -> None:
    """Tells `findings` what doesn't go together in one entry of a flat list."""
    if job.mode is None:
        findings.at_key(
            "missing: base_only, full_fine_tuning, target_only_fine_tuning or target_only",
            (*path, "mode"),
        )
        return
    if job.model is None:
        findings.at_key("missing: softmax, mlp, cnn or cnn_wide", (*path, "model"))
    if job.mode != Mode.TARGET_ONLY and not job.participants:
        findings.at_key("missing: whose data the base is trained on", (*path, "participants"))
    if job.mode == Mode.BASE_ONLY:
        return
    if job.target_participant is None:
        findings.at_key("missing: whose model is wanted", (*path, "target_participant"))
    elif job.target_participant in (job.participants or ()):
        leak = LEAK.replace("base.participants", "participants")
        findings.between(f"{job.target_participant} {leak}", (*path, "target_participant"))
    folds = TARGET_DEFAULTS["folds"]
    if job.fold is not None and job.fold >= folds:
        findings.at_value(
            f"fold {job.fold}: there are {folds} folds, counted from 0", (*path, "fold")
        )
    if job.target_batch_pct is not None and job.mode != Mode.FULL_FINE_TUNING:
        findings.at_key(
            "has no effect: only full_fine_tuning mixes batches", (*path, "target_batch_pct")
        )
