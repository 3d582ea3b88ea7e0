"""A job's newest checkpoint becomes an artifact, whole or not at all; it can be gone on from."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from worker_records import assignment

from meshtrain.artifacts import disk
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactNeed
from meshtrain.core.job import FailureClass
from meshtrain.core.manifest import artifact_id
from meshtrain.spec.jobs import TrainingWork
from meshtrain_daemon.worker import checkpoints
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, HostRules
from meshtrain_daemon.worker.checkpoints import Checkpoints


class Job:
    """An attempt that makes checkpoints, and who keeps them."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root / "artifacts")
        one = msgspec.structs.replace(assignment("j.1"), checkpoint_every_s=60.0)
        self.folder = AttemptFolder(root, one)
        self.folder.make()
        self.made = Path(self.folder.checkpoints)
        self.keeper = Checkpoints(self.store, "n1")

    def write(self, name: str, text: str, mtime_s: int) -> None:
        path = self.made / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        for one in (path, path.parent if path.parent != self.made else path):
            os.utime(one, ns=(mtime_s * 10**9, mtime_s * 10**9))

    def keep(self) -> dict[str, str] | None:
        """What the checkpoint that is kept now holds; None when there is no new one."""
        kept = self.keeper.keep_newest(self.folder)
        assert isinstance(kept, io.CheckpointStored), kept
        if kept.artifact_id is None:
            return None
        manifest = self.store.manifest(kept.artifact_id)
        assert kept.size_bytes == manifest.size_bytes
        return {
            file.path: self.store.read_range(kept.artifact_id, index, 0, 1000).decode()
            for index, file in enumerate(manifest.files)
        }


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_the_newest_complete_one_is_kept_and_each_once(job: Job) -> None:
    assert job.keep() is None
    job.write("step-1", "one", 1)
    assert job.keep() == {"step-1": "one"}
    assert job.keep() is None
    job.write("step-2/model", "two", 2)
    job.write(".step-3", "hidden", 3)
    job.write("step-3.tmp", "half", 3)
    (job.made / "last").symlink_to("step-2")
    assert job.keep() == {"model": "two"}
    assert job.keep() is None
    # The same name, written anew.
    job.write("step-1", "more", 5)
    assert job.keep() == {"step-1": "more"}
    assert (job.made / "step-2" / "model").read_text() == "two"
    assert sorted(os.listdir(job.folder.path)) == ["assignment", "checkpoint", "output"]


def test_of_one_time_the_greater_name_is_newer(job: Job) -> None:
    job.write("step-1", "one", 7)
    job.write("step-2", "two", 7)
    assert job.keep() == {"step-2": "two"}


def test_a_job_that_took_its_folder_away_has_none(job: Job) -> None:
    job.made.rmdir()
    assert job.keep() is None
    job.made.write_text("a file")
    assert job.keep() is None


def test_one_that_is_replaced_while_it_is_copied_gives_way_to_the_next(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.write("step-1", "one", 1)
    copy = disk.clone_file

    def copy_late(source: Path, target: Path, mode: int, *, real: str | None = None) -> None:
        if source.name == "step-1":
            (job.made / "step-1").unlink()
            job.write("step-2", "two", 2)
        copy(source, target, mode, real=real)

    monkeypatch.setattr(checkpoints, "clone_file", copy_late)
    assert job.keep() == {"step-2": "two"}
    assert len(job.store.ids()) == 1


def test_p4_one_that_is_written_to_meanwhile_is_never_stored(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.write("last", "one", 1)
    copy = disk.clone_file
    number = 1

    def write_on(source: Path, target: Path, mode: int, *, real: str | None = None) -> None:
        nonlocal number
        copy(source, target, mode, real=real)
        number += 1
        job.write("last", "x" * number, number)

    monkeypatch.setattr(checkpoints, "clone_file", write_on)
    failed = job.keeper.keep_newest(job.folder)
    assert isinstance(failed, io.CheckpointFailed)
    assert failed.failure.failure_class is FailureClass.USER_ERROR
    assert "rename it when it is complete" in failed.failure.message
    assert job.store.ids() == []
    assert number == 1 + checkpoints.TRIES_MAX
    monkeypatch.undo()
    assert job.keep() == {"last": "x" * number}


def test_p11_a_checkpoint_that_is_no_tree_of_files_is_the_jobs_error(job: Job) -> None:
    job.write("step-1/model", "one", 1)
    os.mkfifo(job.made / "step-1" / "pipe")
    failed = job.keeper.keep_newest(job.folder)
    assert isinstance(failed, io.CheckpointFailed)
    assert failed.failure.failure_class is FailureClass.USER_ERROR
    assert job.store.ids() == []


def test_p12_a_full_disk_is_told_as_such(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.write("step-1", "one", 1)

    def full(source: Path, target: Path, mode: int, *, real: str | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "clone_file", full)
    failed = job.keeper.keep_newest(job.folder)
    assert isinstance(failed, io.CheckpointFailed)
    assert failed.failure.failure_class is FailureClass.DISK
    monkeypatch.undo()
    assert job.keep() == {"step-1": "one"}


def test_a_daemon_that_took_over_keeps_the_same_artifact_again(job: Job) -> None:
    job.write("step-1", "one", 1)
    first = job.keeper.keep_newest(job.folder)
    assert Checkpoints(job.store, "n1").keep_newest(job.folder) == first
    job.keeper.forget("j.1")
    assert job.keeper.keep_newest(job.folder) == first


# --- what the job is told -------------------------------------------------------------------


def test_a_job_is_told_where_checkpoints_go_and_what_it_goes_on_from(
    tmp_path: Path, job: Job
) -> None:
    source = tmp_path / "former"
    source.mkdir()
    (source / "model").write_text("weights")
    former = ArtifactNeed(artifact_id(job.store.add_tree(source)), ())
    one = msgspec.structs.replace(
        assignment("j.2", work=TrainingWork({"mode": "base_only"})),
        checkpoint_every_s=90.0,
        resume=former,
    )
    folder = AttemptFolder(tmp_path, one)
    folder.make()
    assert folder.needs_copies
    folder.lay_out(job.store)
    launch = folder.launch(HostRules())
    assert launch.env["MESHTRAIN_CHECKPOINT"] == folder.checkpoints
    assert launch.env["MESHTRAIN_CHECKPOINT_EVERY_S"] == "90"
    assert launch.env["MESHTRAIN_RESUME"] == folder.resume
    assert Path(folder.resume or "", "model").read_text() == "weights"
    assert Path(folder.checkpoints).is_dir()
    assert launch.call is not None
    request = msgspec.json.decode(Path(launch.call).read_bytes())
    assert request["checkpoint"] == folder.checkpoints
    assert request["checkpoint_every_s"] == 90.0
    assert request["resume"] == folder.resume


def test_a_job_that_makes_none_is_told_nothing(tmp_path: Path) -> None:
    folder = AttemptFolder(tmp_path, assignment("j.3", work=TrainingWork({"mode": "base_only"})))
    folder.make()
    launch = folder.launch(HostRules())
    assert not any("CHECKPOINT" in name or "RESUME" in name for name in launch.env)
    assert launch.call is not None
    request = msgspec.json.decode(Path(launch.call).read_bytes())
    assert request["checkpoint"] is request["checkpoint_every_s"] is request["resume"] is None


def test_why_a_checkpoint_is_not_kept_is_told_once_for_each_reason(job: Job) -> None:
    def failure() -> io.CheckpointFailed:
        failed = job.keeper.keep_newest(job.folder)
        assert isinstance(failed, io.CheckpointFailed)
        return failed

    job.write("step-1/weights", "weights", 1)
    (job.made / "step-1" / "link").symlink_to("/etc")
    assert [job.keeper.is_news(failure()) for _ in range(3)] == [True, False, False]
    (job.made / "step-1" / "link").unlink()
    os.mkfifo(job.made / "step-1" / "pipe")
    assert [job.keeper.is_news(failure()) for _ in range(2)] == [True, False]
    job.keeper.forget("j.1")
    assert job.keeper.is_news(failure())


def test_p12_what_a_killed_daemon_had_copied_of_a_checkpoint_is_removed(job: Job) -> None:
    making = Path(job.folder.path, f"{checkpoints.MAKING_PREFIX}0123")
    making.mkdir()
    (making / "weights").write_text("half of them")
    job.write("step-1", "weights", 1)
    checkpoints.remove_unfinished(Path(job.folder.path))
    assert not making.exists()
    assert job.keep() == {"step-1": "weights"}
