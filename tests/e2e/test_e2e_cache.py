"""A node's cache: what goes when it is full, what stays, and what comes before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

from meshtrain.ids import new_id
from meshtrain.wire.messages import Done, Evict, Pin, Warm

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_cache")]

BASE_BYTES = 40_000


def sweep_on(base: str, jobs: int = 1, job: str = "true", size_bytes: int = BASE_BYTES) -> str:
    """Jobs that start from a base of some size, and leave nothing."""
    return f"""
name: on_{base}
base:
  command: "yes {base} | head -c {size_bytes} > {{output}}/model"
  params: {{name: {base}}}
command: "{job}; test -s {{base}}/model"
matrix: {{number: {list(range(jobs))}}}
"""


def held(mesh: Mesh, node: str) -> set[str]:
    """The bases that a node holds, as its disk says, by the names of their sweeps."""
    there = {path.name for path in ((mesh.folder / node) / "artifacts" / "artifacts").iterdir()}
    return {row["name"] for row in bases(mesh) if row["artifact_id"] in there}


def bases(mesh: Mesh) -> list[dict[str, Any]]:
    return [
        {**mesh.base(recipe_hash), "name": sweep["name"].removeprefix("on_")}
        for sweep in mesh.rows("sweeps")
        for recipe_hash in sweep["recipe_hashes"]
    ]


def hash_of(mesh: Mesh, name: str) -> str:
    return next(row["recipe_hash"] for row in bases(mesh) if row["name"] == name)


def run_on(mesh: Mesh, name: str, size_bytes: int = BASE_BYTES) -> None:
    mesh.wait_jobs(mesh.submit(sweep_on(name, size_bytes=size_bytes), f"{name}.yaml"))
    recipe_hash = hash_of(mesh, name)
    mesh.wait_until(lambda: "master" in mesh.base(recipe_hash)["holders"], f"{name} is durable")


def test_a_small_cache_lets_go_what_was_unused_longest_and_keeps_what_is_pinned(
    new_mesh: NewMesh,
) -> None:
    mesh = new_mesh(heartbeat_s=0.2)
    mesh.start("n1", MESHTRAIN_CACHE_BYTES=str(int(2.5 * BASE_BYTES)))
    run_on(mesh, "a")
    run_on(mesh, "b")
    assert held(mesh, "n1") == {"a", "b"}
    # What runs again was used last.
    mesh.wait_jobs(mesh.submit(sweep_on("a", jobs=2, job="true again"), "a2.yaml", again=True))
    run_on(mesh, "c")
    mesh.wait_until(lambda: held(mesh, "n1") == {"a", "c"}, "b has gone")
    assert set(mesh.base(hash_of(mesh, "b"))["holders"]) == {"master"}

    # Now a would go; but it is pinned, also for a new master.
    assert mesh.do(Pin(new_id("pin"), hash_of(mesh, "a"), "n1")).error == ""
    mesh.kill("master")
    mesh.start_master()
    mesh.wait_connected("n1")
    assert mesh.base(hash_of(mesh, "a"))["pinned"] == ["n1"]
    run_on(mesh, "d")
    mesh.wait_until(lambda: held(mesh, "n1") == {"a", "d"}, "c has gone, a stays")

    # What was let go comes back when a job starts from it.
    mesh.wait_jobs(mesh.submit(sweep_on("b", jobs=2), "b2.yaml", again=True))
    mesh.wait_until(lambda: held(mesh, "n1") == {"a", "b"}, "d has gone for b")
    (row,) = mesh.rows("nodes", "n1")
    assert row["cache_budget_bytes"] == 2.5 * BASE_BYTES
    assert 2 * BASE_BYTES <= row["cache_used_bytes"] <= row["cache_budget_bytes"]
    assert row["disk_free_bytes"] > 0


def test_people_evict_and_warm_and_are_told_why_not(new_mesh: NewMesh, tmp_path: Path) -> None:
    mesh = new_mesh(heartbeat_s=0.2)
    mesh.start("n1", "n2", "n3")
    run_on(mesh, "a")
    recipe_hash = hash_of(mesh, "a")
    trained_on = mesh.base(recipe_hash)["node_id"]

    done = mesh.do(Warm(new_id("warm"), recipe_hash[:8], 3))
    assert done.done == (recipe_hash,)
    everybody = {"n1", "n2", "n3", "master"}
    mesh.wait_until(lambda: set(mesh.base(recipe_hash)["holders"]) == everybody, "it is everywhere")
    assert held(mesh, "n1") == held(mesh, "n2") == held(mesh, "n3") == {"a"}

    assert mesh.do(Evict(new_id("evict"), recipe_hash, trained_on)).done == (recipe_hash,)
    assert held(mesh, trained_on) == set()
    assert trained_on not in mesh.base(recipe_hash)["holders"]

    def refusal(node: str) -> str:
        answer = mesh.ask(Evict(new_id("evict"), recipe_hash, node))
        assert isinstance(answer, Done) and not answer.done
        return answer.error

    assert "doesn't hold it" in refusal(trained_on)
    assert "no node is called n9; known: n1, n2, n3" in refusal("n9")
    (other, _) = sorted({"n1", "n2", "n3"} - {trained_on})
    mesh.do(Pin(new_id("pin"), recipe_hash))
    assert "it is pinned" in refusal(other)
    mesh.do(Pin(new_id("unpin"), recipe_hash, pinned=False))

    # While a job there starts from it, it stays.
    gate = tmp_path / "open"
    wait = f"touch {tmp_path}/began; while ! test -e {gate}; do sleep 0.02; done"
    sweep = mesh.submit(sweep_on("a", jobs=1, job=wait), "gated.yaml", again=True)
    mesh.wait_file(tmp_path / "began")
    (job,) = mesh.jobs(sweep)
    assert "needs it there" in refusal(job["node_id"])
    gate.touch()
    mesh.wait_jobs(sweep)


def test_p7_a_fetch_goes_on_without_the_master_after_a_restart_of_the_daemon(
    new_mesh: NewMesh,
) -> None:
    """What a node was told of who holds what is enough for it."""
    mesh = new_mesh(heartbeat_s=0.2)
    mesh.start("n1")
    run_on(mesh, "a", size_bytes=12 << 20)
    recipe_hash = hash_of(mesh, "a")
    # It dies when the first chunk of the base has come.
    mesh.start_worker("n2", MESHTRAIN_FAILPOINT="chunk.verified")
    mesh.wait_connected("n1", "n2")
    mesh.daemons["n2"].expected_to_end = True
    mesh.do(Warm(new_id("warm"), recipe_hash, 2))
    assert mesh.wait_stopped("n2") != 0
    mesh.kill("master")
    mesh.start_worker("n2")
    there = mesh.folder / "n2" / "artifacts" / "artifacts"
    assert not any(there.iterdir())
    mesh.wait_until(lambda: any(there.iterdir()), "n2 has it from n1")


def test_a_busy_node_fetches_ahead_what_its_next_job_starts_from(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh(heartbeat_s=0.2)
    mesh.start("n1")
    run_on(mesh, "a")
    mesh.start_worker("n2")
    mesh.wait_connected("n1", "n2")
    gate = Gate(tmp_path)
    busy = mesh.submit(
        f'name: busy\ncommand: "{gate.wait_command}"\nmatrix: {{number: [0, 1]}}\n', "busy.yaml"
    )
    mesh.wait_until(lambda: gate.starts == 2, "both nodes are busy")
    assert held(mesh, "n2") == set()
    sweep = mesh.submit(sweep_on("a", jobs=3), "more.yaml", again=True)
    mesh.wait_until(lambda: held(mesh, "n2") == {"a"}, "n2 has it before it needs it")
    assert {row["state"] for row in mesh.jobs(sweep)} == {"waiting"}
    gate.open()
    mesh.wait_jobs(busy)
    mesh.wait_jobs(sweep)
