"""Folders of attempts that are over: kept when nothing was left in them, removed otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.core.commands import AssignAttempt
from meshtrain.spec.jobs import CommandWork
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.frames import EXIT_FILE, RECORD_BYTES, STARTED_FILE
from meshtrain_daemon.worker.janitor import SPARES_MAX, Janitor


def folder_of(attempts: Path, number: int) -> AttemptFolder:
    assignment = AssignAttempt(
        attempt_id=f"job.{number}",
        job_id="job",
        name="job",
        epoch=number,
        work=CommandWork("true"),
        gpus=(),
        timeout_s=None,
        recipe_hash=None,
        base=None,
        code=None,
    )
    return AttemptFolder(attempts, assignment)


def over(attempts: Path, number: int) -> AttemptFolder:
    """The folder of a job that ended and left nothing."""
    folder = folder_of(attempts, number)
    folder.make()
    Path(folder.log).touch()
    for name in (STARTED_FILE, EXIT_FILE):
        Path(folder.path, name).write_bytes(b" " * RECORD_BYTES)
    return folder


def cleared(folders: list[AttemptFolder]) -> Janitor:
    """A janitor that has cleared up after these, and whose thread has ended."""
    janitor = Janitor(gather_s=0)
    for folder in folders:
        janitor.clear(folder)
    janitor._thread.shutdown()
    return janitor


def test_a_folder_in_which_nothing_was_left_is_used_again(tmp_path: Path) -> None:
    janitor = cleared([over(tmp_path, 1)])
    spare = janitor.spare()
    assert spare == str(tmp_path / "job.1")
    assert janitor.spare() is None
    later = folder_of(tmp_path, 2)
    later.make(spare)
    assert not (tmp_path / "job.1").exists()
    assert Path(later.output).is_dir() and not list(Path(later.output).iterdir())
    assert Path(later.log).read_bytes() == b""


@pytest.mark.parametrize(
    "leave",
    [
        lambda f: Path(f.log).write_bytes(b"hello"),
        lambda f: Path(f.output, "model").touch(),
        lambda f: Path(f.metrics).touch(),
        lambda f: Path(f.failure).touch(),
        lambda f: Path(f.output).rmdir(),
        lambda f: (Path(f.output).rmdir(), Path(f.output).symlink_to("/")),
        lambda f: Path(f.path, EXIT_FILE).write_bytes(b"x" * (RECORD_BYTES + 1)),
        lambda f: Path(f.path, STARTED_FILE).unlink(),
    ],
)
def test_a_folder_in_which_anything_was_left_is_removed(tmp_path: Path, leave: object) -> None:
    folder = over(tmp_path, 1)
    leave(folder)  # type: ignore[operator]
    janitor = cleared([folder])
    assert janitor.spare() is None
    assert not Path(folder.path).exists()
    assert Path("/").is_dir()


def test_no_more_are_kept_than_are_of_use_and_none_at_the_end(tmp_path: Path) -> None:
    janitor = cleared([over(tmp_path, number) for number in range(SPARES_MAX + 5)])
    assert len(list(tmp_path.iterdir())) == SPARES_MAX
    janitor.close()
    assert list(tmp_path.iterdir()) == []


def test_a_spare_that_has_gone_or_a_name_that_is_taken_costs_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2)
    folder.make(str(tmp_path / "gone"))
    assert Path(folder.output).is_dir()
    Path(folder.output, "old").touch()
    spare = over(tmp_path, 1)
    folder.make(spare.path)
    assert list(Path(folder.output).iterdir()) == []
