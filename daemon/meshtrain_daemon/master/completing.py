"""How names go on that somebody has begun to type: what shells ask when Tab is pressed.

    kind     what begins so
    any      sweeps and the jobs in them, and base jobs
    job      the same, to name one job: of a sweep of several, `sweep/` to go on from
    sweep    sweeps
    node     nodes
    base     recipe hashes
    input    data sets, with @version once an @ is typed

Names of jobs are long, and of one sweep there may be a hundred thousand. So where
many begin alike, the next pair is told, as folders are while a path is typed:
`few_shot/dataset=pascal5i,`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from meshtrain.core.job import BaseState, Sweep
from meshtrain.core.state import MeshState
from meshtrain.errors import UserError
from meshtrain.spec.problems import shown
from meshtrain.wire.messages import Query

WHOLE_MAX = 30
"""Names of jobs that are told whole; of more, only how they go on."""
NAMES_MAX = 200
HASH_LEN = 12
"""Digits of a recipe hash that are told; more are told to whom has typed as many."""
PREFIX_LEN_MAX = 512

_Told = Iterator[tuple[str, str]]
"""Names, and what they are."""


def answer_names(state: MeshState, query: Query, surroundings: object) -> tuple[Iterable[Any], int]:
    """The names that begin as asked, each with a word of what it is.

    Raises UserError when a kind isn't known.
    """
    if len(query.names) != 2:
        raise UserError("the query names takes a kind of name, and how the name begins")
    kind, prefix = query.names
    tell = _KINDS.get(kind)
    if tell is None:
        known = ", ".join(_KINDS)
        raise UserError(f"no names are of the kind {shown(kind)}: there are {known}")
    found = {} if len(prefix) > PREFIX_LEN_MAX else _first(tell(state, prefix))
    rows = [[name, about] for name, about in found.items()]
    return rows[query.offset :], len(rows)


def _first(told: _Told) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, about in told:
        found.setdefault(name, about)
        if len(found) >= NAMES_MAX:
            break
    return found


def _sweeps(state: MeshState, prefix: str) -> _Told:
    """By name; by id where the name is typed whole and goes on, or means an earlier one too."""
    for sweep in _newest(state):
        if sweep.name.startswith(prefix):
            yield sweep.name, _sweep_text(state, sweep)
    for sweep in _newest(state):
        if len(prefix) > len(sweep.name) and sweep.sweep_id.startswith(prefix):
            yield sweep.sweep_id, _sweep_text(state, sweep)


def _newest(state: MeshState) -> Iterator[Sweep]:
    return reversed(state.sweeps.values())


def _sweep_text(state: MeshState, sweep: Sweep) -> str:
    count = len(sweep.job_ids)
    noun = "job" if count == 1 else "jobs"
    still = state.sweep_open.get(sweep.sweep_id, 0)
    return f"{count:,} {noun}, {still:,} to do" if still else f"{count:,} {noun}, ended"


def _any(state: MeshState, prefix: str) -> _Told:
    head, slash, _ = prefix.partition("/")
    if slash:
        yield from _jobs_in(state, head, prefix)
    else:
        yield from _sweeps(state, prefix)
        if prefix and "base/".startswith(prefix) and state.base_of_job:
            yield "base/", "the jobs that train base models"


def _one_job(state: MeshState, prefix: str) -> _Told:
    for name, about in _any(state, prefix):
        sweep = None if "/" in prefix or "/" in name else _called(state, name)
        several = sweep is not None and len(sweep.job_ids) > 1
        yield (f"{name}/" if several else name), about


def _called(state: MeshState, name: str) -> Sweep | None:
    """The latest sweep of this name, or the one of this id."""
    by_id = state.sweeps.get(name)
    if by_id is not None:
        return by_id
    return next((sweep for sweep in _newest(state) if sweep.name == name), None)


def _jobs_in(state: MeshState, head: str, prefix: str) -> _Told:
    """The jobs of a sweep, or those that train bases, whose names begin so."""
    if head == "base":
        job_ids: Iterable[str] = reversed(state.base_of_job)
        typed = prefix
    else:
        sweep = _called(state, head)
        if sweep is None:
            return
        job_ids = sweep.job_ids
        # Named by its id, its jobs are still called after its name.
        typed = f"{sweep.name}{prefix[len(head) :]}"
    jobs = [state.jobs[job_id] for job_id in job_ids]
    begun = [job for job in jobs if job.name.startswith(typed)]
    if len(begun) <= WHOLE_MAX:
        for job in begun:
            yield head + job.name[job.name.index("/") :], str(job.state)
        return
    counts: dict[str, int] = {}
    for job in begun:
        comma = job.name.find(",", len(typed))
        name = job.name if comma < 0 else job.name[: comma + 1]
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        yield head + name[name.index("/") :], f"{count:,} jobs"


def _nodes(state: MeshState, prefix: str) -> _Told:
    for node_id in sorted(state.nodes):
        if node_id.startswith(prefix):
            node = state.nodes[node_id]
            standing = "drained" if node.drained else "ready" if node.accepting else "busy"
            yield node_id, standing if node.connected else "away"


def _bases(state: MeshState, prefix: str) -> _Told:
    typed = prefix.removeprefix("base/")
    before = prefix[: len(prefix) - len(typed)]
    for base in reversed(state.bases.values()):
        if base.recipe_hash.startswith(typed):
            told = base.recipe_hash if len(typed) > HASH_LEN else base.recipe_hash[:HASH_LEN]
            state_text = "" if base.state is BaseState.COMMITTED else f" ({base.state})"
            yield before + told, f"{base.spec.label}{state_text}"


def _inputs(state: MeshState, prefix: str) -> _Told:
    for name, versions in sorted(state.named_inputs.items()):
        if "@" in prefix:
            for one in reversed(versions):
                if one.reference.startswith(prefix):
                    yield one.reference, f"{one.files_count:,} files"
        elif name.startswith(prefix) and versions:
            yield name, f"version {versions[-1].version}"


_KINDS: Mapping[str, Callable[[MeshState, str], _Told]] = MappingProxyType(
    {
        "any": _any,
        "job": _one_job,
        "sweep": _sweeps,
        "node": _nodes,
        "base": _bases,
        "input": _inputs,
    }
)
