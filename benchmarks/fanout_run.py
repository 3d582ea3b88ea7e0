"""Plays one row once: starts its programs, lets them go at one moment, measures, checks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fanout_bed import Bed
from fanout_data import Data
from fanout_figures import Outcome, busy_s
from fanout_programs import Program, ProgramError, end_all, wait_for_all
from fanout_rows import Row, Stage
from fanout_star import digest_of
from harness import machine

READY_LIMIT_S = 60.0
IDLE_SHARE_MAX = 0.15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ground:
    """What all runs share."""

    bed: Bed
    data: Data
    everybody: tuple[str, ...]
    scratch: Path
    wait_idle_s: float
    limit_s: float
    """The longest that the hosts may take."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part in a run, and what befalls them."""

    holders: tuple[str, ...]
    """The first one's upload is measured."""
    hosts: tuple[str, ...]
    untimed: tuple[str, ...] = ()
    """Hosts that aren't waited for."""
    kill: str = ""
    """A holder that is killed."""
    kill_after_s: float = 0.0


def play(row: Row, cast: Cast, ground: Ground) -> Outcome:
    """One run of a row.

    Raises:
        ProgramError: when one of its programs fails, or brings something else than the file.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{row.key}-", dir=ground.scratch))
    stage = Stage(
        ground.bed, ground.data, folder, cast.holders, cast.hosts, everybody=ground.everybody
    )
    programs: dict[str, Program] = {}
    try:
        _start(row, stage, programs)
        return _measure(row, cast, ground, programs)
    finally:
        end_all(programs.values())
        shutil.rmtree(folder, ignore_errors=True)


def _start(row: Row, stage: Stage, programs: dict[str, Program]) -> None:
    for part in row.parts(stage):
        programs[part.host] = Program(
            part.host,
            [*stage.bed.inside(part.host), *part.command],
            part.order,
            stage.folder / f"{part.host}.stderr",
        )
    deadline_s = time.monotonic() + READY_LIMIT_S
    wait_for_all(programs.values(), "ready", deadline_s)


def _measure(row: Row, cast: Cast, ground: Ground, programs: dict[str, Program]) -> Outcome:
    # What earlier runs left to be written, and the start of these programs, isn't theirs.
    os.sync()
    others_share = machine.wait_idle(IDLE_SHARE_MAX, ground.wait_idle_s)
    sent_before_bytes = {name: ground.bed.card_bytes(name)[1] for name in cast.holders}
    programs_before_s = {name: program.cpu_s() for name, program in programs.items()}
    machine_before_s = _machine_s()
    begun_s = time.monotonic()
    for host in cast.hosts:
        programs[host].tell("go")
    if cast.kill:
        time.sleep(max(0.0, begun_s + cast.kill_after_s - time.monotonic()))
        programs[cast.kill].kill()
    timed = [host for host in cast.hosts if host not in cast.untimed]
    deadline_s = begun_s + ground.limit_s
    told = wait_for_all([programs[host] for host in timed], "done", deadline_s)
    machine_s = _machine_s() - machine_before_s
    programs_s = {
        name: program.cpu_s() - programs_before_s[name] for name, program in programs.items()
    }
    sent_bytes = {
        name: ground.bed.card_bytes(name)[1] - sent_before_bytes[name] for name in cast.holders
    }
    for host, each in told.items():
        _check(host, Path(each["path"]), ground.data)
    return Outcome(
        row=row.key,
        hosts=len(timed),
        size_bytes=ground.data.size_bytes,
        rate_mbit=ground.bed.rate_mbit,
        host_s={host: each["done_s"] - begun_s for host, each in told.items()},
        cpu_programs_s=sum(programs_s.values()),
        cpu_machine_s=machine_s,
        first_holder_sent_bytes=sent_bytes[cast.holders[0]],
        others_share=others_share,
        notes={
            "cpu_by_program_s": programs_s,
            "holder_sent_bytes": sent_bytes,
            **_notes(told.values()),
        },
    )


def _check(host: str, path: Path, data: Data) -> None:
    found = digest_of(path)
    if found != data.xxh3:
        raise ProgramError(f"{host} brought a file with digest {found}, not {data.xxh3}")


def _notes(told: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the programs tell besides the time."""
    told = list(told)
    banned = [name for each in told for name in each.get("banned", [])]
    failed_bytes = sum(each.get("failed_bytes", 0) for each in told)
    notes: dict[str, Any] = {}
    if banned:
        notes["banned"] = {name: banned.count(name) for name in sorted(set(banned))}
    if failed_bytes:
        notes["failed_bytes"] = failed_bytes
    if any("bytes_by_node" in each for each in told):
        sums: dict[str, int] = {}
        for each in told:
            for name, size_bytes in each["bytes_by_node"].items():
                sums[name] = sums.get(name, 0) + size_bytes
        notes["delivered_bytes"] = sums
    return notes


def _machine_s() -> float:
    return busy_s(Path("/proc/stat").read_text(), _TICKS_PER_S)
