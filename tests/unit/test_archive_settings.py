"""How an archive's place is written, and what is refused before anything is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.errors import SettingsError
from meshtrain.spec.archive_url import ArchiveWhat
from meshtrain.spec.settings_loading import master_settings


@pytest.mark.parametrize(
    ("written", "known_as"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
        ("/mnt/share/mesh", "/mnt/share/mesh"),
        ("/mnt/share/mesh/", "/mnt/share/mesh"),
        ("file:///mnt/share/mesh", "/mnt/share/mesh"),
        ("file:///mnt/a%20share/", "/mnt/a share"),
        ("local:///mnt/share", "/mnt/share"),
        ("~/archive", str(Path.home() / "archive")),
        ("sftp://mesh@nas.lab/data/mesh", "sftp://mesh@nas.lab/data/mesh"),
        (
            "abfs://container@account.dfs.core.windows.net/p",
            "abfs://container@account.dfs.core.windows.net/p",
        ),
    ],
)
def test_one_place_has_one_name(written: str, known_as: str) -> None:
    assert master_settings(flags={"archive": written}).archive == known_as
    assert master_settings(env={"MESHTRAIN_ARCHIVE": written}).archive == known_as


@pytest.mark.parametrize(
    ("written", "mend"),
    [
        ("", "no URL"),
        ("bucket/prefix", "no URL: write s3://bucket/prefix"),
        ("s3://", "names no place"),
        ("s3:///", "names no place"),
        ("file://nas/share", "three slashes"),
        ("/", "a folder of its own"),
        ("/mnt/../etc", "`..`"),
        ("s3://bucket/../other", "`..`"),
        ("s3://bucket/a b", "blank"),
        ("simplecache::s3://bucket/p", "no URL"),
        ("s3://bucket/p::zip://x", "joined"),
        ("s3://bucket/p?key=AKIA", "environment"),
        ("s3://" + "x" * 2000, "no URL"),
        (17, "no URL"),
    ],
)
def test_p11_what_is_no_place_is_told_with_the_mend(written: object, mend: str) -> None:
    with pytest.raises(SettingsError) as told:
        master_settings(flags={"archive": written})
    assert "flag --archive" in str(told.value)
    assert mend in str(told.value)


def test_a_password_in_the_url_is_refused_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "master.toml"
    for url in ("s3://AKIA:hunter2@bucket/p", "sftp://mesh:hunter2@nas/p", "file://a:hunter2@h/x"):
        file.write_text(f'host = "127.0.0.1"\narchive = "{url}"\n')
        with pytest.raises(SettingsError, match=r"line 2.*password") as told:
            master_settings(file)
        assert "hunter2" not in str(told.value)
        assert "docs/reference/archive.md" in str(told.value)


def test_what_is_archived_can_be_chosen() -> None:
    assert master_settings().archive_what == ArchiveWhat.BOTH
    for name, results, bases in [("both", 1, 1), ("results", 1, 0), ("bases", 0, 1)]:
        what = ArchiveWhat(master_settings(flags={"archive_what": name}).archive_what)
        assert (what.results, what.bases) == (bool(results), bool(bases))
    with pytest.raises(SettingsError, match="one of results, bases, both"):
        master_settings(flags={"archive_what": "all"})
