"""What the fan-out's counters say: parsed, set against the bound, and laid out as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

GIB = 1 << 30
MIB = 1 << 20
_IDLE_FIELDS = (3, 4)
"""Of the cpu line in /proc/stat: idle, and idle that waits for a disk."""
_STOLEN_FIELD = 7
_CPU_FIELDS = 8
"""What comes after them (guests) is held in the others already."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of one row told."""

    row: str
    hosts: int
    """How many were timed."""
    size_bytes: int
    rate_mbit: float
    host_s: dict[str, float]
    """Host → from the start to its last fsync and rename."""
    cpu_programs_s: float
    """User and system time of all programs of the row, from the start to the last rename."""
    cpu_machine_s: float
    """Busy time of all cores meanwhile: also the kernel's work that is on nobody's account."""
    first_holder_sent_bytes: int
    """As its network card counted them, headers and acknowledgements included."""
    others_share: float
    """How busy the machine was just before, from 0 to 1: with nobody else on it, near 0."""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def wall_s(self) -> float:
        """Until the last of the hosts was done."""
        return max(self.host_s.values())

    @property
    def multiple(self) -> float:
        """The time as a multiple of what one link needs to carry the file once."""
        return self.wall_s / bound_s(self.size_bytes, self.rate_mbit)

    @property
    def programs_s_per_gib(self) -> float:
        """CPU seconds of the programs for each GiB that arrived."""
        return self.cpu_programs_s / (self.hosts * self.size_bytes / GIB)

    @property
    def machine_s_per_gib(self) -> float:
        """CPU seconds of the whole machine for each GiB that arrived."""
        return self.cpu_machine_s / (self.hosts * self.size_bytes / GIB)

    @property
    def upload_multiple(self) -> float:
        """What the first holder sent, as a multiple of the file."""
        return self.first_holder_sent_bytes / self.size_bytes


def bound_s(size_bytes: int, rate_mbit: float) -> float:
    """What one link needs to carry so many bytes once, headers left out."""
    return size_bytes * 8 / (rate_mbit * 1e6)


def card_bytes(net_dev: str, device: str) -> tuple[int, int]:
    """Bytes received and sent by a network card, from the text of /proc/PID/net/dev.

    Raises ValueError when the card isn't there.
    """
    for line in net_dev.splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() == device:
            fields = numbers.split()
            return int(fields[0]), int(fields[8])
    raise ValueError(f"/proc/net/dev has no line for {device!r}")


def busy_s(stat: str, ticks_per_s: int) -> float:
    """CPU seconds that all cores have worked, from the text of /proc/stat.

    Time that a hypervisor gave to others isn't counted. Raises ValueError when the
    first line isn't the sum of all cores.
    """
    name, *fields = stat.split("\n", 1)[0].split()
    if name != "cpu" or len(fields) < _CPU_FIELDS:
        raise ValueError(f"/proc/stat begins with {name!r}, not with the sum of all cores")
    idle = {*_IDLE_FIELDS, _STOLEN_FIELD}
    ticks = sum(int(fields[n]) for n in range(_CPU_FIELDS) if n not in idle)
    return ticks / ticks_per_s


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and the range where there is one: `1.12 (1.10 to 1.15)`."""
    if not values:
        return "–"
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return text


def layout(heading: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text under a heading: the first row names the columns."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [heading]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


@dataclass(slots=True)
class Measured:
    """All runs of one row, for every number of hosts."""

    key: str
    title: str
    missing: str = ""
    """Why it can't be measured here; empty where it can."""
    outcomes: dict[int, list[Outcome]] = field(default_factory=dict)
    failures: dict[int, list[str]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.outcomes.setdefault(outcome.hosts, []).append(outcome)

    def fail(self, hosts: int, reason: str) -> None:
        """One more run that came to nothing."""
        self.failures.setdefault(hosts, []).append(reason)

    def cell(self, hosts: int, value_of: Callable[[Outcome], float], digits: int) -> str:
        """One figure of it with so many hosts: the median and the range, or what went wrong."""
        if self.missing:
            return self.missing
        outcomes = self.outcomes.get(hosts, [])
        text = spread([value_of(outcome) for outcome in outcomes], digits)
        failed = len(self.failures.get(hosts, []))
        if failed:
            text = f"{text}, {failed} failed" if outcomes else f"failed {failed}×"
        return text

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "title": self.title,
            "missing": self.missing,
            "hosts": {
                str(hosts): {
                    "median_multiple": statistics.median(o.multiple for o in outcomes),
                    "median_programs_s_per_gib": statistics.median(
                        o.programs_s_per_gib for o in outcomes
                    ),
                    "median_machine_s_per_gib": statistics.median(
                        o.machine_s_per_gib for o in outcomes
                    ),
                    "median_upload_multiple": statistics.median(
                        o.upload_multiple for o in outcomes
                    ),
                    "runs": [outcome_json(outcome) for outcome in outcomes],
                }
                for hosts, outcomes in self.outcomes.items()
            },
            "failures": {str(hosts): reasons for hosts, reasons in self.failures.items()},
        }


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """One run, for `--json`."""
    return {
        "wall_s": outcome.wall_s,
        "multiple": outcome.multiple,
        "host_s": outcome.host_s,
        "cpu_programs_s": outcome.cpu_programs_s,
        "cpu_machine_s": outcome.cpu_machine_s,
        "first_holder_sent_bytes": outcome.first_holder_sent_bytes,
        "upload_multiple": outcome.upload_multiple,
        "others_share": outcome.others_share,
        **outcome.notes,
    }


_COLUMNS: tuple[tuple[str, Callable[[Outcome], float], int], ...] = (
    ("time to the last host, as a multiple of the bound", lambda o: o.multiple, 2),
    ("CPU seconds of the programs per GiB that arrived", lambda o: o.programs_s_per_gib, 1),
    ("CPU seconds of the whole machine per GiB that arrived", lambda o: o.machine_s_per_gib, 1),
    ("upload of the first holder, as a multiple of the file", lambda o: o.upload_multiple, 2),
)


def fan_out_tables(everything: Sequence[Measured], host_counts: Sequence[int]) -> str:
    """The four figures, each a table of rows by numbers of hosts."""
    tables = []
    for heading, value_of, digits in _COLUMNS:
        rows = [["who", *(f"N={hosts}" for hosts in host_counts)]]
        rows += [
            [entry.title, *(entry.cell(hosts, value_of, digits) for hosts in host_counts)]
            for entry in everything
        ]
        tables.append(layout(heading, rows))
    return "\n\n".join(tables)


def fault_table(everything: Sequence[tuple[str, Sequence[Measured]]], hosts: int) -> str:
    """Time of the healthy hosts under each fault, and the first holder's upload."""
    rows = [["fault", "who", "multiple of the bound", "first holder's upload", "seen"]]
    for fault, entries in everything:
        for entry in entries:
            # A fault may take a host out of those that are timed.
            timed = next(iter(entry.outcomes or entry.failures), hosts)
            seen = [
                str(o.notes["seen"]) for o in entry.outcomes.get(timed, []) if "seen" in o.notes
            ]
            rows.append(
                [
                    fault,
                    entry.title,
                    entry.cell(timed, lambda o: o.multiple, 2),
                    entry.cell(timed, lambda o: o.upload_multiple, 2),
                    "; ".join(dict.fromkeys(seen)),
                ]
            )
    return layout(f"with a fault, N={hosts}: time of the healthy hosts", rows)
