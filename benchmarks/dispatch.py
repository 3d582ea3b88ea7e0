"""How fast jobs are started, meshtrain beside its peers in one run on one host.

    python benchmarks/dispatch.py                      everything, about twenty minutes
    python benchmarks/dispatch.py --only meshtrain,ray --jobs 500 --waiting 0 --runs 1 --slots 2

Three measures, the same for every system: jobs per second, each a process of its own
(/bin/true), from the first submit until the client knows all as done; the time from the call of
submit to the job's first instruction, on an idle system; and the rate again with a long queue
waiting behind. docs/BENCHMARKS.md says how each is taken and what is kept equal.

Exit code 0: all was measured. 1: a system is missing, or one of its runs failed.
2: wrong use. 130: stopped.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from harness import figures, machine
from harness.drivers import DriverError, Request, adopt_orphans, run_driver
from harness.figures import Measured
from harness.systems import ROOT, SYSTEMS, System, missing

_IDLE_BUSY_SHARE_MAX = 0.15
_OTHERS_CORES_MAX = 0.15


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("a number from 0 to 1,000,000")
    return value


def _one_or_more(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = ",".join(system.key for system in SYSTEMS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=keys, help=f"systems to measure (default: {keys})")
    parser.add_argument("--jobs", type=_one_or_more, default=2000, help="jobs a run (default 2000)")
    parser.add_argument("--runs", type=_one_or_more, default=3, help="rounds (default 3)")
    parser.add_argument("--latency-samples", type=_count, default=30, help="a run (default 30)")
    parser.add_argument(
        "--waiting",
        type=_count,
        default=100_000,
        help="jobs that wait (default 100000; 0: leave out)",
    )
    parser.add_argument(
        "--waiting-jobs", type=_one_or_more, default=500, help="jobs timed in front of them"
    )
    parser.add_argument("--slots", type=_one_or_more, help="jobs at once; default: the best of")
    parser.add_argument(
        "--slots-tried", default="2,4,8,16", help="slot counts tried when --slots isn't given"
    )
    parser.add_argument("--tuning-runs", type=_one_or_more, default=2, help="short trials of each")
    parser.add_argument(
        "--wait-idle-s", type=float, default=10.0, help="wait so long for a quiet host before a run"
    )
    parser.add_argument(
        "--limit-s", type=float, default=120.0, help="the longest that one measurement may take"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=ROOT / ".peers" / "scratch",
        help="a folder on the disk whose fsync counts",
    )
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    options = parser.parse_args(arguments)
    known = {system.key for system in SYSTEMS}
    options.only = options.only.split(",")
    if unknown := [key for key in options.only if key not in known]:
        parser.error(f"--only: no system is called {unknown[0]!r}; there are {keys}")
    try:
        options.slots_tried = [_one_or_more(text) for text in options.slots_tried.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        parser.error("--slots-tried: numbers with commas between them, such as 2,4,8,16")
    return options


def _say(text: str) -> None:
    print(text, flush=True)


def _tune(everything: Sequence[Measured], options: argparse.Namespace) -> None:
    """Gives each system the slot count of its best short trial."""
    jobs = max(200, options.jobs // 4)
    _say(f"slots, the best of {options.slots_tried}: trials of {jobs} jobs, jobs/s")
    for _ in range(options.tuning_runs):
        for slots in options.slots_tried:
            for entry in everything:
                request = Request(slots=slots, jobs=jobs, measure_limit_s=options.limit_s)
                machine.wait_idle(_IDLE_BUSY_SHARE_MAX, options.wait_idle_s)
                try:
                    outcome = run_driver(entry.system, request, options.scratch)
                except DriverError as error:
                    _fail(entry, error)
                    continue
                assert outcome.rate is not None
                rate_per_s = outcome.rate["jobs"] / outcome.rate["total_s"]
                entry.tuning[slots] = max(entry.tuning.get(slots, 0.0), rate_per_s)
    for entry in everything:
        if entry.tuning:
            entry.slots = max(entry.tuning, key=lambda slots: entry.tuning[slots])
        else:
            entry.slots = options.slots_tried[0]
        trials = "  ".join(f"{slots}: {rate:.0f}" for slots, rate in sorted(entry.tuning.items()))
        _say(f"  {entry.system.title:<16}{trials}   → {entry.slots}")
    _say("")


def _fail(entry: Measured, error: DriverError) -> None:
    _say(f"  FAILED {error}")
    lines = str(error).splitlines()
    # A driver's last words tell the reason; what lies between is its traceback.
    entry.failures.append(lines[0] if len(lines) == 1 else f"{lines[0]}: {lines[-1]}")


def _one_run(entry: Measured, request: Request, options: argparse.Namespace) -> str:
    machine.wait_idle(_IDLE_BUSY_SHARE_MAX, options.wait_idle_s)
    outcome = run_driver(entry.system, replace(request, slots=entry.slots), options.scratch)
    entry.outcomes.append(outcome)
    parts = [f"{figures.rates_per_s(entry)[-1]:7.0f} jobs/s"]
    if outcome.latencies_ms:
        parts.append(f"{figures.latencies_ms(entry)[-1]:6.1f} ms submit → running")
    if outcome.waiting is not None:
        unable = outcome.waiting.get("unable")
        parts.append(
            f"{outcome.waiting['waiting']} waiting: {unable}"
            if unable
            else f"{figures.waiting_rates_per_s(entry)[-1]:6.0f} jobs/s with "
            f"{outcome.waiting['waiting']} waiting (filled in {outcome.waiting['fill_s']:.1f} s"
            f"{'' if outcome.waiting['at_rest'] else ', never came to rest'})"
        )
    parts.append(f"others used {outcome.others_cores:.1f} cores")
    return ", ".join(parts)


def _measure(everything: Sequence[Measured], options: argparse.Namespace) -> None:
    """Rounds in which every system has one turn; each round begins with another system."""
    request = Request(
        slots=0,
        jobs=options.jobs,
        latency_samples=options.latency_samples,
        waiting=options.waiting,
        waiting_jobs=options.waiting_jobs,
        measure_limit_s=options.limit_s,
        run_limit_s=60 + 4 * options.limit_s,
    )
    for round_index in range(options.runs):
        _say(f"round {round_index + 1} of {options.runs}")
        first = round_index % len(everything)
        for entry in [*everything[first:], *everything[:first]]:
            try:
                _say(f"  {entry.system.title:<16}{_one_run(entry, request, options)}")
            except DriverError as error:
                _fail(entry, error)


def _report(everything: Sequence[Measured], options: argparse.Namespace) -> None:
    _say("\nwhat was measured")
    for entry in everything:
        versions = " ".join(
            f"{name} {version}" for name, version in entry.about.get("versions", {}).items()
        )
        _say(f"  {entry.system.title:<16}{versions or 'no run succeeded'}")
        for key in ("durability", "how"):
            if key in entry.about:
                _say(f"  {'':<16}{entry.about[key]}")
    _say("")
    _say(
        figures.table(
            f"jobs per second, {options.jobs} × /bin/true, first submit → all known as done "
            "(more is better)",
            everything,
            figures.rates_per_s,
            digits=0,
        )
    )
    if options.latency_samples:
        _say("")
        _say(
            figures.table(
                f"submit → the job's first instruction, ms, median of {options.latency_samples} "
                "a run, idle (less is better)",
                everything,
                figures.latencies_ms,
                digits=1,
            )
        )
    if options.waiting:
        _say("")
        _say(
            figures.table(
                f"jobs per second of {options.waiting_jobs} jobs with {options.waiting} more "
                "waiting behind them (more is better)",
                everything,
                figures.waiting_rates_per_s,
                digits=0,
                reasons_of=lambda entry: [*entry.failures, *figures.unable_reasons(entry)],
            )
        )
    if (line := figures.verdict(everything)) is not None:
        _say(f"\n{line}")
    disturbed = [
        outcome.others_cores
        for entry in everything
        for outcome in entry.outcomes
        if outcome.others_cores > _OTHERS_CORES_MAX
    ]
    if disturbed:
        _say(
            f"PROVISIONAL: others used the host in {len(disturbed)} of "
            f"{sum(len(entry.outcomes) for entry in everything)} runs, up to "
            f"{max(disturbed):.1f} cores; measure again on a quiet one"
        )


def _systems(keys: Sequence[str]) -> list[System]:
    return [system for system in SYSTEMS if system.key in keys]


def _interrupt(signal_number: int, _frame: object) -> NoReturn:
    # A second one must not cut short the end of what runs; that takes half a minute at most.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit code."""
    options = _parse(arguments)
    systems = _systems(options.only)
    if problems := missing(systems):
        print("Nothing was measured: not every system is here.", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
        print("To measure fewer: --only", file=sys.stderr)
        return 1
    options.scratch.mkdir(parents=True, exist_ok=True)
    host = machine.describe(options.scratch)
    if machine.keeps_nothing(host.scratch_file_system):
        print(
            f"{options.scratch} lies on {host.scratch_file_system}, where an fsync costs nothing: "
            "give --scratch a folder on a disk",
            file=sys.stderr,
        )
        return 1
    adopt_orphans()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    _say(
        f"{host.cores} cores, {host.cpu}, Linux {host.kernel}, Python {host.python}; "
        f"scratch on {host.scratch_file_system}, fdatasync {host.fdatasync_ms:.2f} ms\n"
    )
    everything = [Measured(system) for system in systems]
    try:
        if options.slots is None:
            _tune(everything, options)
        else:
            for entry in everything:
                entry.slots = options.slots
        _measure(everything, options)
    except KeyboardInterrupt:
        print("\nStopped; all that was started has been ended.", file=sys.stderr)
        return 130
    _report(everything, options)
    if options.json is not None:
        document = {
            "host": asdict(host),
            "jobs": options.jobs,
            "waiting": options.waiting,
            "waiting_jobs": options.waiting_jobs,
            "systems": {entry.system.key: figures.as_json(entry) for entry in everything},
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    failed = [entry.system.title for entry in everything if entry.failures]
    if failed:
        print(f"\nRuns failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
