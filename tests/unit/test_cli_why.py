"""`meshtrain why`, and the commands that it names: over a real scheduler and its estimator."""

from __future__ import annotations

import asyncio
import json

import pytest
from cli_double import out, run
from master_double import WALL_S, MasterDouble, small_sweep, user_error
from msgspec.structs import replace

from meshtrain.cli import words
from meshtrain.core import events as ev
from meshtrain.core.span import Span
from meshtrain.spec.jobs import BudgetSpec, Resources, SweepSpec
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.estimator import Estimator


def gpu_sweep(name: str = "mix", **changes: object) -> SweepSpec:
    """Four jobs that take one GPU each, and start from nothing."""
    sweep = small_sweep(name)
    needs = Resources(gpus=1, gpu_memory_bytes=12 << 30)
    jobs = tuple(replace(job, recipe_hash=None, resources=needs) for job in sweep.jobs)
    changed: SweepSpec = replace(sweep, jobs=jobs, bases=(), **changes)
    return changed


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("gpu1", gpus=1)
    master.add_node("old", gpus=1, gpu_memory=10 << 30)
    return master


def test_why_says_what_nodes_say_when_it_starts_and_what_helps(master: MasterDouble) -> None:
    master.submit(gpu_sweep())
    master.run_once()
    master.start_all()
    master.wait(15)
    text = out(master, "why", "mix/share=0.5,fold=1")
    lines = text.splitlines()
    assert lines[0] == "waiting 1 min 15 s: no node has a GPU of 12.9 GB free"
    assert "  gpu1   0 GPUs of 12 GiB free, needs 1" in text
    assert "(mix/share=0.1,fold=1 ends)" in text
    assert "  old    its GPUs have 10 GiB at most, needs 12 GiB" in text
    assert "behind 1 job" in text
    assert "meshtrain retry mix/share=0.5,fold=1 --gpu-memory 10.7GB" in text
    assert "with gpu_memory 10.7GB it starts now on old" in text
    row = json.loads(out(master, "why", "mix/share=0.5,fold=1", "--json"))
    # The one that runs has 45 s left, the one before it takes a minute.
    now_s = WALL_S + master.now_s
    assert row["starts"]["span"]["mid_s"] == pytest.approx(now_s + 45 + 60)
    assert [node["because"] for node in row["nodes"]] == ["GPUs taken", "GPU memory"]


def test_doing_what_why_says_starts_the_job(master: MasterDouble) -> None:
    sweep = gpu_sweep()
    master.submit(sweep)
    name = "mix/share=0.5,fold=1"
    told = out(master, "retry", name, "--gpu-memory", "10.7GB")
    assert told == "1 job waits with the new needs\n"
    assert master.state.jobs[sweep.jobs[3].job_id].attempt.node_id == "old"
    text = out(master, "why", name)
    assert text.startswith("gets ready on old\n"), "nothing is fetched for it"
    master.start_all()
    master.wait(5)
    assert out(master, "why", name).startswith("runs on old, for 5.0 s")
    again = out(master, "retry", name, "--gpus", "1")
    assert "Nothing to change" in again and "is running: what it needs is not changed" in again


def test_needs_that_no_node_has_change_nothing(master: MasterDouble) -> None:
    master.submit(gpu_sweep())
    refused = run(master, "retry", "mix", "--gpu-memory", "80GB")
    assert refused.exit_code == 2
    assert "nothing was changed: no known node could ever run" in refused.stderr
    assert all(job.asked is None for job in master.state.jobs.values())
    wrong = run(master, "retry", "mix", "--memory", "much")
    assert wrong.exit_code == 2 and "--memory much" in wrong.stderr


def test_a_failed_job_runs_again_with_other_needs(master: MasterDouble) -> None:
    master.outcome = lambda job: user_error()
    sweep = gpu_sweep()
    master.submit(sweep)
    master.run_all()
    told = out(master, "retry", "mix/share=0.1,fold=0", "--gpu-memory", "8GB")
    assert told == "1 job waits with the new needs\n"
    job = master.state.jobs[sweep.jobs[0].job_id]
    assert master.state.needs(job).gpu_memory_bytes == 8_000_000_000
    assert (job.attempt.node_id, job.generation) == ("gpu1", 2)


def test_why_of_a_job_whose_base_comes_first(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    text = out(master, "why", "mix/share=0.1,fold=0")
    assert "waits for base" in text.splitlines()[0]
    assert "is trained on" in text
    master.run_once()
    master.run_all()
    assert out(master, "why", "mix/share=0.1,fold=0").startswith("succeeded")
    assert run(master, "why", "nothing").exit_code == 2
    assert "may mean" in run(master, "why", "mix/*").stderr or run(master, "why", "mix").exit_code


def test_priority_moves_jobs_in_the_queue(master: MasterDouble) -> None:
    sweep = gpu_sweep()
    master.submit(sweep)
    assert out(master, "priority", "mix/share=0.5,fold=1", "7") == "1 job has priority 7 now\n"
    master.run_once()
    assert master.state.jobs[sweep.jobs[3].job_id].state.is_leased
    done = json.loads(out(master, "priority", "mix", "1", "--json"))
    assert done["priority"] == 1 and len(done["changed"]) == 3
    master.run_all()
    assert "Nothing to change" in out(master, "priority", "mix", "2")


def test_budget_is_shown_set_and_told_by_jobs_and_why(master: MasterDouble) -> None:
    master.run_s = 3600.0
    master.submit(gpu_sweep(budget=BudgetSpec(gpu_hours=1.0)))
    assert out(master, "budget", "mix") == "mix: 0 of 1 GPU-hours\n"
    master.run_all()
    assert "its budget is spent, and nothing more of it is started" in out(master, "budget", "mix")
    assert "budget spent, nothing more is started" in out(master, "jobs", "mix")
    told = out(master, "why", "mix/share=0.5,fold=1")
    assert "its budget is spent (1 of 1 GPU-hours), so nothing more of it is" in told
    assert "with more budget for mix it starts about" in told
    assert "meshtrain budget mix-00000001 --gpu-hours 4.8" in told
    assert out(master, "budget", "mix-00000001", "--gpu-hours", "1.5") == (
        "mix: 1 of 1.5 GPU-hours\n"
    )
    assert master.assigned
    row = json.loads(out(master, "budget", "mix", "--unlimited", "--json"))
    assert row["gpu_hours_max"] is None and not row["budget_spent"]
    assert run(master, "budget", "mix", "--money", "0").exit_code == 2


async def test_ends_of_sweeps_are_kept_up_to_date_and_shown(master: MasterDouble) -> None:
    master.submit(gpu_sweep())
    master.run_once()
    estimator = Estimator(master.state)
    running = asyncio.create_task(estimator.run())
    while not master.state.sweep_ends:
        await asyncio.sleep(0.01)
    running.cancel()
    # Three runs of a minute, one after the other.
    end_s = WALL_S + master.now_s + 180
    assert master.state.sweep_ends["mix-00000001"] == Span(end_s, end_s, end_s)
    assert "mix-00000001" in master.state.touched_sweeps


async def test_a_defect_of_an_estimate_is_told_and_takes_nothing_down(
    master: MasterDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("by hand")

    master.submit(gpu_sweep())
    monkeypatch.setattr("meshtrain_daemon.master.estimator.estimate_ends", broken)
    monkeypatch.setattr("meshtrain_daemon.master.estimator.explain", broken)
    told: list[str] = []
    estimator = Estimator(master.state, told.append)
    answer = await estimator.why(msg.Query("q", "why", ("mix/share=0.5,fold=1",)))
    assert "by hand" in answer.error
    running = asyncio.create_task(estimator.run())
    while not told:
        await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    assert "by hand" in told[0]


def test_jobs_tell_when_a_sweep_ends(master: MasterDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    master.submit(gpu_sweep())
    master.state.sweep_ends["mix-00000001"] = Span(WALL_S + 1e4, WALL_S + 2e4, WALL_S + 3e4)
    monkeypatch.setattr("meshtrain.cli.jobs_text.wall_now_s", lambda: WALL_S)
    low, middle, high = (words.clock(WALL_S + s, WALL_S) for s in (1e4, 2e4, 3e4))
    assert f"ends about {middle} ({low} to {high})" in out(master, "jobs", "mix")
    master.run_all()
    assert "ends about" not in out(master, "jobs", "mix")


def test_why_takes_one_job(master: MasterDouble) -> None:
    master.submit(gpu_sweep())
    answer = master.request(msg.Query("q", "why", ()))
    assert "takes the name of a job" in answer.error
    master.tell(ev.DrainRequested("r", "gpu1", True))
    row = master.request(msg.Query("q", "why", ("mix/share=0.5,fold=1",))).rows[0]
    assert row["headline"] == "the nodes that could run it take no jobs"


def test_a_moment_is_told_as_far_from_now_as_it_is() -> None:
    assert len(words.clock(WALL_S + 30, WALL_S)) == len("14:20:30")
    assert words.clock(WALL_S + 3 * 86400, WALL_S)[3] == " "
    assert len(words.clock(WALL_S + 30 * 86400, WALL_S).split()) == 3
