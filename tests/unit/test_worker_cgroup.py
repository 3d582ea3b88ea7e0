"""A cgroup for each attempt: found where it is delegated, used, and always removed."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from meshtrain_daemon.worker import cgroup
from meshtrain_daemon.worker.launch import EndCause, Event, Exited, Launch, Started
from meshtrain_daemon.worker.runner import Runner

WAIT_S = 30.0


class Daemon:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self.runner = Runner(self.events.extend, mark_prefix=f"{uuid.uuid4().hex[:12]}/")

    def launch(self, name: str, command: str, groups: str, grace_s: float = 10.0) -> None:
        folder = self.root / name
        folder.mkdir()
        self.runner.launch(
            [
                Launch(
                    name,
                    str(folder),
                    str(folder / "log"),
                    str(folder),
                    ("/bin/sh", "-c", command),
                    kill_grace_s=grace_s,
                    cgroup=cgroup.path_for(groups, name),
                )
            ]
        )

    async def exited(self, name: str) -> Exited:
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in self.events:
                    if event.attempt_id == name and isinstance(event, Exited):
                        return event
                await asyncio.sleep(0.005)

    async def printed(self, name: str, text: str) -> None:
        log = self.root / name / "log"
        async with asyncio.timeout(WAIT_S):
            while not (log.exists() and text in log.read_text()):
                await asyncio.sleep(0.005)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path)
    await daemon.runner.start()
    yield daemon
    async with asyncio.timeout(WAIT_S):
        await daemon.runner.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Path]:
    """A cgroup of our own on this host, with processes let in."""
    mount = cgroup._mount_point(cgroup.MOUNTS_FILE)
    inside = cgroup._own_path(cgroup.OWN_FILE)
    if mount is None or inside is None:
        pytest.skip("this host has no cgroup v2")
    root = Path(f"{mount}{inside}".rstrip("/")) / f"meshtrain-test-{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir()
        if not (root / "cgroup.kill").exists():
            raise PermissionError
    except OSError:
        pytest.skip("no cgroup can be made here")
    yield root
    cgroup.remove(os.fsencode(root))


async def test_p8_a_job_is_in_its_cgroup_and_ends_with_it(daemon: Daemon, real: Path) -> None:
    daemon.launch(
        "a",
        'cat /proc/self/cgroup; (setsid sh -c \'trap "" TERM; cat /proc/self/cgroup; echo up;'
        " while :; do sleep 0.01; done' &) ; exec sleep 1000",
        str(real),
        grace_s=0.05,
    )
    await daemon.printed("a", "up")
    folder = real / "meshtrain-a"
    pids = [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    assert len(pids) >= 2
    (started,) = [event for event in daemon.events if isinstance(event, Started)]
    # The shim has gone back: killing the cgroup must not kill it.
    assert started.pid in pids and started.shim_pid not in pids
    assert str(os.getpid()) not in (folder / "cgroup.procs").read_text().split()
    log = (daemon.root / "a" / "log").read_text()
    assert log.count(f"{real.name}/meshtrain-a\n") == 2
    daemon.runner.end("a")
    exited = await daemon.exited("a")
    assert exited.signal == signal.SIGTERM
    assert not folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_cgroup_goes_with_a_job_that_ends_or_never_starts(
    daemon: Daemon, real: Path
) -> None:
    daemon.launch("a", "exit 3", str(real))
    assert (await daemon.exited("a")).code == 3
    folder = daemon.root / "b"
    folder.mkdir()
    group = cgroup.path_for(str(real), "b")
    daemon.runner.launch(
        [Launch("b", str(folder), str(folder / "log"), "/", ("/no/such",), cgroup=group)]
    )
    async with asyncio.timeout(WAIT_S):
        while not any(event.attempt_id == "b" for event in daemon.events):
            await asyncio.sleep(0.005)
    assert [path for path in real.iterdir() if path.is_dir()] == []
    # The shim that serves again is where it was.
    daemon.launch("c", "cat /proc/self/cgroup", str(real))
    assert (await daemon.exited("c")).code == 0
    assert "meshtrain-c" in (daemon.root / "c" / "log").read_text()


async def test_a_job_runs_where_its_cgroup_can_not_be_made(daemon: Daemon, tmp_path: Path) -> None:
    daemon.launch("a", "exit 3", str(tmp_path / "no" / "such"))
    assert (await daemon.exited("a")).code == 3
    (tmp_path / "plain").mkdir()
    # A plain folder in its place: nothing in it takes processes.
    daemon.launch("b", "(setsid sleep 1000 &) ; exit 4", str(tmp_path / "plain"), grace_s=0.05)
    assert (await daemon.exited("b")).code == 4
    assert list((tmp_path / "plain").iterdir()) == []


async def test_p8_the_cgroup_of_a_killed_shim_is_ended_and_removed(
    tmp_path: Path, real: Path
) -> None:
    daemon = Daemon(tmp_path)
    daemon.runner = Runner(
        daemon.events.extend, mark_prefix=f"{uuid.uuid4().hex[:12]}/", cgroups=str(real)
    )
    await daemon.runner.start()
    # What changes its environment carries no mark: only its cgroup tells where it belongs.
    daemon.launch("a", "env -i setsid sleep 1000 & echo $! up; exec sleep 1000", str(real))
    await daemon.printed("a", "up")
    (started,) = [event for event in daemon.events if isinstance(event, Started)]
    unmarked = int((daemon.root / "a" / "log").read_text().split()[0])
    os.kill(started.shim_pid, signal.SIGKILL)
    assert (await daemon.exited("a")).cause is EndCause.LOST
    assert not (real / "meshtrain-a").exists()
    assert not is_alive(unmarked)
    await daemon.runner.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_p8_what_a_crash_left_is_removed_at_the_next_start(real: Path) -> None:
    for name in ("meshtrain-a.1", "meshtrain-b.1", "somebody-else"):
        (real / name).mkdir()
    cgroup.remove_others(str(real), ["b.1"])
    left = sorted(path.name for path in real.iterdir() if path.is_dir())
    assert left == ["meshtrain-b.1", "somebody-else"]
    for name in left:
        (real / name).rmdir()
    cgroup.remove_others(str(real / "gone"), [])


# --- where one is delegated -----------------------------------------------------------------


def host(tmp_path: Path, mounts: str, own: str) -> tuple[str, str]:
    """The two files of /proc that tell, of a host with these lines."""
    (tmp_path / "mounts").write_text(mounts)
    (tmp_path / "own").write_text(own)
    return str(tmp_path / "mounts"), str(tmp_path / "own")


def unit(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "system.slice" / "w.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").touch()
    return folder


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_unit_s_own_cgroup_is_used_when_it_is_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    folder = unit(tmp_path)
    files = host(
        tmp_path,
        f"cgroup2 {tmp_path}/root cgroup2 rw 0 0\n",
        "1:cpu:/other\n0::/system.slice/w.service\n",
    )
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    marked: dict[tuple[str, str], bytes] = {}

    def getxattr(path: str, name: str) -> bytes:
        if (path, name) not in marked:
            raise OSError
        return marked[path, name]

    monkeypatch.setattr(os, "getxattr", getxattr)
    # Root may write anywhere: only systemd's mark says that it should.
    assert cgroup.delegated_folder(*files) == (None if uid == 0 else str(folder))
    marked[str(folder), "trusted.delegate"] = b"1"
    assert cgroup.delegated_folder(*files) == str(folder)
    marked[str(folder), "trusted.delegate"] = b"0"
    assert cgroup.delegated_folder(*files) == (None if uid == 0 else str(folder))


@pytest.mark.parametrize(
    ("mounts", "own"),
    [
        ("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n", "0::/system.slice/w.service\n"),
        ("cgroup2 {root} cgroup2 rw 0 0\n", "1:cpu:/system.slice/w.service\n"),
        ("cgroup2 {root} cgroup2 rw 0 0\n", "0::/\n"),
        ("cgroup2 {root} cgroup2 rw 0 0\n", "0::/system.slice/other.service\n"),
        ("", ""),
    ],
    ids=["v1 only", "not in v2", "root of all", "not there", "nothing"],
)
def test_elsewhere_none_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, own: str
) -> None:
    unit(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    files = host(tmp_path, mounts.format(root=tmp_path / "root"), own)
    assert cgroup.delegated_folder(*files) is None
    assert cgroup.delegated_folder(str(tmp_path / "absent"), str(tmp_path / "absent")) is None


def test_to_kill_or_remove_what_is_not_there_is_fine(tmp_path: Path) -> None:
    cgroup.kill(os.fsencode(tmp_path / "absent"))
    cgroup.remove(os.fsencode(tmp_path / "absent"))
    (tmp_path / "group").mkdir()
    cgroup.remove(os.fsencode(tmp_path / "group"))
    assert not (tmp_path / "group").exists()
