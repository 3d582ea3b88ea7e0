"""What a host may do to a node's jobs: long timeouts, disks that fail, kills at a bad moment."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_records import made_folder

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.job import FailureClass
from meshtrain_daemon.worker import outputs, preparation, processes
from meshtrain_daemon.worker.launch import EndCause, Event, Exited, Launch, Started
from meshtrain_daemon.worker.preparation import Prepared
from meshtrain_daemon.worker.runner import Runner

WAIT_S = 30.0
DAY_S = 86_400.0
A, B = "a" * 32, "b" * 32


class Host:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.runner = Runner(self.events.extend)

    def launch(self, name: str, command: str, timeout_s: float | None = None) -> None:
        folder = self.folder / name
        folder.mkdir()
        self.runner.launch(
            [
                Launch(
                    attempt_id=f"{name}.1",
                    folder=str(folder),
                    log_path=str(folder / "log"),
                    cwd=str(folder),
                    argv=("/bin/sh", "-c", command),
                    timeout_s=timeout_s,
                )
            ]
        )

    async def ended(self) -> Event:
        await self.until(lambda: any(not isinstance(event, Started) for event in self.events))
        return next(event for event in self.events if not isinstance(event, Started))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("days", [24.0, 30.0, 36_500.0])
async def test_a_job_may_have_a_timeout_of_months(tmp_path: Path, days: float) -> None:
    host = Host(tmp_path)
    await host.runner.start()
    host.launch("a", "exit 3", timeout_s=days * DAY_S)
    ended = await host.ended()
    assert isinstance(ended, Exited) and (ended.cause, ended.code) == (EndCause.FINISHED, 3)
    await host.runner.close()


async def test_p8_a_spawner_that_is_killed_as_soon_as_it_is_ready_is_replaced(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    runner = host.runner
    await runner.start()
    first = runner._spawner
    assert first is not None and first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    await host.until(lambda: any(s is not first and s.pid for s in runner._spawners))
    second = next(s for s in runner._spawners if s is not first)
    assert second.pid is not None
    # The loop stands still while the next says that it is ready, and is killed.
    assert select.select([second._events_fd], [], [], WAIT_S)[0]
    os.kill(second.pid, signal.SIGKILL)
    os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
    host.launch("a", "exit 3")
    ended = await host.ended()
    assert isinstance(ended, Exited) and ended.code == 3
    await runner.close()


@pytest.mark.timeout(30)
def test_a_parent_that_is_not_shown_is_not_looked_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under hidepid a process may be seen whose parent, another account's, is not."""

    def fields(pid: int) -> list[bytes]:
        if pid == 50:
            return [b"S", b"40"]
        raise FileNotFoundError(errno.ENOENT, "hidden")

    monkeypatch.setattr(processes, "_stat_fields", fields)
    assert not processes.was_below(50, 10)
    assert processes.was_below(50, 40)
    # One that is gone counts as below.
    assert processes.was_below(60, 10)


# --- disks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "failure_class"),
    [
        (errno.EIO, FailureClass.HOST_LOST),
        (errno.EROFS, FailureClass.HOST_LOST),
        (errno.ESTALE, FailureClass.HOST_LOST),
        (errno.EMFILE, FailureClass.DISK),
        (errno.ENOMEM, FailureClass.DISK),
        (errno.ENOSPC, FailureClass.DISK),
        (errno.EACCES, FailureClass.USER_ERROR),
    ],
)
def test_no_job_is_blamed_for_an_error_of_the_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    failure_class: FailureClass,
) -> None:
    attempts = tmp_path / "attempts"
    attempts.mkdir()
    folder = made_folder(attempts)
    weights = Path(folder.output, "weights")
    weights.write_text("days of training")
    really_open = os.open

    def fail(path: object, *args: object, **options: object) -> int:
        if str(path).endswith("/weights"):
            raise OSError(number, os.strerror(number), str(path))
        return really_open(path, *args, **options)  # type: ignore[arg-type]

    store = ArtifactStore(tmp_path / "artifacts")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        told = outputs.store_output(folder, store, "n1")
    assert isinstance(told, io.OutputFailed), told
    assert told.failure.failure_class is failure_class
    assert weights.read_text() == "days of training"


# --- preparations ---------------------------------------------------------------------------


def put(prepared: Prepared, key: str) -> None:
    prepared.take(key)
    Path(prepared.tree(key)).mkdir()
    Path(prepared.folder(key), "done").write_text(
        '{"size_bytes": 10, "files_count": 0, "took_s": 1.0}'
    )


def test_a_preparation_that_is_taken_while_others_are_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = Prepared(tmp_path / "prepared", 0)
    put(prepared, A)
    put(prepared, B)
    os.utime(prepared.folder(A), (1.0, 1.0))
    taken: set[str] = set()

    def slowly(path: str, **options: object) -> None:
        # A job that needs the other one is assigned meanwhile.
        taken.add(B)
        assert prepared.take(B)

    monkeypatch.setattr(preparation.shutil, "rmtree", slowly)
    assert prepared.trim(lambda: taken) == [A]
    assert Path(prepared.tree(B)).is_dir()
