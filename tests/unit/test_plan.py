"""What a plan says before anything runs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from master_double import small_sweep

from meshtrain.core.job import BaseState, JobKind
from meshtrain.core.nearest import differences_of, nearest_recipe
from meshtrain.core.node import Gpu, NodeSpec
from meshtrain.core.plan import KnownBase, PastRuns, Plan, PlanNode, make_plan
from meshtrain.ids import digest
from meshtrain.spec.expand import Digests, expand
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.jobs import Resources, SweepSpec

HOUR_S = 3600.0


def sweep_of(**changes: Any) -> SweepSpec:
    document = {
        "name": "batch",
        "base": {"participants": ["p01", "p02"], "model": "cnn", "lr": 0.001},
        "target": {"mode": "full_fine_tuning", "participant": "p07"},
        "matrix": {"target_batch_pct": [0.1, 0.25, 0.5, 0.75, 0.9], "fold": [0, 1, 2]},
        "results": {"over": "fold"},
    }
    data = msgspec.json.encode(document | changes)
    return expand(parse_job_file(data, "batch.json"), Digests())


def node(name: str = "n1", *, cpu_slots: int = 4, gpus: int = 0, **state: Any) -> PlanNode:
    spec = NodeSpec(
        node_id=name,
        http_url="",
        cpu_slots=cpu_slots,
        memory_bytes=32 << 30,
        gpus=tuple(Gpu(index, "A100", 80 << 30) for index in range(gpus)),
    )
    return PlanNode(spec, **state)


def known_of(
    sweep: SweepSpec, state: BaseState = BaseState.COMMITTED, **changes: Any
) -> dict[str, KnownBase]:
    return {b.recipe_hash: KnownBase(b.recipe_hash, state, **changes) for b in sweep.bases}


def hours(plan: Plan) -> tuple[float, float]:
    assert plan.compute_s is not None
    assert plan.compute_without_s is not None
    return plan.compute_s / HOUR_S, plan.compute_without_s / HOUR_S


# --- trainings and compute ----------------------------------------------------------


def test_fifteen_jobs_on_one_base_take_17_hours_instead_of_45() -> None:
    plan = make_plan(sweep_of(), base_s=2 * HOUR_S, job_s=HOUR_S)
    assert (plan.jobs, len(plan.bases), plan.bases[0].jobs) == (15, 1, 15)
    assert (plan.trainings, plan.instead_of, plan.base_trainings_avoided) == (16, 30, 14)
    assert hours(plan) == (17, 45)
    assert plan.compute_saved_pct == 62.2


def test_a_base_that_is_there_is_not_trained() -> None:
    sweep = sweep_of()
    plan = make_plan(sweep, known=known_of(sweep), base_s=2 * HOUR_S, job_s=HOUR_S)
    assert (plan.trainings, plan.instead_of, plan.base_trainings_avoided) == (15, 30, 15)
    assert hours(plan) == (15, 45)
    assert plan.bases[0].cached
    in_training = make_plan(sweep, known=known_of(sweep, BaseState.NEEDED))
    assert not in_training.bases[0].cached
    assert in_training.base_trainings_avoided == 15
    failed = make_plan(sweep, known=known_of(sweep, BaseState.FAILED))
    assert failed.base_trainings_avoided == 14


def test_references_count_as_what_they_do() -> None:
    """Nine of them: three evaluate the base and train nothing, three start from scratch."""
    plan = make_plan(sweep_of(references=["base_alone", "target_only", "target_only_fine_tuning"]))
    assert plan.works == {
        "full_fine_tuning": 15,
        "base_alone": 3,
        "target_only": 3,
        "target_only_fine_tuning": 3,
    }
    assert (plan.jobs, plan.bases[0].jobs) == (24, 21)
    assert plan.base_trainings_avoided == 20
    assert (plan.trainings, plan.instead_of) == (22, 42)


def test_without_durations_compute_is_unknown() -> None:
    plan = make_plan(sweep_of())
    assert plan.compute_saved_pct is None
    assert plan.compute_s is None
    half = make_plan(sweep_of(), base_s=HOUR_S)
    assert half.compute_saved_pct is None


def test_bases_alone() -> None:
    sweep = msgspec.structs.replace(sweep_of(), jobs=())
    plan = make_plan(sweep, base_s=HOUR_S, nodes=[node()])
    assert (plan.trainings, plan.instead_of, plan.base_trainings_avoided) == (1, 1, 0)
    assert plan.compute_saved_pct == 0
    assert plan.finish_s == HOUR_S


def test_durations_come_from_what_is_most_alike() -> None:
    sweep = sweep_of()
    recipe_hash = sweep.bases[0].recipe_hash
    past = PastRuns(JobKind.EXPERIMENT, "full_fine_tuning", 1, 1.0)
    history = [
        msgspec.structs.replace(past, count=4, mean_s=100.0, sweep="other"),
        msgspec.structs.replace(past, count=3, mean_s=20.0, sweep="batch", recipe_hash="x"),
        msgspec.structs.replace(past, work="target_only", mean_s=5.0, sweep="batch"),
    ]
    known = known_of(sweep, trained_s=50.0)
    plan = make_plan(sweep, known=known, history=history)
    assert (plan.compute_s, plan.compute_without_s) == (300.0, 15 * 70.0)
    assert plan.past_runs == 3
    same = msgspec.structs.replace(past, count=2, mean_s=10.0, sweep="batch")
    same = msgspec.structs.replace(same, recipe_hash=recipe_hash)
    plan = make_plan(sweep, known=known, history=[*history, same])
    assert plan.compute_s == 150.0


def test_two_commands_are_never_alike() -> None:
    past = PastRuns(JobKind.EXPERIMENT, "command", 9, 60.0, sweep="other")
    assert make_plan(small_sweep("mix"), history=[past], base_s=1.0).compute_s is None
    same = msgspec.structs.replace(past, sweep="mix")
    assert make_plan(small_sweep("mix"), history=[same], base_s=1.0).compute_s == 241.0


# --- why a base is new ------------------------------------------------------------------


def test_a_new_base_names_the_nearest_known_and_what_differs() -> None:
    ours, other = sweep_of(), sweep_of(base={"participants": ["p01"], "model": "mlp"})
    near = sweep_of(base={"participants": ["p01", "p02"], "model": "cnn", "lr": 0.002})
    recipes = {s.bases[0].recipe_hash: s.bases[0].recipe for s in (other, near)}
    known = known_of(near, trained_s=90.0, size_bytes=1000)
    plan = make_plan(ours, known=known, recipes=recipes, job_s=10.0)
    base = plan.bases[0]
    assert base.nearest is not None
    assert base.nearest.recipe_hash == near.bases[0].recipe_hash
    (difference,) = base.nearest.differences
    assert (difference.field, difference.ours, difference.theirs) == ("lr", 0.001, 0.002)
    # The time and the size of the base most like it are what can be known.
    assert plan.compute_s == 90.0 + 150.0
    assert plan.disk_bytes == 16 * 1000
    known |= known_of(ours)
    assert make_plan(ours, known=known, recipes=recipes).bases[0].nearest is None


def test_participants_differ_once_and_data_by_name() -> None:
    ours = sweep_of().bases[0].recipe
    more = sweep_of(base={"participants": ["p01", "p03"], "model": "cnn"}).bases[0].recipe
    (difference,) = differences_of(ours, more)
    assert (difference.field, difference.theirs) == ("participants", ["p01", "p03"])
    changed = {**ours, "data": {**ours["data"], "p01": digest(b"new")}}
    assert [d.field for d in differences_of(ours, changed)] == ["data of p01"]


def test_what_is_too_different_is_not_alike() -> None:
    ours = {"kind": "command", "command": "a", "params": {str(n): n for n in range(9)}}
    theirs = {"kind": "command", "command": "b", "params": {}}
    nearest = nearest_recipe(ours, {"h": theirs})
    assert nearest is not None
    assert (len(nearest.differences), nearest.is_alike) == (10, False)
    far = {**ours, "params": {str(n): n for n in range(100)}}
    assert nearest_recipe(far, {"h": theirs}) is None
    assert nearest_recipe(ours, {"h": {**ours, "kind": "training"}}) is None
    assert nearest_recipe(ours, {"h": ours}) is None
    # A number and its text, 1 and true, are different recipes.
    assert list(differences_of({"x": 1}, {"x": True})) != []
    assert list(differences_of({"x": 1}, {"x": 1.0})) == []


def test_of_those_that_differ_in_as_many_fields_the_newest_is_named() -> None:
    ours = {"kind": "training", "base": {"lr": 0.002, "epochs": 3, "seed": 0}}
    newest_first = {
        "two": {**ours, "base": {"lr": 0.001, "epochs": 9, "seed": 0}},
        "newer": {**ours, "base": {"lr": 0.001, "epochs": 3, "seed": 0}},
        "older": {**ours, "base": {"lr": 0.002, "epochs": 3, "seed": 1}},
    }
    nearest = nearest_recipe(ours, newest_first)
    assert nearest is not None
    assert nearest.recipe_hash == "newer"
    assert [(d.field, d.theirs, d.ours) for d in nearest.differences] == [("lr", 0.001, 0.002)]


def test_what_is_unlike_tells_nothing_of_time_and_size() -> None:
    ours = sweep_of()
    far = sweep_of(
        base={"participants": ["p03"], "model": "mlp", "lr": 0.1, "epochs": 1, "seed": 5}
    )
    recipes = {far.bases[0].recipe_hash: far.bases[0].recipe}
    known = known_of(far, trained_s=90.0, size_bytes=1000)
    plan = make_plan(ours, known=known, recipes=recipes, job_s=10.0)
    assert plan.bases[0].nearest is not None
    assert (plan.compute_s, plan.disk_bytes) == (None, None)


# --- time to finish and disk ---------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "expected_s"),
    [
        ([node(cpu_slots=1)], 10 + 15),
        ([node(cpu_slots=4)], 10 + 4),
        ([node("a", cpu_slots=2), node("b", cpu_slots=2)], 10 + 4),
        ([node(cpu_slots=100)], 10 + 1),
        ([node(gpus=3)], 10 + 5),
        ([node(cpu_slots=4, cpus_used=3)], 10 + 15),
        ([node("a"), node("b", drained=True), node("c", connected=False)], 10 + 4),
    ],
)
def test_time_to_finish(nodes: list[PlanNode], expected_s: float) -> None:
    plan = make_plan(sweep_of(), nodes=nodes, base_s=10.0, job_s=1.0)
    assert plan.finish_s == pytest.approx(expected_s)


def test_jobs_of_a_base_that_is_there_go_beside_the_training_of_another() -> None:
    sweep = sweep_of(
        matrix={"base.lr": [0.001, 0.01], "fold": [0, 1, 2, 3]}, results={"over": "fold"}
    )
    there = sweep.bases[0].recipe_hash
    known = {there: KnownBase(there, BaseState.COMMITTED)}
    plan = make_plan(sweep, known=known, nodes=[node(cpu_slots=2)], base_s=4.0, job_s=1.0)
    # One slot trains for 4 s; the other does the 4 jobs that need not wait for it.
    assert plan.finish_s == 4.0 + 2.0


def test_a_base_in_training_is_waited_for() -> None:
    sweep = sweep_of()
    known = known_of(sweep, BaseState.NEEDED)
    plan = make_plan(sweep, known=known, nodes=[node(cpu_slots=15)], base_s=7.0, job_s=1.0)
    assert plan.finish_s == 8.0


def test_slots_are_what_the_jobs_would_take() -> None:
    plan = make_plan(sweep_of(), nodes=[node("g", gpus=2, gpus_used=(0,)), node("c", cpu_slots=3)])
    assert (plan.slots.gpus, plan.slots.cpus, plan.slots.busy) == (1, 3, False)
    busy = make_plan(sweep_of(), nodes=[node(cpu_slots=3, cpus_used=3)], base_s=1.0, job_s=1.0)
    assert (busy.slots.cpus, busy.slots.busy, busy.finish_s) == (3, True, 6.0)


def test_why_the_time_to_finish_is_unknown() -> None:
    sweep = sweep_of()
    assert make_plan(sweep).finish_unknown == "no node is there"
    away = make_plan(sweep, nodes=[node(connected=False)])
    assert away.finish_unknown == "no node takes jobs now"
    assert "--base-hours" in make_plan(sweep, nodes=[node()]).finish_unknown
    assert "--job-hours" in make_plan(sweep, nodes=[node()], base_s=1.0).finish_unknown
    needy = [msgspec.structs.replace(job, resources=Resources(gpus=9)) for job in sweep.jobs]
    large = msgspec.structs.replace(sweep, jobs=tuple(needy))
    assert "could run" in make_plan(large, nodes=[node()]).finish_unknown
    # Nine GPUs are there, but never free together as things stand.
    taken = make_plan(large, nodes=[node(gpus=9, gpus_used=(0,))], base_s=1.0, job_s=1.0)
    assert (taken.finish_s, taken.finish_unknown) == (None, "what is free now can't run all of it")


def test_disk_is_unknown_without_a_known_size() -> None:
    sweep = sweep_of()
    assert make_plan(sweep).disk_bytes is None
    plan = make_plan(sweep, known=known_of(sweep, size_bytes=10))
    assert plan.disk_bytes == 150


# --- the matrix --------------------------------------------------------------------------


def test_axes() -> None:
    plan = make_plan(sweep_of(references=["base_alone"]))
    assert [(axis.name, axis.values) for axis in plan.axes] == [
        ("target_batch_pct", 5),
        ("fold", 3),
    ]
    assert plan.full_matrix
    holes = sweep_of(matrix={"fold": [0, 1], "lr": [0.1, 0.2], "exclude": [{"fold": 1, "lr": 0.1}]})
    assert not make_plan(holes).full_matrix


@given(
    slots=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    folds=st.integers(1, 12),
    base_s=st.floats(0.1, 100),
    job_s=st.floats(0.1, 100),
)
def test_list_scheduling_keeps_its_bounds(
    slots: list[int], folds: int, base_s: float, job_s: float
) -> None:
    """Never sooner than the work allows, never later than Graham's bound."""
    sweep = small_sweep(folds=folds)
    nodes = [node(str(number), cpu_slots=count) for number, count in enumerate(slots)]
    plan = make_plan(sweep, nodes=nodes, base_s=base_s, job_s=job_s)
    assert plan.finish_s is not None
    least_s = base_s + max(job_s, job_s * 2 * folds / sum(slots))
    rounds = -(-2 * folds // sum(slots))
    assert least_s - 1e-6 <= plan.finish_s
    assert plan.finish_s == pytest.approx(base_s + rounds * job_s)
