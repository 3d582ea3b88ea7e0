"""Where bases come from: the parent that a job file names, and the history of one base.

    base.from: 7f3a            the base whose recipe hash begins so, as it is now
    base.from: 7f3a…c21        the same, as `meshtrain bases` shows it
    base.from: 9c1d40e2…       one artifact, also that of an earlier generation

A name is resolved once, when the job file is submitted.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

import msgspec

from meshtrain.core.job import Attempt, AttemptState, Base, BaseState, JobState
from meshtrain.core.rows import base_row
from meshtrain.core.state import MeshState
from meshtrain.errors import NotFoundError, UserError
from meshtrain.ids import DIGEST_HEX_LEN, short
from meshtrain.spec.jobs import TrainingWork
from meshtrain.spec.lineage import CHAIN_MAX, Parent, ResolvedParent
from meshtrain.spec.problems import shown
from meshtrain.wire.messages import Query
from meshtrain_daemon.master.names import resolve_base

NEAR_SHOWN_MAX = 3
NEAR_FROM_MAX = 2000
"""Bases that are looked at for what is near a wrong name, the newest."""
LIKENESS_MIN = 0.7
"""All but one of four digits are there, in their order."""
PREFIX_ALIKE = 3
"""So many equal digits at the beginning are no accident."""
USERS_MAX = 1000
"""Sweeps and bases that one answer names."""

_REFERENCE = re.compile(r"([0-9a-f]{4,32})(?:(?:…|\.\.\.?)([0-9a-f]{1,28}))?\Z")

AttemptsOf = Callable[[str], Sequence[Attempt]]
"""All attempts of a job, oldest first."""


class Past(Protocol):
    """What is known beside the scheduler's state."""

    def attempts_of(self, job_id: str) -> Sequence[Attempt]:
        """All attempts of a job, oldest first."""
        ...

    def metrics_in(self, artifact_id: str) -> dict[str, float]:
        """The metrics that an artifact holds which lies here; empty where there are none."""
        ...


class Model(msgspec.Struct, frozen=True):
    """One artifact of a base: what one of its generations came to."""

    base: Base
    artifact_id: str
    generation: int


def resolve_parent(state: MeshState, name: str, attempts_of: AttemptsOf) -> ResolvedParent:
    """The model that `base.from` names.

    Raises NotFoundError where it names nothing, or more than one; UserError where
    the base is not there to continue from.
    """
    match = _REFERENCE.match(name)
    if match is None:
        _refuse_unknown(state, name)
    head, tail = match[1], match[2] or ""

    def fits(digest_hex: str | None) -> bool:
        return digest_hex is not None and digest_hex.startswith(head) and digest_hex.endswith(tail)

    bases = [base for base in state.bases.values() if fits(base.recipe_hash)]
    if len(bases) > 1:
        _refuse_many(name, [f"base {_told(base)}" for base in bases])
    if bases:
        return _resolved(state, _present(bases[0]))
    models = [model for model in _models(state, attempts_of) if fits(model.artifact_id)]
    found = {model.artifact_id: model for model in models}
    if len(found) > 1:
        _refuse_many(name, [f"artifact {short(artifact_id)}" for artifact_id in found])
    if not found:
        _refuse_unknown(state, name)
    return _resolved(state, next(iter(found.values())))


def _present(base: Base) -> Model:
    if base.state is BaseState.COMMITTED and base.artifact_id is not None:
        return Model(base, base.artifact_id, base.generation)
    if base.state is BaseState.NEEDED:
        raise UserError(
            f"base.from names base {_told(base)}, which is not trained yet: submit again when "
            "`meshtrain bases` shows it as committed"
        )
    raise UserError(
        f"base.from names base {_told(base)}, whose training {base.state}: train it with "
        f"`meshtrain retry {base.job_id}`, or name another"
    )


def _resolved(state: MeshState, model: Model) -> ResolvedParent:
    base = model.base
    if not state.is_held(model.artifact_id):
        now = ""
        if base.artifact_id not in (None, model.artifact_id):
            now = f", or name its present model {short(base.artifact_id or '')}"
        raise UserError(
            f"base.from names {short(model.artifact_id)}, generation {model.generation} of base "
            f"{_told(base)}, and no host that is there holds it: bring its host back{now}"
        )
    chain = list(chain_of(state, base))
    depth = len(chain) + 1
    if depth >= CHAIN_MAX:
        raise UserError(
            f"base.from names base {_told(base)}, the last of {depth} that continue from one "
            f"another; at most {CHAIN_MAX}: start a new line of them"
        )
    participants: dict[str, None] = {}
    for one in (base, *(parent for parent, _ in chain if parent is not None)):
        if isinstance(one.spec.work, TrainingWork):
            participants.update(dict.fromkeys(one.spec.recipe["base"]["participants"]))
    training = isinstance(base.spec.work, TrainingWork)
    return ResolvedParent(
        parent=Parent(base.recipe_hash, model.artifact_id),
        label=base.spec.label,
        training=training,
        model=base.spec.recipe["base"]["model"] if training else None,
        participants=tuple(participants),
        depth=depth,
    )


def chain_of(state: MeshState, base: Base) -> Iterator[tuple[Base | None, Parent]]:
    """What a base continues from, the nearest first; None for a base that isn't known any more."""
    for _ in range(CHAIN_MAX):
        pin = base.spec.parent
        if pin is None:
            return
        parent = state.bases.get(pin.recipe_hash)
        yield parent, pin
        if parent is None:
            return
        base = parent


def _models(state: MeshState, attempts_of: AttemptsOf) -> Iterator[Model]:
    """Every artifact that ever was a base's."""
    for base in state.bases.values():
        yield from _models_of(base, attempts_of)


def _models_of(base: Base, attempts_of: AttemptsOf) -> Iterator[Model]:
    if base.artifact_id is not None:
        yield Model(base, base.artifact_id, base.generation)
    # The first generation has no other model than the present one.
    for attempt in attempts_of(base.job_id) if base.generation > 1 else ():
        if attempt.state is AttemptState.SUCCEEDED and attempt.artifact_id is not None:
            yield Model(base, attempt.artifact_id, attempt.generation)


def _refuse_many(name: str, meanings: Sequence[str]) -> NoReturn:
    told = ", ".join(meanings[:NEAR_SHOWN_MAX])
    more = len(meanings) - NEAR_SHOWN_MAX
    raise NotFoundError(
        f"base.from: {shown(name)} may mean {told}{f' or {more} others' if more > 0 else ''}: "
        "write more of it"
    )


def _refuse_unknown(state: MeshState, name: str) -> NoReturn:
    near = list(_near(name, state.bases.values()))
    told = f"; near it: {', '.join(near)}" if near else ""
    known = "" if state.bases else "; no base is known yet"
    raise NotFoundError(
        f"base.from: no base, and no model of one, is called {shown(name)}{told}{known}. "
        "List them: meshtrain bases"
    )


def _near(name: str, bases: Iterable[Base]) -> Iterator[str]:
    """The bases whose recipe hash, or whose model's id, is most like the name."""
    word = name[:DIGEST_HEX_LEN]
    scored = [
        (max(_likeness(word, base.recipe_hash), _likeness(word, base.artifact_id)), index, base)
        for index, base in enumerate(list(bases)[-NEAR_FROM_MAX:])
    ]
    close = [entry for entry in scored if entry[0] >= LIKENESS_MIN]
    for _, _, base in sorted(close, key=lambda entry: (-entry[0], -entry[1]))[:NEAR_SHOWN_MAX]:
        yield _told(base)


def _likeness(word: str, digest_hex: str | None) -> float:
    """From 0 to 1; what begins alike is alike, however it goes on."""
    if digest_hex is None or not word:
        return 0.0
    start = digest_hex[: len(word)]
    begins_alike = word[:PREFIX_ALIKE] == start[:PREFIX_ALIKE]
    ratio = difflib.SequenceMatcher(None, word, start, autojunk=False).ratio()
    return max(ratio, LIKENESS_MIN if begins_alike else 0.0)


def _told(base: Base) -> str:
    return f"{short(base.recipe_hash)} ({base.spec.label})"


def answer_parent(state: MeshState, query: Query, past: Past) -> tuple[list[dict[str, Any]], int]:
    """The query `parent`: what `base.from` of a job file would be pinned to now."""
    found = resolve_parent(state, _only_name(query), past.attempts_of)
    return [msgspec.to_builtins(found)], 1


def answer_base(state: MeshState, query: Query, past: Past) -> tuple[list[dict[str, Any]], int]:
    """The query `base`: one base with its history."""
    base = resolve_base(state, _only_name(query))
    return [history_row(state, base, past.attempts_of, past.metrics_in)], 1


def _only_name(query: Query) -> str:
    if len(query.names) != 1:
        raise UserError(f"the query {query.what} takes the name of a base, and nothing else")
    return query.names[0]


# --- the history of one base -----------------------------------------------------------


def history_row(
    state: MeshState,
    base: Base,
    attempts_of: AttemptsOf,
    metrics_in: Callable[[str], dict[str, float]],
) -> dict[str, Any]:
    """All that is known of a base: what it is, where it comes from, who uses it.

    Args:
        metrics_in: the metrics that an artifact holds, empty where it can't be read.
    """
    plain = msgspec.to_builtins(base_row(state, base.recipe_hash))
    plain.pop("type", None)
    return {
        **plain,
        "job_id": base.job_id,
        "recipe": base.spec.recipe,
        "parents": [_parent_row(state, *link, attempts_of) for link in chain_of(state, base)],
        "generations": _generation_rows(state, base, attempts_of(base.job_id), metrics_in),
        "sweeps": _sweep_rows(state, base),
        "children": _child_rows(state, base),
    }


def _parent_row(
    state: MeshState, base: Base | None, pin: Parent, attempts_of: AttemptsOf
) -> dict[str, Any]:
    generation = None
    if base is not None:
        made = {model.artifact_id: model.generation for model in _models_of(base, attempts_of)}
        generation = made.get(pin.artifact_id)
    return {
        "recipe_hash": pin.recipe_hash,
        "artifact_id": pin.artifact_id,
        "label": "" if base is None else base.spec.label,
        "generation": generation,
        "generations": 0 if base is None else base.generation,
        "holders": state.holders(pin.artifact_id),
    }


def _generation_rows(
    state: MeshState,
    base: Base,
    attempts: Sequence[Attempt],
    metrics_in: Callable[[str], dict[str, float]],
) -> list[dict[str, Any]]:
    """Each generation, the newest first."""
    job = state.jobs[base.job_id]
    by_generation: dict[int, list[Attempt]] = {base.generation: []}
    known = {attempt.attempt_id: attempt for attempt in attempts}
    if job.attempt is not None:
        known[job.attempt.attempt_id] = job.attempt
    for attempt in sorted(known.values(), key=lambda attempt: attempt.epoch):
        by_generation.setdefault(attempt.generation, []).append(attempt)
    started = Counter(
        job.attempt.base_artifact
        for job in state.jobs.values()
        if job.spec.recipe_hash == base.recipe_hash and job.attempt is not None
    )
    rows = []
    for generation in sorted(by_generation, reverse=True):
        tries = by_generation[generation]
        made = next((a for a in tries if a.state is AttemptState.SUCCEEDED), None)
        last = made or (tries[-1] if tries else None)
        present = generation == base.generation
        artifact_id = base.artifact_id if present else (made.artifact_id if made else None)
        metrics = dict(job.metrics) if present else {}
        if not metrics and artifact_id is not None:
            metrics = metrics_in(artifact_id)
        failure = None if last is None or last.failure is None else last.failure.message
        rows.append(
            {
                "generation": generation,
                "state": _state_of(base, present=present, made=made is not None),
                "artifact_id": artifact_id,
                "holders": [] if artifact_id is None else state.holders(artifact_id),
                "node_id": None if last is None else last.node_id,
                "started_wall_s": None if last is None else last.started_wall_s,
                "ended_wall_s": None if last is None else last.ended_wall_s,
                "trained_s": base.trained_s if present else _run_s(made),
                "attempts": len(tries),
                "jobs": 0 if artifact_id is None else started[artifact_id],
                "metrics": metrics,
                "failure": None if made is not None else failure,
            }
        )
    return rows


def _state_of(base: Base, *, present: bool, made: bool) -> str:
    if present:
        return str(base.state)
    return "replaced" if made else "not made"


def _run_s(attempt: Attempt | None) -> float | None:
    if attempt is None or attempt.started_wall_s is None or attempt.ended_wall_s is None:
        return None
    return max(attempt.ended_wall_s - attempt.started_wall_s, 0.0)


def _sweep_rows(state: MeshState, base: Base) -> list[dict[str, Any]]:
    """The sweeps that asked for the base, the newest first."""
    rows = []
    for sweep in reversed(state.sweeps.values()):
        if base.recipe_hash not in sweep.recipe_hashes:
            continue
        jobs = [state.jobs[job_id] for job_id in sweep.job_ids]
        using = [job for job in jobs if job.spec.recipe_hash == base.recipe_hash]
        rows.append(
            {
                "sweep_id": sweep.sweep_id,
                "name": sweep.name,
                "submitted_wall_s": sweep.submitted_wall_s,
                "jobs": len(using),
                "succeeded": sum(job.state is JobState.SUCCEEDED for job in using),
                "open": sum(not job.state.is_terminal for job in using),
            }
        )
        if len(rows) >= USERS_MAX:
            break
    return rows


def _child_rows(state: MeshState, base: Base) -> list[dict[str, Any]]:
    """The bases that continue from it, the newest first."""
    rows = [
        {
            "recipe_hash": child.recipe_hash,
            "artifact_id": child.spec.parent.artifact_id,
            "label": child.spec.label,
            "state": str(child.state),
        }
        for child in reversed(state.bases.values())
        if child.spec.parent is not None and child.spec.parent.recipe_hash == base.recipe_hash
    ]
    return rows[:USERS_MAX]
