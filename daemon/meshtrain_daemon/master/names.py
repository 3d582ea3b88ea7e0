"""What people type, to the jobs and sweeps that it names.

    2f09c51ab7e4d310                 a job, by its id, or by the first characters of it
    batch_composition-1a2b3c4d       a sweep, by its id
    batch_composition                a sweep, by its name: the latest of that name
    batch_composition/target_batch_pct=0.25,fold=1
                                     a job, by its name; with fewer of the pairs, in any
                                     order, all jobs of the sweep that have them
    few_shot/*   few*                whatever has such a name
    base/7f3a40c2b1d9   7f3a…c21   7f3a40
                                     the job that trains a base, by its recipe hash

A beginning is taken too, as long as it can mean one thing alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NoReturn

import msgspec

from meshtrain.core.job import Base, Sweep
from meshtrain.core.state import MeshState
from meshtrain.errors import NotFoundError, UserError
from meshtrain.ids import short
from meshtrain.spec.matrix import safe_text
from meshtrain.spec.problems import hint, shown
from meshtrain_daemon.master.near_names import why_none

NAMES_MAX = 1000
"""Names in one request."""
SEARCHES_MAX = 50
"""Of them, those that all jobs must be looked through for."""
NAME_LEN_MAX = 512
PREFIX_LEN_MIN = 4
"""Fewer characters of a digest name nothing."""
HINTS_FROM_MAX = 2000
"""Names that a did-you-mean looks at."""
MEANINGS_SHOWN_MAX = 4
MEANINGS_OF_ONE_MAX = 2
"""Of these, where one job or sweep is to be named: names of jobs are long."""

_BASE = "base/"
_HASH = re.compile(r"([0-9a-f]{4,32})(?:(?:…|\.\.\.?)([0-9a-f]{1,28}))?\Z")


class Resolved(msgspec.Struct, frozen=True):
    """What names stand for; each id once, in the order in which it was named."""

    job_ids: tuple[str, ...] = ()
    """Named as jobs, base jobs among them."""
    sweep_ids: tuple[str, ...] = ()
    """Named as sweeps."""

    def all_job_ids(self, state: MeshState) -> tuple[str, ...]:
        """The jobs, and those of the sweeps."""
        found = dict.fromkeys(self.job_ids)
        for sweep_id in self.sweep_ids:
            found.update(dict.fromkeys(state.sweeps[sweep_id].job_ids))
        return tuple(found)


def resolve(state: MeshState, names: Sequence[str]) -> Resolved:
    """The jobs and sweeps that `names` stand for.

    Raises NotFoundError for a name that stands for nothing, or for more than
    one thing without a `*`; UserError when there are too many names.
    """
    if len(names) > NAMES_MAX:
        raise UserError(f"{len(names):,} names in one request; at most {NAMES_MAX:,}")
    search = _Search(state)
    jobs: dict[str, None] = {}
    sweeps: dict[str, None] = {}
    for name in names:
        found = search.find(name)
        jobs.update(dict.fromkeys(found.job_ids))
        sweeps.update(dict.fromkeys(found.sweep_ids))
    return Resolved(tuple(jobs), tuple(sweeps))


def resolve_sweep(state: MeshState, name: str) -> Sweep:
    """The one sweep that `name` stands for, or that the job so named belongs to.

    Raises NotFoundError.
    """
    found = resolve(state, [name])
    sweep_ids = dict.fromkeys(found.sweep_ids)
    for job_id in found.job_ids:
        sweep_id = state.jobs[job_id].sweep_id
        if sweep_id is None:
            raise NotFoundError(f"{shown(name)} is a base and belongs to no sweep: name a sweep")
        sweep_ids[sweep_id] = None
    return state.sweeps[_the_only(name, list(sweep_ids), "sweep", str)]


def resolve_job(state: MeshState, name: str) -> str:
    """The id of the one job that `name` stands for; a sweep of one job stands for it.

    Raises NotFoundError.
    """
    jobs = list(resolve(state, [name]).all_job_ids(state))
    return _the_only(name, jobs, "job", lambda job_id: state.jobs[job_id].name)


def resolve_base(state: MeshState, name: str) -> Base:
    """The one base that `name` stands for: its recipe hash, the beginning of it, its job.

    Raises NotFoundError.
    """
    bases = _bases_called(state, name) or [
        state.bases[state.base_of_job[job_id]]
        for job_id in ([name] if name in state.base_of_job else [])
    ]
    if not bases:
        known = [base.recipe_hash for base in state.bases.values()][:HINTS_FROM_MAX]
        raise NotFoundError(
            f"no base is called {shown(name)}{hint(name, known) or '.'} List them: meshtrain bases"
        )
    if len(bases) > 1:
        _refuse_many(name, [base.recipe_hash for base in bases])
    return bases[0]


def _the_only(name: str, found: list[str], what: str, words: Callable[[str], str]) -> str:
    if not found:
        raise NotFoundError(f"{shown(name)} has no {what}s: it asked for base models alone")
    if len(found) > MEANINGS_OF_ONE_MAX:
        raise NotFoundError(
            f"{shown(name)} names {len(found):,} {what}s: name one of them, such as "
            f"{words(found[0])}. List them: meshtrain jobs '{name}'"
        )
    if len(found) > 1:
        told = _or([words(item) for item in found])
        raise NotFoundError(f"{shown(name)} names {len(found):,} {what}s: {told}. Name one of them")
    return found[0]


class _Search:
    """Looks names up; what all of them need is worked out once."""

    def __init__(self, state: MeshState) -> None:
        self._state = state
        #: the sweep that a name means: of those so called, the one that came last
        self._latest = {sweep.name: sweep.sweep_id for sweep in state.sweeps.values()}
        self._searches = 0
        #: sweep id → the second half of a job's name → ids
        self._cells: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> Resolved:
        state = self._state
        if not name.strip() or len(name) > NAME_LEN_MAX:
            raise NotFoundError(f"{shown(name)} names nothing: write a job, a sweep or a base")
        if name in state.jobs:
            return Resolved(job_ids=(name,))
        sweep_id = self._sweep(name)
        if sweep_id is not None:
            return Resolved(sweep_ids=(sweep_id,))
        exact = self._jobs_called(name)
        if exact:
            return Resolved(job_ids=exact)
        self._count_search()
        found = self._matching(name) if "*" in name else self._beginning(name)
        if found is None:
            raise NotFoundError(self._nothing(name))
        return found

    def _count_search(self) -> None:
        self._searches += 1
        if self._searches > SEARCHES_MAX:
            raise UserError(
                f"more than {SEARCHES_MAX} names with * or cut short in one request: "
                "write them in full, or in several requests"
            )

    def _sweep(self, name: str) -> str | None:
        return name if name in self._state.sweeps else self._latest.get(name)

    def _jobs_called(self, name: str) -> tuple[str, ...]:
        """The jobs with this name, else those of its sweep that have its pairs."""
        head, slash, rest = name.partition("/")
        sweep_id = self._sweep(head) if slash else None
        if sweep_id is None:
            return ()
        cells = self._cells_of(sweep_id)
        if rest in cells:
            return tuple(cells[rest])
        pairs = {_pair(word) for word in rest.split(",")}
        if "*" in rest or not all("=" in pair for pair in pairs):
            return ()
        self._count_search()
        # All but a few cells are passed over by looking for one of the pairs as text.
        longest = max(pairs, key=len)
        return tuple(
            job_id
            for cell, job_ids in cells.items()
            if longest in cell and pairs <= set(cell.split(","))
            for job_id in job_ids
        )

    def _cells_of(self, sweep_id: str) -> dict[str, list[str]]:
        """The sweep's jobs by their names' second half."""
        cells = self._cells.get(sweep_id)
        if cells is None:
            cells = self._cells[sweep_id] = {}
            for job_id in self._state.sweeps[sweep_id].job_ids:
                cell = self._state.jobs[job_id].name.partition("/")[2]
                cells.setdefault(cell, []).append(job_id)
        return cells

    def _matching(self, pattern: str) -> Resolved | None:
        """Sweeps whose name or id matches; else jobs."""
        state = self._state
        matches = _matcher(pattern)
        sweeps = dict.fromkeys(s for name, s in self._latest.items() if matches(name))
        sweeps.update(dict.fromkeys(sweep_id for sweep_id in state.sweeps if matches(sweep_id)))
        if sweeps:
            return Resolved(sweep_ids=tuple(sweeps))
        jobs = tuple(job_id for job_id, name in self._job_names if matches(name))
        return Resolved(job_ids=jobs) if jobs else None

    @cached_property
    def _job_names(self) -> list[tuple[str, str]]:
        """The names of the latest sweeps' jobs, and of the base jobs, by job id."""
        jobs = self._state.jobs
        sweeps = [self._state.sweeps[sweep_id] for sweep_id in self._latest.values()]
        job_ids = [job_id for sweep in sweeps for job_id in sweep.job_ids]
        return [(job_id, jobs[job_id].name) for job_id in (*job_ids, *self._state.base_of_job)]

    def _beginning(self, name: str) -> Resolved | None:
        """What alone begins so: a base, a job's name, a sweep's name, or an id."""
        state = self._state
        bases = [base.job_id for base in _bases_called(state, name)]
        if "/" in name:
            jobs = bases or [j for j, called in self._job_names if called.startswith(name)]
            return self._one(name, jobs=jobs)
        called = [s for known, s in self._latest.items() if known.startswith(name)]
        if called and not bases:
            return self._one(name, sweeps=called)
        sweeps = [sweep_id for sweep_id in state.sweeps if sweep_id.startswith(name)]
        jobs = bases
        if len(name) >= PREFIX_LEN_MIN:
            jobs = bases + [job_id for job_id in state.jobs if job_id.startswith(name)]
        return self._one(name, jobs=jobs, sweeps=sweeps)

    def _one(
        self, name: str, *, jobs: Sequence[str] = (), sweeps: Sequence[str] = ()
    ) -> Resolved | None:
        jobs, sweeps = list(dict.fromkeys(jobs)), list(dict.fromkeys(sweeps))
        if len(jobs) + len(sweeps) > 1:
            _refuse_many(name, [*sweeps, *(self._state.jobs[job_id].name for job_id in jobs)])
        return Resolved(tuple(jobs), tuple(sweeps)) if jobs or sweeps else None

    def _nothing(self, name: str) -> str:
        head, slash, rest = name.partition("/")
        sweep_id = self._sweep(head) if slash else None
        if slash and head != _BASE.rstrip("/"):
            job_ids = None if sweep_id is None else self._state.sweeps[sweep_id].job_ids
            names = None if job_ids is None else (self._state.jobs[j].name for j in job_ids)
            if near := why_none(head, rest, names, list(self._latest)[:HINTS_FROM_MAX]):
                where = f"meshtrain jobs {head}" if sweep_id is not None else "meshtrain jobs"
                return f"{near}{'' if near.endswith('?') else '.'} List them: {where}"
        known: Iterable[str] = [*self._latest, *self._state.sweeps]
        if sweep_id is not None:
            jobs = self._state.sweeps[sweep_id].job_ids
            known = [self._state.jobs[job_id].name for job_id in jobs]
        close = hint(name, list(known)[:HINTS_FROM_MAX])
        what = "no job matches" if "*" in name else "no job, sweep or base is called"
        return f"{what} {shown(name)}{close or '.'} List them: meshtrain jobs"


def _pair(word: str) -> str:
    """A pair as it stands in a job's name."""
    axis, equals, value = word.strip().partition("=")
    # Whoever copies it from a job's name has it in that form already.
    return f"{axis}{equals}{value if '%' in value else safe_text(value)}"


def _bases_called(state: MeshState, name: str) -> list[Base]:
    word = name.removeprefix(_BASE)
    whole = state.bases.get(word)
    if whole is not None:
        return [whole]
    match = _HASH.match(word)
    if match is None:
        return []
    head, tail = match[1], match[2] or ""
    return [
        base
        for recipe_hash, base in state.bases.items()
        if recipe_hash.startswith(head) and recipe_hash.endswith(tail)
    ]


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Matches `*` alone, and never in more than linear time."""
    first, *parts = pattern.split("*")
    last = parts.pop()

    def matches(name: str) -> bool:
        if not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for part in parts:
            found = name.find(part, at, max(end, 0))
            if found < 0:
                return False
            at = found + len(part)
        return at <= end

    return matches


def _refuse_many(name: str, meanings: Sequence[str]) -> NoReturn:
    raise NotFoundError(f"{shown(name)} may mean {_or(meanings)}: write more of it")


def _or(words: Sequence[str]) -> str:
    told = [short(word) if len(word) == 32 and "/" not in word else word for word in words]
    if len(told) > MEANINGS_SHOWN_MAX:
        more = len(told) - MEANINGS_SHOWN_MAX + 1
        return f"{', '.join(told[: MEANINGS_SHOWN_MAX - 1])} or {more} others"
    return " or ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else told[0]
