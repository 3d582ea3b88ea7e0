"""A run's outcome: as text for people, as numbers for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshtrain.chaos.faults import Victim
from meshtrain.chaos.run import Outcome
from meshtrain.chaos.verdict import SHOWN_MAX


def document(outcome: Outcome) -> dict[str, Any]:
    """All of it in plain data; `ok` is the answer."""
    plan, verdict = outcome.plan, outcome.verdict
    faults: dict[str, dict[str, int]] = {}
    for (victim, deed), times in sorted(outcome.faults.items()):
        faults.setdefault(victim, {})[deed] = times
    return {
        "ok": verdict.ok,
        "seed": plan.seed,
        "for_s": plan.for_s,
        "took_s": round(outcome.took_s, 1),
        "settled_s": round(outcome.settled_s, 1),
        "nodes": plan.nodes,
        "lease_s": plan.lease_s,
        "faults": faults,
        "faults_total": outcome.faults.total(),
        "submissions": dict(sorted(outcome.submissions.items())),
        "submissions_total": outcome.submissions.total(),
        "never_acknowledged": outcome.unsure,
        "jobs": outcome.counts["jobs"],
        "jobs_succeeded": outcome.counts["succeeded"],
        "jobs_cancelled": outcome.counts["cancelled"],
        "jobs_failed": outcome.counts["failed"],
        "jobs_run_again": outcome.counts["run again"],
        "jobs_resumed": outcome.counts["resumed"],
        "executions": outcome.counts["executions"],
        "checks": [
            {
                "name": check.name,
                "promise": check.promise,
                "looked_at": check.looked_at,
                "violations": len(check.violations),
            }
            for check in verdict.checks
        ],
        "violations": verdict.violations,
        "home": str(plan.home),
    }


def fault_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """A row a victim: what was done to it, and how often."""
    rows: list[tuple[str, ...]] = []
    for victim in Victim:
        deeds = {deed: n for (hurt, deed), n in sorted(outcome.faults.items()) if hurt == victim}
        if deeds:
            told = ", ".join(f"{deed} {times}×" for deed, times in deeds.items())
            rows.append((str(victim), str(sum(deeds.values())), told))
    return rows


def check_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """A row a check: what it looked at, and whether it held."""
    return [
        (
            "held" if check.ok else f"broken {len(check.violations)}×",
            check.name,
            f"{check.looked_at:,}",
            check.promise,
        )
        for check in outcome.verdict.checks
    ]


def job_line(outcome: Outcome) -> str:
    """The jobs in one line."""
    counts = outcome.counts
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(outcome.submissions.items()))
    line = (
        f"{outcome.submissions.total()} submissions acknowledged ({kinds}), {counts['jobs']} jobs: "
        f"{counts['succeeded']} succeeded, {counts['cancelled']} cancelled, "
        f"{counts['failed']} failed; {counts['run again']} ran more than once, "
        f"{counts['resumed']} of them from a checkpoint"
    )
    if outcome.unsure:
        line += f"; never acknowledged: {outcome.unsure}"
    return line


def violation_lines(violations: Sequence[str]) -> list[str]:
    """The first violations, each on lines of its own."""
    lines = [f"  {told}" for told in violations[:SHOWN_MAX]]
    if len(violations) > SHOWN_MAX:
        lines.append(f"  and {len(violations) - SHOWN_MAX} more: --json has all")
    return lines
