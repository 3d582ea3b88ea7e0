"""Sweeps of the built-in training: each base is trained once, and fetched from whoever has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh, read_json

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_sweeps")]

NODES = ("n1", "n2", "n3")

WARM_UP = """
name: warm_up
target: {mode: target_only, participant: w09, model: softmax, epochs: 1}
matrix: {seed: [0, 1, 2]}
"""

MIXED = """
name: %s
base: {participants: [w01, w02], model: softmax, epochs: 1, seed: %d}
target: {mode: full_fine_tuning, participant: w07, epochs: 1}
matrix:
  target_batch_pct: %s
  target_data_pct: %s
results: {metric: accuracy}
"""

TWO_RECIPES = """
name: two_recipes
base: {participants: [w01, w02], model: softmax, epochs: 1, seed: 20}
target: {mode: full_fine_tuning, participant: w07, epochs: 1}
matrix:
  base.lr: [0.001, 0.01]
  fold: [0, 1]
results: {metric: accuracy, over: fold}
"""


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    """Three nodes of one slot, all with torch loaded."""
    mesh = new_module_mesh()
    mesh.start(*NODES)
    rows = mesh.wait_jobs(mesh.submit(WARM_UP))
    assert {row["node_id"] for row in rows} == set(NODES)
    return mesh


def test_p3_25_mixed_jobs_train_one_base_and_new_targets_train_none(mesh: Mesh) -> None:
    shares, amounts = "[0.1, 0.25, 0.5, 0.75, 0.9]", "[0.05, 0.1, 0.25, 0.5, 1.0]"
    first = mesh.submit(MIXED % ("mixed", 10, shares, amounts))
    rows = mesh.wait_jobs(first)

    assert len(rows) == 25
    assert {row["node_id"] for row in rows} == set(NODES)
    assert all(0 < row["metrics"]["accuracy"] <= 1 for row in rows)
    (base,) = mesh.bases_of(first)
    assert base["state"] == "committed"
    assert base["generation"] == 1
    assert [a["state"] for a in mesh.attempts(base["job_id"])] == ["succeeded"]
    artifacts = {a["base_artifact"] for row in rows for a in mesh.attempts(row["job_id"])}
    assert artifacts == {base["artifact_id"]}

    second = mesh.submit(MIXED % ("mixed_more", 10, "[0.3, 0.6]", "[0.2]"))
    assert len(mesh.wait_jobs(second)) == 2
    (again,) = mesh.bases_of(second)
    assert again == base | {"holders": again["holders"], "waiting": 0}
    assert mesh.rows("sweeps", second)[0]["reused"] == 1
    assert len(mesh.attempts(base["job_id"])) == 1

    folder = mesh.results / "mixed_more"
    mesh.wait_file(folder / "phase2_experiments.json")
    (record,) = read_json(folder / "phase1_base_models.json")["bases"]
    assert record["recipe_hash"] == base["recipe_hash"]
    assert record["origin"] == "reused"


def test_p3_two_recipes_train_two_bases_on_two_nodes(mesh: Mesh) -> None:
    sweep = mesh.submit(TWO_RECIPES)
    mesh.wait_jobs(sweep)
    bases = mesh.bases_of(sweep)
    assert len(bases) == 2
    assert len({base["recipe_hash"] for base in bases}) == 2
    assert len({base["node_id"] for base in bases}) == 2
    assert [len(mesh.attempts(base["job_id"])) for base in bases] == [1, 1]


def test_p3_two_bases_are_made_at_the_same_time(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(
        f"""
name: together
base: {{command: "{gate.wait_command}; echo {{which}} > {{output}}/model"}}
command: cat {{base}}/model
matrix: {{which: [a, b]}}
"""
    )

    def both_run() -> bool:
        return all(base["job_state"] == "running" for base in mesh.bases_of(sweep))

    mesh.wait_until(both_run, "both bases are being made")
    gate.open()
    mesh.wait_jobs(sweep)
    (one, other) = mesh.bases_of(sweep)
    assert gate.starts == 2
    assert one["node_id"] != other["node_id"]
    (attempt,) = mesh.attempts(one["job_id"])
    (other_attempt,) = mesh.attempts(other["job_id"])
    assert attempt["started_wall_s"] <= other_attempt["ended_wall_s"]
    assert other_attempt["started_wall_s"] <= attempt["ended_wall_s"]


def test_p4_p5_a_base_comes_from_a_peer_and_everything_reaches_the_master(
    mesh: Mesh, tmp_path: Path
) -> None:
    feed = mesh.watch_feed()
    sweep = mesh.submit(MIXED % ("peers", 30, "[0.2, 0.4, 0.6, 0.8]", "[0.5, 1.0]"))
    rows = mesh.wait_jobs(sweep)
    (base,) = mesh.bases_of(sweep)
    ran_on = {row["node_id"] for row in rows}
    assert ran_on == set(NODES)

    def everywhere() -> bool:
        return set(mesh.base(base["recipe_hash"])["holders"]) >= {*ran_on, "master"}

    mesh.wait_until(everywhere, "all nodes and the master hold the base")
    assert mesh.base(base["recipe_hash"])["durable"]

    trainer = base["node_id"]
    mesh.wait_until(
        lambda: {t.to_node for t in feed.of(base["artifact_id"])} == {*NODES, "master"} - {trainer},
        "the feed has told each transfer of the base",
    )
    for transfer in feed.of(base["artifact_id"]):
        assert sum(transfer.bytes_by_node.values()) == base["size_bytes"]
        if transfer.to_node != "master":
            assert set(transfer.bytes_by_node) <= set(NODES) - {transfer.to_node}
    for node in ran_on:
        assert (mesh.folder / node / "artifacts").is_dir()

    shown = mesh.home / "bases" / base["recipe_hash"]
    mesh.wait_file(shown / "recipe.json")
    assert read_json(shown / "recipe.json")["artifact_id"] == base["artifact_id"]
    assert list(shown.glob("*.safetensors"))
    for row in rows:
        cell = mesh.results / "peers" / row["name"].removeprefix("peers/")
        mesh.wait_file(cell / "metrics.json")
        assert read_json(cell / "metrics.json")["accuracy"] == row["metrics"]["accuracy"]
        assert read_json(cell / "job.json")["base_artifact"] == base["artifact_id"]
    mesh.wait_until(
        lambda: (
            read_json(mesh.results / "peers" / "phase2_experiments.json")["totals"]["by_state"]
            == {"succeeded": 8}
        ),
        "the records of the sweep have all its jobs",
    )
    table = (mesh.results / "peers" / "table.csv").read_text()
    for share in ("0.2", "0.4", "0.6", "0.8"):
        assert share in table


def test_a_job_that_waits_has_its_reason(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sweep = mesh.submit(
        f"""
name: reasons
base: {{command: "{gate.wait_command}; echo model > {{output}}/model"}}
command: cat {{base}}/model
"""
    )
    (base,) = mesh.bases_of(sweep)
    (row,) = mesh.jobs(sweep)
    assert row["reason"].startswith("waits for base")
    mesh.wait_until(lambda: gate.starts == 1, "the base is being made")
    gate.open()
    mesh.wait_jobs(sweep)
    mesh.wait_log(sweep, b"model\n")
    assert mesh.base(base["recipe_hash"])["state"] == "committed"
