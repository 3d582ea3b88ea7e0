"""Why a job waits: what each node says, when it starts, and what would start it sooner."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshtrain.core import budget
from meshtrain.core.advice import Advice, advise
from meshtrain.core.estimate import StartEstimate, estimate_start
from meshtrain.core.job import BaseState, Job, JobState, Placement
from meshtrain.core.placement import fit, why_never
from meshtrain.core.placing import PlacePass
from meshtrain.core.queue import Shape
from meshtrain.core.refusal import Because, Refusal, text_of
from meshtrain.core.rows import waiting_reason
from meshtrain.core.run_times import RunTimes, elapsed_s, kind_of
from meshtrain.core.span import Span
from meshtrain.core.state import MeshState
from meshtrain.core.what_if import copy_of, copy_of_node
from meshtrain.ids import short

PASSES = frozenset(
    {
        Because.GPUS_TAKEN,
        Because.CPUS_TAKEN,
        Because.MEMORY_TAKEN,
        Because.HELD_ALONE,
        Because.NOT_ALONE,
    }
)
"""What ends when jobs on the node end."""


class NodeReason(msgspec.Struct, frozen=True):
    """What one node says to a job."""

    node_id: str
    text: str
    because: Because
    refusal: Refusal
    frees_wall_s: float | None = None
    """When jobs that run there have left enough, by how long such jobs take."""
    frees_job: str = ""
    """The job whose end that is."""
    ahead: int = 0
    """Jobs before this one in the queue that the node could take too."""


class BaseReason(msgspec.Struct, frozen=True):
    """How the base stands that a job starts from."""

    recipe_hash: str
    label: str
    state: BaseState
    holders: tuple[str, ...] = ()
    job: str = ""
    """The job that trains it."""
    job_state: str = ""
    node_id: str = ""
    """Where it is trained now."""
    there: Span | None = None
    """When it is there, on the wall clock, while it is trained or waited for."""


class Why(msgspec.Struct, frozen=True):
    """All that there is to say about a job that waits; of others, how they stand."""

    job_id: str
    name: str
    state: JobState
    now_wall_s: float
    headline: str
    since_wall_s: float = 0.0
    """Since when it waits, runs, or has ended."""
    subject: str = ""
    """The job that the nodes' words are about, where it is the base's: that has to run first."""
    nodes: tuple[NodeReason, ...] = ()
    ahead: int = 0
    """Jobs before it in the queue."""
    starts: StartEstimate = StartEstimate()
    advice: tuple[Advice, ...] = ()
    base: BaseReason | None = None
    budget: str = ""
    """What its sweep has used of its budget; empty where it has none."""
    sweep_ends: Span | None = None
    """On the wall clock."""


def explain(state: MeshState, times: RunTimes, job_id: str) -> Why:
    """The answer to `meshtrain why`.

    Args:
        state: looked at, never changed.
        times: how long runs take.
    """
    job = state.jobs[job_id]
    plain = Why(
        job_id=job_id,
        name=job.name,
        state=job.state,
        now_wall_s=state.wall_s,
        headline=_how_it_stands(state, job),
        since_wall_s=_since(job),
        base=_base(state, times, job),
        budget=_budget(state, job),
        sweep_ends=state.sweep_ends.get(job.sweep_id or ""),
    )
    if job.state is not JobState.WAITING:
        return plain
    subject = _subject(state, job)
    starts = estimate_start(state, times, job_id)
    if subject.state is not JobState.WAITING:
        # Its base runs: nothing but that keeps it.
        return msgspec.structs.replace(
            plain, headline=waiting_reason(state, job), starts=starts, ahead=_ahead(state, job)
        )
    waiter_id = job_id if subject is not job else ""
    nodes = tuple(_nodes(state, times, subject))
    told = _starts_of(state, times, subject, job, starts)
    return msgspec.structs.replace(
        plain,
        headline=_headline(state, job, subject, nodes),
        subject=subject.name if waiter_id else "",
        nodes=nodes,
        ahead=_ahead(state, subject),
        starts=starts,
        advice=advise(state, times, subject.job_id, told.span, waiter_id),
    )


def _starts_of(
    state: MeshState, times: RunTimes, subject: Job, job: Job, starts: StartEstimate
) -> StartEstimate:
    if subject is job:
        return starts
    return estimate_start(state, times, subject.job_id)


def _subject(state: MeshState, job: Job) -> Job:
    """What has to be placed first: the job, or its base while that isn't there."""
    recipe_hash = job.spec.recipe_hash
    if recipe_hash is None or state.bases[recipe_hash].state is not BaseState.NEEDED:
        return job
    return state.jobs[state.bases[recipe_hash].job_id]


def _since(job: Job) -> float:
    if job.state.is_terminal:
        return job.ended_wall_s or 0.0
    attempt = job.attempt
    if job.state is JobState.WAITING:
        ended_s = None if attempt is None else attempt.ended_wall_s
        return job.submitted_wall_s if ended_s is None else ended_s
    if attempt is None:
        return job.submitted_wall_s
    return attempt.started_wall_s or attempt.assigned_wall_s


def _how_it_stands(state: MeshState, job: Job) -> str:
    """Of a job that does not wait."""
    at = f" on {job.attempt.node_id}" if job.attempt is not None else ""
    match job.state:
        case JobState.ASSIGNED:
            return f"gets ready{at}{_what_keeps_it(state, job)}"
        case JobState.RUNNING:
            return f"runs{at}"
        case JobState.COLLECTING:
            return f"ended well{at}; its result is on the way to the master"
        case JobState.FAILED:
            told = "" if job.failure is None else f": {job.failure.message}"
            return f"failed{told}"
        case _:
            return str(job.state)


def _what_keeps_it(state: MeshState, job: Job) -> str:
    """Of a job that has its place on a node, and doesn't run yet."""
    attempt = job.attempt
    node = None if attempt is None else state.nodes.get(attempt.node_id or "")
    if attempt is None or node is None:
        return ""
    wanted = {attempt.base_artifact, attempt.resumed_from} - {None}
    if not wanted <= node.holds:
        return ": what it needs is on its way there"
    if node.cpus_used > node.spec.cpu_slots:
        return ": waits there for its turn, behind jobs that are soon over"
    return ""


def _budget(state: MeshState, job: Job) -> str:
    spending = state.spending.get(job.sweep_id or "")
    if spending is None or not spending.has_limit:
        return ""
    return budget.limits_text(budget.spent(state, spending.sweep_id))


def _ahead(state: MeshState, job: Job) -> int:
    return sum(1 for _ in state.queue.ahead_of(job.job_id))


# --- the base -----------------------------------------------------------------------------


def _base(state: MeshState, times: RunTimes, job: Job) -> BaseReason | None:
    recipe_hash = job.spec.recipe_hash
    if recipe_hash is None:
        return None
    base = state.bases[recipe_hash]
    trained = state.jobs[base.job_id]
    on_its_way = base.state is BaseState.NEEDED
    running = trained.attempt if trained.state.is_leased else None
    return BaseReason(
        recipe_hash=recipe_hash,
        label=base.spec.label,
        state=base.state,
        holders=tuple(state.holders(base.artifact_id)) if base.artifact_id else (),
        job=trained.name,
        job_state=str(trained.state) if on_its_way else "",
        node_id=running.node_id if running is not None and on_its_way else "",
        there=_trained_by(state, times, trained) if on_its_way else None,
    )


def _trained_by(state: MeshState, times: RunTimes, trained: Job) -> Span | None:
    """When the base that runs now is there, by how long such trainings took."""
    attempt = trained.attempt
    if attempt is None or not trained.state.is_leased:
        return None
    known = times.of(state, trained, kind_of(attempt.placements[0], state.nodes))
    if known is None:
        return None
    so_far_s = elapsed_s(attempt, state.wall_s)
    low_s, mid_s, high_s = (known.left(so_far_s, share) for share in (0.1, 0.5, 0.9))
    return Span(low_s, mid_s, high_s).after(state.wall_s)


# --- the nodes ----------------------------------------------------------------------------


def _nodes(state: MeshState, times: RunTimes, job: Job) -> Iterator[NodeReason]:
    """What each node says, from the pass that the scheduler itself makes."""
    copied = copy_of(state)

    def give(other: Job, placement: Placement) -> None:
        copied.nodes[placement.node_id].occupy(f"{other.job_id} in thought", placement)

    tried = PlacePass(copied, give)
    tried.run()
    shape = copied.queue.shape_of(job.job_id) or copied.shape_of(job)
    ahead = [other.needs for _, other, _ in state.queue.ahead_of(job.job_id)]
    counted = {needs: ahead.count(needs) for needs in set(ahead)}
    for node_id in sorted(state.nodes):
        node = copied.nodes[node_id]
        refusal = tried.refusal(node, job, shape)
        frees_s, frees_job = None, ""
        if refusal.because in PASSES:
            frees_s, frees_job = _frees(state, times, node_id, shape)
        could = why_never(node.spec, shape.needs) is None and node.connected
        yield NodeReason(
            node_id=node_id,
            text=text_of(refusal),
            because=refusal.because,
            refusal=refusal,
            frees_wall_s=frees_s,
            frees_job=frees_job,
            ahead=sum(
                count
                for needs, count in counted.items()
                if could and why_never(node.spec, needs) is None
            ),
        )


def _frees(
    state: MeshState, times: RunTimes, node_id: str, shape: Shape
) -> tuple[float | None, str]:
    """When the jobs that run on a node leave enough of it, and which of them is the last."""
    node = copy_of_node(state.nodes[node_id])
    ends: list[tuple[float, str, str]] = []
    for attempt_id in node.live:
        job = state.jobs[state.live[attempt_id]] if attempt_id in state.live else None
        if job is None or job.attempt is None:
            continue
        known = times.of(state, job, kind_of(job.attempt.placements[0], state.nodes))
        if known is None:
            continue
        left_s = known.left(elapsed_s(job.attempt, state.wall_s), 0.5)
        ends.append((state.wall_s + left_s, attempt_id, job.job_id))
    node.grant = node.assigned_count + 1
    for at_s, attempt_id, job_id in sorted(ends):
        job = state.jobs[job_id]
        assert job.attempt is not None
        for placement in job.attempt.placements:
            if placement.node_id == node_id:
                node.release(attempt_id, placement)
        if isinstance(fit(node, shape.needs), Placement):
            return at_s, job.name
    return None, ""


# --- the headline -------------------------------------------------------------------------


def _headline(state: MeshState, job: Job, subject: Job, nodes: tuple[NodeReason, ...]) -> str:
    """The one thing to know."""
    if job.cancelling:
        return "is being cancelled"
    for one in (job, subject):
        purse = state.shape_of(one).purse
        if purse in state.spent:
            return budget.spent_text(state, purse)
        if purse in state.unpaid:
            return "the budget of every sweep that waits on its base is spent"
    before = ""
    if subject is not job:
        before = f"its base {short(job.spec.recipe_hash or '')} has to be trained first, and "
    elif subject.job_id not in state.queue:
        due = [at_s for at_s, job_id, _ in state.delayed if job_id == subject.job_id]
        left_s = max(0.0, min(due, default=state.now_s) - state.now_s)
        return f"runs again in {left_s:.0f} s, after {_last_failure(subject)}"
    elif not PlacePass(state, _gives_nothing).is_open(state.shape_of(subject)):
        return waiting_reason(state, subject)
    return before + _what_lacks(state, subject, nodes)


def _gives_nothing(job: Job, placement: Placement) -> None:
    raise AssertionError("a pass that is never run")


def _last_failure(job: Job) -> str:
    return "a loss" if job.failure is None else str(job.failure.failure_class)


def _what_lacks(state: MeshState, job: Job, nodes: tuple[NodeReason, ...]) -> str:
    there = [node for node in nodes if node.because is not Because.AWAY]
    if not nodes:
        return "no node is known yet"
    if not there:
        return "no node is there"
    able = [node for node in there if not node.refusal.is_lasting]
    if not able:
        return "no node that is there could ever run it"
    usable = [n for n in able if n.because not in (Because.DRAINED, Because.CLOSED)]
    if not usable:
        return "the nodes that could run it take no jobs"
    if any(node.because is Because.AHEAD for node in usable):
        return "jobs before it take what is free"
    reasons = [node.because for node in usable]
    most = max(sorted(set(reasons)), key=reasons.count)
    return _LACKS.get(most, "no node takes it now").format(**_words(state, job))


_LACKS = {
    Because.GPUS_TAKEN: "no node has {gpus} free",
    Because.CPUS_TAKEN: "no node has {cpus} free",
    Because.MEMORY_TAKEN: "no node has enough free memory",
    Because.KEPT: "what is free is kept for jobs that wait for longer",
    Because.ELSEWHERE: "its base lies on busy nodes, and is sooner there than fetched",
    Because.SHARE: "no free node has what it reads",
    Because.NOT_ALONE: "it needs a node to itself, and none is idle",
    Because.HELD_ALONE: "the nodes are held by jobs that need them to themselves",
    Because.NO_CREDIT: "the nodes take no more jobs at the moment",
    Because.DISK_FULL: "the disks of the nodes were full a moment ago",
}


def _words(state: MeshState, job: Job) -> dict[str, str]:
    needs = state.needs(job)
    gpus = needs.gpus or 1
    size = f" of {needs.gpu_memory_bytes / 1e9:.3g} GB" if needs.gpu_memory_bytes else ""
    return {
        "gpus": f"a GPU{size}" if gpus == 1 else f"{gpus} GPUs{size}",
        "cpus": "a CPU slot" if needs.cpus == 1 else f"{needs.cpus} CPU slots",
    }
