"""Why a job waits: the reasons are the scheduler's own, and what is advised helps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from core_records import GIB, sweep_of
from hypothesis import given, settings
from hypothesis import strategies as st
from why_mesh import WALL_S, WhyMesh, meshes

from meshtrain.core import events as ev
from meshtrain.core.estimate import estimate_ends
from meshtrain.core.job import Failure, FailureClass, JobState
from meshtrain.core.node import Gpu, NodeSpec
from meshtrain.core.refusal import Because
from meshtrain.core.run_times import times_of
from meshtrain.core.what_if import copy_of
from meshtrain.core.why import explain
from meshtrain.core.why_lines import why_lines
from meshtrain.spec.jobs import CommandWork, InputData, Resources

WIDTH = 80


def waiting(mesh: WhyMesh) -> list[str]:
    return [job.job_id for job in mesh.state.jobs.values() if job.state is JobState.WAITING]


def picture(value: Any, depth: int = 0) -> Any:
    """All that a state holds, as something that can be compared."""
    if isinstance(value, msgspec.Struct):
        return (type(value).__name__, picture(msgspec.structs.asdict(value), depth + 1))
    if isinstance(value, Mapping):
        return [(picture(key), picture(one, depth + 1)) for key, one in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple | deque):
        return [picture(one, depth + 1) for one in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    if callable(value):
        return type(value).__name__
    names = getattr(type(value), "__slots__", None) or sorted(vars(value))
    found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return picture(found, depth + 1)


@settings(max_examples=60, deadline=None)
@given(meshes(), st.integers(0, 100))
def test_what_is_advised_starts_the_job_now_or_sooner(mesh: WhyMesh, pick: int) -> None:
    jobs = waiting(mesh)
    if not jobs:
        return
    job_id = jobs[pick % len(jobs)]
    why = explain(copy_of(mesh.state), times_of(mesh.state), job_id)
    subject = why.job_id
    if why.subject:
        subject = next(j.job_id for j in mesh.state.jobs.values() if j.name == why.subject)
    for advice in why.advice:
        twin = mesh.twin()
        twin.type(advice.command)
        job = twin.state.jobs[subject]
        if advice.now:
            assert job.state.is_leased, advice
            assert job.attempt is not None
            assert job.attempt.node_id == advice.node_id
        elif why.starts.span is not None and not why.starts.untimed:
            assert advice.starts is not None
            as_it_is = mesh.twin()
            as_it_is.run_all()
            twin.run_all()
            assert twin.given_s[subject] < as_it_is.given_s[subject], advice


@settings(max_examples=60, deadline=None)
@given(meshes(), st.integers(0, 100))
def test_a_job_that_waits_is_refused_by_every_node_and_told_in_lines_that_fit(
    mesh: WhyMesh, pick: int
) -> None:
    jobs = waiting(mesh)
    if not jobs:
        return
    before = picture(mesh.state)
    job_id = jobs[pick % len(jobs)]
    why = explain(copy_of(mesh.state), times_of(mesh.state), job_id)
    assert picture(mesh.state) == before, "a question changes nothing"
    assert why.headline
    if why.nodes:
        assert [node.node_id for node in why.nodes] == sorted(mesh.state.nodes)
        for node in why.nodes:
            assert node.text
            assert (node.because is Because.DRAINED) <= mesh.state.nodes[node.node_id].drained
    assert why.starts.span is not None or why.starts.unknown
    lines = why_lines(
        why, clock=lambda wall_s: f"{wall_s - WALL_S:.0f}", duration=lambda s: f"{s:.0f} s"
    )
    commands = [advice.command for advice in why.advice]
    for line in lines:
        assert len(line) <= WIDTH or any(command in line for command in commands), line
    assert msgspec.convert(msgspec.to_builtins(why), type(why)) == why


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.integers(0, 2),
            st.sampled_from([20.0, 45.0, 100.0]),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 6),
)
def test_where_runs_take_what_they_took_jobs_start_and_sweeps_end_when_it_was_told(
    slots: list[int], sweeps: list[tuple[int, int, float, bool]], steps: int
) -> None:
    mesh = WhyMesh()
    for number, count in enumerate(slots):
        gpus = tuple(Gpu(index, "test", 8 * GIB) for index in range(count))
        mesh.join(NodeSpec(f"n{number}", f"http://n{number}", cpu_slots=4, gpus=gpus))
    for number, (_, _, run_s, based) in enumerate(sweeps):
        # Once each, so that their times are known.
        mesh.run_s[f"s{number}"] = run_s
        known = sweep_of(f"s{number}", ("r1",) if based else ("",), resources=Resources(gpus=1))
        mesh.submit(msgspec.structs.replace(known, sweep_id=f"known{number}", jobs=_other(known)))
    mesh.run_all()
    for number, (jobs, priority, _, based) in enumerate(sweeps):
        recipes = ("r1" if based else "",) * jobs
        sweep = sweep_of(f"s{number}", recipes, resources=Resources(gpus=1), priority=priority)
        mesh.submit(sweep)
    for _ in range(steps):
        mesh.step()
    state = mesh.state
    times = times_of(state)
    told = {job_id: explain(copy_of(state), times, job_id).starts for job_id in waiting(mesh)}
    ends = estimate_ends(copy_of(state), times)
    mesh.run_all()
    for job_id, starts in told.items():
        assert starts.span is not None, starts.unknown
        real_s = WALL_S + mesh.given_s[job_id]
        for at_s in (starts.span.low_s, starts.span.mid_s, starts.span.high_s):
            assert abs(at_s - real_s) < 1e-3
    for sweep_id, span in ends.items():
        last_s = max(
            state.jobs[job_id].ended_wall_s or 0.0 for job_id in state.sweeps[sweep_id].job_ids
        )
        assert abs(span.mid_s - last_s) < 1e-3


def _other(sweep: Any) -> Any:
    return tuple(msgspec.structs.replace(job, job_id=f"known-{job.job_id}") for job in sweep.jobs)


def test_the_reasons_of_nodes_are_told_apart() -> None:
    mesh = WhyMesh(run_s={"busy": 300.0})
    small = (Gpu(0, "small", 8 * GIB),)
    large = (Gpu(0, "large", 24 * GIB),)
    mesh.join(NodeSpec("small", "http://small", cpu_slots=1, gpus=small))
    mesh.join(NodeSpec("taken", "http://taken", cpu_slots=1, gpus=large, labels={"zone": "a"}))
    mesh.join(NodeSpec("drained", "http://drained", cpu_slots=1, gpus=large, labels={"zone": "a"}))
    mesh.join(NodeSpec("elsewhere", "http://elsewhere", cpu_slots=1, gpus=large))
    mesh.tell(ev.DrainRequested("r", "drained", True))
    needs = Resources(gpus=1, gpu_memory_bytes=12 * GIB, labels=(("zone", "a"),))
    mesh.submit(sweep_of("busy", ("", ""), resources=needs))
    (job_id,) = waiting(mesh)
    why = explain(copy_of(mesh.state), times_of(mesh.state), job_id)
    told = {node.node_id: node.because for node in why.nodes}
    assert told == {
        "small": Because.LABEL,
        "taken": Because.GPUS_TAKEN,
        "drained": Because.DRAINED,
        "elsewhere": Because.LABEL,
    }
    assert "nobody knows" in "\n".join(
        why_lines(why, clock=lambda wall_s: str(wall_s), duration=lambda seconds: "0 s")
    )
    assert {advice.command for advice in why.advice if advice.now} == {
        "meshtrain drain drained --undo",
        "meshtrain retry busy/i=1 --drop-label zone",
    }


def test_a_job_behind_a_known_run_is_told_when_that_leaves_its_gpu() -> None:
    mesh = WhyMesh(run_s={"s": 300.0})
    mesh.join(NodeSpec("gpu1", "http://gpu1", cpu_slots=1, gpus=(Gpu(0, "test", 8 * GIB),)))
    mesh.submit(sweep_of("s", ("", "", ""), resources=Resources(gpus=1)))
    mesh.step()
    (job_id,) = waiting(mesh)
    why = explain(copy_of(mesh.state), times_of(mesh.state), job_id)
    (node,) = why.nodes
    assert (node.frees_wall_s, node.frees_job) == (WALL_S + 600.0, "s/i=1")
    assert why.starts.span is not None
    assert why.starts.span.mid_s == WALL_S + 600.0
    lines = why_lines(
        why,
        clock=lambda wall_s: f"+{wall_s - WALL_S:.0f}",
        duration=lambda seconds: f"{seconds:.0f} s",
    )
    assert lines == [
        "waiting 300 s: no node has a GPU free",
        "",
        "  gpu1   0 GPUs free, needs 1   frees enough about +600 (s/i=1 ends)",
        "",
        "  starts  about +600 on gpu1",
    ]


def test_a_base_that_is_sooner_on_a_busy_node_is_not_fetched_by_a_free_one() -> None:
    mesh = WhyMesh(run_s={"s": 20.0})
    gpu = (Gpu(0, "test", 8 * GIB),)
    mesh.join(NodeSpec("holder", "http://holder", cpu_slots=1, gpus=gpu))
    mesh.submit(sweep_of("s", ("r1",) * 4, resources=Resources(gpus=1)))
    mesh.step()
    (base,) = mesh.state.bases.values()
    mesh.state.keep_base(base, size_bytes=100 * GIB)
    mesh.step()
    mesh.join(NodeSpec("free", "http://free", cpu_slots=1, gpus=gpu))
    job_id = waiting(mesh)[-1]
    why = explain(copy_of(mesh.state), times_of(mesh.state), job_id)
    told = {node.node_id: node.because for node in why.nodes}
    assert told == {"free": Because.ELSEWHERE, "holder": Because.GPUS_TAKEN}
    assert why.base is not None
    assert why.base.holders == ("holder", "master")
    assert why.starts.node_id == "holder"


def test_a_node_without_the_share_that_a_job_reads_says_so() -> None:
    mesh = WhyMesh()
    mesh.join(NodeSpec("bare", "http://bare", cpu_slots=2))
    lacking = {"bare": (1e9, "/mnt/voc is not mounted on bare")}
    mesh.state.lacking_shares[f"/mnt/voc {'d' * 32}"] = lacking
    sweep = sweep_of("s", ("",))
    data = InputData("/mnt/voc", "d" * 32, on_share=True)
    work = CommandWork("true", inputs={"voc": data})
    jobs = tuple(msgspec.structs.replace(job, work=work) for job in sweep.jobs)
    mesh.submit(msgspec.structs.replace(sweep, jobs=jobs))
    (job_id,) = waiting(mesh)
    (node,) = explain(copy_of(mesh.state), times_of(mesh.state), job_id).nodes
    assert node.because is Because.SHARE
    assert node.text == "lacks what the job reads: /mnt/voc is not mounted on bare"


def test_a_job_that_waits_out_a_delay_says_for_how_long() -> None:
    mesh = WhyMesh()
    mesh.join(NodeSpec("n", "http://n", cpu_slots=1))
    mesh.submit(sweep_of("s", ("",)))
    (_, _, node_id, attempt_id, epoch) = mesh.running.pop()
    failure = Failure(FailureClass.NETWORK, "nobody gave it", node_id)
    mesh.tell(ev.AttemptEnded(node_id, attempt_id, epoch, failure=failure))
    why = explain(copy_of(mesh.state), times_of(mesh.state), "s-0")
    assert why.headline == "runs again in 1 s, after network"
