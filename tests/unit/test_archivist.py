"""Results and bases go to the archive as they come: none forgotten, none twice, whatever fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from archive_mesh import RECIPE, ArchiveMesh

from meshtrain.core import events as ev
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.errors import UserError
from meshtrain.spec.archive_url import ArchiveWhat
from meshtrain.store.base import ArchiveState, Store
from meshtrain.store.failures import StoreFullError
from meshtrain_daemon.master.archive_queue import REST_S_MAX, rest_s


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[ArchiveMesh]:
    mesh = ArchiveMesh(tmp_path)
    mesh.archive()
    yield mesh
    mesh.share.hangs.set()
    await mesh.stop()


def place(mesh: ArchiveMesh, job_id: str, sweep: str = "study") -> str:
    fold = job_id.rpartition("-")[2]
    return f"results/{sweep}/fold={fold}/{mesh.given[job_id].attempt_id}"


async def test_what_ends_goes_there_under_names_that_people_know(mesh: ArchiveMesh) -> None:
    mesh.submit(base=True)
    mesh.end(mesh.base_job, "model")
    mesh.end("s1-0")
    await mesh.until_done(2)
    base = f"bases/{RECIPE}/1"
    assert mesh.lies_there() == {base, place(mesh, "s1-0")}
    root = mesh.root / "share"
    assert (root / base / "files" / "metrics.json").read_text() == "model"
    about = json.loads((root / base / "manifest.json").read_bytes())["about"]
    assert (about["kind"], about["recipe"], about["trained_on"]) == ("base", {"lr": 1}, "n1")
    about = json.loads((root / place(mesh, "s1-0") / "manifest.json").read_bytes())["about"]
    assert (about["kind"], about["cell"], about["state"]) == ("result", {"fold": 0}, "succeeded")
    assert (about["sweep"], about["base"]) == ("s1", RECIPE)
    sweep = mesh.state.sweeps["s1"]
    assert mesh.archivist.results_count(sweep) == 1
    assert mesh.archivist.has_base(mesh.state.bases[RECIPE].artifact_id)
    assert not mesh.archivist.has_base(None)
    assert mesh.posted == [ev.BasesArchived((mesh.state.bases[RECIPE].artifact_id or "",))]
    assert mesh.notes == []


@pytest.mark.parametrize(
    ("what", "kinds"),
    [(ArchiveWhat.RESULTS, {"results"}), (ArchiveWhat.BASES, {"bases"})],
)
async def test_only_what_is_wanted_goes_there(
    tmp_path: Path, what: ArchiveWhat, kinds: set[str]
) -> None:
    mesh = ArchiveMesh(tmp_path)
    mesh.archive(what)
    mesh.submit(base=True)
    mesh.end(mesh.base_job, "model")
    mesh.end("s1-0")
    await mesh.until_done(1)
    assert {name.partition("/")[0] for name in mesh.lies_there()} == kinds
    await mesh.stop()

    # Later the rest is wanted too, of what is there already.
    mesh.start_master()
    mesh.archive()
    await mesh.until_done(2)
    await mesh.stop()


async def test_a_job_that_failed_leaves_nothing_to_archive(mesh: ArchiveMesh) -> None:
    mesh.submit(jobs=2)
    mesh.do(ev.CancelRequested("c", ("s1-1",)))
    mesh.end("s1-0")
    await mesh.until_done(1)
    assert mesh.archivist.status()["queued"] == 0


async def test_p1_a_master_that_is_killed_forgets_nothing_and_sends_nothing_twice(
    tmp_path: Path,
) -> None:
    mesh = ArchiveMesh(tmp_path)
    mesh.archive()
    mesh.submit(jobs=4)
    mesh.end("s1-0")
    await mesh.until_done(1)
    mesh.share.away = True
    mesh.end("s1-1")
    await mesh.until(lambda: len(mesh.store.archive_entries(mesh.share.url)) == 2)
    await mesh.stop()
    # This one ended while nobody archived.
    mesh.reporter.on_ended = lambda job: None
    mesh.end("s1-2")
    mesh.share.away = False
    mesh.share.written.clear()

    mesh.start_master()
    mesh.archive()
    await mesh.until_done(3)
    assert mesh.lies_there() == {place(mesh, f"s1-{i}") for i in range(3)}
    assert not any(place(mesh, "s1-0") in path for path in mesh.share.written)
    await mesh.stop()


async def test_a_base_whose_generation_was_superseded_while_it_waited_still_goes(
    mesh: ArchiveMesh,
) -> None:
    mesh.submit(base=True)
    mesh.share.away = True
    first = mesh.end(mesh.base_job, "model")
    await mesh.until(lambda: mesh.archivist.status()["queued"] == 1)
    mesh.do(ev.RebuildRequested("r", RECIPE))
    mesh.share.away = False
    await mesh.until_done(1)
    told = json.loads((mesh.root / "share" / "bases" / RECIPE / "1" / "manifest.json").read_bytes())
    assert told["artifact_id"] == first
    assert told["about"] == {"kind": "base", "recipe_hash": RECIPE, "recipe": {"lr": 1}}


async def test_a_share_that_is_away_is_told_once_and_so_is_its_return(mesh: ArchiveMesh) -> None:
    mesh.submit(jobs=3)
    mesh.share.away = True
    for i in range(3):
        mesh.end(f"s1-{i}")
    await mesh.until(lambda: mesh.notes)
    status = mesh.archivist.status()
    assert (status["queued"], status["done"], status["trouble"]) == (3, 0, "the share is away")
    assert status["failing_since_s"] is not None
    mesh.share.away = False
    await mesh.until_done(3)
    status = mesh.archivist.status()
    assert (status["queued"], status["queued_bytes"], status["trouble"]) == (0, 0, "")
    assert len(mesh.notes) == 2
    assert "the archive is behind, " in mesh.notes[0]
    assert "well again" in mesh.notes[1]


async def test_a_place_that_is_never_taken_holds_up_no_other(mesh: ArchiveMesh) -> None:
    mesh.share.refused.add("fold=0")
    mesh.submit(jobs=6)
    for i in range(6):
        mesh.end(f"s1-{i}")
    await mesh.until(lambda: mesh.archivist.status()["done"] == 5)
    mesh.share.refused.clear()
    await mesh.until_done(6)


async def test_no_more_are_sent_at_once_than_is_allowed(tmp_path: Path) -> None:
    mesh = ArchiveMesh(tmp_path)
    mesh.archive(at_once=3)
    mesh.submit(jobs=12)
    mesh.share.hangs.clear()
    for i in range(12):
        mesh.end(f"s1-{i}")
    await mesh.until(lambda: mesh.archivist.status()["sending"] == 3)
    assert mesh.archivist.status()["queued"] == 12
    mesh.share.hangs.set()
    await mesh.until_done(12)
    assert 1 <= mesh.share.writing_most <= 3
    await mesh.stop()


async def test_a_long_queue_is_saved_in_parts(
    mesh: ArchiveMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtrain_daemon.master.archive_queue.SAVED_AT_ONCE_MAX", 2)
    keep = mesh.writer.keep
    commits = 0

    async def counted(gather: Callable[[Store], None]) -> None:
        nonlocal commits
        commits += 1
        await keep(gather)

    monkeypatch.setattr(mesh.writer, "keep", counted)
    mesh.share.away = True
    mesh.submit(jobs=5)
    for i in range(5):
        mesh.end(f"s1-{i}")
    await mesh.until(lambda: len(mesh.store.archive_entries(mesh.share.url)) == 5)
    assert commits >= 3
    mesh.share.away = False
    await mesh.until_done(5)


async def test_a_share_that_hangs_is_told_and_does_not_hold_up_the_end(tmp_path: Path) -> None:
    mesh = ArchiveMesh(tmp_path)
    mesh.stall_s = 0.02
    mesh.archive()
    mesh.submit(jobs=1)
    mesh.share.hangs.clear()
    mesh.end("s1-0")
    await mesh.until(lambda: mesh.notes)
    assert "hangs" in mesh.notes[0]
    assert mesh.archivist.status()["sending"] == 1
    mesh.share.hangs.set()
    await mesh.until_done(1)
    assert "well again" in mesh.notes[1]
    assert len(mesh.notes) == 2
    await mesh.stop()


async def test_p12_a_full_disk_of_the_master_delays_what_it_notes(
    mesh: ArchiveMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = mesh.writer.keep
    tries = 0

    async def full(gather: object) -> None:
        nonlocal tries
        tries += 1
        raise StoreFullError("no room")

    monkeypatch.setattr("meshtrain_daemon.master.archivist.SAVE_RETRY_S", 0.001)
    monkeypatch.setattr(mesh.writer, "keep", full)
    mesh.submit(jobs=1)
    mesh.end("s1-0")
    await mesh.until(lambda: tries > 2 and mesh.archivist.status()["done"] == 1)
    assert mesh.store.archive_entries(mesh.share.url) == ()
    monkeypatch.setattr(mesh.writer, "keep", keep)
    await mesh.until_done(1)


async def test_a_copy_that_is_gone_or_damaged_is_told_and_not_waited_for(
    mesh: ArchiveMesh,
) -> None:
    mesh.submit(jobs=2)
    mesh.share.hangs.clear()
    gone, damaged = mesh.end("s1-0"), mesh.end("s1-1")
    mesh.artifacts.remove(gone)
    (file,) = (mesh.root / "artifacts" / "artifacts" / damaged).rglob("metrics.json")
    file.chmod(0o644)
    file.write_text("xx-x")
    mesh.share.hangs.set()
    await mesh.until(lambda: mesh.archivist.status()["lost"] == 2)
    assert mesh.lies_there() == set()
    assert {note.partition(" can't be archived")[0] for note in mesh.notes} == {
        place(mesh, "s1-0"),
        place(mesh, "s1-1"),
    }
    await mesh.until(
        lambda: (
            {entry.state for entry in mesh.store.archive_entries(mesh.share.url)}
            == {ArchiveState.LOST}
        )
    )


async def test_another_artifact_s_place_is_left_alone(mesh: ArchiveMesh) -> None:
    mesh.submit(base=True)
    theirs = mesh.root / "share" / "bases" / RECIPE / "1" / "manifest.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(
        json.dumps({"meshtrain_archive": 1, "artifact_id": "f" * 32, "size_bytes": 0, "files": []})
    )
    mesh.end(mesh.base_job, "model")
    await mesh.until_done(1)
    assert "f" * 32 in theirs.read_text()
    assert "this one lies at" in mesh.notes[0]
    assert len(mesh.lies_there()) == 2


def test_rests_grow_to_a_limit() -> None:
    assert [rest_s(n) for n in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert rest_s(10**6) == REST_S_MAX


# --- bringing back ------------------------------------------------------------------------------


async def a_lost_base(mesh: ArchiveMesh) -> str:
    mesh.submit(base=True)
    artifact = mesh.end(mesh.base_job, "model")
    await mesh.until_done(1)
    mesh.artifacts.remove(artifact)
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (), (artifact,)))
    mesh.posted.clear()
    mesh.notes.clear()
    return artifact


async def test_a_base_comes_back_verified(mesh: ArchiveMesh) -> None:
    artifact = await a_lost_base(mesh)
    mesh.restorer.begin(mesh.state.bases[RECIPE])
    await mesh.until(lambda: mesh.posted)
    assert mesh.posted == [ev.ArtifactHeld(MASTER_NODE_ID, (artifact,))]
    assert mesh.artifacts.verify(artifact)
    progress = mesh.restorer.progress[RECIPE]
    assert progress.done
    assert progress.bytes_done == progress.bytes_total == 5
    assert mesh.notes == [f"base {RECIPE[:4]}…{RECIPE[-3:]} came back from the archive"]
    with pytest.raises(UserError, match="the master holds it"):
        mesh.restorer.begin(mesh.state.bases[RECIPE])


async def test_a_damaged_archive_gives_nothing_back_and_says_what_to_do(mesh: ArchiveMesh) -> None:
    artifact = await a_lost_base(mesh)
    (mesh.root / "share" / "bases" / RECIPE / "1" / "files" / "metrics.json").write_text("modem")
    mesh.restorer.begin(mesh.state.bases[RECIPE])
    await mesh.until(lambda: mesh.posted)
    (failed,) = mesh.posted
    assert isinstance(failed, ev.RestoreFailed)
    assert failed.artifact_id == artifact
    assert "is damaged. Mend it there, or train the base anew" in failed.reason
    assert not mesh.artifacts.has(artifact)


async def test_what_the_archive_does_not_have_is_told(mesh: ArchiveMesh) -> None:
    await a_lost_base(mesh)
    shutil.rmtree(mesh.root / "share" / "bases")
    mesh.restorer.begin(mesh.state.bases[RECIPE])
    await mesh.until(lambda: mesh.restorer.progress[RECIPE].over)
    assert "no whole copy" in mesh.restorer.progress[RECIPE].error
    assert "can't be brought back" in mesh.notes[0]


async def test_a_share_that_hangs_is_given_up_when_a_base_should_come_back(tmp_path: Path) -> None:
    mesh = ArchiveMesh(tmp_path)
    mesh.stall_s = 0.02
    mesh.archive()
    artifact = await a_lost_base(mesh)
    mesh.share.hangs.clear()
    hang = mesh.share.hangs
    read = mesh.share.read

    def hanging(path: str, size_max_bytes: int) -> bytes | None:
        hang.wait()
        return read(path, size_max_bytes)

    mesh.share.read = hanging  # type: ignore[method-assign]
    mesh.restorer.restore_lost(artifact)
    await mesh.until(lambda: mesh.posted)
    (failed,) = mesh.posted
    assert isinstance(failed, ev.RestoreFailed)
    assert "hangs" in failed.reason
    hang.set()
    await mesh.stop()


async def test_a_base_that_is_being_trained_is_not_brought_back(mesh: ArchiveMesh) -> None:
    mesh.submit(base=True)
    with pytest.raises(UserError, match="is needed: only a trained one"):
        mesh.restorer.begin(mesh.state.bases[RECIPE])
    mesh.restorer.restore_lost("e" * 32)
    assert mesh.posted == [ev.RestoreFailed("e" * 32, "it is no base any more")]
