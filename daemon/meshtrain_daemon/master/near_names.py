"""What somebody may have meant by a job's name that names none: told pair by pair.

few_shot/shot=5     few_shot has no axis shot; did you mean "shots"?
few_shot/shots=7    no job of few_shot has shots=7: it has 1 and 5
fewshot/shots=5     no sweep is called "fewshot"; did you mean "few_shot"?
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshtrain.spec.problems import hint, shown

JOBS_LOOKED_AT_MAX = 2000
VALUES_SHOWN_MAX = 6


def why_none(head: str, rest: str, job_names: Iterable[str] | None, sweeps: Sequence[str]) -> str:
    """Why no job is called `head/rest`; empty where there is nothing better to say.

    Args:
        job_names: the names of the jobs in the sweep `head`; None where there is no such sweep.
        sweeps: the names of all sweeps.
    """
    if job_names is None:
        close = hint(head, sweeps)
        return f"no sweep is called {shown(head)}{close}" if close else ""
    values = _values(job_names)
    wanted = dict(
        pair.strip().split("=", 1) for pair in rest.replace("*", ",").split(",") if "=" in pair
    )
    if not values or not wanted:
        return ""
    for axis, value in wanted.items():
        if axis not in values:
            close = hint(axis, values) or f": its axes are {_listed(values)}"
            return f"{head} has no axis {shown(axis)}{close}"
        if value not in values[axis]:
            there = _listed(values[axis])
            return f"no job of {head} has {axis}={value[:80]}: there are {axis} {there}"
    return ""


def _values(job_names: Iterable[str]) -> dict[str, dict[str, None]]:
    """Each axis of a sweep, and the values that its jobs have."""
    found: dict[str, dict[str, None]] = {}
    for _, name in zip(range(JOBS_LOOKED_AT_MAX), job_names, strict=False):
        for pair in name.partition("/")[2].split(","):
            axis, equals, value = pair.partition("=")
            if equals:
                found.setdefault(axis, {})[value] = None
    return found


def _listed(words: Iterable[str]) -> str:
    told = list(words)
    if len(told) > VALUES_SHOWN_MAX:
        told = [*told[: VALUES_SHOWN_MAX - 1], f"{len(told) - VALUES_SHOWN_MAX + 1} more"]
    return " and ".join([", ".join(told[:-1]), told[-1]]) if len(told) > 1 else told[0]
