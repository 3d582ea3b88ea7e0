"""Where a job finds its data, and what is looked at before it starts."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from worker_records import assignment

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.listing import Listing, list_share, share_data
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.manifest import artifact_id
from meshtrain.errors import ArtifactError
from meshtrain.spec.jobs import CommandWork, InputData, TrainingWork
from meshtrain_daemon.worker import input_paths as module
from meshtrain_daemon.worker.input_paths import ShareChecks, input_paths


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "w").write_bytes(b"12")
    return folder


def reading(**inputs: InputData) -> AssignAttempt:
    return assignment(work=CommandWork("x", inputs=inputs))


def shared(share: Path) -> AssignAttempt:
    return reading(d=share_data(str(share), "here"))


# --- data sets ------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def published(store: ArtifactStore, tmp_path: Path) -> InputData:
    folder = tmp_path / "data"
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "images" / "deep" / "1").write_bytes(b"1")
    (folder / "index").write_bytes(b"2")
    return InputData("voc@1", artifact_id(store.add_tree(folder)))


def test_a_data_set_is_read_where_the_node_keeps_it_and_nothing_in_it_can_be_written(
    store: ArtifactStore, tmp_path: Path
) -> None:
    data = published(store, tmp_path)
    for _ in range(2):
        paths = input_paths(reading(d=data, e=data), store)
    assert paths["d"] == paths["e"]
    root = Path(paths["d"])
    assert (root / "images" / "deep" / "1").read_bytes() == b"1"
    found = [root, *root.rglob("*")]
    assert len(found) == 5
    assert all(not path.stat().st_mode & 0o222 for path in found)
    assert store.verify(data.digest)
    store.remove(data.digest)
    assert not root.exists()


def test_a_data_set_that_went_is_told_by_its_name(store: ArtifactStore, tmp_path: Path) -> None:
    data = published(store, tmp_path)
    store.remove(data.digest)
    with pytest.raises(ArtifactError, match=r"voc@1 .* is no longer on this node"):
        input_paths(reading(d=data), store)


def test_a_share_is_its_own_path_and_training_reads_none(store: ArtifactStore, share: Path) -> None:
    assert input_paths(shared(share), store) == {"d": str(share)}
    assert input_paths(assignment(work=TrainingWork({})), store) == {}


# --- shares ---------------------------------------------------------------------------


async def test_p5_a_share_that_is_as_it_was_may_be_read(share: Path) -> None:
    checks = ShareChecks("n1")
    assert await checks.why_not(shared(share)) == ""
    assert await checks.why_not(reading(d=InputData("voc@1", "0" * 32))) == ""
    await checks.close()


async def test_p5_each_change_since_is_told_with_both_numbers(share: Path) -> None:
    checks = ShareChecks("n1")
    job = shared(share)
    (share / "more").write_bytes(b"123")
    told = await checks.why_not(job)
    assert told.startswith(f"{share} on n1 isn't what the sweep was submitted with")
    assert "2 files of 5 bytes there, 1 of 2 then" in told
    (share / "more").unlink()
    assert await checks.why_not(job) == "", "each start is a new look"
    (share / "w").rename(share / "v")
    assert "names or times of change differ" in await checks.why_not(job)


async def test_a_share_that_is_not_mounted_is_told(share: Path, tmp_path: Path) -> None:
    job = shared(share)
    share.rename(tmp_path / "elsewhere")
    told = await ShareChecks("n1").why_not(job)
    assert told == f"{share} can't be read on n1: {share}: No such file or directory"


class Lister:
    """Lists when it is let; counts how often."""

    def __init__(self) -> None:
        self.may_end = threading.Semaphore(0)
        self.began = 0

    def list(self, path: str, *, is_cancelled: object) -> Listing:
        self.began += 1
        assert self.may_end.acquire(timeout=20)
        return list_share(path)


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_jobs_that_start_meanwhile_share_the_next_look_and_never_an_older_one(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lister = Lister()
    monkeypatch.setattr(module, "list_share", lister.list)
    checks = ShareChecks("n1")
    job = shared(share)
    first = asyncio.create_task(checks.why_not(job))
    await until(lambda: lister.began == 1)
    others = [asyncio.create_task(checks.why_not(job)) for _ in range(5)]
    # So that they have all asked.
    await until(lambda: len(asyncio.all_tasks()) >= 8)
    (share / "more").write_bytes(b"1")
    lister.may_end.release()
    assert "isn't what" in await first
    (share / "more").unlink()
    lister.may_end.release()
    assert await asyncio.gather(*others) == [""] * 5
    assert lister.began == 2
    await checks.close()


async def test_a_share_that_hangs_is_told_and_no_second_look_hangs_with_it(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lister = Lister()
    monkeypatch.setattr(module, "list_share", lister.list)
    checks = ShareChecks("n1", listed_within_s=0.01)
    assert "was not listed within 0.01 s" in await checks.why_not(shared(share))
    lister.may_end.release()
    await checks.close()
