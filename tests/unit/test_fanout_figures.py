"""The parts of the fan-out benchmark that need no testbed: counters, figures, tables, programs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import fanout
import fanout_bed
import fanout_faults
import fanout_stream
from fanout_data import Data, spoil
from fanout_figures import (
    MIB,
    Measured,
    Outcome,
    bound_s,
    busy_s,
    card_bytes,
    fan_out_tables,
    fault_table,
    layout,
    outcome_json,
    spread,
)
from fanout_programs import Program, ProgramError, end_all, wait_for_all
from fanout_star import digest_of

from meshtrain.artifacts.files import ArtifactStore

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:     100       2    0    0    0     0          0         0      200       2    0    0
 cable: 7000000    5000    0    0    0     0          0         0 14000000    9000    0    3
"""
STAT = "cpu  100 20 30 1000 400 5 45 700 9 9\ncpu0 50 10 15 500 200 2 22 350 4 4\n"


def outcome(hosts: int = 2, wall_s: float = 8.0, **notes: Any) -> Outcome:
    return Outcome(
        row="meshtrain",
        hosts=hosts,
        size_bytes=100_000_000,
        rate_mbit=200,
        host_s={f"host{n}": wall_s - n for n in range(hosts)},
        cpu_programs_s=2.0,
        cpu_machine_s=3.0,
        first_holder_sent_bytes=110_000_000,
        others_share=0.0,
        notes=notes,
    )


def test_a_card_s_bytes_are_those_received_and_sent() -> None:
    assert card_bytes(NET_DEV, "cable") == (7_000_000, 14_000_000)
    with pytest.raises(ValueError, match="'port1'"):
        card_bytes(NET_DEV, "port1")


def test_busy_time_leaves_out_idle_waiting_stolen_and_what_guests_had() -> None:
    assert busy_s(STAT, 100) == pytest.approx((100 + 20 + 30 + 5 + 45) / 100)
    with pytest.raises(ValueError, match="cpu0"):
        busy_s(STAT.split("\n", 1)[1], 100)


def test_a_run_is_as_long_as_its_last_host_and_set_against_one_link() -> None:
    assert bound_s(100_000_000, 200) == pytest.approx(4.0)
    run = outcome(wall_s=8.0)
    assert run.wall_s == 8.0
    assert run.multiple == pytest.approx(2.0)
    assert run.upload_multiple == pytest.approx(1.1)
    arrived_gib = 200_000_000 / (1 << 30)
    assert run.programs_s_per_gib == pytest.approx(2.0 / arrived_gib)
    assert run.machine_s_per_gib == pytest.approx(3.0 / arrived_gib)
    assert outcome_json(run)["multiple"] == run.multiple


def test_a_spread_is_the_median_and_the_range() -> None:
    assert spread([], 2) == "–"
    assert spread([1.234], 2) == "1.23"
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"


def test_cells_stand_below_their_columns() -> None:
    text = layout("heading", [["who", "N=2"], ["meshtrain", "1.10"]])
    assert text == "heading\n  who        N=2\n  meshtrain  1.10"


def test_tables_tell_medians_failures_and_what_is_missing() -> None:
    ours, star = Measured("meshtrain", "ours"), Measured("rsync", "rsync", missing="no rsync")
    for wall_s in (8.0, 9.0, 10.0):
        ours.add(outcome(2, wall_s))
    ours.fail(2, "host1 is not done in time")
    ours.fail(4, "host3 ended early")
    lines = fan_out_tables([ours, star], [2, 4, 8]).splitlines()
    assert lines[1].split() == ["who", "N=2", "N=4", "N=8"]
    cells = [cell.strip() for cell in lines[2].split("  ") if cell]
    assert cells == ["ours", "2.25 (2.00 to 2.50), 1 failed", "failed 1×", "–"]
    assert lines[3].count("no rsync") == 3
    assert sum("upload of the first holder" in line for line in lines) == 1
    document = ours.as_json()
    assert document["hosts"]["2"]["median_multiple"] == pytest.approx(2.25)
    assert document["failures"] == {"2": ["host1 is not done in time"], "4": ["host3 ended early"]}


def test_a_fault_s_row_is_found_though_fewer_hosts_were_timed() -> None:
    slow, dead = Measured("meshtrain", "ours"), Measured("libtorrent", "libtorrent")
    slow.add(outcome(4, 6.0, seen="banned by 4 of 4"))
    dead.fail(4, "host1 is not done in time")
    text = fault_table([("one slow host", [slow, dead])], hosts=5)
    ours, theirs = text.splitlines()[2:]
    assert "1.50" in ours
    assert "banned by 4 of 4" in ours
    assert "failed 1×" in theirs


@pytest.mark.parametrize("shaper", fanout_bed.SHAPERS)
def test_a_link_is_held_to_its_rate_by_either_shaper(shaper: str) -> None:
    commands = fanout_bed.shaping("cable", 20, shaper)
    assert all(command.startswith("tc ") and " dev cable " in command for command in commands)
    assert sum("rate 20mbit" in command for command in commands) == 1


def test_who_isn_t_root_is_told_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(fanout_bed.sys, "platform", "linux")
    monkeypatch.setattr(fanout_bed.os, "geteuid", lambda: 1000)
    assert fanout.main(["--scratch", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "needs root" in told.err
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_faults_leave_somebody_to_be_timed_and_name_whom_they_befall() -> None:
    hosts = [f"host{n}" for n in range(1, fanout_faults.HOSTS + 1)]
    for fault in fanout_faults.FAULTS:
        cast = fault.cast(hosts, 5.0)
        assert len(cast.hosts) == fanout_faults.HOSTS
        assert set(cast.untimed) < set(cast.hosts)
        assert not cast.kill or (cast.kill in cast.holders and len(cast.holders) > 1)
        assert fault.slow_host == bool(cast.untimed)


def test_a_spoiled_store_is_believed_whole_and_every_chunk_of_it_is_wrong(tmp_path: Path) -> None:
    data = Data(tmp_path, 3 * MIB)
    store = ArtifactStore(data.spoiled_store())
    (name,) = [path.name for path in (data.spoiled_store() / "artifacts").iterdir()]
    assert store.has(name)
    assert not store.verify(name)
    clean = data.file.read_bytes()
    (file,) = store.manifest(name).files
    for chunk in file.chunks:
        sent = store.read_range(name, 0, chunk.offset, chunk.size_bytes)
        assert sent != clean[chunk.offset : chunk.offset + chunk.size_bytes]
    assert ArtifactStore(data.store("master")).verify(name)


def test_spoiling_turns_only_the_bytes_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    spoil(path, [2, 9])
    assert path.read_bytes() == bytes([0, 0, 1, 0, 0, 0, 0, 0, 0, 1])


def test_a_program_that_fails_says_why_and_one_that_is_killed_keeps_its_cpu_time(
    tmp_path: Path,
) -> None:
    fails = "import sys; sys.stdin.readline(); sys.exit('no such peer')"
    waits = 'import sys; print(\'{"event": "ready"}\', flush=True); sys.stdin.read()'
    deadline_s = time.monotonic() + 30
    programs = [
        Program(name, [sys.executable, "-c", code], {}, tmp_path / name)
        for name, code in (("one", fails), ("other", waits))
    ]
    try:
        assert wait_for_all(programs[1:], "ready", deadline_s) == {"other": {"event": "ready"}}
        with pytest.raises(
            ProgramError, match=r"one ended early with exit code 1\nno such peer"
        ) as no:
            # The other one would be silent until the deadline.
            wait_for_all(reversed(programs), "done", deadline_s)
        assert no.value.in_short() == "one ended early with exit code 1: no such peer"
        programs[1].kill()
        assert programs[1].cpu_s() > 0
        with pytest.raises(ProgramError, match="ended early with exit code -9"):
            programs[1].wait_for("done", deadline_s)
    finally:
        end_all(programs)


def test_a_stream_is_measured_from_our_server_to_our_fetcher_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    data = Data(folder, 2 * MIB + 5)
    told: list[str] = []
    streams = fanout_stream.measure(data, tmp_path, 1, told.append, warm_ups=0)
    assert streams.failures == []
    assert len(streams.ours_s) == len(streams.plain_s) == len(streams.plain_fsync_s) == 1
    assert streams.plain_s[0] <= streams.plain_fsync_s[0]
    assert "meshtrain" in streams.table()
    assert list(tmp_path.iterdir()) == [folder]
    assert digest_of(data.file) == data.xxh3
