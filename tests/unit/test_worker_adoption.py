"""What a daemon finds of a former one: running jobs go on, ends are told, the rest is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from worker_records import assignment

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.manifest import artifact_id
from meshtrain.spec.jobs import CommandWork
from meshtrain_daemon.worker import fence, frames, processes
from meshtrain_daemon.worker.adoption import Found, take_over
from meshtrain_daemon.worker.assignment_record import (
    ASSIGNMENT_FILE,
    Stage,
    mark_forgotten,
    read_assignment,
    write_assignment,
)
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules
from meshtrain_daemon.worker.kept_shim import is_over, open_shim
from meshtrain_daemon.worker.launch import (
    EndCause,
    Event,
    Exited,
    LaunchFailed,
    Started,
    read_outcome,
)
from meshtrain_daemon.worker.runner import Runner
from meshtrain_daemon.worker.stored_record import note_stored

WAIT_S = 30.0
LOOP = "while :; do sleep 0.01; done"


class Host:
    """A node's folders, and the daemons that come one after the other."""

    def __init__(self, root: Path) -> None:
        self.attempts = root / "attempts"
        self.attempts.mkdir()
        self.store = ArtifactStore(root / "artifacts")
        # Marks are found on the whole host, where other runs of these tests may be at work.
        self.node_id = f"n{uuid.uuid4().hex[:12]}"
        self.events: list[Event] = []
        self.said: list[str] = []
        self.runner = self.daemon()

    def daemon(self) -> Runner:
        return Runner(self.events.extend, mark_prefix=f"{self.node_id}/")

    def folder(self, name: str, command: str = "true") -> AttemptFolder:
        return AttemptFolder(self.attempts, assignment(name, work=CommandWork(command)))

    def launch(self, name: str, command: str, kill_grace_s: float = 10.0) -> AttemptFolder:
        folder = self.folder(name, command)
        folder.make()
        self.runner.launch([folder.launch(HostRules(kill_grace_s=kill_grace_s))])
        return folder

    async def up(self, name: str) -> Started:
        """Waits until a job has printed something."""
        log = self.attempts / name / "log"
        await self.until(lambda: log.exists() and log.stat().st_size > 0)
        await self.until(lambda: any(isinstance(e, Started) for e in self.of(name)))
        return next(event for event in self.of(name) if isinstance(event, Started))

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event.attempt_id == name]

    async def outcome(self, name: str) -> Exited | LaunchFailed:
        def found() -> list[Exited | LaunchFailed]:
            return [event for event in self.of(name) if isinstance(event, Exited | LaunchFailed)]

        await self.until(lambda: bool(found()))
        assert len(found()) == 1
        return found()[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def look(self) -> Found:
        return await asyncio.to_thread(
            take_over, self.attempts, self.node_id, self.store, self.said.append, 0.05
        )

    async def next_daemon(self) -> Found:
        """The daemon is gone, its jobs go on; the next one comes and adopts them."""
        await self.runner.leave()
        found = await self.look()
        self.runner = self.daemon()
        await self.runner.start()
        for one in found.adopted:
            if one.started is not None and one.outcome is None:
                self.runner.adopt(one.folder.assignment.attempt_id, one.folder.path, one.started)
        return found

    def marked(self, name: str) -> list[int]:
        return processes.marked(f"{frames.ATTEMPT_VARIABLE}={self.node_id}/{name}".encode())


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    await host.runner.start()
    yield host
    async with asyncio.timeout(WAIT_S):
        await host.runner.close()


async def shim_over(started: Started, signal_number: int = 0) -> None:
    pidfd = open_shim(started)
    if pidfd is not None:
        signal.pidfd_send_signal(pidfd, signal_number)
        assert await asyncio.to_thread(is_over, pidfd, WAIT_S)
        os.close(pidfd)


async def kill_shim(started: Started) -> None:
    await shim_over(started, signal.SIGKILL)


def outcomes(found: Found) -> dict[str, Exited | LaunchFailed | None]:
    return {one.folder.assignment.attempt_id: one.outcome for one in found.adopted}


# --- what goes on ---------------------------------------------------------------------------


async def test_p7_what_runs_goes_on_and_what_ended_meanwhile_is_told(host: Host) -> None:
    host.launch("on.1", "echo up; while [ ! -e ../done ]; do sleep 0.01; done; exit 7")
    host.launch("off.1", "echo up; while [ ! -e ../done ]; do sleep 0.01; done; exit 6")
    pid = (await host.up("on.1")).pid
    off = await host.up("off.1")
    await host.runner.leave()
    (host.attempts / "off.1" / "done").touch()
    await shim_over(off)
    half_stored = host.attempts / "on.1" / ".checkpoint-0123"
    half_stored.mkdir()
    found = await host.look()
    assert not half_stored.exists()
    ended = outcomes(found)["off.1"]
    assert isinstance(ended, Exited) and (ended.code, ended.cause) == (6, EndCause.FINISHED)
    assert outcomes(found)["on.1"] is None

    host.runner = host.daemon()
    await host.runner.start()
    (one,) = [one for one in found.adopted if one.outcome is None]
    assert one.started is not None and one.started.pid == pid
    host.runner.adopt("on.1", one.folder.path, one.started)
    assert pid in host.marked("on.1")
    (host.attempts / "on.1" / "done").touch()
    exited = await host.outcome("on.1")
    assert isinstance(exited, Exited)
    assert (exited.code, exited.cause) == (7, EndCause.FINISHED)
    assert host.said == []


@pytest.mark.parametrize("grace_s", [None, 0.0, 0.05])
async def test_p7_p8_what_was_adopted_is_ended_whole(host: Host, grace_s: float | None) -> None:
    stubborn = f"trap '' TERM; echo up; {LOOP}"
    host.launch(
        "a.1",
        f'(setsid sh -c "{stubborn}" &) ; while ! grep -q up ../log; do sleep 0.01; done;'
        f" {stubborn}",
        kill_grace_s=0.05 if grace_s is None else 1000,
    )
    await host.up("a.1")
    await host.next_daemon()
    host.runner.end("a.1", grace_s)
    exited = await host.outcome("a.1")
    assert isinstance(exited, Exited) and exited.cause is EndCause.REQUESTED
    assert host.marked("a.1") == []


async def test_an_end_with_a_long_grace_lets_the_job_end_itself(host: Host) -> None:
    host.launch("a.1", f"trap 'echo saved; exit 9' TERM; echo up; {LOOP}", kill_grace_s=0)
    await host.up("a.1")
    await host.next_daemon()
    host.runner.end("a.1", grace_s=1000.0)
    exited = await host.outcome("a.1")
    assert isinstance(exited, Exited)
    assert (exited.code, exited.cause) == (9, EndCause.REQUESTED)


async def test_p7_a_forked_call_goes_on_and_is_found_by_its_mark(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "call_module_of_test.py").write_text(
        "import signal\ndef preload(): pass\n"
        "def run(argument):\n    print('up', flush=True)\n    signal.pause()\n    return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    await host.runner.close()
    host.runner = Runner(
        host.events.extend, preload="call_module_of_test", mark_prefix=f"{host.node_id}/"
    )
    await host.runner.start()
    for name in ("ended.1", "lost.1"):
        folder = host.folder(name)
        folder.make()
        launch = msgspec.structs.replace(folder.launch(HostRules()), argv=(), call="x")
        host.runner.launch([launch])
        await host.up(name)
    shim = (await host.up("lost.1")).shim_pid
    await host.next_daemon()
    host.runner.end("ended.1")
    exited = await host.outcome("ended.1")
    assert isinstance(exited, Exited)
    assert (exited.cause, exited.signal) == (EndCause.REQUESTED, signal.SIGTERM)
    os.kill(shim, signal.SIGKILL)
    assert await host.outcome("lost.1") == Exited("lost.1", EndCause.LOST)
    assert host.marked("ended.1") == host.marked("lost.1") == []


async def test_p7_what_ends_once_adopted_by_a_killed_shim_is_lost_and_swept(host: Host) -> None:
    host.launch("a.1", "(setsid sleep 1000 &) ; echo up; exec sleep 1000")
    started = await host.up("a.1")
    await host.next_daemon()
    os.kill(started.shim_pid, signal.SIGKILL)
    exited = await host.outcome("a.1")
    assert isinstance(exited, Exited) and exited.lost
    assert host.marked("a.1") == []


async def test_p7_a_shim_that_died_while_no_daemon_ran_is_lost_and_swept(host: Host) -> None:
    host.launch("a.1", "(setsid sleep 1000 &) ; echo up; exec sleep 1000")
    started = await host.up("a.1")
    await host.runner.leave()
    await kill_shim(started)
    assert host.marked("a.1") != []
    await host.next_daemon()
    exited = await host.outcome("a.1")
    assert isinstance(exited, Exited) and exited.lost
    assert host.marked("a.1") == []


async def test_p7_one_daemon_after_the_other_takes_over(host: Host) -> None:
    host.launch("a.1", "echo up; while [ ! -e ../done ]; do sleep 0.01; done; exit 3")
    await host.up("a.1")
    for _ in range(3):
        await host.next_daemon()
    (host.attempts / "a.1" / "done").touch()
    exited = await host.outcome("a.1")
    assert isinstance(exited, Exited) and exited.code == 3


async def test_p12_an_end_waits_for_room_on_the_disk_while_no_daemon_runs(host: Host) -> None:
    folder = host.launch("a.1", "echo up; while [ ! -e ../done ]; do sleep 0.01; done; exit 8")
    pid = (await host.up("a.1")).pid
    blocked = Path(folder.path, frames.EXIT_FILE)
    blocked.mkdir()
    await host.runner.leave()
    Path(folder.path, "done").touch()
    await host.until(lambda: not Path(f"/proc/{pid}").exists())
    found = await host.next_daemon()
    assert outcomes(found) == {"a.1": None}
    blocked.rmdir()
    exited = await host.outcome("a.1")
    assert isinstance(exited, Exited) and exited.code == 8


# --- what does not --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / ASSIGNMENT_FILE).unlink(),
        lambda folder: (folder / ASSIGNMENT_FILE).write_bytes(b""),
        lambda folder: (folder / ASSIGNMENT_FILE).write_bytes(b"h" + b"\xff" * 200),
        lambda folder: write_assignment(str(folder), assignment("other.1")),
        lambda folder: (folder / frames.STARTED_FILE).unlink(),
    ],
    ids=["no assignment", "empty", "spoilt", "another's", "no start"],
)
async def test_p8_p11_what_can_not_be_read_is_ended_and_removed(
    host: Host, spoil: Callable[[Path], object]
) -> None:
    folder = host.launch("a.1", f"trap '' TERM; echo up; {LOOP}")
    await host.up("a.1")
    await host.runner.leave()
    spoil(Path(folder.path))
    found = await host.look()
    assert found.adopted == [] and found.forgotten == []
    assert host.marked("a.1") == []
    assert os.listdir(host.attempts) == []


async def test_what_was_never_started_is_removed_and_a_crash_of_that_is_gone_on_with(
    host: Host,
) -> None:
    host.folder("a.1").make()
    fence.fence(Path(host.folder("b.1").path))
    host.folder("b.1").make()
    assert fence.fence(Path(host.folder("b.1").path)) is not None
    (host.attempts / "plain file").write_text("x")
    found = await host.look()
    assert found.adopted == []
    assert os.listdir(host.attempts) == []


async def test_a_process_that_only_has_the_id_of_a_shim_is_left_alone(host: Host) -> None:
    folder = host.folder("a.1")
    folder.make()
    other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        for boot_id, ticks in (
            (processes.boot_id(), 1),
            ("another-boot", processes.start_ticks(other.pid)),
        ):
            started = Started("a.1", other.pid, other.pid, ticks, boot_id, 1.0, ticks)
            Path(folder.path, frames.STARTED_FILE).write_bytes(msgspec.json.encode(started))
            host.runner.adopt("a.1", folder.path, started)
            assert (await host.outcome("a.1")) == Exited("a.1", EndCause.LOST)
            host.events.clear()
        fenced = fence.fence(Path(folder.path))
        assert fenced is not None
        fence.end_late_shim(fenced)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_p12_after_a_loss_of_power_only_a_stored_output_is_believed(
    host: Host, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "model").write_text("weights")
    manifest = host.store.add_tree(output)
    for name in ("stored.1", "plain.1", "failed.1"):
        folder = host.folder(name)
        folder.make()
        started = Started(name, 1, 1, 1, "another-boot", 1.0, 1)
        ended = Exited(name, EndCause.FINISHED, code=0)
        failed = LaunchFailed(name, "command not found: x")
        outcome = failed if name == "failed.1" else ended
        Path(folder.path, frames.STARTED_FILE).write_bytes(msgspec.json.encode(started))
        Path(folder.path, frames.EXIT_FILE).write_bytes(msgspec.json.encode(outcome))
    # The shim's records aren't fsynced: what a loss of power leaves of them may be nothing.
    for name, empty in (("bare.1", True), ("bare.2", False)):
        folder = host.folder(name)
        folder.make()
        started = Started(name, 1, 1, 1, "another-boot", 1.0, 1)
        record = b"" if empty else msgspec.json.encode(started)
        Path(folder.path, frames.STARTED_FILE).write_bytes(record)
        Path(folder.path, frames.EXIT_FILE).write_bytes(b"")
    for name in ("stored.1", "bare.1", "bare.2"):
        note_stored(host.folder(name).path, io.OutputStored(name, artifact_id(manifest), 7))
    looked = await host.look()
    found = outcomes(looked)
    for name in ("bare.1", "bare.2"):
        assert found[name] == Exited(name, EndCause.FINISHED, code=0)
    assert found["stored.1"] == Exited("stored.1", EndCause.FINISHED, code=0)
    assert found["plain.1"] == Exited("plain.1", EndCause.LOST)
    assert found["failed.1"] == LaunchFailed("failed.1", "command not found: x")
    # What is stored already must not be evicted before the master has taken it in.
    outputs = {one.folder.assignment.attempt_id: one.output_id for one in looked.adopted}
    assert {name for name, output_id in outputs.items() if output_id is None} == {
        "plain.1",
        "failed.1",
    }
    assert set(outputs.values()) == {artifact_id(manifest), None}


async def test_p6_what_the_master_has_the_end_of_is_only_shipped(host: Host) -> None:
    folder = host.launch("a.1", "echo printed; exit 3")
    await host.outcome("a.1")
    folder.forget()
    found = await host.look()
    assert found.adopted == []
    assert [one.assignment.attempt_id for one in found.forgotten] == ["a.1"]
    assert Path(folder.log).read_text() == "printed\n"


# --- records --------------------------------------------------------------------------------


def test_an_assignment_is_read_as_it_was_written(tmp_path: Path) -> None:
    long = assignment("a.1", work=CommandWork("x" * 20_000), gpus=(1,), timeout_s=3.5)
    short = assignment("a.2")
    for one in (long, short):
        # A shorter one over a longer one, as in a folder that is used again.
        write_assignment(str(tmp_path), one)
        assert read_assignment(str(tmp_path)) == (one, Stage.HELD)
    mark_forgotten(str(tmp_path))
    assert read_assignment(str(tmp_path)) == (short, Stage.FORGOTTEN)


def test_p11_no_cut_or_flipped_byte_of_an_assignment_is_believed(tmp_path: Path) -> None:
    write_assignment(str(tmp_path), assignment("a.1"))
    path = tmp_path / ASSIGNMENT_FILE
    whole = path.read_bytes()
    for at in (*range(12), *range(12, len(whole), 7)):
        path.write_bytes(whole[:at])
        assert read_assignment(str(tmp_path)) is None
        flipped = bytearray(whole)
        flipped[at] ^= 0x41
        path.write_bytes(flipped)
        assert read_assignment(str(tmp_path)) is None


async def test_a_stale_record_in_a_folder_that_is_used_again_is_not_this_attempt_s(
    host: Host,
) -> None:
    former = host.launch("a.1", "true")
    await host.outcome("a.1")
    folder = host.folder("a.2")
    folder.make(former.path)
    assert read_outcome(folder.path, "a.2") is None
    assert (await host.look()).adopted == []
    assert os.listdir(host.attempts) == []
