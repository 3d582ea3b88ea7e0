"""The hash of what lies on a share: the same for the same files, another for every change."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.artifacts.listing import list_share

NAMES = st.text("ab.\n é", min_size=1, max_size=3).filter(lambda n: n not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATHS, st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=6)
"""Path → size in bytes, time of change in seconds."""

Files = dict[str, tuple[int, int]]


def plain(files: Files) -> Files:
    """Without files whose path would have to be a folder too."""
    return {
        path: found
        for path, found in files.items()
        if not any(other.startswith(f"{path}/") for other in files)
    }


def lay_out(folder: Path, files: Files) -> None:
    for relpath, (size_bytes, time_s) in files.items():
        path = folder / relpath
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size_bytes)
        os.utime(path, (0, 1_000_000_000 + time_s))


def digest_of(files: Files) -> str:
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder), files)
        listing = list_share(folder)
        assert listing.files_count == len(files)
        assert listing.size_bytes == sum(size for size, _ in files.values())
        return listing.digest


@settings(max_examples=60, deadline=None)
@given(FILES.map(plain), FILES.map(plain))
def test_two_listings_have_one_digest_exactly_if_all_paths_sizes_and_times_agree(
    ours: Files, theirs: Files
) -> None:
    assert (digest_of(ours) == digest_of(theirs)) == (ours == theirs)


@settings(max_examples=40, deadline=None)
@given(FILES.map(plain).filter(bool), st.data())
def test_one_change_changes_it_and_taking_it_back_gives_it_back(
    files: Files, data: st.DataObject
) -> None:
    before = digest_of(files)
    path = data.draw(st.sampled_from(sorted(files)))
    size_bytes, time_s = files[path]
    for changed in (
        {**files, path: (size_bytes + 1, time_s)},
        {**files, path: (size_bytes, time_s + 1)},
        {other: found for other, found in files.items() if other != path},
    ):
        assert digest_of(changed) != before
    assert digest_of(dict(reversed(files.items()))) == before
