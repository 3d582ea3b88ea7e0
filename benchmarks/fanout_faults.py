"""The rows with a fault: what goes wrong, for whom, and whose time counts.

N=5 hosts fetch; the master is a holder.

- killed: a second holder, and it is the first one (the node that trained the base), is
  killed when half of the bound has passed. The master, which holds the file too, goes on.
- corrupt: a second holder says that it holds everything, and every chunk that it sends has
  a wrong byte. It has all from the start, so it is asked as early and as much as can be.
- slow: one of the five has a link of 20 Mbit/s, both ways. The other four are timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fanout_bed import Bed
from fanout_figures import MIB, Measured, Outcome, bound_s
from fanout_programs import ProgramError
from fanout_rows import LIBTORRENT, MASTER, OURS, SECOND, SPOILED, Mesh, Row
from fanout_run import Cast, Ground, play

HOSTS = 5
ROWS = (LIBTORRENT.key, OURS.key)
SLOW_MBIT = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    key: str
    title: str
    cast: Callable[[Sequence[str], float], Cast]
    """From the hosts and the bound in seconds."""
    slow_host: bool = False


def _killed(hosts: Sequence[str], bound: float) -> Cast:
    return Cast((SECOND, MASTER), tuple(hosts), kill=SECOND, kill_after_s=bound / 2)


def _corrupt(hosts: Sequence[str], bound: float) -> Cast:
    return Cast((MASTER, SPOILED), tuple(hosts))


def _slow(hosts: Sequence[str], bound: float) -> Cast:
    return Cast((MASTER,), tuple(hosts), untimed=(hosts[-1],))


FAULTS = (
    Fault("killed", "a holder of two killed halfway", _killed),
    Fault("corrupt", "a holder that corrupts every chunk", _corrupt),
    Fault("slow", f"one host with {SLOW_MBIT} Mbit/s", _slow, slow_host=True),
)

Tables = list[tuple[str, list[Measured]]]


def measure(
    rows: Sequence[Row], hosts: Sequence[str], ground: Ground, runs: int, say: Callable[[str], None]
) -> Tables:
    """Runs of every row under every fault, the rows in turn."""
    bound = bound_s(ground.data.size_bytes, ground.bed.rate_mbit)
    tables: Tables = []
    for fault in FAULTS:
        entries = {row.key: Measured(row.key, row.title, row.why_not()) for row in rows}
        cast = fault.cast(hosts[:HOSTS], bound)
        timed = len(cast.hosts) - len(cast.untimed)
        for _ in range(runs):
            for row in rows:
                entry = entries[row.key]
                if entry.missing:
                    continue
                try:
                    with _slowed(ground.bed, cast.hosts[-1] if fault.slow_host else ""):
                        outcome = play(row, cast, ground)
                except ProgramError as error:
                    say(f"  {fault.key:<8} {row.title:<26} FAILED {error}")
                    entry.fail(timed, error.in_short())
                    continue
                entry.add(_with_seen(outcome, row, ground))
                say(
                    f"  {fault.key:<8} {row.title:<26} {outcome.multiple:5.2f} × the bound, "
                    f"first holder sent {outcome.upload_multiple:.2f} × the file, "
                    f"machine {outcome.others_share:.0%} busy before"
                )
        tables.append((fault.title, list(entries.values())))
    return tables


@contextlib.contextmanager
def _slowed(bed: Bed, host: str) -> Iterator[None]:
    if not host:
        yield
        return
    bed.set_rate(host, SLOW_MBIT)
    try:
        yield
    finally:
        bed.set_rate(host, bed.rate_mbit)


def _with_seen(outcome: Outcome, row: Row, ground: Ground) -> Outcome:
    """With a word on what became of the spoiled holder."""
    sent_bytes = outcome.notes["holder_sent_bytes"].get(SPOILED)
    if sent_bytes is None:
        return outcome
    banned = outcome.notes.get("banned", {})
    spoiled = SPOILED if isinstance(row, Mesh) else ground.bed.address(SPOILED)
    seen = f"it sent {sent_bytes / MIB:.0f} MiB and was banned by {banned.get(spoiled, 0)}"
    others = len([name for name in banned if name != spoiled])
    if others:
        seen += f", {others} who did no wrong with it"
    return replace(outcome, notes={**outcome.notes, "seen": seen})
