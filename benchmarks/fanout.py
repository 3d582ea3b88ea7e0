"""How fast one file reaches N hosts: meshtrain beside stars and a libtorrent swarm, in one run.

    python benchmarks/fanout.py                          as root; about twenty minutes
    python benchmarks/fanout.py --hosts 8 --only meshtrain,libtorrent --runs 1
    python benchmarks/fanout.py --tls --faults --stream  everything; about half an hour

A master, which holds the file, and N hosts: each in a network namespace behind a link
of 200 Mbit/s up and down. The clock runs from all N being ready to fetch to the last
verified, fsynced rename. docs/BENCHMARKS.md says how it is taken.

Exit code 0: all was measured. 1: it can't be measured here, or a run failed.
2: wrong use. 130: stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import fanout_faults
import fanout_stream
from fanout_bed import Bed, BedError, why_not
from fanout_data import Data
from fanout_figures import MIB, Measured, bound_s, fan_out_tables, fault_table
from fanout_programs import ProgramError
from fanout_rows import MASTER, OURS_TLS, ROWS, SECOND, SPOILED, Row
from fanout_run import IDLE_SHARE_MAX, Cast, Ground, play
from harness import machine
from harness.drivers import DriverError, adopt_orphans, end_descendants
from harness.systems import ROOT

_HOSTS_MAX = 64
_RUN_LIMIT_BOUNDS = 40
"""The longest that a run may take, in bounds; a star of N hosts needs N of them."""
_RUN_LIMIT_MIN_S = 60.0
_DISK_TRIAL_BYTES = 256 * MIB
_FOLDER_PREFIX = "fanout-"
_LOCK = "in-use"


def _one_or_more(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError("a number from 1 to 100,000")
    return value


def _host_counts(text: str) -> list[int]:
    if text == "none":
        return []
    counts = [_one_or_more(part) for part in text.split(",")]
    if max(counts) > _HOSTS_MAX:
        raise argparse.ArgumentTypeError(f"at most {_HOSTS_MAX} hosts")
    return sorted(set(counts))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = ",".join(row.key for row in ROWS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hosts", type=_host_counts, default=[2, 4, 8], help="how many (default 2,4,8; or: none)"
    )
    parser.add_argument("--runs", type=_one_or_more, default=3, help="of each row (default 3)")
    parser.add_argument("--size", type=_one_or_more, default=128, help="MiB of the file (128)")
    parser.add_argument("--rate", type=_one_or_more, default=200, help="Mbit/s of a link (200)")
    parser.add_argument("--only", help=f"rows to measure, of {keys}")
    parser.add_argument("--tls", action="store_true", help="also ours with TLS on")
    parser.add_argument("--faults", action="store_true", help="also with something going wrong")
    parser.add_argument("--stream", action="store_true", help="also one stream on loopback")
    parser.add_argument(
        "--stream-size", type=_one_or_more, default=512, help="MiB of that one (512)"
    )
    parser.add_argument(
        "--congestion", default="", help="TCP's congestion control (default: this machine's own)"
    )
    parser.add_argument(
        "--wait-idle-s", type=float, default=10.0, help="wait so long for a quiet host before a run"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=ROOT / ".peers" / "scratch",
        help="a folder on the disk whose fsync counts",
    )
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    options = parser.parse_args(arguments)
    if options.only is None:
        options.rows = [row for row in ROWS if row.key != OURS_TLS.key or options.tls]
    else:
        wanted = options.only.split(",")
        if unknown := [key for key in wanted if key not in keys.split(",")]:
            parser.error(f"--only: no row is called {unknown[0]!r}; there are {keys}")
        options.rows = [
            row for row in ROWS if row.key in wanted or (row.key == OURS_TLS.key and options.tls)
        ]
    return options


def _say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for this run; those whose run was killed are removed first."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError), (left / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=folder))
    try:
        with (own / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _fan_out(
    entries: Sequence[tuple[Row, Measured]],
    hosts: Sequence[str],
    ground: Ground,
    options: argparse.Namespace,
) -> None:
    """Rounds in which every row has one turn; each round begins with another row."""
    for count in options.hosts:
        for number in range(options.runs):
            _say(f"N={count}, round {number + 1} of {options.runs}")
            first = number % len(entries) if entries else 0
            for row, entry in [*entries[first:], *entries[:first]]:
                if entry.missing:
                    if not number:
                        _say(f"  {row.title:<26} left out: {entry.missing}")
                    continue
                try:
                    outcome = play(row, Cast((MASTER,), tuple(hosts[:count])), ground)
                except ProgramError as error:
                    _say(f"  {row.title:<26} FAILED {error}")
                    entry.fail(count, error.in_short())
                    continue
                entry.add(outcome)
                _say(
                    f"  {row.title:<26} {outcome.multiple:5.2f} × the bound, CPU s/GiB "
                    f"{outcome.programs_s_per_gib:5.1f} programs {outcome.machine_s_per_gib:5.1f} "
                    f"machine, first holder sent {outcome.upload_multiple:.2f} × the file"
                    f"{_busy(outcome.others_share)}"
                )


def _busy(others_share: float) -> str:
    if others_share <= IDLE_SHARE_MAX:
        return ""
    return f", others had {others_share:.0%} of the machine before"


def _interrupt(signal_number: int, _frame: object) -> NoReturn:
    # A second one must not cut short the end of what runs.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _disk_mib_s(folder: Path) -> float:
    """How fast the disk takes a file and its fsync."""
    path, piece = folder / "trial", os.urandom(MIB)
    begun_s = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(_DISK_TRIAL_BYTES // MIB):
            file.write(piece)
        os.fsync(file.fileno())
    took_s = time.monotonic() - begun_s
    path.unlink()
    return _DISK_TRIAL_BYTES / MIB / took_s


def _measure(options: argparse.Namespace, own: Path) -> dict[str, Any]:
    """All that was asked for; returns what `--json` writes."""
    host = machine.describe(own)
    disk_mib_s = _disk_mib_s(own)
    entries = [(row, Measured(row.key, row.title, row.why_not())) for row in options.rows]
    faulty: fanout_faults.Tables = []
    streams: fanout_stream.Streams | None = None
    document: dict[str, Any] = {
        "host": asdict(host),
        "disk_mib_s": disk_mib_s,
        "size_mib": options.size,
    }
    if options.hosts or options.faults:
        count = max([*options.hosts, *([fanout_faults.HOSTS] if options.faults else [])])
        hosts = [f"host{n}" for n in range(1, count + 1)]
        everybody = (MASTER, SECOND, SPOILED, *hosts)
        data_folder = own / "data"
        data_folder.mkdir()
        data = Data(data_folder, options.size * MIB)
        bound = bound_s(data.size_bytes, options.rate)
        with Bed(everybody, options.rate, options.congestion) as bed:
            congestion = options.congestion or _own_congestion()
            _say(
                f"{host.cores} cores, {host.cpu}, Linux {host.kernel}, Python {host.python}; "
                f"scratch on {host.scratch_file_system}, fdatasync {host.fdatasync_ms:.2f} ms, "
                f"takes {disk_mib_s:.0f} MiB/s\n"
                f"{options.size} MiB; links of {options.rate} Mbit/s each way by {bed.shaper} at "
                f"both ends, TCP {congestion}; the bound is {bound:.2f} s\n"
            )
            needed_mib_s = max(options.hosts, default=0) * options.rate * 1e6 / 8 / MIB
            if disk_mib_s < needed_mib_s:
                _say(
                    f"The disk takes {disk_mib_s:.0f} MiB/s, and all hosts together receive up to "
                    f"{needed_mib_s:.0f}: so it may be the limit here, not the links\n"
                )
            document |= {
                "rate_mbit": options.rate,
                "bound_s": bound,
                "shaper": bed.shaper,
                "congestion": congestion,
            }
            limit_s = max(_RUN_LIMIT_MIN_S, _RUN_LIMIT_BOUNDS * bound)
            ground = Ground(bed, data, everybody, own, options.wait_idle_s, limit_s)
            _fan_out(entries, hosts, ground, options)
            if options.faults:
                rows = [row for row in options.rows if row.key in fanout_faults.ROWS]
                faulty = fanout_faults.measure(rows, hosts, ground, options.runs, _say)
        shutil.rmtree(data_folder)
    if options.stream:
        data_folder = own / "stream-data"
        data_folder.mkdir()
        streams = fanout_stream.measure(
            Data(data_folder, options.stream_size * MIB), own, options.runs, _say
        )
    _report(entries, faulty, streams, options)
    document["rows"] = {entry.key: entry.as_json() for _, entry in entries}
    document["faults"] = {
        title: {entry.key: entry.as_json() for entry in measured} for title, measured in faulty
    }
    document["stream"] = streams.as_json() if streams is not None else None
    document["failed"] = any(
        entry.failures
        for entry in [*(entry for _, entry in entries), *(e for _, each in faulty for e in each)]
    ) or bool(streams is not None and streams.failures)
    return document


def _own_congestion() -> str:
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def _report(
    entries: Sequence[tuple[Row, Measured]],
    faulty: fanout_faults.Tables,
    streams: fanout_stream.Streams | None,
    options: argparse.Namespace,
) -> None:
    measured = [entry for _, entry in entries]
    if options.hosts:
        _say("\n" + fan_out_tables(measured, options.hosts))
    if faulty:
        _say("\n" + fault_table(faulty, fanout_faults.HOSTS))
    if streams is not None:
        _say("\n" + streams.table())
    runs = [
        outcome
        for entry in [*measured, *(entry for _, each in faulty for entry in each)]
        for outcomes in entry.outcomes.values()
        for outcome in outcomes
    ]
    disturbed = [o.others_share for o in runs if o.others_share > IDLE_SHARE_MAX]
    if disturbed:
        _say(
            f"\nPROVISIONAL: others used the machine before {len(disturbed)} of {len(runs)} runs, "
            f"up to {max(disturbed):.0%} of it; measure again on a quiet one"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit code."""
    options = _parse(arguments)
    if (options.hosts or options.faults) and (problem := why_not()):
        print(problem, file=sys.stderr)
        return 1
    adopt_orphans()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        with _scratch(options.scratch) as own:
            if machine.keeps_nothing(machine.file_system_of(own)):
                print(
                    f"{options.scratch} lies in memory, where an fsync costs nothing: give "
                    "--scratch a folder on a disk",
                    file=sys.stderr,
                )
                return 1
            try:
                document = _measure(options, own)
            finally:
                end_descendants()
    except KeyboardInterrupt:
        print("\nStopped; all that was started has been ended.", file=sys.stderr)
        return 130
    except (BedError, DriverError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if document["failed"]:
        print("\nSome runs failed; each says why above.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
