"""What a sweep would come to: trainings, the reuse of bases, time and disk. Nothing is started.

The comparison is with a world without reuse, where every job first trains its
own base: 15 jobs on one base are 1 + 15 trainings instead of 15 + 15; with 2 h
a base and 1 h a job, 17 h instead of 45 h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meshtrain.core.job import BaseState, JobKind, Placement
from meshtrain.core.list_schedule import ListSchedule, Task
from meshtrain.core.nearest import Nearest, nearest_recipe
from meshtrain.core.node import Node, NodeSpec
from meshtrain.core.placement import gpus_needed, needs_of, why_never
from meshtrain.spec.jobs import BaseSpec, JobSpec, Resources, SweepSpec, TrainingWork, Work
from meshtrain.spec.training_keys import Mode

COMMAND_KIND = "command"


class KnownBase(msgspec.Struct, frozen=True):
    """A base that the mesh has heard of."""

    recipe_hash: str
    state: BaseState
    size_bytes: int = 0
    trained_s: float | None = None


class PlanNode(msgspec.Struct, frozen=True):
    """A node, and what of it is taken now."""

    spec: NodeSpec
    connected: bool = True
    drained: bool = False
    accepting: bool = True
    cpus_used: int = 0
    gpus_used: tuple[int, ...] = ()
    memory_used_bytes: int = 0


class PastRuns(msgspec.Struct, frozen=True):
    """How long runs of one kind took."""

    kind: JobKind
    work: str
    count: int
    mean_s: float
    recipe_hash: str | None = None
    sweep: str | None = None
    node_kind: str = ""
    """The model of its GPUs, or `cpu`; empty where the node is gone."""
    std_s: float = 0.0
    """How much they differ; 0 for one run."""


class PlannedBase(msgspec.Struct, frozen=True):
    """A base of the sweep."""

    recipe_hash: str
    label: str
    jobs: int
    """Jobs of this sweep that start from it."""
    state: BaseState | None
    """None: nobody has asked for it before."""
    nearest: Nearest | None = None
    """Of a base that has to be trained: the known one that it differs least from."""
    estimated_s: float | None = None
    """How long its training takes, by what is known."""

    @property
    def cached(self) -> bool:
        """Whether it is there."""
        return self.state is BaseState.COMMITTED

    @property
    def is_new(self) -> bool:
        """Whether this sweep makes it train."""
        return self.state not in (BaseState.COMMITTED, BaseState.NEEDED)


class PlannedAxis(msgspec.Struct, frozen=True):
    """An axis of the matrix."""

    name: str
    values: int


class Slots(msgspec.Struct, frozen=True):
    """What of the mesh the sweep can use."""

    gpus: int = 0
    cpus: int = 0
    busy: bool = False
    """Nothing is free now: these are all there are."""


class Plan(msgspec.Struct, frozen=True):
    """What a sweep would come to."""

    sweep: str
    sweep_id: str
    jobs: int
    works: dict[str, int]
    """Kind of work → jobs."""
    bases: tuple[PlannedBase, ...]
    axes: tuple[PlannedAxis, ...]
    full_matrix: bool
    """Whether every combination of the axes is a job."""
    trainings: int
    """Of bases and of jobs."""
    instead_of: int
    """The same without reuse."""
    base_trainings_avoided: int
    compute_s: float | None = None
    compute_without_s: float | None = None
    compute_saved_pct: float | None = None
    """0 to 100; None where a duration isn't known."""
    past_runs: int = 0
    """Runs that the durations are taken from; 0 where they were given."""
    slots: Slots = Slots()
    finish_s: float | None = None
    finish_unknown: str = ""
    """Why the time to finish can't be told."""
    disk_bytes: int | None = None


def work_kind(work: Work) -> str:
    """The mode of the built-in training, or `command`."""
    return str(work.config["mode"]) if isinstance(work, TrainingWork) else COMMAND_KIND


def make_plan(
    sweep: SweepSpec,
    *,
    known: Mapping[str, KnownBase] | None = None,
    recipes: Mapping[str, Mapping[str, object]] | None = None,
    nodes: Sequence[PlanNode] = (),
    history: Sequence[PastRuns] = (),
    base_s: float | None = None,
    job_s: float | None = None,
) -> Plan:
    """The plan of a sweep.

    Args:
        known: the bases that the mesh has heard of, by recipe hash.
        recipes: the recipes of some of them, to say what a new base differs in.
        nodes: the mesh.
        history: how long runs took; used where no duration is given.
        base_s: seconds that the training of a base takes.
        job_s: seconds that a job takes.
    """
    known, recipes = known or {}, recipes or {}
    per_base = Counter(job.recipe_hash for job in sweep.jobs)
    bases = tuple(
        _planned_base(base, per_base[base.recipe_hash], known, recipes, base_s)
        for base in sweep.bases
    )
    times = _Times(sweep.name, history, job_s)
    works = Counter(work_kind(job.work) for job in sweep.jobs)
    training_jobs = sum(count for kind, count in works.items() if kind != Mode.BASE_ALONE)
    avoided = sum(base.jobs if not base.is_new else max(base.jobs - 1, 0) for base in bases)
    trainings = sum(base.is_new for base in bases) + training_jobs
    compute_s, without_s = _compute(sweep, bases, times)
    slots, finish_s, unknown = _time_to_finish(sweep, bases, nodes, times)
    axes, full = _axes(sweep.jobs)
    return Plan(
        sweep=sweep.name,
        sweep_id=sweep.sweep_id,
        jobs=len(sweep.jobs),
        works=dict(works),
        bases=bases,
        axes=axes,
        full_matrix=full,
        trainings=trainings,
        instead_of=trainings + avoided,
        base_trainings_avoided=avoided,
        compute_s=compute_s,
        compute_without_s=without_s,
        compute_saved_pct=_saved_pct(compute_s, without_s),
        past_runs=0 if job_s is not None else times.runs,
        slots=slots,
        finish_s=finish_s,
        finish_unknown=unknown,
        disk_bytes=_disk_bytes(sweep, bases, known),
    )


# --- bases ---------------------------------------------------------------------------


def _planned_base(
    base: BaseSpec,
    jobs: int,
    known: Mapping[str, KnownBase],
    recipes: Mapping[str, Mapping[str, object]],
    base_s: float | None,
) -> PlannedBase:
    there = known.get(base.recipe_hash)
    nearest = None
    if there is None:
        nearest = nearest_recipe(base.recipe, recipes)
    estimated_s = base_s
    if estimated_s is None and there is not None:
        estimated_s = there.trained_s
    if estimated_s is None and nearest is not None and nearest.is_alike:
        like = known.get(nearest.recipe_hash)
        estimated_s = None if like is None else like.trained_s
    return PlannedBase(
        recipe_hash=base.recipe_hash,
        label=base.label,
        jobs=jobs,
        state=None if there is None else there.state,
        nearest=nearest,
        estimated_s=estimated_s,
    )


# --- time ----------------------------------------------------------------------------


class _Times:
    """How long jobs take: as given, else the mean of what is most like them."""

    def __init__(self, sweep: str, history: Sequence[PastRuns], job_s: float | None) -> None:
        self._sweep = sweep
        self._history = [past for past in history if past.kind is JobKind.EXPERIMENT]
        self._job_s = job_s
        self._known: dict[tuple[str, str | None], tuple[float, int] | None] = {}
        self._used: dict[tuple[str, str | None], int] = {}

    @property
    def runs(self) -> int:
        """The past runs that answers were taken from."""
        return sum(self._used.values())

    def job_s(self, job: JobSpec) -> float | None:
        if self._job_s is not None:
            return self._job_s
        key = (work_kind(job.work), job.recipe_hash)
        if key not in self._known:
            self._known[key] = self._look_up(*key)
        found = self._known[key]
        if found is None:
            return None
        self._used[key] = found[1]
        return found[0]

    def _look_up(self, work: str, recipe_hash: str | None) -> tuple[float, int] | None:
        same_work = [past for past in self._history if past.work == work]
        closest_first = (
            [p for p in same_work if p.sweep == self._sweep and p.recipe_hash == recipe_hash],
            [p for p in same_work if p.sweep == self._sweep],
            # Of two commands nothing is known to be alike.
            [p for p in same_work if work != COMMAND_KIND],
        )
        for runs in closest_first:
            count = sum(past.count for past in runs)
            if count:
                return sum(past.mean_s * past.count for past in runs) / count, count
        return None


def _compute(
    sweep: SweepSpec, bases: Sequence[PlannedBase], times: _Times
) -> tuple[float | None, float | None]:
    """Seconds of compute with reuse, and without; None where a duration isn't known."""
    jobs_s = [times.job_s(job) for job in sweep.jobs]
    bases_s = [base.estimated_s for base in bases]
    if any(time_s is None for time_s in (*jobs_s, *bases_s)):
        return None, None
    all_jobs_s = sum(time_s or 0.0 for time_s in jobs_s)
    with_reuse_s = sum(base.estimated_s or 0.0 for base in bases if base.is_new)
    without_s = sum((base.estimated_s or 0.0) * (base.jobs or int(base.is_new)) for base in bases)
    return with_reuse_s + all_jobs_s, without_s + all_jobs_s


def _saved_pct(compute_s: float | None, without_s: float | None) -> float | None:
    if compute_s is None or not without_s:
        return None
    return round(100 * (1 - compute_s / without_s), 1)


def _time_to_finish(
    sweep: SweepSpec, bases: Sequence[PlannedBase], nodes: Sequence[PlanNode], times: _Times
) -> tuple[Slots, float | None, str]:
    """List scheduling with the scheduler's own placement: bases first, then jobs in order."""
    usable = [n for n in nodes if n.connected and not n.drained and n.accepting]
    specs = {base.recipe_hash: base for base in sweep.bases}
    all_work = [(job.resources, job.work) for job in sweep.jobs]
    all_work += [
        (specs[base.recipe_hash].resources, specs[base.recipe_hash].work)
        for base in bases
        if base.is_new
    ]
    needs_of_all = dict.fromkeys(needs_of(resources, work) for resources, work in all_work)
    if not usable:
        return Slots(), None, "no node is there" if not nodes else "no node takes jobs now"
    for needs in needs_of_all:
        if all(why_never(node.spec, needs) is not None for node in usable):
            return Slots(), None, "no node that is there could run all of it"
    slots = _slots(usable, needs_of_all, idle=False)
    if not slots.gpus and not slots.cpus:
        slots = msgspec.structs.replace(_slots(usable, needs_of_all, idle=True), busy=True)
    ready_s: dict[str | None, float] = {None: 0.0}
    first: list[Task] = []
    for base in bases:
        if base.cached:
            ready_s[base.recipe_hash] = 0.0
            continue
        if base.estimated_s is None:
            return slots, None, "say --base-hours"
        if base.is_new:
            spec = specs[base.recipe_hash]
            needs = needs_of(spec.resources, spec.work)
            first.append(Task(needs, base.estimated_s, base.recipe_hash))
        else:
            ready_s[base.recipe_hash] = base.estimated_s
    then: dict[str | None, list[Task]] = {}
    for job in sweep.jobs:
        time_s = times.job_s(job)
        if time_s is None:
            return slots, None, "say --job-hours"
        task = Task(needs_of(job.resources, job.work), time_s)
        then.setdefault(job.recipe_hash, []).append(task)
    mesh = [_idle_node(node, idle=slots.busy) for node in usable]
    finish_s = ListSchedule(mesh).run(first, then, ready_s)
    if finish_s is None:
        return slots, None, "what is free now can't run all of it"
    return slots, finish_s, ""


def _slots(nodes: Iterable[PlanNode], all_needs: Iterable[Resources], *, idle: bool) -> Slots:
    needs_list = list(all_needs)
    gpus = cpus = 0
    for node in nodes:
        fitting = [needs for needs in needs_list if why_never(node.spec, needs) is None]
        if any(gpus_needed(node.spec, needs) for needs in fitting):
            gpus += len(node.spec.gpus) - (0 if idle else len(node.gpus_used))
        if any(not gpus_needed(node.spec, needs) for needs in fitting):
            cpus += node.spec.cpu_slots - (0 if idle else node.cpus_used)
    return Slots(gpus=max(gpus, 0), cpus=max(cpus, 0))


def _idle_node(planned: PlanNode, *, idle: bool) -> Node:
    """The node as placement takes it, with nothing but what is used now on it."""
    node = Node(planned.spec, "plan", 0.0)
    node.grant = 1 << 62
    if not idle:
        taken = Placement(
            planned.spec.node_id,
            gpus=planned.gpus_used,
            cpus=planned.cpus_used,
            memory_bytes=planned.memory_used_bytes,
        )
        node.occupy("what runs now", taken)
    return node


# --- the rest --------------------------------------------------------------------------


def _axes(jobs: Sequence[JobSpec]) -> tuple[tuple[PlannedAxis, ...], bool]:
    """The axes of the matrix, and whether every combination of them is a job."""
    cells = [job.cell for job in jobs if not job.group]
    values: dict[str, set[object]] = {}
    for cell in cells:
        for name, value in cell.items():
            # 1 and true are equal as keys, and are two values.
            values.setdefault(name, set()).add((type(value).__name__, value))
    axes = tuple(PlannedAxis(name, len(found)) for name, found in values.items())
    combinations = 1
    for axis in axes:
        combinations *= axis.values
    return axes, bool(axes) and combinations == len(cells)


def _disk_bytes(
    sweep: SweepSpec, bases: Sequence[PlannedBase], known: Mapping[str, KnownBase]
) -> int | None:
    """What new bases and results take; a result that holds a model is as large as its base.

    None where no base of a known size is there to judge by.
    """
    models = Counter(
        job.recipe_hash for job in sweep.jobs if work_kind(job.work) != Mode.BASE_ALONE
    )
    total = 0
    for base in bases:
        like = known.get(base.recipe_hash)
        near = base.nearest if base.nearest is not None and base.nearest.is_alike else None
        if (like is None or not like.size_bytes) and near is not None:
            like = known.get(near.recipe_hash)
        if like is None or not like.size_bytes:
            return None
        total += like.size_bytes * (models[base.recipe_hash] + int(base.is_new))
    return total if bases else None
