"""Budgets: what GPUs were held for is counted once, and what is spent stops new starts."""

from __future__ import annotations

import pytest
from master_double import WALL_S, MasterDouble, user_error
from msgspec.structs import replace

from meshtrain.core import budget
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.job import JobState
from meshtrain.core.node import Gpu, NodeSpec
from meshtrain.core.rows import job_row, sweep_row
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.spending import Spending
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, BudgetSpec, CommandWork, JobSpec, Resources, SweepSpec
from meshtrain.store.memory import MemoryStore

HOUR_S = 3600.0


def sweep_of(
    name: str, jobs: int, limits: BudgetSpec = BudgetSpec(), *, based: bool = False
) -> SweepSpec:
    base = BaseSpec(
        digest(b"recipe"), {"command": "train"}, "train.py", CommandWork("train"), Resources(gpus=1)
    )
    return SweepSpec(
        name,
        name,
        tuple(
            JobSpec(
                f"{name}-{number}",
                f"{name}/i={number}",
                {"i": number},
                CommandWork("true"),
                base.recipe_hash if based else None,
                Resources(gpus=1),
            )
            for number in range(jobs)
        ),
        (base,) if based else (),
        budget=limits,
    )


@pytest.fixture
def master() -> MasterDouble:
    """One GPU that costs 2 an hour; each run takes an hour."""
    master = MasterDouble(run_s=HOUR_S)
    join(master, "gpu1", price=2.0)
    return master


def join(
    master: MasterDouble, name: str, *, price: float = 0.0, gpus: int = 1, **labels: str
) -> None:
    spec = NodeSpec(
        name,
        f"http://{name}",
        cpu_slots=1,
        gpus=tuple(Gpu(index, "test", 8 << 30) for index in range(gpus)),
        labels=labels,
        price_per_gpu_hour=price,
    )
    master.tell(ev.NodeSaidHello(spec, f"{name}/1", (), (), grant=1000))


def states(master: MasterDouble, name: str) -> list[str]:
    jobs = master.state.sweeps[name].job_ids
    return [str(master.state.jobs[job_id].state) for job_id in jobs]


def test_gpus_are_paid_for_from_when_they_are_given_until_the_end(master: MasterDouble) -> None:
    master.submit(sweep_of("a", 2))
    master.run_once()
    assert master.state.spending["a"] == Spending("a", HOUR_S, 2.0)
    master.outcome = lambda job: user_error()
    master.wait(HOUR_S / 2)
    master.run_once()
    # It was held while it waited for its start, and a failure costs as much.
    assert master.state.spending["a"] == Spending("a", 2.5 * HOUR_S, 5.0)
    row = sweep_row(master.state, "a")
    assert (row.gpu_hours, row.money, row.gpu_hours_max) == (2.5, 5.0, None)


def test_a_run_without_gpus_costs_nothing(master: MasterDouble) -> None:
    sweep = sweep_of("a", 1)
    jobs = tuple(replace(job, resources=Resources(gpus=0)) for job in sweep.jobs)
    effects = master.tell(ev.SweepSubmitted("r", replace(sweep, jobs=jobs)))
    master.run_all()
    assert states(master, "a") == ["succeeded"]
    assert master.state.spending == {}
    assert not any(isinstance(effect, fx.SaveSpending) for effect in effects)


@pytest.mark.parametrize("limits", [BudgetSpec(gpu_hours=1.5), BudgetSpec(money=3.0)])
def test_what_is_spent_stops_new_starts_and_nothing_else(
    master: MasterDouble, limits: BudgetSpec
) -> None:
    master.submit(sweep_of("a", 4, limits))
    master.submit(sweep_of("b", 1))
    master.run_once()
    # An hour is used; the second run reaches the limit while it runs, and goes on to its end.
    assert states(master, "a") == ["succeeded", "assigned", "waiting", "waiting"]
    assert "a" not in master.state.spent
    master.wait(0.6 * HOUR_S)
    assert "a" in master.state.spent
    assert states(master, "a")[1] == "assigned"
    master.run_all()
    assert states(master, "a") == ["succeeded", "succeeded", "waiting", "waiting"]
    # Those behind it go on.
    assert states(master, "b") == ["succeeded"]
    waiting = master.state.jobs["a-2"]
    assert "budget" in job_row(master.state, waiting).reason
    assert sweep_row(master.state, "a").budget_spent


def test_more_budget_lets_it_go_on_and_none_forbids_nothing(master: MasterDouble) -> None:
    master.submit(sweep_of("a", 4, BudgetSpec(gpu_hours=0.5)))
    master.run_all()
    assert states(master, "a") == ["succeeded", "waiting", "waiting", "waiting"]
    master.tell(ev.BudgetRequested("r", "a", gpu_hours=1.5))
    master.run_all()
    assert states(master, "a") == ["succeeded", "succeeded", "waiting", "waiting"]
    # Half of it took two hours: all of it takes four, and some more.
    command = budget.more_command(master.state, "a")
    assert command == "meshtrain budget a --gpu-hours 4.8"
    master.tell(ev.BudgetRequested("r", "a", unlimited=True))
    master.run_all()
    assert states(master, "a") == ["succeeded"] * 4
    assert master.state.spending["a"].gpu_s == pytest.approx(4 * HOUR_S)
    master.submit(sweep_of("b", 2))
    master.tell(ev.BudgetRequested("r", "b", money=2.0))
    master.run_all()
    assert states(master, "b") == ["succeeded", "waiting"]


def test_a_base_is_borne_in_equal_parts_by_those_who_wait_on_it(master: MasterDouble) -> None:
    master.submit(sweep_of("a", 1, based=True))
    master.submit(sweep_of("b", 3, based=True))
    master.run_once()
    assert master.state.spending["a"].gpu_s == pytest.approx(HOUR_S / 2)
    assert master.state.spending["b"].money == pytest.approx(1.0)
    master.run_all()
    master.submit(sweep_of("late", 1, based=True))
    master.run_all()
    assert master.state.spending["late"].gpu_s == pytest.approx(HOUR_S)


def test_a_base_that_only_spent_sweeps_wait_on_is_not_started(master: MasterDouble) -> None:
    master.submit(sweep_of("first", 1))
    master.submit(sweep_of("a", 1, BudgetSpec(gpu_hours=1.0), based=True))
    master.tell(ev.BudgetRequested("r", "a", gpu_hours=1.0))
    used = replace(master.state.spending["a"], gpu_s=2 * HOUR_S)
    budget.keep(master.state, used)
    master.run_all()
    base_job = master.state.jobs[master.state.bases[digest(b"recipe")].job_id]
    assert base_job.state is JobState.WAITING
    assert "budget" in job_row(master.state, base_job).reason
    assert "budget" in job_row(master.state, master.state.jobs["a-0"]).reason
    master.submit(sweep_of("b", 1, based=True))
    master.run_all()
    assert states(master, "b") == ["succeeded"]
    assert states(master, "a") == ["waiting"]


def test_what_is_spent_is_known_after_a_restart_before_anything_starts() -> None:
    store = MemoryStore()
    config = SchedulerConfig(lease_s=1e9)
    scheduler = Scheduler(config, Loaded())
    now_s = 0.0

    def tell(event: ev.Event) -> list[fx.Effect]:
        effects = scheduler.handle(event, now_s) + scheduler.handle(ev.PlaceJobs(), now_s)
        store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        store.commit()
        return effects

    spec = NodeSpec("gpu1", "", cpu_slots=1, gpus=(Gpu(0, "test", 8 << 30),))
    hello = ev.NodeSaidHello(spec, "gpu1/1", (), (), grant=10)
    tell(ev.Tick(WALL_S))
    tell(hello)
    tell(ev.SweepSubmitted("r", sweep_of("a", 3, BudgetSpec(gpu_hours=1.5))))
    for _ in range(2):
        (attempt_id,) = scheduler.state.live
        attempt = scheduler.state.jobs[scheduler.state.live[attempt_id]].attempt
        assert attempt is not None
        now_s += HOUR_S
        tell(ev.Tick(WALL_S + now_s))
        tell(ev.AttemptEnded("gpu1", attempt_id, attempt.epoch, run_s=HOUR_S))
    assert scheduler.state.spent == {"a"}
    scheduler = Scheduler(config, store.reopened().load(), now_s)
    assert scheduler.state.spent == {"a"}
    assert scheduler.state.spending["a"] == Spending("a", 2 * HOUR_S, 0.0, 1.5)
    # Not even before the first tick tells the time.
    tell(replace(hello, session="gpu1/2"))
    assert scheduler.state.jobs["a-2"].state is JobState.WAITING
    tell(ev.Tick(WALL_S + now_s))
    assert scheduler.state.jobs["a-2"].state is JobState.WAITING
    tell(ev.BudgetRequested("r", "a", gpu_hours=5.0))
    assert [str(job.state) for job in scheduler.state.jobs.values()][2] == "assigned"


def test_a_nodes_own_price_goes_before_those_of_its_labels() -> None:
    prices = {"gpu=a100": 2.5, "room=cellar": 3.0, "default": 0.3}
    spec = NodeSpec("n", "", cpu_slots=1, labels={"gpu": "a100", "room": "cellar"})
    assert budget.price_of(spec, prices) == 3.0
    assert budget.price_of(replace(spec, price_per_gpu_hour=1.0), prices) == 1.0
    assert budget.price_of(replace(spec, labels={"gpu": "rtx"}), prices) == 0.3
    assert budget.price_of(spec, {}) == 0.0


def test_the_price_is_that_of_when_the_gpu_was_given_out() -> None:
    config = SchedulerConfig(lease_s=1e9, prices={"gpu=a100": 2.5})
    master = MasterDouble(scheduler=Scheduler(config, Loaded()), run_s=HOUR_S)
    join(master, "n", gpu="a100")
    master.submit(sweep_of("a", 1))
    attempt = master.state.jobs["a-0"].attempt
    assert attempt.placements[0].price_per_gpu_hour == 2.5
    master.state.nodes["n"].spec.labels.clear()
    master.run_all()
    assert master.state.spending["a"].money == pytest.approx(2.5)


def test_an_attempt_from_before_the_first_tick_is_not_taken_to_be_years_old() -> None:
    master = MasterDouble()
    join(master, "n")
    master.submit(sweep_of("a", 1))
    attempt = replace(master.state.jobs["a-0"].attempt, assigned_wall_s=12.0)
    assert budget.used_by(attempt, WALL_S) == (0.0, 0.0)
    begun = replace(attempt, started_wall_s=WALL_S - 60.0)
    assert budget.used_by(begun, WALL_S)[0] == pytest.approx(60.0)
