"""The units as systemd reads them: no word that it doesn't know, and little that is left open."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from meshtrain.cli.unit_files import Role, files_of, service

EXPOSURE_MAX = {Role.MASTER: 3.0, Role.WORKER: 3.5}
"""systemd's own measure, 0 to 10. What a worker leaves open is reasoned in its unit."""
SECURITY_VERSION_MIN = 250
"""`systemd-analyze security --offline` and its JSON came with it."""
LEFT_OPEN_WORDS = ("no", "all")


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed units, their program one that is there."""
    folder = tmp_path_factory.mktemp("units")
    for placed in files_of(Role, Path("/bin/true").resolve()):
        if placed.path.endswith((".service", ".target")):
            (folder / Path(placed.path).name).write_text(placed.text)
    return folder


def analyze(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this host")
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def version() -> int:
    told = analyze("--version", cwd=Path("/")).stdout
    return int(re.findall(r"systemd (\d+)", told)[0])


def complaints(units: Path) -> str:
    """What systemd says of these units, whatever it says of the host's own."""
    names = sorted(f"./{path.name}" for path in units.iterdir())
    told = analyze("verify", "--man=no", "--recursive-errors=no", *names, cwd=units)
    return told.stderr + told.stdout


def test_systemd_understands_every_word_of_the_units(units: Path) -> None:
    assert complaints(units) == ""


@pytest.mark.parametrize(
    ("known", "wrong", "told"),
    [
        ("WatchdogSec=60", "WatchdogSecs=60", "Unknown key"),
        ("Type=notify", "Type=notifying", "service type"),
        ("ExecStart=", "ExecStart=/absent/", "absent"),
    ],
)
def test_a_wrong_word_would_be_seen(
    units: Path, tmp_path: Path, known: str, wrong: str, told: str
) -> None:
    """Its exit code tells nothing of it: that is why its words are read."""
    for path in units.iterdir():
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace(known, wrong, 1))
    assert told in complaints(tmp_path)


@pytest.mark.parametrize("role", list(Role))
def test_the_exposure_stays_below_its_limit(units: Path, role: Role) -> None:
    if shutil.which("systemd-analyze") and version() < SECURITY_VERSION_MIN:
        pytest.skip("this systemd-analyze can't review files")
    told = analyze("security", "--offline=true", f"./{service(role)}", cwd=units)
    overall = re.findall(r"Overall exposure level for .*: ([0-9.]+) ", told.stdout)
    assert len(overall) == 1, told.stdout + told.stderr
    assert 0.0 < float(overall[0]) <= EXPOSURE_MAX[role]
    checks = analyze("security", "--offline=true", "--json=short", f"./{service(role)}", cwd=units)
    assert len(json.loads(checks.stdout)) > 50


def settings_of(text: str) -> list[tuple[str, str, str]]:
    """Each line of a unit: the comment above it, the key, the value."""
    found = []
    comment = ""
    for line in text.splitlines():
        if line.startswith("#"):
            comment += line.lstrip("# ") + " "
        elif "=" in line:
            key, _, value = line.partition("=")
            found.append((comment, key, value))
            comment = ""
        else:
            comment = ""
    return found


def values_of(units: Path, role: Role) -> dict[str, str]:
    return {key: value for _, key, value in settings_of((units / service(role)).read_text())}


def test_what_the_worker_leaves_open_has_its_reason(units: Path) -> None:
    lines = settings_of((units / service(Role.WORKER)).read_text())
    hardening = re.compile(r"Private|Protect|Proc|Memory|Restrict|Remove")
    open_lines = [
        (comment, key)
        for comment, key, value in lines
        if value in LEFT_OPEN_WORDS and hardening.match(key)
    ]
    assert len(open_lines) >= 6
    assert [key for comment, key in open_lines if len(comment) < 30] == []


def test_a_restart_leaves_jobs_running_and_a_stuck_loop_is_ended(units: Path) -> None:
    """P7: only the daemon is stopped, its jobs keep their memory and their /tmp."""
    values = values_of(units, Role.WORKER)
    assert values["KillMode"] == "process"
    assert values["RemoveIPC"] == "no"
    assert values["PrivateTmp"] == "no"
    assert values["OOMPolicy"] == "continue"
    assert values["Delegate"] == "yes"
    for role in Role:
        values = values_of(units, role)
        assert values["Type"] == "notify"
        assert int(values["WatchdogSec"]) > 10
        assert values["Restart"] == "on-failure"
        assert int(values["StartLimitIntervalSec"]) > int(values["StartLimitBurst"]) * int(
            values["RestartSec"]
        ), "a limit that can never be reached is none"


def test_p11_the_master_can_t_take_all_of_the_host_s_memory(units: Path) -> None:
    """ZeroMQ has no limit for a message of many parts. A worker's limit would count its jobs."""
    master = values_of(units, Role.MASTER)
    assert 0 < int(master["MemoryMax"].removesuffix("%")) < 100
    assert master["MemorySwapMax"] == "0", "or it goes on in there"
    assert "MemoryMax" not in values_of(units, Role.WORKER)


def test_the_two_daemons_are_two_users(units: Path) -> None:
    """P10: a job runs as the worker's user, and that one can't read the master's keys."""
    users = {role: values_of(units, role)["User"] for role in Role}
    assert users[Role.MASTER] != users[Role.WORKER]
    placed = {file.path: file.text for file in files_of(Role, Path("/bin/true"))}
    made = placed["usr/local/lib/sysusers.d/meshtrain.conf"]
    for role, user in users.items():
        assert re.search(rf"(?m)^u +{user} ", made)
        folders = placed[f"usr/local/lib/tmpfiles.d/meshtrain-{role}.conf"]
        assert re.search(rf"(?m)^d +/var/lib/meshtrain/{role} +0750 {user} ", folders)
    assert not re.search(r"(?m)^m +meshtrain-worker +meshtrain$", made)


def test_the_inbox_is_for_the_group_and_nobody_takes_what_another_dropped() -> None:
    placed = {file.path: file.text for file in files_of([Role.MASTER], Path("/bin/true"))}
    folders = placed["usr/local/lib/tmpfiles.d/meshtrain-master.conf"]
    assert re.search(r"(?m)^d +\S+/inbox +3770 meshtrain-master meshtrain ", folders)
    assert re.search(r"(?m)^a\+ +\S+/inbox .*default:user:meshtrain-master:rwx", folders)


def test_tmpfiles_and_sysusers_are_understood(tmp_path: Path) -> None:
    """Below a root of its own; users that the host lacks are told by name, and nothing else."""
    if shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None:
        pytest.skip("systemd-sysusers or systemd-tmpfiles is not on this host")
    for placed in files_of(Role, Path("/bin/true")):
        path = tmp_path / placed.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(placed.text)
    (tmp_path / "etc").mkdir(exist_ok=True)
    users = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert users.returncode == 0, users.stderr
    passwd = (tmp_path / "etc/passwd").read_text()
    assert "meshtrain-master:" in passwd
    assert "meshtrain-worker:" in passwd
    group = (tmp_path / "etc/group").read_text()
    assert re.search(r"(?m)^render:.*meshtrain-worker", group)
    made = subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", "--prefix=/var"],
        capture_output=True,
        text=True,
        check=False,
    )
    # An ACL names its user as this host knows it, and here it doesn't.
    told = [line for line in made.stderr.splitlines() if "ACL" not in line]
    assert not [line for line in told if re.search(r"Unknown (command|modifier)|Invalid", line)]
    if made.returncode == 0:
        inbox = tmp_path / "var/lib/meshtrain/master/inbox"
        assert inbox.stat().st_mode & 0o7777 == 0o3770
