"""Sweeps of the built-in training: what each run is told, and which base it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshtrain.spec.check_training import TARGET_AXES, split_axis, training_axis
from meshtrain.spec.expansion import (
    Digests,
    Expansion,
    JobDraft,
    data_folder_of,
    limits_of,
    resources_of,
)
from meshtrain.spec.forms import BaseRunKeys, FlatJob, TrainingSweep
from meshtrain.spec.jobs import BaseSpec, DataSource, Limits, Resources, TrainingWork
from meshtrain.spec.lineage import ResolvedParent, from_words
from meshtrain.spec.matrix import (
    Cell,
    Matrix,
    cells,
    cells_count_max,
    number_text,
    point_name,
    scalar_text,
)
from meshtrain.spec.problems import Path
from meshtrain.spec.recipe import builtin_data_digest, recipe_hash, training_recipe
from meshtrain.spec.training_keys import (
    BASE_DEFAULTS,
    CHECKPOINT_EVERY_S_DEFAULT,
    INHERITED_KEYS,
    MODES_FROM_BASE,
    RECIPE_KEYS,
    REFERENCE_GROUPS,
    TARGET_DEFAULTS,
    Mode,
)
from meshtrain.spec.validate import Findings

PARTICIPANTS_SHOWN_MAX = 6


class _Data:
    """Where participants' data lies, and its digests."""

    def __init__(self, folder: str | None, digests: Mapping[str, str]) -> None:
        self._folder = folder
        self._digests = digests
        self._known: dict[str, str] = {}

    def config(self) -> dict[str, Any]:
        if self._folder is None:
            return {"source": DataSource.DIGITS.value}
        return {"source": DataSource.FOLDER.value, "path": self._folder}

    def missing(self, participant: str) -> str | None:
        if self._folder is None or participant in self._digests:
            return None
        return f"no data: {self._folder}/{participant}.npz is not there"

    def digests_of(self, participants: Iterable[str]) -> dict[str, str]:
        return {name: self._digest(name) for name in participants}

    def _digest(self, name: str) -> str:
        if self._folder is not None:
            return self._digests[name]
        if name not in self._known:
            self._known[name] = builtin_data_digest(DataSource.DIGITS.value, name)
        return self._known[name]


class _Bases:
    """The bases of a sweep, each made once."""

    def __init__(
        self,
        data: _Data,
        resources: Resources,
        limits: Limits,
        resolved: ResolvedParent | None = None,
    ) -> None:
        self._data = data
        self.resolved = resolved
        self._resources = resources
        self._limits = limits
        self._by_settings: dict[tuple[Any, ...], BaseSpec] = {}

    def base(self, settings: Mapping[str, Any], device: str | None = None) -> BaseSpec:
        """The base with these recipe keys, all of them given."""
        participants = tuple(sorted(set(settings["participants"])))
        key = (participants, *(settings[name] for name in RECIPE_KEYS[1:]))
        if key not in self._by_settings:
            self._by_settings[key] = self._make({**settings, "participants": participants}, device)
        return self._by_settings[key]

    def _make(self, settings: Mapping[str, Any], device: str | None) -> BaseSpec:
        data_digests = self._data.digests_of(settings["participants"])
        parent = None if self.resolved is None else self.resolved.parent
        recipe = training_recipe(settings, data_digests, parent)
        label = base_label(recipe["base"])
        config = {
            "mode": Mode.BASE_ONLY.value,
            "recipe": recipe,
            "data": self._data.config(),
            "participants": list(settings["participants"]),
            "target": None,
            **{key: settings[key] for key in RECIPE_KEYS[1:]},
            "fold": None,
            "folds": None,
            "target_batch_pct": None,
            "target_data_pct": None,
            "data_digests": data_digests,
            "device": device,
            "prefix": None,
        }
        if parent is not None:
            config["parent"] = parent.document()
        return BaseSpec(
            recipe_hash=recipe_hash(recipe),
            recipe=recipe,
            label=label if parent is None else f"{label} · {from_words(parent)}",
            work=TrainingWork(config),
            resources=self._resources,
            limits=self._limits,
            parent=parent,
        )


class _Runs:
    """Makes the configuration of each target run."""

    def __init__(self, data: _Data, bases: _Bases) -> None:
        self._data = data
        self._bases = bases
        self._digests: dict[tuple[Any, ...], dict[str, str]] = {}

    def run(
        self, base_settings: Mapping[str, Any], target: Mapping[str, Any]
    ) -> tuple[TrainingWork, BaseSpec | None]:
        """One run: `target` says what differs from defaults and from the base."""
        mode = Mode(target["mode"])
        from_base = mode in MODES_FROM_BASE
        base = self._bases.base(base_settings) if from_base else None
        inherited = {key: base_settings[key] for key in INHERITED_KEYS if key in base_settings}
        settings = {**TARGET_DEFAULTS, **inherited, **target}
        if from_base:
            settings["model"] = base_settings["model"]
        reads_base_data = mode is Mode.FULL_FINE_TUNING
        participants = base.recipe["base"]["participants"] if base is not None else []
        config = {
            "mode": mode.value,
            "recipe": base.recipe if base is not None else None,
            "data": self._data.config(),
            "participants": participants,
            "target": settings["participant"],
            **{key: settings[key] for key in RECIPE_KEYS[1:]},
            "fold": settings["fold"],
            "folds": settings["folds"],
            "target_batch_pct": settings["target_batch_pct"] if reads_base_data else None,
            "target_data_pct": settings["target_data_pct"],
            "data_digests": self._digests_of(
                settings["participant"], base if reads_base_data else None
            ),
            "device": settings.get("device"),
            "prefix": settings.get("prefix"),
        }
        if base is not None and self._bases.resolved is not None:
            config["trained_before"] = list(self._bases.resolved.participants)
        return TrainingWork(config), base

    def _digests_of(self, target: str, base: BaseSpec | None) -> dict[str, str]:
        key = (target, base.recipe_hash if base is not None else None)
        if key not in self._digests:
            trained_on = base.recipe["base"]["participants"] if base is not None else []
            self._digests[key] = self._data.digests_of(sorted({*trained_on, target}))
        return self._digests[key]


class TrainingExpansion:
    """Expands one sweep of the built-in training."""

    def __init__(
        self, sweep: TrainingSweep, matrix: Matrix, digests: Digests, findings: Findings
    ) -> None:
        self._sweep = sweep
        self._matrix = matrix
        self._findings = findings
        self._data = _Data(data_folder_of(sweep), digests.data)
        base = sweep.base
        self._bases = _Bases(
            self._data,
            resources_of(base.resources if base and base.resources else sweep.resources),
            limits_of(
                sweep,
                base or BaseRunKeys.model_construct(),
                checkpoint_every_s=CHECKPOINT_EVERY_S_DEFAULT,
            ),
            None if base is None or base.from_ is None else digests.parents[base.from_],
        )
        self._runs = _Runs(self._data, self._bases)
        self._given_base = {**BASE_DEFAULTS, **_given(base, (*RECIPE_KEYS,))}
        self._given_target = _given(sweep.target, (*TARGET_AXES, "folds"))
        self._checks = {
            name: (*split_axis(name), training_axis(name)) for name in matrix.axis_names
        }
        self._expansion = Expansion(
            resources_of(sweep.resources),
            limits_of(sweep, checkpoint_every_s=CHECKPOINT_EVERY_S_DEFAULT),
        )

    def expand(self) -> Expansion:
        """All jobs and bases; missing data goes to the findings."""
        if not (self._data_is_there() and self._parent_fits()):
            return self._expansion
        points = cells(self._matrix, cells_max=cells_count_max(self._matrix))
        if self._sweep.target is None or self._sweep.target.mode == Mode.BASE_ONLY:
            for cell in points:
                self._keep(self._bases.base(self._settings(cell.values)[0]))
            return self._expansion
        for cell in points:
            base_settings, target = self._settings(cell.values)
            self._add(cell, base_settings, target)
        self._add_references(points)
        return self._expansion

    def _parent_fits(self) -> bool:
        """Whether training can go on from the parent, and has no target of its past."""
        resolved = self._bases.resolved
        if resolved is None:
            return True
        path: Path = ("base", "from")
        written = self._given_base.get("model")
        axis = next((n for n, (s, k, _) in self._checks.items() if (s, k) == ("base", "model")), "")
        models = list(self._matrix.values_of(axis)) if axis else [written]
        others = [model for model in models if model != resolved.model]
        seen = set(resolved.participants)
        leaks = [(name, place) for name, place in self._targets() if name in seen]
        if not resolved.training:
            self._findings.at_value(
                f"{resolved.label} was made by a command: built-in training continues from "
                "bases of its own",
                path,
            )
        elif others:
            self._findings.at_value(
                f"is a {resolved.model}, and this base is a {others[0]}: a base continues with "
                "the model of its parent",
                path,
            )
        for name, place in leaks:
            self._findings.at_value(
                f"the parent of the base was trained on {name}: its test data would leak into "
                "the base",
                place,
            )
        return not self._findings

    def _targets(self) -> Iterable[tuple[str, Path]]:
        """Everybody whose model is wanted, with the place that says so."""
        target = self._sweep.target
        if target is not None and target.participant is not None:
            yield target.participant, ("target", "participant")
        for name, (section, key, _) in self._checks.items():
            if (section, key) == ("target", "participant"):
                for index, value in enumerate(self._matrix.values_of(name)):
                    yield str(value), ("matrix", name, index)

    def _settings(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        base, target = dict(self._given_base), dict(self._given_target)
        for name, value in values.items():
            section, key, check = self._checks[name]
            (base if section == "base" else target)[key] = check(value)
        return base, target

    def _add(
        self, cell: Cell, base_settings: dict[str, Any], target: dict[str, Any], group: str = ""
    ) -> None:
        work, base = self._runs.run(base_settings, target)
        if base is not None:
            self._keep(base)
        self._expansion.jobs.append(
            JobDraft(cell.name, cell.values, work, base.recipe_hash if base else None, group)
        )

    def _keep(self, base: BaseSpec) -> None:
        self._expansion.bases.setdefault(base.recipe_hash, base)

    def _add_references(self, points: list[Cell]) -> None:
        """Reference runs: one per point of the axes that they are compared along.

        Those are the axes of `results.over` that change the reference (the same
        number counted twice would shrink the spread), and every axis that changes
        the base or the target person: a reference of another base compares nothing.
        """
        over = self._sweep.results.over if self._sweep.results is not None else ()
        for written in self._sweep.references:
            mode = Mode(written)
            axes = [
                name
                for name, (section, key, _) in self._checks.items()
                if section == "base"
                or key == "participant"
                or (name in over and _changes_reference(mode, key))
            ]
            group = REFERENCE_GROUPS[mode]
            seen: set[str] = set()
            for cell in points:
                values = {name: cell.values[name] for name in axes}
                point = point_name(values)
                if point in seen:
                    continue
                seen.add(point)
                base_settings, target = self._settings(values)
                row = group.replace(" ", "_")
                name = f"{row}/{point}" if point else row
                self._add(Cell(name, values), base_settings, {**target, "mode": mode.value}, group)

    def _data_is_there(self) -> bool:
        base = self._sweep.base
        wanted: list[tuple[str, Path]] = []
        if base is not None:
            wanted += [
                (name, ("base", "participants", index))
                for index, name in enumerate(base.participants or ())
            ]
        wanted += self._targets()
        complete = True
        for participant, path in wanted:
            missing = self._data.missing(participant)
            if missing is not None:
                complete = False
                self._findings.at_value(missing, path)
        return complete


def _changes_reference(mode: Mode, key: str) -> bool:
    if mode is Mode.BASE_ALONE:
        return key == "fold"
    return key not in ("mode", "target_batch_pct")


def _given(section: Any, keys: Iterable[str]) -> dict[str, Any]:
    if section is None:
        return {}
    values = {key: getattr(section, key) for key in keys if hasattr(section, key)}
    return {key: value for key, value in values.items() if value is not None}


def base_label(base: Mapping[str, Any]) -> str:
    """How people recognise a base: what it is, then what differs from the defaults."""
    parts = [
        base["model"],
        _people(base["participants"]),
        f"batch {base['batch_size']}",
        f"lr {number_text(base['lr'])}",
    ]
    if base["augmentation"] != BASE_DEFAULTS["augmentation"]:
        parts.append(base["augmentation"])
    parts += [
        f"{key.replace('_', ' ')} {scalar_text(base[key])}"
        for key in ("epochs", "seed", "optimizer", "weight_decay")
        if base[key] != BASE_DEFAULTS[key]
    ]
    return " · ".join(parts)


def _people(participants: list[str]) -> str:
    if len(participants) <= PARTICIPANTS_SHOWN_MAX:
        return " ".join(participants)
    return f"{participants[0]} … {participants[-1]} ({len(participants)})"


FLAT_BASE_KEYS = ("participants", "model", "batch_size", "lr", "augmentation")


def expand_flat(jobs: tuple[FlatJob, ...]) -> Expansion:
    """One job per entry; entries that share the five recipe keys share one base."""
    data = _Data(None, {})
    limits = Limits(checkpoint_every_s=CHECKPOINT_EVERY_S_DEFAULT)
    bases = _Bases(data, Resources(), limits)
    runs = _Runs(data, bases)
    expansion = Expansion(limits=limits)
    cells_of = _flat_cells(jobs)
    for job, cell in zip(jobs, cells_of, strict=True):
        base_settings = {**BASE_DEFAULTS, **_given(job, FLAT_BASE_KEYS)}
        if job.mode == Mode.BASE_ONLY:
            base = bases.base(base_settings, device=job.device)
            expansion.bases.setdefault(base.recipe_hash, base)
            continue
        target = _given(
            job, ("mode", "fold", "target_batch_pct", "target_data_pct", "device", "prefix")
        )
        work, start = runs.run(base_settings, {**target, "participant": job.target_participant})
        if start is not None:
            expansion.bases.setdefault(start.recipe_hash, start)
        expansion.jobs.append(
            JobDraft(cell.name, cell.values, work, start.recipe_hash if start else None)
        )
    return expansion


def _flat_cells(jobs: tuple[FlatJob, ...]) -> list[Cell]:
    """Each entry's point: the keys that differ between the runs of the list."""
    plain = [_flat_values(job) for job in jobs]
    runs = [values for job, values in zip(jobs, plain, strict=True) if job.mode != Mode.BASE_ONLY]
    keys = [
        key
        for key in FlatJob.model_fields
        if len({scalar_text(run[key]) if key in run else None for run in runs}) > 1
    ]
    points = [{key: values[key] for key in keys if key in values} for values in plain]
    names = [point_name(point) or str(index + 1) for index, point in enumerate(points)]
    return [Cell(name, point) for name, point in zip(names, points, strict=True)]


def _flat_values(job: FlatJob) -> dict[str, Any]:
    values = _given(job, FlatJob.model_fields)
    if "participants" in values:
        values["participants"] = "+".join(sorted(set(values["participants"])))
    return values
