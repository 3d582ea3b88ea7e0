"""An archive is tried once, at the master's start; one that served before may be away then."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from meshtrain.archive.failures import ArchiveAwayError, ArchiveExtraError
from meshtrain.archive.opening import MARK_FILE, read_mark
from meshtrain.errors import SettingsError
from meshtrain.store.base import ArchiveEntry, ArchiveState
from meshtrain.store.memory import MemoryStore
from meshtrain_daemon.master import archive_opening
from meshtrain_daemon.master.archive_opening import open_archive
from meshtrain_daemon.master.patient_thread import in_patient_thread


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    share.mkdir()
    return share


async def opened(url: Path | str, store: MemoryStore, said: list[str]) -> str | None:
    archive = await open_archive(str(url), store, said.append)
    assert archive.mark == store.archive_mark(archive.target.url)
    return archive.mark


def use(store: MemoryStore, url: Path) -> None:
    entry = ArchiveEntry("bases/r/1", "a" * 32, "r", ArchiveState.DONE, 1)
    store.save_archived(str(url), [entry])
    store.commit()


async def test_the_mark_is_in_the_store_before_it_is_in_the_archive(share: Path) -> None:
    store, said = MemoryStore(), list[str]()
    mark = await opened(share, store, said)
    assert read_mark((await open_archive(str(share), store, said.append)).target) == mark
    # A master that was killed between the two writes the mark at its next start.
    (share / MARK_FILE).unlink()
    assert await opened(share, store.reopened(), said) == mark
    assert (share / MARK_FILE).exists()
    assert said == []


async def test_one_that_never_served_and_is_away_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ArchiveAwayError, match=r"tried at the master's start.*take `archive` out"):
        await opened(tmp_path / "nowhere", MemoryStore(), [])


async def test_one_that_served_and_is_away_is_told_and_waited_for(
    share: Path, tmp_path: Path
) -> None:
    store, said = MemoryStore(), list[str]()
    await opened(share, store, said)
    use(store, share)
    share.rename(tmp_path / "away")
    assert await opened(share, store, said)
    assert "waits until it is back" in said[0]
    share.mkdir()
    assert await opened(share, store, said)
    assert "Mount its share" in said[1]
    assert list(share.iterdir()) == []


async def test_another_meshs_archive_ends_the_start_though_it_is_there(share: Path) -> None:
    await opened(share, MemoryStore(), [])
    with pytest.raises(SettingsError, match=r"archive = .*another mesh"):
        await opened(share, MemoryStore(), [])


async def test_one_that_hangs_ends_the_start_with_a_word(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(archive_opening, "try_out", lambda *a, **k: goes_on.wait())
    store, said = MemoryStore(), list[str]()
    with pytest.raises(ArchiveAwayError, match=r"not answered for 0\.01 s"):
        await open_archive(str(share), store, said.append, try_s_max=0.01)
    use(store, share)
    await open_archive(str(share), store, said.append, try_s_max=0.01)
    assert "not answered" in said[0]
    goes_on.set()


async def test_a_missing_extra_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArchiveExtraError, match="not installed"):
        await opened("s3://bucket/p", MemoryStore(), [])


async def test_a_thread_that_fails_fails_its_asker() -> None:
    def work() -> int:
        raise ArchiveAwayError("no")

    with pytest.raises(ArchiveAwayError, match="no"):
        await in_patient_thread(work, "test")
    assert await in_patient_thread(lambda: 3, "test") == 3
