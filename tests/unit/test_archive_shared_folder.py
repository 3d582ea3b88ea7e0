"""P11: an archive on a share that others write to: nothing below it leads the master elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meshtrain.archive.failures import ArchiveRefusedError, NotArchivedError
from meshtrain.archive.folder_target import PART_SUFFIX, FolderTarget
from meshtrain.ids import digest

SECRET = b"the list of members"
FILE = "results/sweep/config.json"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the master's own, which nobody else writes to."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "config.json").write_bytes(SECRET)
    return folder


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    (share / "results" / "sweep").mkdir(parents=True)
    return share


def part_of(path: Path) -> Path:
    return path.with_name(f".{digest(path.name.encode())[:16]}{PART_SUFFIX}")


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["link", "second name"])
def test_p11_what_lies_under_the_passing_name_is_not_written_to(
    share: Path, elsewhere: Path, plant: Callable[[Path, Path], None]
) -> None:
    victim = elsewhere / "config.json"
    plant(victim, part_of(share / FILE))
    FolderTarget(share).write(FILE, (b"ours",), 4)
    assert victim.read_bytes() == SECRET
    assert (share / FILE).read_bytes() == b"ours" and not (share / FILE).is_symlink()
    assert not part_of(share / FILE).exists()


def test_p11_a_link_in_the_place_of_the_file_is_replaced_and_not_read(
    share: Path, elsewhere: Path
) -> None:
    (share / FILE).symlink_to(elsewhere / "config.json")
    target = FolderTarget(share)
    with pytest.raises(ArchiveRefusedError, match="links below the archive aren't followed"):
        target.read(FILE, 100)
    assert target.sizes("results") == {}
    target.write(FILE, (b"ours",), 4)
    assert (elsewhere / "config.json").read_bytes() == SECRET
    assert target.read(FILE, 100) == b"ours"
    assert target.sizes("results") == {"sweep/config.json": 4}


@pytest.mark.parametrize("name", ["results", "results/sweep"])
def test_p11_a_link_in_the_place_of_a_folder_is_not_followed(
    share: Path, elsewhere: Path, name: str
) -> None:
    (share / "results" / "sweep").rmdir()
    if name == "results":
        (share / name).rmdir()
        (elsewhere / "sweep").mkdir()
        (elsewhere / "sweep" / "config.json").write_bytes(SECRET)
    (share / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*.json")}
    target = FolderTarget(share)
    for act in (
        lambda: target.write(FILE, (b"ours",), 4),
        lambda: target.read(FILE, 100),
        lambda: target.remove(FILE),
        lambda: target.sizes("results/sweep"),
    ):
        with pytest.raises(ArchiveRefusedError, match="links below the archive aren't followed"):
            act()
    assert {path: path.read_bytes() for path in elsewhere.rglob("*.json")} == before


def test_p11_a_pipe_in_the_place_of_a_file_holds_nobody_up(share: Path) -> None:
    os.mkfifo(share / FILE)
    target = FolderTarget(share)
    with pytest.raises(ArchiveRefusedError, match="no plain file"):
        target.read(FILE, 100)
    os.mkfifo(part_of(share / FILE))
    target.write(FILE, (b"ours",), 4)
    assert target.read(FILE, 100) == b"ours"


def test_the_archive_s_own_folder_may_be_named_by_a_link(share: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(share)
    target = FolderTarget(tmp_path / "named")
    target.write("bases/r/weights", (b"ab", b"c"), 3)
    assert (share / "bases" / "r" / "weights").read_bytes() == b"abc"
    assert target.sizes("bases") == {"r/weights": 3}
    assert target.sizes("nowhere") == {}
    target.remove("bases/r/weights")
    target.remove("bases/r/weights")
    with pytest.raises(NotArchivedError):
        target.open("bases/r/weights")
