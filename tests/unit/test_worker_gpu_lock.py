"""The locks of a host's GPUs: two daemons never start two jobs on one, and no lock is left over."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import stat
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshtrain_daemon.worker import frames, gpu_lock
from meshtrain_daemon.worker.launch import EndCause, Event, Exited, Launch, LaunchFailed, Started
from meshtrain_daemon.worker.program import LaunchRefused
from meshtrain_daemon.worker.runner import Runner

WAIT_S = 30.0
WARM_MODULE = """
import os
def preload(): pass
def run(argument):
    print(*[os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")], sep="\\n", flush=True)
    return 0
"""


class Daemon:
    """A runner, and what it told."""

    def __init__(self, root: Path, preload: str | None = None) -> None:
        self.root = root
        self.events: list[Event] = []
        self.prefix = f"{uuid.uuid4().hex[:12]}/"
        self.runner = Runner(self.events.extend, preload=preload, mark_prefix=self.prefix)

    def launch(self, name: str, command: str, *gpus: int, wait_s: float = 0.0, **more: str) -> None:
        folder = self.root / name
        folder.mkdir()
        locks = tuple(str(self.root / "locks" / f"gpu-{index}.lock") for index in gpus)
        self.runner.launch(
            [
                Launch(
                    attempt_id=name,
                    folder=str(folder),
                    log_path=str(folder / "log"),
                    cwd=str(folder),
                    argv=() if more else ("/bin/sh", "-c", command),
                    gpu_locks=locks,
                    gpu_lock_wait_s=wait_s,
                    **more,  # type: ignore[arg-type]
                )
            ]
        )

    async def heard(self, name: str, *kinds: type) -> Event:
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in self.events:
                    if event.attempt_id == name and isinstance(event, kinds):
                        return event
                await asyncio.sleep(0.005)

    async def started(self, name: str) -> Started:
        started = await self.heard(name, Started)
        assert isinstance(started, Started)
        return started

    async def outcome(self, name: str) -> Exited | LaunchFailed:
        outcome = await self.heard(name, Exited, LaunchFailed)
        assert isinstance(outcome, Exited | LaunchFailed)
        return outcome


@pytest.fixture
async def daemons(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Daemon]]:
    pair = (Daemon(tmp_path), Daemon(tmp_path))
    for daemon in pair:
        await daemon.runner.start()
    yield pair
    for daemon in pair:
        async with asyncio.timeout(WAIT_S):
            await daemon.runner.close()


def is_free(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


async def test_p9_two_daemons_never_run_two_jobs_on_one_gpu(
    daemons: tuple[Daemon, Daemon],
) -> None:
    one, other = daemons
    one.launch("holder", "exec sleep 1000", 0, 1)
    shim = (await one.started("holder")).shim_pid
    other.launch("second", "echo ran", 1)
    failed = await other.outcome("second")
    assert isinstance(failed, LaunchFailed)
    assert failed.reason.startswith("can't get GPU 1: ")
    assert f"attempt holder, supervised by process {shim}" in failed.reason
    assert (one.root / "second" / "log").exists() is False
    other.launch("elsewhere", "exit 3", 2)
    exited = await other.outcome("elsewhere")
    assert isinstance(exited, Exited) and exited.code == 3


async def test_p9_a_gpu_is_free_as_soon_as_nothing_of_its_job_lives(
    daemons: tuple[Daemon, Daemon],
) -> None:
    one, other = daemons
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.01; done"
    one.launch("holder", f'(setsid sh -c "{stubborn}" &); exec sleep 1000', 0)
    await one.started("holder")
    other.launch("next", "exit 4", 0, wait_s=1000.0)
    one.runner.end("holder", 0.0)
    exited = await other.outcome("next")
    assert isinstance(exited, Exited) and exited.code == 4
    # Told as over: then the lock is free without any wait.
    await one.outcome("holder")
    one.launch("again", "exit 5", 0)
    exited = await one.outcome("again")
    assert isinstance(exited, Exited) and exited.code == 5


async def test_a_job_that_waits_for_a_gpu_can_be_ended(daemons: tuple[Daemon, Daemon]) -> None:
    one, other = daemons
    one.launch("holder", "exec sleep 1000", 0)
    await one.started("holder")
    other.launch("waits", "echo ran", 0, wait_s=1000.0)
    other.runner.end("waits")
    failed = await other.outcome("waits")
    assert isinstance(failed, LaunchFailed) and failed.reason.startswith("ended on request")


async def test_p9_the_lock_outlives_the_daemon_and_not_the_shim(
    daemons: tuple[Daemon, Daemon],
) -> None:
    one, _ = daemons
    one.launch("holder", "exec sleep 1000", 0)
    started = await one.started("holder")
    await one.runner.leave()
    path = one.root / "locks" / "gpu-0.lock"
    assert not is_free(path)
    one.runner = Runner(one.events.extend, mark_prefix=one.prefix)
    await one.runner.start()
    one.runner.adopt("holder", str(one.root / "holder"), started)
    os.kill(started.shim_pid, signal.SIGKILL)
    assert await one.outcome("holder") == Exited("holder", EndCause.LOST)
    assert is_free(path)


async def test_no_job_inherits_a_lock(daemons: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    one, _ = daemons
    one.launch("a", "ls -l /proc/self/fd", 0)
    await one.outcome("a")
    assert b"gpu-0" not in (tmp_path / "a" / "log").read_bytes()


async def test_no_forked_call_inherits_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock_module_of_test.py").write_text(WARM_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    warm = Daemon(tmp_path, preload="lock_module_of_test")
    await warm.runner.start()
    warm.launch("a", "", 0, call="x")
    exited = await warm.outcome("a")
    assert isinstance(exited, Exited) and exited.code == 0
    log = (tmp_path / "a" / "log").read_text()
    assert "/a/log" in log and "gpu-0" not in log
    await warm.runner.close()


def refuse(pause_s: float) -> None:
    raise AssertionError(f"nobody waits {pause_s} s here")


def test_files_and_folder_can_be_used_by_other_accounts(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "gpu-0.lock"
    held = gpu_lock.lock_gpus([os.fsencode(path)], b"me", wait_s=0, pause=refuse)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o1777
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert path.read_bytes() == b"me"
    assert not is_free(path)
    gpu_lock.release(held)
    assert held == [] and is_free(path)


@pytest.mark.parametrize("kind", ["link", "folder", "no folder"])
def test_p11_a_lock_that_can_not_be_had_is_told_with_its_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "gpu-0.lock"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        path = tmp_path / "no" / "such" / "gpu-0.lock"
    with pytest.raises(LaunchRefused, match=r"can't get GPU lock .*gpu-0\.lock"):
        gpu_lock.lock_gpus([os.fsencode(path)], b"me", wait_s=0, pause=refuse)
    assert not (tmp_path / "elsewhere").exists()


def test_what_was_locked_is_let_go_when_the_rest_can_not_be_had(tmp_path: Path) -> None:
    paths = [os.fsencode(tmp_path / f"gpu-{index}.lock") for index in (0, 1)]
    held = gpu_lock.lock_gpus(paths[1:], b"other", wait_s=0, pause=refuse)
    with pytest.raises(LaunchRefused, match=r"GPU 1: .* other"):
        gpu_lock.lock_gpus(paths, b"me", wait_s=0, pause=refuse)
    assert is_free(tmp_path / "gpu-0.lock")
    gpu_lock.release(held)


def test_reasons_fit_an_event() -> None:
    assert gpu_lock._HOLDER_BYTES_MAX < frames.REASON_CHARS_MAX
