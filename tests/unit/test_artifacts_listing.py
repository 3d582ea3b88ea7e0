"""What is listed of a path on a share, and what can't be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshtrain.artifacts import listing
from meshtrain.artifacts.listing import ListingError, list_share


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(b"12345")
    (folder / "index").write_bytes(b"1")
    return folder


def test_files_are_counted_and_their_bytes_are_not_read(share: Path) -> None:
    before = list_share(str(share))
    assert (before.files_count, before.size_bytes) == (2, 6)
    assert list_share(f"{share}/") == before
    info = (share / "index").stat()
    (share / "index").write_bytes(b"2")
    os.utime(share / "index", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert list_share(str(share)) == before


def test_an_empty_folder_and_a_finer_time_change_nothing(share: Path) -> None:
    os.utime(share / "index", ns=(0, 1_000_000_000_123_456_000))
    before = list_share(str(share))
    (share / "empty").mkdir()
    os.utime(share / "index", ns=(0, 1_000_000_000_123_456_789))
    assert list_share(str(share)) == before


def test_a_link_counts_by_where_it_points(share: Path) -> None:
    (share / "last").symlink_to("images/1.png")
    before = list_share(str(share))
    assert before.files_count == 2
    (share / "last").unlink()
    (share / "last").symlink_to("index")
    assert list_share(str(share)) != before


def test_a_link_to_a_share_and_one_file_are_listed(share: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(share)
    assert list_share(str(tmp_path / "link")) == list_share(str(share))
    one = list_share(str(share / "index"))
    assert (one.files_count, one.size_bytes) == (1, 1)


def test_p11_what_can_not_be_listed_is_told_with_its_place(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ListingError, match=r"nowhere: No such file"):
        list_share(str(share / "nowhere"))
    os.mkfifo(share / "pipe")
    with pytest.raises(ListingError, match=r"pipe is a device, pipe or socket"):
        list_share(str(share))
    with pytest.raises(ListingError, match="neither a folder nor a file"):
        list_share(str(share / "pipe"))
    (share / "pipe").unlink()
    monkeypatch.setattr(listing, "ENTRIES_MAX", 2)
    with pytest.raises(ListingError, match="more than 2 files"):
        list_share(str(share))


def test_a_listing_that_nobody_waits_for_any_more_is_given_up(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / str(number)).touch()
    with pytest.raises(ListingError, match="not listed to its end"):
        list_share(str(tmp_path), is_cancelled=lambda: True)
