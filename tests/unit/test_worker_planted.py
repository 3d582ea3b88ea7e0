"""What a job may put in the place of its attempt's records, output and checkpoints."""

from __future__ import annotations

import asyncio
import os
import pwd
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from worker_records import assignment, made_folder

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.job import FailureClass
from meshtrain.spec.jobs import CommandWork
from meshtrain_daemon.worker import frames, job_users, outputs
from meshtrain_daemon.worker.adoption import take_over
from meshtrain_daemon.worker.assignment_record import ASSIGNMENT_FILE
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules, clear_away
from meshtrain_daemon.worker.checkpoints import Checkpoints
from meshtrain_daemon.worker.launch import EndCause, Event, Exited, LaunchFailed, Started
from meshtrain_daemon.worker.runner import Runner

WAIT_S = 30.0
NAME = "nobody"
RULES = HostRules(kill_grace_s=0.5, job_users=(NAME,))
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or bool(job_users.missing_capabilities()),
    reason="only root may switch accounts",
)


class Host:
    """A node's folders, with something beside them that no job is meant to read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.attempts = root / "attempts"
        self.attempts.mkdir()
        self.store = ArtifactStore(root / "artifacts")
        self.keys = root / "keys"
        self.keys.mkdir(mode=0o700)
        (self.keys / "sign.key").write_text("secret")
        self.events: list[Event] = []
        self.runner = Runner(self.events.extend)

    def folder(self, command: str = "true", *, user: str | None = None) -> AttemptFolder:
        one = msgspec.structs.replace(
            assignment("a.1", work=CommandWork(command)), user=user, checkpoint_every_s=60.0
        )
        folder = AttemptFolder(self.attempts, one)
        folder.make()
        return folder

    async def run(
        self, folder: AttemptFolder, before: Callable[[], None] = lambda: None
    ) -> Exited | LaunchFailed:
        launch = folder.launch(RULES)
        before()
        self.runner.launch([launch])
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in self.events:
                    if not isinstance(event, Started):
                        return event
                await asyncio.sleep(0.005)

    @property
    def stored(self) -> set[bytes]:
        """The content of all files in the store."""
        return {path.read_bytes() for path in self.store.root.rglob("files/*") if path.is_file()}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other accounts may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="meshtrain-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
async def host(open_path: Path) -> AsyncIterator[Host]:
    host = Host(open_path)
    await host.runner.start()
    yield host
    async with asyncio.timeout(WAIT_S):
        await host.runner.close()


def as_ordinary(do: Callable[[], None], folder: Path) -> None:
    """Does it as an account for whom permissions count; `folder` becomes that account's."""
    if os.geteuid() != 0:
        do()
        return
    entry = pwd.getpwnam(NAME)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    as_another(do)


def as_another(do: Callable[[], None]) -> None:
    entry = pwd.getpwnam(NAME)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            do()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- pipes --------------------------------------------------------------------------------


@pytest.mark.timeout(30)
async def test_p8_a_pipe_in_the_place_of_the_exit_record_holds_up_nothing(host: Host) -> None:
    folder = host.folder("mkfifo ../exit.json; exit 3")
    ended = await host.run(folder)
    assert isinstance(ended, Exited)
    assert (ended.cause, ended.code) == (EndCause.FINISHED, 3)


@pytest.mark.timeout(30)
def test_p8_a_pipe_in_the_place_of_the_assignment_stops_no_daemon(open_path: Path) -> None:
    host = Host(open_path)
    folder = made_folder(host.attempts)
    record = Path(folder.path, ASSIGNMENT_FILE)
    record.unlink()
    os.mkfifo(record)
    folder.forget()
    assert take_over(host.attempts, "n1", host.store, lambda line: None).adopted == []
    assert os.listdir(host.attempts) == []


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", [frames.EXIT_FILE, frames.STARTED_FILE])
def test_p8_pipes_in_the_place_of_the_shim_s_records_stop_no_daemon(
    open_path: Path, name: str
) -> None:
    host = Host(open_path)
    folder = made_folder(host.attempts)
    os.mkfifo(Path(folder.path, name))
    assert take_over(host.attempts, "n1", host.store, lambda line: None).adopted == []


def test_a_name_that_is_as_long_as_can_be_stops_no_daemon(open_path: Path) -> None:
    host = Host(open_path)
    (host.attempts / ("x" * 250)).mkdir()
    take_over(host.attempts, "n1", host.store, lambda line: None)
    assert os.listdir(host.attempts) == []


# --- links --------------------------------------------------------------------------------


def test_p11_an_output_that_became_a_link_is_not_followed(open_path: Path) -> None:
    host = Host(open_path)
    folder = host.folder()
    os.rmdir(folder.output)
    os.symlink(host.keys, folder.output)
    told = outputs.store_output(folder, host.store, "n1")
    assert isinstance(told, io.OutputFailed)
    assert told.failure.failure_class is FailureClass.USER_ERROR
    assert "replaced by a link" in told.failure.message
    assert host.stored == set() and (host.keys / "sign.key").exists()


def test_p11_checkpoints_that_became_a_link_are_not_followed(open_path: Path) -> None:
    host = Host(open_path)
    folder = host.folder()
    os.rmdir(folder.checkpoints)
    os.symlink(host.keys, folder.checkpoints)
    told = Checkpoints(host.store, "n1").keep_newest(folder)
    assert isinstance(told, io.CheckpointFailed)
    assert host.stored == set()


def test_p11_a_folder_in_a_checkpoint_that_becomes_a_link_meanwhile_is_not_followed(
    open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(open_path)
    folder = host.folder()
    inner = Path(folder.checkpoints, "step-1", "inner")
    inner.mkdir(parents=True)
    (inner / "sign.key").write_text("harmless")
    from meshtrain_daemon.worker import checkpoints

    listing = checkpoints.list_files

    def list_and_swap(path: Path) -> list[str]:
        found = listing(path)
        if inner.is_dir() and not inner.is_symlink():
            inner.rename(inner.with_name("was-inner"))
            inner.symlink_to(host.keys)
        return found

    monkeypatch.setattr(checkpoints, "list_files", list_and_swap)
    assert isinstance(Checkpoints(host.store, "n1").keep_newest(folder), io.CheckpointFailed)
    assert host.stored == set()


async def test_p11_a_log_that_is_a_link_is_not_written_through(host: Host) -> None:
    folder = host.folder("echo printed")
    target = host.root / "somewhere-else"
    os.symlink(target, folder.log)
    told = await host.run(folder)
    assert isinstance(told, LaunchFailed) and "can't open the log" in told.reason
    assert not target.exists()


@as_root
async def test_p11_another_account_s_job_reads_and_writes_nothing_of_the_daemon(
    host: Host,
) -> None:
    folder = host.folder(
        f"rmdir {{output}} $MESHTRAIN_CHECKPOINT; ln -s {host.keys} {{output}};"
        f" ln -s {host.keys} $MESHTRAIN_CHECKPOINT; true",
        user=NAME,
    )
    assert isinstance(await host.run(folder), Exited)
    assert os.path.islink(folder.output) and os.path.islink(folder.checkpoints)
    assert isinstance(outputs.store_output(folder, host.store, "n1"), io.OutputFailed)
    assert isinstance(Checkpoints(host.store, "n1").keep_newest(folder), io.CheckpointFailed)
    assert host.stored == set()


@as_root
@pytest.mark.parametrize("name", ["log", f"{frames.EXIT_FILE}.tmp"])
async def test_p11_another_job_of_the_account_plants_nothing_before_the_start(
    host: Host, name: str
) -> None:
    victim = host.root / "victim"
    victim.write_text("precious")
    folder = host.folder("true", user=NAME)

    def plant() -> None:
        try:
            os.symlink(victim, f"{folder.path}/{name}")
        except FileExistsError:
            return

    await host.run(folder, lambda: as_another(plant))
    assert victim.read_text() == "precious"


# --- folders that are used again, or are left -------------------------------------------------


async def spare_after(host: Host, command: str, *, user: str | None = None) -> bool:
    one = msgspec.structs.replace(assignment("a.1", work=CommandWork(command)), user=user)
    folder = AttemptFolder(host.attempts, one)
    folder.make()
    assert isinstance(await host.run(folder), Exited)
    return folder.is_spare()


async def test_a_folder_in_which_nothing_was_left_is_used_again(host: Host) -> None:
    assert await spare_after(host, "true")


@pytest.mark.parametrize(
    "command",
    [
        "rm ../log; touch ../../other; ln -s ../other ../log",
        "ln ../log ../../second-name",
        "rmdir {output}; mkdir ../../other; ln -s ../other {output}",
        "chmod 500 {output}",
        "chmod 400 ../log",
    ],
)
async def test_p11_a_folder_that_a_job_has_changed_is_not_used_again(
    host: Host, command: str
) -> None:
    assert not await spare_after(host, command)


@as_root
async def test_p11_a_folder_that_is_shared_with_an_account_is_not_used_again(host: Host) -> None:
    assert not await spare_after(host, "true", user=NAME)


@pytest.mark.parametrize("ends_with", ["remove", "take_over"])
def test_p8_folders_that_nobody_may_write_to_are_removed_too(
    open_path: Path, ends_with: str
) -> None:
    host = Host(open_path)
    folder = host.folder()
    deep = Path(folder.path, "cache", "module")
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    deep.chmod(0o500)
    deep.parent.chmod(0o500)

    def end() -> None:
        if ends_with == "remove":
            clear_away(folder.path)
        else:
            take_over(host.attempts, "n1", host.store, lambda line: None)

    as_ordinary(end, host.root)
    assert os.listdir(host.attempts) == []


def test_an_output_that_its_job_made_read_only_is_stored_twice_without_a_word(
    open_path: Path,
) -> None:
    host = Host(open_path)
    folders = []
    for number in range(2):
        one = msgspec.structs.replace(assignment(f"a.{number}"))
        folder = AttemptFolder(host.attempts, one)
        folder.make()
        inner = Path(folder.output, "inner")
        inner.mkdir()
        (inner / "result").write_text("1")
        inner.chmod(0o500)
        folders.append(folder)

    def store() -> None:
        for folder in folders:
            told = outputs.store_output(folder, host.store, "n1")
            assert isinstance(told, io.OutputStored), told

    as_ordinary(store, host.root)
