"""`meshtrain doctor` on this host and on made-up ones: what it reads, what it prints."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from cli_double import run
from master_double import MasterDouble

from meshtrain.cli import doctor, doctor_network, doctor_probes
from meshtrain.cli.doctor import As, guessed_roles
from meshtrain.cli.doctor_host import Folder
from meshtrain.cli.doctor_mesh import PortState
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.store.lock import StoreLock
from meshtrain.store.sqlite import LOCK_NAME


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for ports of the master that the tests play."""
    monkeypatch.setattr(doctor_network, "CONNECT_TIMEOUT_S", 0.05)


def test_a_role_is_guessed_from_what_is_installed_or_has_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert guessed_roles(tmp_path, home) == [As.CLIENT]
    home.mkdir()
    (home / "worker.lock").touch()
    assert guessed_roles(tmp_path, home) == [As.WORKER]
    (home / "state").mkdir()
    (home / "state" / LOCK_NAME).touch()
    assert guessed_roles(tmp_path, home) == [As.MASTER, As.WORKER]
    (tmp_path / "etc/meshtrain").mkdir(parents=True)
    (tmp_path / "etc/meshtrain/master.toml").touch()
    assert guessed_roles(tmp_path, home) == [As.MASTER]


def test_without_a_master_a_client_fails_with_a_mend() -> None:
    result = run(None, "doctor", "--as", "client")
    assert result.exit_code == 1
    assert "FAIL  master" in result.stdout
    assert "→ see that it runs" in result.stdout


def test_json_tells_the_same(tmp_path: Path) -> None:
    result = run(None, "doctor", "--as", "client", "--json")
    assert result.exit_code == 1
    rows = {row["check"]: row for row in json.loads(result.stdout)}
    assert rows["master"]["level"] == "FAIL"
    assert rows["master"]["mend"]
    assert rows["meshtrain"]["level"] == "ok"


def test_a_worker_is_examined_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "worker.toml"
    home = tmp_path / "home"
    home.mkdir()
    config.write_text(f'home = "{home}"\nnode_name = "node-1"\n')
    master = MasterDouble()
    master.add_node("node-2")
    result = run(master, "doctor", "--as", "worker", "--config", str(config), "--json")
    checks = [row["check"] for row in json.loads(result.stdout)]
    assert checks[:8] == [
        *("meshtrain", "state folder", "disk", "inodes", "file system", "keys", "systemd"),
        checks[7],
    ]
    for check in ("limits", "time sync", "GPUs", "torch", "shared memory", "swap", "master"):
        assert check in checks
    assert {"clock", "master's ports", "peers"} <= set(checks)
    assert list(home.iterdir()) == [], "it leaves nothing behind"


def test_settings_that_can_t_be_read_are_one_failure(tmp_path: Path) -> None:
    config = tmp_path / "worker.toml"
    config.write_text("cpu_slotz = 2\n")
    result = run(None, "doctor", "--as", "worker", "--config", str(config))
    assert result.exit_code == 1
    assert "FAIL  settings" in result.stdout
    assert "line 1" in result.stdout


def test_a_master_that_stopped_has_free_ports(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = tmp_path / "master.toml"
    config.write_text(
        f'home = "{tmp_path}"\ncontrol_port = {port}\nbulk_port = 0\nfeed_port = 0\nhttp_port = 0\n'
    )
    result = run(None, "doctor", "--as", "master", "--config", str(config), "--json")
    rows = {row["check"]: row for row in json.loads(result.stdout)}
    assert rows["ports"] == {
        "as": "master",
        "check": "ports",
        "level": "ok",
        "told": f"{port} are free",
        "mend": "",
    }
    assert "master" not in rows, "nobody asks a master that doesn't run"


def test_ports_are_tried_as_the_daemon_would() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        (reading,) = doctor_network.own_ports("127.0.0.1", [("control", port)])
        assert reading.state is PortState.ANSWERS
    (reading,) = doctor_network.own_ports("127.0.0.1", [("control", port)])
    assert reading.state is PortState.FREE
    (reading,) = doctor_network.own_ports("192.0.2.1", [("control", port)])
    assert reading.state is PortState.REFUSED
    assert reading.reason


def test_peers_are_reached_by_the_address_that_they_gave() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"https://127.0.0.1:{server.getsockname()[1]}"

        def node(name: str, url: str, connected: bool = True) -> dict[str, object]:
            return {"node_id": name, "connected": connected, "spec": {"http_url": url}}

        nodes = [node("a", url), node("self", url), node("b", "http://[x"), node("c", url, False)]
        readings, unseen = doctor_network.peers(nodes, "self")
    assert [(r.node_id, r.error) for r in readings] == [
        ("a", ""),
        ("b", "no address that can be reached"),
    ]
    assert unseen == 0


def test_the_clock_of_the_master_is_compared_within_the_round_trip() -> None:
    from cli_double import cli_with

    reading, row, nodes = doctor_network.master(cli_with(MasterDouble()), "m:1")
    assert reading.error == ""
    assert reading.clock_ahead_s is not None
    assert abs(reading.clock_ahead_s) <= reading.round_trip_s + 1.0
    assert row["control"] == 7470
    assert nodes == []


def test_keys_are_read_by_their_modes_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert doctor_probes.keys(folder, 7).mode is None
    folder.mkdir(0o700)
    (folder / "a.key").write_text("secret")
    (folder / "a.key").chmod(0o640)
    (folder / "b.key").symlink_to("a.key")
    keys = doctor_probes.keys(folder, 7)
    assert (keys.mode, keys.owner, keys.expected_owner) == (0o700, os.geteuid(), 7)
    assert [(file.name, file.plain) for file in keys.files] == [("a.key", True), ("b.key", False)]
    assert keys.files[0].mode == 0o640


def test_membership_is_read_from_the_home(tmp_path: Path) -> None:
    own_file, members_file = tmp_path / "keys/member.json", tmp_path / "members.json"
    assert doctor_probes.membership(own_file, members_file).own is None
    own = Member("gpu1", MemberKind.NODE, "c" * 40, "5" * 64, "e" * 64)
    own_file.parent.mkdir()
    own_file.write_bytes(msgspec.json.encode(own))
    members_file.write_bytes(msgspec.json.encode(Members(3, (own,))))
    found = doctor_probes.membership(own_file, members_file)
    assert (found.own, found.members) == (own, Members(3, (own,)))
    members_file.write_text("{")
    assert "members.json is damaged" in doctor_probes.membership(own_file, members_file).trouble


def test_a_file_system_is_tried_and_left_clean(tmp_path: Path) -> None:
    found = doctor_probes.file_system(tmp_path / "not" / "there")
    assert found.kind != "unknown"
    assert found.locks is True
    assert list(tmp_path.iterdir()) == []


def test_the_mount_that_counts_is_the_last_and_the_longest(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    place = tmp_path / "with space"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    mounts.write_text(f"a / ext4 rw\nb {escaped} nfs4 rw\nc {escaped} xfs rw\nbad\n")
    assert doctor_probes.mounted_kind(place, mounts) == "xfs"
    assert doctor_probes.mounted_kind(tmp_path, mounts) == "ext4"
    assert doctor_probes.mounted_kind(tmp_path, tmp_path / "absent") == "unknown"


def test_a_running_daemon_is_known_by_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert doctor_probes.holder_of(path) is None
    lock = StoreLock(path)
    assert doctor_probes.holder_of(path) == os.getpid()
    lock.note_store()
    assert doctor_probes.holder_of(path) == os.getpid(), "the file may say more below"
    limits = doctor_probes.limits(os.getpid())
    assert limits.whose == f"daemon {os.getpid()}"
    assert limits.nofile != 0
    lock.release()
    assert doctor_probes.holder_of(path) is None
    assert doctor_probes.limits(None).whose == "this session"


class NVMLError(Exception):
    pass


@pytest.mark.parametrize("broken", [False, True])
def test_gpus_are_read_through_nvml(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    def start() -> None:
        if broken:
            raise NVMLError("Driver/library version mismatch")

    driver = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"H100",
        nvmlSystemGetDriverVersion=lambda: "550.54",
        nvmlSystemGetCudaDriverVersion=lambda: 12040,
    )
    monkeypatch.setitem(__import__("sys").modules, "pynvml", driver)
    told = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54  Tue\nGCC version: 12\n"
    monkeypatch.setattr(doctor_probes, "text_of", lambda path: told)
    found = doctor_probes.gpus()
    assert found.kernel_driver == "550.54"
    if broken:
        assert "mismatch" in found.trouble
    else:
        assert (found.library, found.models, found.cuda_version) == ("550.54", ("H100",), (12, 4))


def test_torch_is_read_without_loading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it was loaded')")
    (package / "version.py").write_text("cuda: Optional[str] = '12.4'\nhip = None\n")
    spec = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(doctor_probes.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(doctor_probes.importlib.metadata, "version", lambda name: "2.6.0+cu124")
    assert doctor_probes.torch().cuda == "12.4"
    assert doctor_probes.torch().version == "2.6.0+cu124"
    monkeypatch.setattr(doctor_probes.importlib.util, "find_spec", lambda name: None)
    assert doctor_probes.torch().version == ""


def test_systemd_s_own_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "--version": "systemd 252 (252.39)\n+PAM\n",
        "show": "LoadState=loaded\nActiveState=active\nResult=success\nNRestarts=2\n",
    }
    monkeypatch.setattr(doctor_probes, "command", lambda line: said[line[1]])
    monkeypatch.setattr(doctor_probes.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(doctor_probes.Path, "is_dir", lambda self: True)
    found = doctor_probes.systemd("meshtrain-worker.service")
    assert (found.version, found.unit_state, found.restarts) == (252, "active", 2)
    said["show"] = "LoadState=not-found\nActiveState=inactive\n"
    assert doctor_probes.systemd("x").unit_state == ""
    monkeypatch.setattr(doctor_probes.Path, "is_dir", lambda self: False)
    assert doctor_probes.systemd("x").version is None


def test_a_home_is_looked_at_as_it_is(tmp_path: Path) -> None:
    assert doctor_probes.folder(tmp_path / "absent", "m") == Folder(
        str(tmp_path / "absent"), exists=False
    )
    tmp_path.chmod(0o750)
    found = doctor_probes.folder(tmp_path, "meshtrain-worker")
    assert (found.mode, found.daemon_user) == (0o750, "meshtrain-worker")
    assert found.owner == doctor_probes.user_name(os.geteuid())
    assert doctor_probes.user_name(4_000_000) == "4000000"


def test_a_program_that_hangs_or_is_absent_says_nothing() -> None:
    assert doctor_probes.command(["/absent/program"]) == ""
    assert doctor_probes.command(["true"]) == ""
    assert doctor._COLOURS.keys() == set(doctor.Level)
