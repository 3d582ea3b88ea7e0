"""The questions that people's commands and dashboards ask the master.

    what      names                     a row
    ports     –                         where the master listens, its folders, its version, its time
    jobs      jobs and sweeps; or all   core.view.JobRow; the newest sweep first, bases last
    sweeps    sweeps; or all            core.view.SweepRow, its jobs by state, its folder; newest
                                        first
    bases     bases; or all             core.view.BaseRow, its job, its failure
    inputs    data sets, perhaps with   core.named_input.NamedInput, who holds it; the newest
              @version; or all          version of each first
    nodes     nodes; or all             core.view.NodeRow, its node.NodeSpec, what runs there
    members   –                         core.member.Member, the revoked ones too; none without keys
    readers   –                         the read tokens, but for what lets in by them
    names     a kind, a beginning       how names go on that are being typed, and what they are
    job       one job                   core.view.JobRow and all else of it, attempts too
    log       one job, perhaps a        bytes from `offset`, at most `limit` and 1 MiB, where
              stream and an attempt     they `begin`, and `next_offset`, both past bytes that
                                        were lost; the streams are log and metrics
    lines     as log                    how many lines end in each block of the stream, from
                                        the block of `offset` on; at most `limit` bytes and 4 MiB
    times     as log                    from which offset on bytes came when, from `offset` on
    results   one sweep                 its folder, how it is merged, and a page of its cells:
                                        offset, limit and total count cells
    archive   –                         how the archive stands; none where there is none
    recipes   bases; or all             the recipe of a base, and what it took; newest first
    history   –                         how long attempts that ended well have taken, by node
    why       one job                   core.why.Why; the estimator answers it, beside the loop

`offset`, `limit` and `total` count rows unless it says otherwise. A page may
end before `limit`, so that its message stays small: whoever wants all goes on
from the offset that it has come to, until `total`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

import msgspec

from meshtrain.clock import wall_now_s
from meshtrain.core import budget
from meshtrain.core.job import Base, BaseState, Job, JobKind, JobState, Sweep
from meshtrain.core.plan import work_kind
from meshtrain.core.rows import base_row, job_row, node_row, sweep_row
from meshtrain.core.run_times import kind_of, kind_of_node, took
from meshtrain.core.state import MeshState
from meshtrain.errors import MeshtrainError, NotFoundError, UserError
from meshtrain.net.zmq_client import Ports as Ports
from meshtrain.results.merge import CellState, cell_result
from meshtrain.results.metrics import Metrics
from meshtrain.security.read_tokens import Reader
from meshtrain.spec.jobs import JobSpec, TrainingWork
from meshtrain.spec.problems import hint, shown
from meshtrain.wire.messages import PROTOCOL_VERSION, Answer, Query
from meshtrain_daemon.master import inputs, lineage
from meshtrain_daemon.master.completing import answer_names
from meshtrain_daemon.master.log_queries import (
    answer_lines,
    answer_log,
    answer_times,
    attempts_of,
)
from meshtrain_daemon.master.names import resolve, resolve_base, resolve_job, resolve_sweep
from meshtrain_daemon.master.surroundings import Surroundings as Surroundings

ROWS_MAX = 5000
"""Rows in one answer."""
ANSWER_BYTES_MAX = 4 << 20
"""Bytes of one answer's rows; half of what a message may have."""
RUNNING_SHOWN_MAX = 64


_Answering = tuple[Iterable[Any], int]
"""The rows from the offset on, made as they are taken, and the total."""


def answer(state: MeshState, query: Query, surroundings: Surroundings) -> Answer:
    """The answer to a query; its error says what was wrong, and then it has no rows."""
    handler = QUERIES.get(query.what)
    try:
        if handler is None:
            known = ", ".join(sorted(QUERIES))
            close = hint(query.what, QUERIES) or ";"
            raise NotFoundError(f"no query is called {shown(query.what)}{close} known: {known}")
        if query.offset < 0 or query.limit < 0:
            raise UserError("an offset and a limit are 0 or more")
        rows, total = handler(state, query, surroundings)
        return Answer(query.request_id, rows=_page(rows, query.limit), total=total)
    except MeshtrainError as error:
        return Answer(query.request_id, error=str(error))


def _page(rows: Iterable[Any], limit: int) -> list[Any]:
    """The first rows that fit into one message; the first one in any case."""
    kept: list[Any] = []
    size_bytes = 0
    if limit == 0:
        return kept
    for row in rows:
        size_bytes += len(msgspec.msgpack.encode(row))
        if kept and size_bytes > ANSWER_BYTES_MAX:
            break
        kept.append(row)
        if len(kept) >= min(limit, ROWS_MAX):
            break
    return kept


def _plain(record: msgspec.Struct) -> dict[str, Any]:
    row = msgspec.to_builtins(record)
    assert isinstance(row, dict)
    row.pop("type", None)
    return row


# --- the mesh ----------------------------------------------------------------------


def _ports(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    row = {
        **_plain(surroundings.ports),
        "https": surroundings.https,
        "home": surroundings.home,
        "inbox": surroundings.inbox,
        "version": surroundings.version,
        "protocol": PROTOCOL_VERSION,
        "now_s": wall_now_s(),
        "incarnation": state.incarnation,
    }
    return [row], 1


def _jobs(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    job_ids = job_ids_of(state, query.names)
    rows = (_plain(job_row(state, state.jobs[job_id])) for job_id in job_ids[query.offset :])
    return rows, len(job_ids)


def job_ids_of(state: MeshState, names: Sequence[str]) -> list[str]:
    """The jobs of sweeps and jobs by their names; without names all, the newest sweep first."""
    if names:
        return list(resolve(state, names).all_job_ids(state))
    job_ids = [job_id for sweep in _newest(state) for job_id in sweep.job_ids]
    return job_ids + list(reversed(state.base_of_job))


def _newest(state: MeshState) -> Iterator[Sweep]:
    return reversed(state.sweeps.values())


def _sweeps(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    sweeps = [resolve_sweep(state, name) for name in query.names] or list(_newest(state))

    def row(sweep: Sweep) -> dict[str, Any]:
        states: Mapping[JobState, int] = state.counts.of_sweep.get(sweep.sweep_id, {})
        return {
            **_plain(sweep_row(state, sweep.sweep_id)),
            **_used(state, sweep.sweep_id),
            "states": {str(name): count for name, count in states.items() if count},
            "recipe_hashes": sweep.recipe_hashes,
            "reused_hashes": sweep.reused,
            "metric": sweep.results.metric,
            "folder": surroundings.results_folder(sweep),
        }

    return map(row, sweeps[query.offset :]), len(sweeps)


def _used(state: MeshState, sweep_id: str) -> dict[str, float]:
    """What a sweep has used up to now, by what runs too."""
    spending = budget.spent(state, sweep_id)
    return {"gpu_hours": spending.gpu_s / 3600, "money": spending.money}


def _bases_asked(state: MeshState, query: Query) -> list[Base]:
    if query.names:
        named = [resolve_base(state, name) for name in query.names]
        return list({base.recipe_hash: base for base in named}.values())
    return list(reversed(state.bases.values()))


def _bases(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    bases = _bases_asked(state, query)

    def row(base: Base) -> dict[str, Any]:
        job = state.jobs[base.job_id]
        shown_row = job_row(state, job)
        return {
            **_plain(base_row(state, base.recipe_hash)),
            "job_id": base.job_id,
            "job": job.name,
            "job_state": str(job.state),
            "job_node_id": shown_row.node_id,
            "failure": shown_row.failure,
            "reason": shown_row.reason,
            "committed_wall_s": base.committed_wall_s,
            "archived": surroundings.archiving.has_base(base.artifact_id),
        }

    return map(row, bases[query.offset :]), len(bases)


def _nodes(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    for name in query.names:
        if name not in state.nodes:
            raise NotFoundError(
                f"no node is called {shown(name)}{hint(name, state.nodes) or '.'} "
                "List them: meshtrain nodes"
            )
    node_ids = list(dict.fromkeys(query.names)) or sorted(state.nodes)

    def row(node_id: str) -> dict[str, Any]:
        node = state.nodes[node_id]
        running = sorted(state.jobs[state.live[attempt_id]].name for attempt_id in node.live)
        return {
            **_plain(node_row(state, node_id)),
            "spec": _plain(node.spec),
            "memory_used_bytes": node.memory_used_bytes,
            "running": running[:RUNNING_SHOWN_MAX],
            "running_count": len(running),
        }

    return map(row, node_ids[query.offset :]), len(node_ids)


def _members(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    members = sorted(surroundings.members, key=lambda m: (m.revoked, m.kind, m.name))
    return map(_plain, members[query.offset :]), len(members)


def _readers(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    readers = sorted(surroundings.readers, key=lambda reader: reader.name)

    def row(reader: Reader) -> dict[str, Any]:
        return {
            "name": reader.name,
            "issuer": reader.issuer,
            "made_s": reader.made_s,
            "expires_s": reader.expires_s,
        }

    return map(row, readers[query.offset :]), len(readers)


def _archive(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    status = surroundings.archiving.status()
    rows = [] if status is None else [status]
    return rows[query.offset :], len(rows)


# --- one job -----------------------------------------------------------------------


def _job(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    job = state.jobs[resolve_job(state, _only_name(query, "a job"))]
    recipe_hash = job.spec.recipe_hash or state.base_of_job.get(job.job_id)
    row = {
        **_plain(job_row(state, job)),
        "cell": job.spec.cell,
        "group": job.spec.group,
        "work": msgspec.to_builtins(job.spec.work),
        "resources": _plain(state.needs(job)),
        "limits": _plain(job.spec.limits),
        "cancelling": job.cancelling,
        "last_failure": None if job.failure is None else _plain(job.failure),
        "attempts": [_plain(attempt) for attempt in attempts_of(state, job, surroundings)],
        "base": None if recipe_hash is None else _plain(base_row(state, recipe_hash)),
    }
    return [row], 1


def _only_name(query: Query, what: str) -> str:
    if len(query.names) != 1:
        raise UserError(f"the query {query.what} takes the name of {what}, and nothing else")
    return query.names[0]


# --- results -----------------------------------------------------------------------


def _results(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    sweep = resolve_sweep(state, _only_name(query, "a sweep"))
    cells = (
        _cell(state.jobs[sweep.job_ids[index]], index, surroundings)
        for index in range(query.offset, len(sweep.job_ids))
    )
    row: dict[str, Any] = {"sweep_id": sweep.sweep_id, "cells": _page(cells, query.limit)}
    if query.offset == 0:
        # What is said once: a sweep of many cells comes in many pages.
        row |= {
            "name": sweep.name,
            "folder": surroundings.results_folder(sweep),
            "results": _plain(sweep.results),
            "archived": surroundings.archiving.results_count(sweep),
            "target": _target(state.jobs[job_id].spec for job_id in sweep.job_ids),
            "recipe_hashes": list(sweep.recipe_hashes),
            "reused": list(sweep.reused),
            "source": sweep.source,
        }
    return [row], len(sweep.job_ids)


def _cell(job: Job, index: int, surroundings: Surroundings) -> dict[str, Any]:
    state, reason, metrics = str(job.state), "", Metrics()
    if job.state is JobState.SUCCEEDED:
        metrics = Metrics(values=job.metrics) if job.metrics else surroundings.metrics_of(job)
    elif job.failure is not None:
        reason = f"{job.failure.failure_class}: {job.failure.message}"
    if job.state.is_leased:
        state = str(CellState.RUNNING)
    return _plain(cell_result(job.spec, state, metrics, reason=reason, index=index))


def _target(jobs: Iterable[JobSpec]) -> str | None:
    """The person whose model all runs are for; None where they differ, or are commands."""
    targets = {
        job.work.config.get("target") if isinstance(job.work, TrainingWork) else None
        for job in jobs
    }
    target = targets.pop() if len(targets) == 1 else None
    return target if isinstance(target, str) else None


# --- for plans -----------------------------------------------------------------------


def _recipes(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    bases = _bases_asked(state, query)
    rows = (
        {
            "recipe_hash": base.recipe_hash,
            "recipe": base.spec.recipe,
            "label": base.spec.label,
            "state": str(base.state),
            "size_bytes": base.size_bytes,
            "trained_s": base.trained_s,
        }
        for base in bases[query.offset :]
    )
    return rows, len(bases)


def _history(state: MeshState, query: Query, surroundings: Surroundings) -> _Answering:
    durations: dict[tuple[str | None, str | None, str, str, str], list[float]] = {}
    for base in state.bases.values():
        if base.state is BaseState.COMMITTED and base.trained_s is not None:
            kind = kind_of_node(state.nodes.get(base.node_id or ""))
            of_base = (base.recipe_hash, None, str(JobKind.BASE), work_kind(base.spec.work), kind)
            durations.setdefault(of_base, []).append(base.trained_s)
    for job in state.jobs.values():
        took_s = took(job)
        if took_s is None or job.sweep_id is None or job.attempt is None:
            continue
        name = state.sweeps[job.sweep_id].name
        kind = kind_of(job.attempt.placements[0], state.nodes)
        key = (job.spec.recipe_hash, name, str(job.kind), work_kind(job.spec.work), kind)
        durations.setdefault(key, []).append(took_s)
    rows = [
        {
            "recipe_hash": recipe_hash,
            "sweep": sweep,
            "kind": kind,
            "work": work,
            "node_kind": node_kind,
            "count": len(took_s),
            "mean_s": fmean(took_s),
            "std_s": stdev(took_s) if len(took_s) > 1 else 0.0,
        }
        for (recipe_hash, sweep, kind, work, node_kind), took_s in durations.items()
    ]
    return rows[query.offset :], len(rows)


QUERIES: Mapping[str, Callable[[MeshState, Query, Surroundings], _Answering]] = MappingProxyType(
    {
        "ports": _ports,
        "jobs": _jobs,
        "sweeps": _sweeps,
        "bases": _bases,
        "base": lineage.answer_base,
        "parent": lineage.answer_parent,
        "inputs": inputs.answer_inputs,
        "nodes": _nodes,
        "members": _members,
        "readers": _readers,
        "names": answer_names,
        "archive": _archive,
        "job": _job,
        "log": answer_log,
        "lines": answer_lines,
        "times": answer_times,
        "results": _results,
        "recipes": _recipes,
        "history": _history,
    }
)
