"""Results and bases go to an archive, a folder and an S3 server; a lost base comes back from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mesh import Mesh, NewMesh

from meshtrain.ids import new_id
from meshtrain.wire import messages as msg
from tests.s3_double.s3_server import s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_archive")]

SWEEP = """
name: archived
base: {command: "date +%s%N > {output}/model"}
command: cat {base}/model > {output}/of; echo {number} > {output}/deep/number
matrix: {number: [0, 1, 2]}
"""


def sweep(name: str = "archived") -> str:
    return SWEEP.replace("name: archived", f"name: {name}").replace(
        "echo {number}", "mkdir {output}/deep; echo {number}"
    )


def archive_row(mesh: Mesh) -> Any:
    return mesh.rows("archive")[0]


def wait_archived(mesh: Mesh, count: int) -> None:
    mesh.wait_until(lambda: archive_row(mesh)["done"] == count, f"{count} things are archived")
    assert archive_row(mesh)["queued"] == 0


def check_folder(root: Path, mesh: Mesh, sweep_id: str) -> None:
    """What people find in an archive, with nothing of meshtrain but the layout."""
    for row in mesh.jobs(sweep_id):
        (attempt,) = mesh.attempts(row["job_id"])
        cell = row["name"].partition("/")[2]
        place = root / "results" / "archived" / cell / attempt["attempt_id"]
        told = json.loads((place / "manifest.json").read_bytes())
        assert told["about"]["cell"] == {"number": int(cell.partition("=")[2])}
        assert told["artifact_id"] == attempt["artifact_id"]
        assert {r["path"] for r in told["files"]} >= {"files/of", "files/deep/number"}
        number = (place / "files" / "deep" / "number").read_text()
        assert number == f"{told['about']['cell']['number']}\n"
    (base,) = mesh.bases_of(sweep_id)
    place = root / "bases" / base["recipe_hash"] / "1"
    told = json.loads((place / "manifest.json").read_bytes())
    assert told["about"]["recipe_hash"] == base["recipe_hash"]
    assert told["artifact_id"] == base["artifact_id"]
    assert base["archived"] is True


def lose_base(mesh: Mesh, sweep_id: str) -> Any:
    """The master's disk and all nodes' are gone but for the store, as after a restored backup."""
    (base,) = mesh.bases_of(sweep_id)
    for name, daemon in list(mesh.daemons.items()):
        if daemon.process.poll() is None:
            mesh.ask_to_stop(name)
            mesh.wait_stopped(name)
    shutil.rmtree(mesh.folder / "n1", ignore_errors=True)
    shutil.rmtree(mesh.home / "artifacts")
    shutil.rmtree(mesh.home / "bases")
    mesh.start_master()
    assert mesh.base(base["recipe_hash"])["holders"] == []
    return base


def model_of(mesh: Mesh, base: Any) -> str:
    path = mesh.home / "bases" / base["recipe_hash"] / "model"
    mesh.wait_file(path)
    return path.read_text()


def test_p12_a_share_gets_all_and_gives_a_lost_base_back(new_mesh: NewMesh, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    mesh = new_mesh(lease_s=2.0)
    mesh.environment["MESHTRAIN_ARCHIVE"] = f"file://{share}"
    mesh.start("n1")
    first = mesh.submit(sweep())
    mesh.wait_jobs(first)
    wait_archived(mesh, 4)
    check_folder(share, mesh, first)
    (base,) = mesh.bases_of(first)
    model = model_of(mesh, base)

    # The share is away: its folder is there and empty, as below a mount that is gone.
    away = share.rename(tmp_path / "away")
    share.mkdir()
    mesh.kill("master")
    mesh.start_master()
    second = mesh.submit(sweep("second"))
    mesh.wait_jobs(second)
    mesh.wait_until(lambda: archive_row(mesh)["trouble"], "the archive is known to be away")
    assert archive_row(mesh)["queued"] == 3
    assert list(share.iterdir()) == [], "nothing goes to the empty folder"
    share.rmdir()
    away.rename(share)
    wait_archived(mesh, 7)
    (again,) = mesh.bases_of(second)
    assert (again["generation"], again["artifact_id"]) == (1, base["artifact_id"])

    lose_base(mesh, first)
    mesh.do(msg.RestoreBase(new_id("request"), base["recipe_hash"]))
    mesh.wait_until(lambda: mesh.base(base["recipe_hash"])["holders"], "it came back")
    assert model_of(mesh, base) == model
    refused = mesh.ask(msg.RestoreBase(new_id("request"), base["recipe_hash"]))
    assert isinstance(refused, msg.Done)
    assert "need not be brought back" in refused.error

    # Lost again: now jobs wait for it, and it comes back by itself instead of being trained.
    lose_base(mesh, first)
    mesh.start_worker("n1")
    mesh.wait_connected("n1")
    third = mesh.submit(sweep("third"))
    mesh.wait_jobs(third)
    (again,) = mesh.bases_of(third)
    assert (again["generation"], again["artifact_id"]) == (1, base["artifact_id"])
    assert model_of(mesh, base) == model
    wait_archived(mesh, 10)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server() as server:
        yield server.environment


def test_an_s3_server_gets_all_also_what_ended_before_it_was_set(
    new_mesh: NewMesh, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    import s3fs

    fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    fs.mkdir("lab")
    mesh = new_mesh()
    mesh.start("n1")
    first = mesh.submit(sweep())
    mesh.wait_jobs(first)
    assert mesh.rows("archive") == []
    mesh.ask_to_stop("master")
    mesh.wait_stopped("master")
    mesh.start_master(MESHTRAIN_ARCHIVE="s3://lab/mesh")
    wait_archived(mesh, 4)
    fs.get("lab/mesh", str(tmp_path / "copy"), recursive=True)
    check_folder(tmp_path / "copy", mesh, first)
    assert mesh.rows("results", first)[0]["archived"] == 3

    # What has gone is not sent again.
    mesh.kill("master")
    before = {name: info["LastModified"] for name, info in fs.find("lab", detail=True).items()}
    mesh.start_master(MESHTRAIN_ARCHIVE="s3://lab/mesh")
    wait_archived(mesh, 4)
    after = {name: info["LastModified"] for name, info in fs.find("lab", detail=True).items()}
    assert after == before

    # Another mesh that is given the same place doesn't begin.
    other = new_mesh("other")
    other.begin_master(MESHTRAIN_ARCHIVE="s3://lab/mesh")
    other.daemons["master"].expected_to_end = True
    assert other.wait_stopped("master") != 0
    assert other.daemons["master"].said("is the archive of another mesh")


@pytest.mark.parametrize(
    ("url", "told", "code"),
    [
        ("s3://not-there/p", "Make the bucket", 2),
        ("/nowhere/at/all", "Mount its share, or make the folder", 1),
        ("s3://key:secret@bucket/p", "password", 2),
    ],
)
def test_p11_a_place_that_can_t_be_used_ends_the_start_with_one_error(
    new_mesh: NewMesh, s3: dict[str, str], url: str, told: str, code: int
) -> None:
    mesh = new_mesh()
    mesh.begin_master(MESHTRAIN_ARCHIVE=url, **s3)
    daemon = mesh.daemons["master"]
    daemon.expected_to_end = True
    assert mesh.wait_stopped("master") == code
    assert daemon.said(told)
    assert not daemon.said("Traceback")
    assert not daemon.said("secret")
    assert not (mesh.home / "master.json").exists()
