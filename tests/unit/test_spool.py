"""Logs on their node: bounded on its disk, exact where kept, and marked where bytes were lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spool_mesh import MIB, STEP, TAIL, WINDOW, SpoolMesh, lines, small_steps

from meshtrain.wire.messages import StreamBytes, StreamHole, StreamStored
from meshtrain_daemon.worker import spool as spool_module
from meshtrain_daemon.worker.spool import LogSpool, Lost
from meshtrain_daemon.worker.streams import REPEAT_AFTER_S

__all__ = ["small_steps"]


@pytest.fixture(scope="module", autouse=True)
def needs_holes(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("holes") / "log"
    path.write_bytes(b"x")
    if not LogSpool(str(path), "n")._may_punch():
        pytest.skip("this file system can't punch holes")


def test_P12_what_the_master_has_is_given_back_to_the_disk_but_for_the_end(tmp_path: Path) -> None:
    node = SpoolMesh(tmp_path, 1 << 40)
    data = lines(1_000_000)
    node.print(data)
    assert node.taken_bytes() >= len(data)
    node.settle(end=False)
    assert node.taken_bytes() < 6 * MIB
    log = Path(node.folders[0].log)
    assert log.stat().st_size == len(data)
    assert log.read_bytes()[-MIB:] == data[-MIB:]
    assert node.check() == 0
    assert not node.told


def test_P6_P7_a_daemon_that_takes_over_never_ships_a_hole_for_bytes(
    tmp_path: Path, small_steps: None
) -> None:
    node = SpoolMesh(tmp_path, 1 << 40)
    node.print(lines(3000))
    node.settle(end=False)
    node.restart_daemon()
    node.print(b"printed under the new daemon\n")
    node.ship()
    first = node.link[0]
    assert isinstance(first, StreamBytes)
    assert first.offset > 0 and not first.data.startswith(b"\0")
    node.settle()
    assert node.check() == 0


@pytest.mark.parametrize("what", ["gone", "garbage", "a link", "a pipe", "a folder"])
def test_P11_a_note_that_is_spoilt_spoils_no_log(
    tmp_path: Path, small_steps: None, what: str
) -> None:
    node = SpoolMesh(tmp_path, 1 << 40)
    node.print(lines(3000))
    node.settle(end=False)
    note = Path(node.folders[0].log + ".spool")
    note.unlink()
    match what:
        case "garbage":
            note.write_bytes(b'{"given_back": 1, "lost": [{"begin": 9, "end": 3}]}')
        case "a link":
            note.symlink_to("/dev/zero")
        case "a pipe":
            os.mkfifo(note)
        case "a folder":
            note.mkdir()
    node.restart_daemon()
    node.print(lines(3000))
    node.settle()
    assert node.check() == 0


def test_P12_a_full_spool_loses_a_marked_range_in_the_middle_and_keeps_its_bound(
    tmp_path: Path,
) -> None:
    node = SpoolMesh(tmp_path, 8 * MIB)
    node.link_max = 0
    piece = lines(60_000)
    for _ in range(40):
        node.print(piece)
        node.ship()
        assert node.taken_bytes() <= 8 * MIB + 8192
    assert len(node.told) == 1 and "spool of logs is full" in node.told[0]
    node.link_max = 1 << 30
    node.settle()
    assert node.check() == 1
    shown = node.shown()
    assert shown.startswith(lines(1000)) and shown.endswith(piece[-MIB:])
    assert b"the spool of node gpu1 was full" in shown
    assert b"\0" not in shown


def test_P12_the_longest_log_loses_and_metrics_never_do(tmp_path: Path) -> None:
    node = SpoolMesh(tmp_path, 4 * MIB, attempts=3)
    node.link_max = 0
    metrics = Path(node.folders[0].metrics)
    metrics.write_bytes(lines(600_000))
    node.print(lines(10_000), attempt=0)
    node.print(lines(400_000), attempt=1)
    node.print(lines(20_000), attempt=2)
    node.ship()
    assert sum(map(node.taken_bytes, range(3))) <= 4 * MIB
    node.link_max = 1 << 30
    node.settle()
    assert [node.check(i) for i in range(3)] == [0, 1, 0]
    assert node.book.path("j", "j.0", "metrics").read_bytes() == lines(600_000)


def test_what_was_sent_is_not_lost_any_more(tmp_path: Path, small_steps: None) -> None:
    node = SpoolMesh(tmp_path, 2500)
    node.print(lines(200))
    node.ship()
    on_its_way = list(node.link)
    assert sum(len(m.data) for m in on_its_way if isinstance(m, StreamBytes)) == WINDOW
    node.link.clear()
    node.link_max = 0
    node.print(lines(2000))
    node.ship()
    # The bytes arrive after all, though nothing could be sent since.
    node.link[:] = on_its_way
    node.deliver()
    node.link_max = 1 << 30
    node.settle()
    assert node.check() == 1
    assert node.shown().startswith(lines(WINDOW // 13))


def test_P12_a_master_that_lost_bytes_gets_a_line_in_place_of_what_the_node_gave_back(
    tmp_path: Path, small_steps: None
) -> None:
    node = SpoolMesh(tmp_path, 1 << 40)
    node.print(lines(3000))
    node.settle(end=False)
    stored = node.book.path("j", "j.0", "log")
    os.truncate(stored, 5000)
    node.restart_master()
    node.print(lines(10))
    node.settle()
    assert node.check() == 1
    assert b"the master lost them" in node.shown()


def test_a_file_system_that_knows_no_holes_keeps_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_steps: None
) -> None:
    monkeypatch.setattr(spool_module, "_fallocate", None)
    node = SpoolMesh(tmp_path, 4096)
    node.print(lines(3000))
    node.settle()
    assert node.check() == 0
    assert not Path(node.folders[0].log + ".spool").exists()


def test_P11_no_hole_is_punched_into_a_file_that_has_another_name(
    tmp_path: Path, small_steps: None
) -> None:
    node = SpoolMesh(tmp_path, 4096)
    node.link_max = 0
    precious = tmp_path / "precious"
    precious.write_bytes(lines(3000))
    log = Path(node.folders[0].log)
    os.link(precious, log)
    node.ship()
    assert precious.read_bytes() == lines(3000)
    log.unlink()
    log.symlink_to(precious)
    node.ship()
    assert precious.read_bytes() == lines(3000)


def test_P12_a_note_that_has_no_room_does_not_keep_the_disk_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = SpoolMesh(tmp_path, 1 << 40)
    node.print(lines(1_000_000))
    full = [True]
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        return real_write(fd, data)

    monkeypatch.setattr(spool_module.os, "write", write)
    node.settle(end=False)
    assert node.taken_bytes() < 6 * MIB
    assert Path(node.folders[0].log + ".spool").exists()


def test_streams_take_turns_when_the_link_takes_little(tmp_path: Path) -> None:
    """A flood of one job delays no other, and no metrics."""
    node = SpoolMesh(tmp_path, 1 << 40, attempts=3)
    node.print(lines(1_000_000), attempt=0)
    node.print(lines(100_000), attempt=1)
    Path(node.folders[2].metrics).write_bytes(lines(100_000))
    node.link_max = 2
    seen: list[tuple[str, str]] = []
    for _ in range(12):
        node.ship()
        seen += [(m.attempt_id, m.stream) for m in node.link]
        node.deliver()
    for name in (("j.0", "log"), ("j.1", "log"), ("j.2", "metrics")):
        assert 4 <= seen.count(name) <= 12


def test_a_slow_master_is_not_sent_everything_over_and_over(tmp_path: Path) -> None:
    node = SpoolMesh(tmp_path, 1 << 40)
    node.print(lines(1000))
    repeats = 0
    for _ in range(int(20 * REPEAT_AFTER_S)):
        node.now_s += 1.0
        node.ship()
        repeats += len(node.link)
        node.link.clear()
    assert repeats == 5, "once, then after 2, 4, 8 and 16 seconds"


LEGAL = st.sampled_from(
    ["print", "print", "flood", "ship", "deliver", "lose", "daemon", "master", "cut", "wait"]
)


@given(st.lists(LEGAL, max_size=50), st.integers(0, 1 << 32))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_P6_P7_whatever_restarts_and_is_lost_what_is_stored_is_exact_or_marked(
    tmp_path_factory: pytest.TempPathFactory, small_steps: None, steps: list[str], seed: int
) -> None:
    node = SpoolMesh(tmp_path_factory.mktemp("node"), 3000, attempts=2)
    for number, step in enumerate(steps):
        attempt = (seed + number) % 2
        match step:
            case "print":
                node.print(lines(1 + seed % 37), attempt)
            case "flood":
                node.print(lines(100 + seed % 400), attempt)
            case "ship":
                node.link_max = 1 + seed % 9
                node.ship()
                waiting = sum(node.taken_bytes(i) for i in range(2) if node.printed[f"j.{i}"])
                assert waiting <= 3000 + 2 * (STEP + TAIL + WINDOW + 4 * 4096)
            case "deliver":
                node.deliver(1 + seed % 5)
            case "lose":
                del node.link[: 1 + seed % 3]
            case "daemon":
                node.restart_daemon()
            case "master":
                node.restart_master()
            case "cut":
                node.link.clear()
                node.streamer.rewind()
            case "wait":
                node.now_s += REPEAT_AFTER_S
    node.link_max = 1 << 30
    node.settle()
    for attempt in range(2):
        node.check(attempt)
    assert sorted(node.removed) == ["j.0", "j.1"]


NOTES = st.builds(
    lambda given_back, pairs: (given_back, pairs),
    st.integers(0, 20_000),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 6000)), max_size=4),
)


@given(NOTES, st.lists(st.integers(0, 30_000), max_size=12))
@settings(max_examples=100, deadline=None)
def test_P11_pieces_of_any_note_lead_to_the_end(
    note: tuple[int, list[tuple[int, int]]], offsets: list[int]
) -> None:
    spool = LogSpool("/nowhere", "n")
    spool.given_back = note[0]
    after = 0
    for begin, size in note[1]:
        spool.lost.append(Lost(after + begin, after + begin + size))
        after += begin + size
    for offset in (0, *offsets):
        steps = 0
        while offset < after + 10:
            piece = spool.piece(offset)
            assert piece.size_bytes > 0
            assert not (piece.marker and piece.is_hole)
            offset += piece.size_bytes
            steps += 1
        assert steps <= 3 * len(spool.lost) + 1
    kept = spool.kept_bytes(0, after + 10)
    assert kept == after + 10 - sum(size for _, size in note[1])


def test_the_message_of_a_hole_is_small_whatever_it_stands_for(
    tmp_path: Path, small_steps: None
) -> None:
    node = SpoolMesh(tmp_path, 2500)
    node.link_max = 0
    node.print(lines(20_000))
    node.ship()
    node.link_max = 1 << 30
    holes = []
    while not holes:
        node.ship()
        holes = [m for m in node.link if isinstance(m, StreamHole)]
        node.deliver()
    assert holes[0].size_bytes > 200_000
    node.streamer.stored(StreamStored("j.0", "log", holes[0].offset))
    node.settle()
    assert node.check() == 1
