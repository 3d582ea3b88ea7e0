"""Which files travel as the code of a job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meshtrain.artifacts import snapshot
from meshtrain.artifacts.snapshot import (
    file_digests,
    largest,
    snapshot_files,
    snapshot_manifest,
)
from meshtrain.core.manifest import digest_of
from meshtrain.errors import UserError

LIMIT = 1 << 20


def git(folder: Path, *args: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "protocol.file.allow=always",
    ]
    subprocess.run(
        ["git", *who, "-C", str(folder), *args], check=True, capture_output=True, env=env
    )


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q")
    write(folder / ".gitignore", "*.ckpt\ndata/\n")
    write(folder / "train.py", "committed")
    write(folder / "gone.py")
    write(folder / "src" / "model.py")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_tracked_changed_and_new_files_travel_and_ignored_ones_do_not(repo: Path) -> None:
    write(repo / "train.py", "changed, not committed")
    (repo / "gone.py").unlink()
    write(repo / "src" / "new module é.py")
    write(repo / "big.ckpt")
    write(repo / "data" / "p01.npz")
    files = snapshot_files(repo, LIMIT)
    assert files == [".gitignore", "src/model.py", "src/new module é.py", "train.py"]
    digests = file_digests(repo, files)
    assert digests["train.py"] == digest_of(b"changed, not committed")
    assert snapshot_manifest(repo, files).file_digests() == digests


def test_a_folder_inside_a_work_tree_is_taken_alone(repo: Path) -> None:
    assert snapshot_files(repo / "src", LIMIT) == ["model.py"]


def test_a_hook_that_sets_git_dir_changes_nothing(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert "train.py" in snapshot_files(repo, LIMIT)


def test_outside_of_git_everything_travels_but_caches(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    write(folder / "train.py")
    write(folder / "deep" / "er" / "x.txt")
    for left_out in ("__pycache__/a", ".venv/bin/python", ".git/config", "old.pyc", "deep/b.pyc"):
        write(folder / left_out)
    (folder / ".git" / "config").unlink()
    assert snapshot_files(folder, LIMIT) == ["deep/er/x.txt", "train.py"]


def test_without_git_installed_the_folder_is_walked(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    write(repo / "big.ckpt")
    assert "big.ckpt" in snapshot_files(repo, LIMIT)
    assert not any(path.startswith(".git/") for path in snapshot_files(repo, LIMIT))


def test_a_folder_that_is_ignored_itself_is_walked(repo: Path) -> None:
    write(repo / "data" / "experiment" / "train.py")
    assert snapshot_files(repo / "data" / "experiment", LIMIT) == ["train.py"]


def test_a_broken_work_tree_is_told_not_walked(repo: Path) -> None:
    write(repo / ".git" / "index", "no index")
    with pytest.raises(UserError, match="git can't list the files"):
        snapshot_files(repo, LIMIT)


def test_a_work_tree_that_git_does_not_trust_is_told_with_a_mend(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UserError, match=r"work tree of another user.*meshtrain submit"):
        snapshot_files(repo, LIMIT)


def test_work_trees_inside_are_taken_by_their_own_rules(repo: Path, tmp_path: Path) -> None:
    inner = repo / "vendored"
    inner.mkdir()
    git(inner, "init", "-q")
    write(inner / ".gitignore", "secret\n")
    write(inner / "lib.py")
    write(inner / "secret")
    assert "vendored/lib.py" in snapshot_files(repo, LIMIT)
    assert "vendored/secret" not in snapshot_files(repo, LIMIT)
    git(inner, "add", ".")
    git(inner, "commit", "-qm", "inner")
    git(repo, "submodule", "add", "-q", str(inner), "sub")
    assert "sub/lib.py" in snapshot_files(repo, LIMIT)


def test_above_the_limit_the_ten_largest_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    for size in range(1, 13):
        write(folder / f"file{size:02}", "x" * size * 100)
    with pytest.raises(UserError) as caught:
        snapshot_files(folder, 5000)
    message = str(caught.value)
    assert "7,800 bytes in 12 files" in message
    assert "1,200  file12" in message
    assert "file03" in message
    assert "file02" not in message
    assert len(snapshot_files(folder, 7800)) == 12


def test_a_link_inside_travels_as_the_file_it_points_at(repo: Path) -> None:
    (repo / "link.py").symlink_to("src/model.py")
    files = snapshot_files(repo, LIMIT)
    assert "link.py" in files
    assert file_digests(repo, files)["link.py"] == digest_of(b"x")


@pytest.mark.parametrize(
    ("target", "words"),
    [("../outside", "outside of"), ("nowhere", "not there"), ("src", "link to a folder")],
)
def test_any_other_link_is_refused(repo: Path, target: str, words: str) -> None:
    write(repo.parent / "outside")
    (repo / "link").symlink_to(target)
    with pytest.raises(UserError, match=words) as caught:
        snapshot_files(repo, LIMIT)
    assert "link" in str(caught.value)


def test_a_link_that_turns_outside_later_is_refused_too(repo: Path) -> None:
    (repo / "link.py").symlink_to("src/model.py")
    files = snapshot_files(repo, LIMIT)
    (repo / "link.py").unlink()
    (repo / "link.py").symlink_to(write(repo.parent / "outside"))
    with pytest.raises(UserError, match="outside of"):
        snapshot_manifest(repo, files)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "a/../train.py", ""])
def test_paths_that_leave_the_folder_are_refused(repo: Path, path: str) -> None:
    write(repo.parent / "outside")
    with pytest.raises(UserError, match="can't be part of a snapshot"):
        snapshot_manifest(repo, [path])


def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no regular file"):
        snapshot_files(tmp_path, LIMIT)


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        snapshot_files(tmp_path / "nowhere", LIMIT)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "FILES_MAX", 1)
    write(tmp_path / "a")
    write(tmp_path / "b")
    with pytest.raises(UserError, match="too large"):
        snapshot_files(tmp_path, LIMIT)


def test_a_meshtrainignore_leaves_out_more_also_of_what_git_tracks(repo: Path) -> None:
    write(repo / "weights" / "big.bin")
    write(repo / "weights" / "README")
    git(repo, "add", ".")
    write(repo / ".meshtrainignore", "# not needed\n/weights/*\n!README\ngone.py\n")
    files = snapshot_files(repo, LIMIT)
    assert files == [
        ".gitignore",
        ".meshtrainignore",
        "src/model.py",
        "train.py",
        "weights/README",
    ]


def test_outside_of_git_it_keeps_even_what_can_not_travel_away(tmp_path: Path) -> None:
    write(tmp_path / "train.py")
    write(tmp_path / ".meshtrainignore", "runs/\n*.sock\n")
    (tmp_path / "runs").mkdir()
    os.mkfifo(tmp_path / "runs" / "pipe")
    os.mkfifo(tmp_path / "a.sock")
    assert snapshot_files(tmp_path, LIMIT) == [".meshtrainignore", "train.py"]


def test_outside_of_git_environments_and_caches_stay_whatever_they_are_called(
    tmp_path: Path,
) -> None:
    write(tmp_path / "train.py")
    write(tmp_path / "my-env" / "pyvenv.cfg")
    write(tmp_path / "my-env" / "bin" / "python")
    for folder in (".hg", "node_modules", ".ipynb_checkpoints", "a.egg-info", ".mypy_cache"):
        write(tmp_path / folder / "x")
    assert snapshot_files(tmp_path, LIMIT) == ["train.py"]


def test_p11_a_meshtrainignore_that_is_no_text_is_told(tmp_path: Path) -> None:
    write(tmp_path / "train.py")
    (tmp_path / ".meshtrainignore").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="no text in UTF-8"):
        snapshot_files(tmp_path, LIMIT)
    (tmp_path / ".meshtrainignore").write_bytes(b"x\n" * (1 << 20))
    with pytest.raises(UserError, match="Write fewer patterns"):
        snapshot_files(tmp_path, LIMIT)


def test_above_the_limit_the_ten_largest_and_the_ways_out_are_named(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"f{number:02}", "x" * (100 + number))
    with pytest.raises(UserError) as caught:
        snapshot_files(tmp_path, 500, or_else="say --allow-large-code")
    told = str(caught.value)
    shown = [line.split()[-1] for line in told.splitlines() if line.startswith("   ")]
    assert shown == [f"f{number:02}" for number in range(11, 1, -1)]
    assert "1,266 bytes in 12 files, the limit is 500" in told
    assert ".meshtrainignore" in told
    assert "say --allow-large-code" in told
    assert len(snapshot_files(tmp_path, None)) == 12


def test_the_largest_come_first_and_of_two_alike_the_first_name() -> None:
    assert largest({"b": 1, "a": 1, "c": 5}, 2) == [("c", 5), ("a", 1)]


def test_p11_a_pipe_in_the_place_of_the_patterns_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who else writes to a dropped folder may put one there after the look."""
    patterns = write(tmp_path / ".meshtrainignore", "runs/\n")
    look = Path.is_file

    def look_then_swap(path: Path) -> bool:
        found = look(path)
        if path == patterns:
            path.unlink()
            os.mkfifo(path)
        return found

    monkeypatch.setattr(Path, "is_file", look_then_swap)
    with pytest.raises(UserError, match="is no plain file"):
        snapshot_files(tmp_path, LIMIT)
