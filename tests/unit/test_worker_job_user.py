"""Jobs that run as another account: allowed by word only, with its rights and nothing of ours."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import stat
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from worker_records import assignment

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.manifest import artifact_id
from meshtrain.spec.jobs import CommandWork, InputData
from meshtrain_daemon.worker import job_users, outputs, preparation
from meshtrain_daemon.worker.assignment_record import Stage, read_assignment
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules
from meshtrain_daemon.worker.input_paths import input_paths
from meshtrain_daemon.worker.job_users import JobUser, JobUserError
from meshtrain_daemon.worker.launch import (
    Event,
    Exited,
    Launch,
    LaunchFailed,
    Started,
    read_outcome,
)
from meshtrain_daemon.worker.preparation import Prepared, key_of
from meshtrain_daemon.worker.runner import Runner

WAIT_S = 30.0
NAME = "nobody"
PYTHON = Path("/usr/bin/python3")
"""The one that runs the tests may lie in somebody's home."""
RULES = HostRules(job_users=(NAME,))
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or bool(job_users.missing_capabilities()),
    reason="only root may switch accounts",
)


class Host:
    def __init__(self, root: Path) -> None:
        self.attempts = root / "attempts"
        self.attempts.mkdir(mode=0o755)
        self.store = ArtifactStore(root / "artifacts")
        self.events: list[Event] = []
        self.runner = Runner(self.events.extend, mark_prefix=f"{uuid.uuid4().hex[:12]}/")

    def folder(self, name: str, command: str) -> AttemptFolder:
        one = assignment(name, work=CommandWork(command))
        folder = AttemptFolder(
            self.attempts, msgspec.structs.replace(one, user=NAME, checkpoint_every_s=60.0)
        )
        folder.make()
        return folder

    async def run(self, name: str, command: str) -> tuple[AttemptFolder, Exited | LaunchFailed]:
        folder = self.folder(name, command)
        return folder, await self.ended(folder.launch(RULES))

    async def ended(self, launch: Launch) -> Exited | LaunchFailed:
        self.runner.launch([launch])
        async with asyncio.timeout(WAIT_S):
            while True:
                for event in self.events:
                    if event.attempt_id == launch.attempt_id and not isinstance(event, Started):
                        return event
                await asyncio.sleep(0.005)


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


@as_root
async def test_it_has_the_account_s_ids_home_and_folders(host: Host) -> None:
    entry = pwd.getpwnam(NAME)
    folder, exited = await host.run(
        "a.1",
        "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; echo x > {output}/made &&"
        " echo y > $MESHTRAIN_CHECKPOINT/step && echo '{}' >> $MESHTRAIN_METRICS"
        " && echo '{}' > $MESHTRAIN_FAILURE && rm $MESHTRAIN_FAILURE;"
        " grep CapEff /proc/self/status",
    )
    assert isinstance(exited, Exited) and exited.code == 0
    groups = " ".join(map(str, os.getgrouplist(NAME, entry.pw_gid)))
    assert Path(folder.log).read_text().splitlines() == [
        str(entry.pw_uid),
        str(entry.pw_gid),
        groups,
        f"{entry.pw_dir} {NAME} {NAME}",
        "CapEff:\t0000000000000000",
    ]
    assert Path(folder.output, "made").stat().st_uid == entry.pw_uid
    assert Path(folder.log).stat().st_uid == 0


@as_root
async def test_p11_it_can_not_touch_the_records_of_the_mesh(host: Host) -> None:
    folder, exited = await host.run(
        "a.1",
        "cd ..; rm -f assignment started.json exit.json log; mv started.json other;"
        " echo x > exit.json; cat assignment; kill -9 $PPID; rmdir {output};"
        " echo '{}' > stored.json; echo x > .stored.json; true",
    )
    assert isinstance(exited, Exited) and exited.code == 0
    assert {"assignment", "started.json", "log", "exit.json"} <= set(os.listdir(folder.path))
    assert read_outcome(folder.path, "a.1") == exited
    assert read_assignment(folder.path) == (folder.assignment, Stage.HELD)


@as_root
async def test_p11_it_can_not_make_up_what_its_output_became(host: Host, open_path: Path) -> None:
    other = open_path / "other"
    other.mkdir()
    (other / "secret").write_text("of another job")
    secret = artifact_id(host.store.add_tree(other))
    note = open_path / "note"
    note.write_bytes(msgspec.json.encode(io.OutputStored("a.1", secret, 1)))
    note.chmod(0o644)
    folder, exited = await host.run("a.1", f"cp {note} {{output}}/../stored.json")
    assert isinstance(exited, Exited) and exited.code == 0
    assert Path(folder.path, "stored.json").exists()
    (Path(folder.output) / "own").write_text("x")
    stored = outputs.store_output(folder, host.store, "n1")
    assert isinstance(stored, io.OutputStored) and stored.artifact_id not in (None, secret)


@as_root
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("no-such-program-here x", "command not found: no-such-program-here"),
        ("/no/such/program", "/no/such/program"),
    ],
)
async def test_what_can_not_start_says_why(host: Host, command: str, reason: str) -> None:
    _, failed = await host.run("a.1", command)
    assert isinstance(failed, LaunchFailed) and reason in failed.reason


@as_root
async def test_a_folder_that_it_can_not_enter_is_told(host: Host) -> None:
    host.attempts.chmod(0o700)
    _, failed = await host.run("a.1", "true")
    assert isinstance(failed, LaunchFailed)
    assert "its user can't enter the working folder" in failed.reason


@as_root
async def test_p4_what_it_made_becomes_an_artifact_that_it_can_not_change(host: Host) -> None:
    folder, exited = await host.run("a.1", "sh -c 'echo x > $0/made' {output}")
    assert isinstance(exited, Exited) and exited.code == 0
    stored = outputs.store_output(folder, host.store, "n1")
    assert isinstance(stored, io.OutputStored) and stored.artifact_id is not None
    (file,) = (host.store.root / "artifacts" / stored.artifact_id / "files").iterdir()
    assert file.stat().st_uid == 0 and stat.S_IMODE(file.stat().st_mode) == 0o444


@as_root
def test_links_in_its_folders_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "file").touch()
    (tmp_path / "stored").touch()
    (inside / "second name").hardlink_to(tmp_path / "stored")
    user = JobUser(NAME, [NAME])
    user.own(str(inside))
    assert outside.stat().st_uid == 0
    assert (inside / "file").stat().st_uid == user.account.uid
    assert (inside / "link").lstat().st_uid == user.account.uid
    assert (tmp_path / "stored").stat().st_uid == 0


def test_an_account_must_be_allowed_be_there_and_be_within_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(JobUserError, match="add 'nobody' to job_users"):
        JobUser(NAME, [])
    with pytest.raises(JobUserError, match="no such account"):
        JobUser("no-such-account", ["no-such-account"])
    monkeypatch.setattr(job_users, "missing_capabilities", lambda: ["CAP_SETUID"])
    with pytest.raises(JobUserError, match=r"it lacks CAP_SETUID"):
        JobUser(NAME, [NAME])


def test_the_daemon_s_own_account_needs_no_leave(tmp_path: Path) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    one = msgspec.structs.replace(assignment("a.1"), user=own)
    folder = AttemptFolder(tmp_path, one)
    folder.make()
    assert folder.launch(HostRules()).account is None
    other = AttemptFolder(tmp_path, msgspec.structs.replace(one, user="no-such-account"))
    with pytest.raises(JobUserError, match="job_users"):
        other.launch(HostRules())


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("CapEff:\t000001ffffffffff\n", []),
        ("CapEff:\t0000000000000080\n", ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER",
                                         "CAP_KILL", "CAP_SETGID"]),
        ("", list(job_users._CAPABILITIES)),
    ],
)  # fmt: skip
def test_what_the_daemon_lacks_is_named(tmp_path: Path, line: str, missing: list[str]) -> None:
    (tmp_path / "status").write_text(f"Name:\tx\n{line}")
    assert job_users.missing_capabilities(str(tmp_path / "status")) == missing


@as_root
@pytest.mark.skipif(not PYTHON.exists(), reason="needs a Python that every account may run")
async def test_what_is_prepared_for_it_is_its_own_and_data_of_the_node_is_only_read(
    host: Host, open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = open_path / "prepare_step.py"
    shutil.copy(preparation.prepare_step.__file__, step)
    monkeypatch.setattr(preparation.prepare_step, "__file__", str(step))
    monkeypatch.setattr(preparation.sys, "executable", str(PYTHON))
    data = open_path / "data"
    data.mkdir()
    (data / "w").write_text("words\n")
    voc = InputData("voc@1", artifact_id(host.store.add_tree(data)))
    prepared = Prepared(open_path / "prepared", 1 << 30)
    work = CommandWork(
        "id -un; cat {prepared}/w; echo x >> {inputs.voc}/w; echo x > {inputs.voc}/new;"
        " echo x > {prepared}/new; echo done",
        inputs={"voc": voc},
        prepare="id -un > {prepared}/who && cp {inputs.voc}/w {prepared}/w",
    )
    keys = set()
    for name in ("a.1", "a.2"):
        one = msgspec.structs.replace(assignment(name, work=work), user=NAME)
        folder = AttemptFolder(host.attempts, one)
        folder.make()
        launch = folder.launch(RULES, input_paths(one, host.store), prepared)
        exited = await host.ended(launch)
        assert isinstance(exited, Exited) and exited.code == 0
        said = Path(folder.log).read_text()
        assert said.count("Permission denied") == 3
        assert f"{NAME}\nwords\n" in said
        keys.add(key_of(one))
    (key,) = keys
    assert key is not None
    assert Path(prepared.tree(key), "who").read_text() == f"{NAME}\n"
    assert host.store.verify(voc.digest)
    assert Prepared(open_path / "prepared", 0).trim(tuple) == [key]


@as_root
def test_p11_links_and_pipes_that_it_puts_there_lead_the_daemon_nowhere(open_path: Path) -> None:
    """The folder of a preparation is the account's, and the daemon reads and removes there."""
    prepared = Prepared(open_path / "prepared", 0)
    key = "ab" * 16
    prepared.take(key)
    folder, outside = Path(prepared.folder(key)), open_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").touch()
    os.mkfifo(folder / "done")
    (folder / "lock").symlink_to(outside / "made")
    (folder / "tree").symlink_to(outside)
    assert not prepared.take(key)
    assert prepared.trim(tuple) == []
    assert [path.name for path in outside.iterdir()] == ["kept"]
    (folder / "lock").unlink()
    assert prepared.trim(tuple) == [key]
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755
