"""From the runs to medians, ratios and the tables that are printed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.drivers import Outcome
from harness.systems import OURS, System


@dataclass(slots=True)
class Measured:
    """All that was measured of one system."""

    system: System
    slots: int = 0
    tuning: dict[int, float] = field(default_factory=dict)
    """Slots → the best jobs per second of the short trials."""
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def about(self) -> dict[str, Any]:
        """What the system told of itself; empty when no run of it succeeded."""
        return self.outcomes[0].about if self.outcomes else {}


def rates_per_s(measured: Measured) -> list[float]:
    """Jobs per second with an empty queue, one a run."""
    return [
        outcome.rate["jobs"] / outcome.rate["total_s"]
        for outcome in measured.outcomes
        if outcome.rate is not None
    ]


def latencies_ms(measured: Measured) -> list[float]:
    """The median of submit → running in milliseconds, one a run."""
    return [
        statistics.median(outcome.latencies_ms)
        for outcome in measured.outcomes
        if outcome.latencies_ms
    ]


def waiting_rates_per_s(measured: Measured) -> list[float]:
    """Jobs per second with the long queue behind them, one a run; a run that couldn't has none."""
    return [
        outcome.waiting["jobs"] / outcome.waiting["total_s"]
        for outcome in measured.outcomes
        if outcome.waiting is not None and "unable" not in outcome.waiting
    ]


def unable_reasons(measured: Measured) -> list[str]:
    """Why a system couldn't be measured with the long queue."""
    return [
        outcome.waiting["unable"]
        for outcome in measured.outcomes
        if outcome.waiting is not None and "unable" in outcome.waiting
    ]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _ratio(value: float | None, ours: float | None) -> str:
    return f"{value / ours:.2f}×" if value is not None and ours else "–"


def table(
    heading: str,
    everything: Sequence[Measured],
    values_of: Callable[[Measured], list[float]],
    digits: int,
    reasons_of: Callable[[Measured], list[str]] = lambda measured: measured.failures,
) -> str:
    """One measure of all systems as text: every run, the median, and the ratio to ours."""
    medians = {entry.system.key: _median(values_of(entry)) for entry in everything}
    ours = medians.get(OURS)
    lines = [
        heading,
        f"  {'system':<16}{'slots':>5}  {'durable':<7}  {'median':>8}  {'to ours':>8}   runs",
    ]
    for entry in everything:
        median = medians[entry.system.key]
        runs = " ".join(f"{value:.{digits}f}" for value in values_of(entry))
        reasons = reasons_of(entry)
        if reasons:
            runs = "; ".join(part for part in (runs, *dict.fromkeys(reasons)) if part)
        lines.append(
            f"  {entry.system.title:<16}{entry.slots:>5}  "
            f"{'yes' if entry.system.durable else 'no':<7}  "
            f"{'–' if median is None else f'{median:.{digits}f}':>8}  "
            f"{_ratio(median, ours):>8}   {runs}"
        )
    return "\n".join(lines)


def verdict(everything: Sequence[Measured]) -> str | None:
    """One line on ours against the fastest peer; None unless both were measured."""
    medians = {
        entry.system.title: (entry.system.key, statistics.median(values))
        for entry in everything
        if (values := rates_per_s(entry))
    }
    ours = [rate for key, rate in medians.values() if key == OURS]
    peers = {title: rate for title, (key, rate) in medians.items() if key != OURS}
    if not ours or not peers:
        return None
    fastest = max(peers, key=lambda title: peers[title])
    return (
        f"meshtrain {ours[0]:.0f} jobs/s, the fastest peer is {fastest} with "
        f"{peers[fastest]:.0f}: {ours[0] / peers[fastest]:.2f}×"
    )


def as_json(measured: Measured) -> dict[str, Any]:
    """One system's figures, for `--json`."""
    return {
        "title": measured.system.title,
        "durable": measured.system.durable,
        "slots": measured.slots,
        "tuning_jobs_per_s": {str(slots): rate for slots, rate in measured.tuning.items()},
        **measured.about,
        "runs": [
            {
                "others_cores": outcome.others_cores,
                "rate": outcome.rate,
                "latencies_ms": outcome.latencies_ms,
                "waiting": outcome.waiting,
            }
            for outcome in measured.outcomes
        ],
        "failures": measured.failures,
        "median_jobs_per_s": _median(rates_per_s(measured)),
        "median_submit_to_running_ms": _median(latencies_ms(measured)),
        "median_jobs_per_s_waiting": _median(waiting_rates_per_s(measured)),
    }
