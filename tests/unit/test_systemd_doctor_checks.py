"""What the doctor makes of a host: each check fed with readings, from well to broken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshtrain.cli import doctor_host as host
from meshtrain.cli import doctor_mesh as mesh
from meshtrain.cli.doctor_findings import Finding, Level
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.wire.messages import PROTOCOL_VERSION

GB = 10**9
OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL

HOME = host.Folder("/home", exists=True, owner="m", daemon_user="m", mode=0o750)
DISK = host.Disk("/home", 500 * GB, 1000 * GB, 900_000, 1_000_000)
FILES = host.FileSystem("xfs", reflinks=True, hardlinks=True, locks=True)
MEMORY = host.Memory(shm_total_bytes=8 * GB, swap_total_bytes=8 * GB, swap_free_bytes=7 * GB)
LIMITS = host.Limits("daemon 7", 524288, None)
UNIT = host.Systemd(252, True, "meshtrain-worker.service", "active", "success", 0, True)
GPUS = host.Gpus("550.1", "550.1", count=2, models=("H100", "H100"), cuda_version=(12, 4))
MASTER = mesh.MasterReading("m:7470", version="1.0", protocol=PROTOCOL_VERSION, clock_ahead_s=0.0)
OWN = Member("gpu1", MemberKind.NODE, "c" * 40, "5" * 64, "e" * 64)
KEY = mesh.KeyFile("sign.key", 0o600, 7, plain=True)
KEYS = mesh.Keys("/k", 0o700, 7, 7, (KEY,))


def but(record: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(record, **changes)


def expect(finding: Finding, level: Level, told: str = "") -> None:
    assert finding.level is level, finding
    assert told in f"{finding.told} {finding.mend}"
    assert bool(finding.mend) == (level is not OK), "what is not well has a mend, and only that"


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({}, OK, "mode 0750"),
        ({"exists": False}, WARN, "isn't there yet"),
        ({"owner": "root"}, FAIL, "chown -R m /home"),
        ({"owner_may_write": False}, FAIL, "can't be written"),
        ({"mode": 0o550}, FAIL, "can't be written"),
        ({"mode": 0o757}, FAIL, "chmod o-w"),
        ({"daemon_user": ""}, OK, ""),
    ],
)
def test_the_state_folder(changes: dict[str, Any], level: Level, told: str) -> None:
    expect(host.check_home(but(HOME, **changes)), level, told)


@pytest.mark.parametrize(
    ("free_bytes", "level"), [(500 * GB, OK), (9 * GB, WARN), (60 << 20, FAIL), (0, FAIL)]
)
def test_room_on_the_disk(free_bytes: int, level: Level) -> None:
    expect(host.check_disk(but(DISK, free_bytes=free_bytes)), level)


def test_a_small_disk_is_measured_by_its_size() -> None:
    small = but(DISK, total_bytes=20 * GB)
    expect(host.check_disk(but(small, free_bytes=3 * GB)), OK)
    expect(host.check_disk(but(small, free_bytes=GB)), WARN)


@pytest.mark.parametrize(
    ("free", "total", "level"),
    [(900_000, 1_000_000, OK), (40_000, 1_000_000, WARN), (900, 1_000_000, FAIL), (0, 0, OK)],
)
def test_inodes(free: int, total: int, level: Level) -> None:
    expect(host.check_inodes(but(DISK, inodes_free=free, inodes_total=total)), level)


@pytest.mark.parametrize(
    ("changes", "master", "level", "told"),
    [
        ({}, True, OK, "without a copy"),
        ({"reflinks": False}, True, OK, "no reflinks"),
        ({"reflinks": False, "hardlinks": False}, False, WARN, "xfs or btrfs"),
        ({"locks": False}, True, FAIL, "no flock"),
        ({"kind": "nfs4", "reflinks": False}, True, FAIL, "local disk"),
        ({"kind": "nfs4", "reflinks": False}, False, WARN, "network"),
        ({"reflinks": None, "hardlinks": None, "locks": None}, True, OK, "not tried"),
    ],
)
def test_the_file_system(changes: dict[str, Any], master: bool, level: Level, told: str) -> None:
    expect(host.check_file_system(but(FILES, **changes), master=master), level, told)


def test_shared_memory_and_swap() -> None:
    expect(host.check_shm(MEMORY), OK)
    expect(host.check_shm(but(MEMORY, shm_total_bytes=64 << 20)), WARN, "bus error")
    expect(host.check_swap(MEMORY), OK)
    expect(host.check_swap(but(MEMORY, swap_free_bytes=GB)), WARN)
    expect(host.check_swap(but(MEMORY, swap_total_bytes=0, swap_free_bytes=0)), OK, "none")


@pytest.mark.parametrize(
    ("nofile", "nproc", "level", "told"),
    [
        (524288, None, OK, "any number of processes"),
        (1024, None, WARN, "LimitNOFILE"),
        (65536, 100, WARN, "LimitNPROC"),
    ],
)
def test_limits(nofile: int, nproc: int | None, level: Level, told: str) -> None:
    expect(host.check_limits(but(LIMITS, nofile=nofile, nproc=nproc)), level, told)


@pytest.mark.parametrize(
    ("changes", "runs_jobs", "level", "told"),
    [
        ({}, True, OK, "a cgroup for each job"),
        ({"delegated": False}, False, OK, "active"),
        ({"version": None}, True, WARN, "isn't run by systemd"),
        ({"unit_state": ""}, True, WARN, "install --systemd --worker --start"),
        ({"unit_state": "", "unit": "meshtrain-master.service"}, False, WARN, "--master"),
        ({"unit_state": "failed", "unit_result": "watchdog"}, True, FAIL, "watchdog"),
        ({"unit_state": "inactive"}, True, WARN, "enable --now"),
        ({"restarts": 3}, True, WARN, "restarted 3 times"),
        ({"cgroup_v2": False}, True, WARN, "unified_cgroup_hierarchy"),
        ({"delegated": False}, True, WARN, "Delegate=yes"),
    ],
)
def test_systemd(changes: dict[str, Any], runs_jobs: bool, level: Level, told: str) -> None:
    expect(host.check_systemd(but(UNIT, **changes), runs_jobs=runs_jobs), level, told)


def test_linger() -> None:
    expect(host.check_linger(host.Linger("ann", True)), OK)
    expect(host.check_linger(host.Linger("ann", None)), OK)
    expect(host.check_linger(host.Linger("ann", False)), WARN, "enable-linger ann")


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({}, OK, "2 × H100, driver 550.1"),
        ({"library": "560.2"}, FAIL, "reboot"),
        ({"library": "", "count": 0, "trouble": "Driver/library version mismatch"}, FAIL, "550.1"),
        ({"kernel_driver": "", "library": "", "count": 0}, OK, "on the CPU"),
        ({"binding_installed": False, "library": "", "count": 0}, FAIL, "meshtrain[gpu]"),
        ({"trouble": "No permission", "library": "", "count": 0}, FAIL, "No permission"),
        ({"count": 0}, FAIL, "shows no GPU"),
        ({"uvm_device": False}, WARN, "nvidia-modprobe"),
    ],
)
def test_gpus(changes: dict[str, Any], level: Level, told: str) -> None:
    expect(host.check_gpus(but(GPUS, **changes)), level, told)


@pytest.mark.parametrize(
    ("version", "cuda", "gpus", "level", "told"),
    [
        ("2.6.0", "12.4", GPUS, OK, "CUDA 12.4"),
        ("2.6.0", "12.9", GPUS, OK, "CUDA 12.9"),  # Minor versions run on an older driver.
        ("2.9.0", "13.0", GPUS, FAIL, "runs up to 12.4"),
        ("2.6.0", "", GPUS, FAIL, "for the CPU alone"),
        ("2.6.0", "", host.Gpus(), OK, "CPU"),
        ("", "", GPUS, WARN, "meshtrain[train]"),
        ("2.6.0", "rocm", GPUS, OK, "rocm"),
    ],
)
def test_torch(version: str, cuda: str, gpus: host.Gpus, level: Level, told: str) -> None:
    expect(host.check_torch(host.Torch(version, cuda), gpus), level, told)


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({}, OK, "m:7470 answers"),
        ({"error": "no master answers"}, FAIL, "doctor --as master"),
        ({"protocol": PROTOCOL_VERSION + 1}, FAIL, "upgrade meshtrain on this host"),
        ({"protocol": PROTOCOL_VERSION - 1}, FAIL, "upgrade meshtrain on the master"),
        ({"version": "0.9"}, WARN, "0.9"),
        ({"protocol": None}, OK, ""),
    ],
)
def test_the_master(changes: dict[str, Any], level: Level, told: str) -> None:
    expect(mesh.check_master(but(MASTER, **changes), "1.0"), level, told)


@pytest.mark.parametrize(
    ("ahead_s", "round_trip_s", "level"),
    [
        (0.2, 0.01, OK),
        (2.0, 0.01, WARN),
        (-2.0, 0.01, WARN),
        (2.0, 4.0, OK),  # What the way there and back may have made of it.
        (-70.0, 0.01, FAIL),
        (None, 0.01, OK),
    ],
)
def test_the_clock(ahead_s: float | None, round_trip_s: float, level: Level) -> None:
    reading = but(MASTER, clock_ahead_s=ahead_s, round_trip_s=round_trip_s)
    expect(mesh.check_clock(reading), level)


def test_time_sync() -> None:
    expect(mesh.check_time_sync(True), OK)
    expect(mesh.check_time_sync(None), OK)
    expect(mesh.check_time_sync(False), WARN, "set-ntp")


def port(state: mesh.PortState, reason: str = "") -> mesh.PortReading:
    return mesh.PortReading("control", "10.0.0.1", 7470, state, reason)


def test_own_ports() -> None:
    states = mesh.PortState
    expect(mesh.check_own_ports([port(states.ANSWERS)], running=True), OK, "7470 listen")
    expect(mesh.check_own_ports([port(states.FREE)], running=False), OK, "7470 are free")
    expect(mesh.check_own_ports([port(states.FREE)], running=True), FAIL, "doesn't answer")
    expect(mesh.check_own_ports([port(states.ANSWERS)], running=False), FAIL, "ss -ltnp")
    refused = port(states.REFUSED, "Cannot assign requested address")
    expect(mesh.check_own_ports([refused], running=False), FAIL, "Cannot assign")


def test_a_far_master_s_ports() -> None:
    expect(mesh.check_far_ports([port(mesh.PortState.ANSWERS)]), OK)
    shut = port(mesh.PortState.CLOSED, "timed out")
    expect(mesh.check_far_ports([shut]), FAIL, "timed out")


def test_peers() -> None:
    well = mesh.PeerReading("gpu1", "http://10.0.0.2:80")
    bad = mesh.PeerReading("gpu2", "http://127.0.0.1:80", "Connection refused")
    (finding,) = mesh.check_peers([])
    expect(finding, OK)
    (finding,) = mesh.check_peers([well], unseen=3)
    expect(finding, OK, "3 more were not tried")
    failed, rest = mesh.check_peers([well, bad])
    expect(failed, FAIL, "set http_host on gpu2")
    expect(rest, OK, "1 of 2")


@pytest.mark.parametrize(
    ("keys", "master", "level", "told"),
    [
        (KEYS, False, OK, "1 files"),
        (mesh.Keys("/k"), False, WARN, "meshtrain token"),
        (mesh.Keys("/k"), True, WARN, "at its start"),
        (but(KEYS, unreadable="Permission denied"), False, WARN, "sudo"),
        (but(KEYS, mode=0o750), False, FAIL, "chmod 700 /k"),
        (but(KEYS, owner=0), False, FAIL, "chown -R 7 /k"),
        (but(KEYS, files=()), False, FAIL, "is empty"),
        (but(KEYS, files=(KEY, but(KEY, mode=0o640))), False, FAIL, "chmod 600 /k/sign.key"),
        (but(KEYS, files=(but(KEY, owner=0),)), False, FAIL, "chown 7 /k/sign.key"),
        (but(KEYS, files=(but(KEY, plain=False),)), False, FAIL, "is a link"),
        (but(KEYS, files=(but(KEY, links=2),)), False, FAIL, "is a link"),
    ],
)
def test_p10_keys_that_others_can_reach(
    keys: mesh.Keys, master: bool, level: Level, told: str
) -> None:
    """P10: keys that others may have read are told, with their mend."""
    expect(mesh.check_keys(keys, master=master), level, told)


def listed(*members: Member) -> Members:
    return Members(5, members)


@pytest.mark.parametrize(
    ("membership", "level", "told"),
    [
        (mesh.Membership(OWN, listed(OWN, but(OWN, name="gpu2"))), OK, "1 other members"),
        (mesh.Membership(None, None), WARN, "not been enrolled"),
        (mesh.Membership(OWN, None), WARN, "met no mesh"),
        (mesh.Membership(OWN, listed()), FAIL, "not on the list"),
        (mesh.Membership(OWN, listed(but(OWN, revoked=True))), FAIL, "was revoked"),
        (mesh.Membership(OWN, listed(but(OWN, curve_key="d" * 40))), FAIL, "other keys"),
        (mesh.Membership(OWN, listed(but(OWN, kind=MemberKind.PERSON))), FAIL, "not on the list"),
        (mesh.Membership(None, None, "members.json is damaged"), FAIL, "backup"),
    ],
)
def test_p10_membership(membership: mesh.Membership, level: Level, told: str) -> None:
    """P10: who was revoked, or never joined, is told so."""
    expect(mesh.check_membership(membership), level, told)
