"""A base whose node is killed, whose sweep is cancelled, or that fails for good."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_lost_bases")]

NODES = ("n1", "n2")


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    mesh = new_module_mesh()
    mesh.start(*NODES)
    return mesh


def gated_sweep(name: str, gate: Gate, jobs: int = 2) -> str:
    """A sweep whose base waits for a gate; all such sweeps of one gate share the base."""
    return f"""
name: {name}
base: {{command: "{gate.wait_command}; echo model > {{output}}/model"}}
command: cat {{base}}/model; echo {name} {{number}}
matrix: {{number: {list(range(jobs))}}}
"""


def test_p2_p3_p8_another_node_takes_over_a_base_whose_node_is_killed(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh(lease_s=3.0)
    mesh.start(*NODES)
    gate = Gate(tmp_path)
    sweep = mesh.submit(gated_sweep("killed", gate))
    (base,) = mesh.bases_of(sweep)
    mesh.wait_until(lambda: gate.starts == 1, "the base is being made")
    first = mesh.wait_job_state(base["job_id"], "running")["node_id"]

    mesh.kill(first)
    mesh.wait_until(lambda: gate.starts == 2, "another node makes the base")
    (other,) = set(NODES) - {first}
    assert mesh.job(base["job_id"])["node_id"] == other

    # The killed daemon comes back while the base is being made elsewhere.
    mesh.start_worker(first)
    mesh.wait_connected(*NODES)
    mesh.wait_until(lambda: not Path(f"/proc/{gate.pids[0]}").exists(), "nothing is left over")
    gate.open()
    mesh.wait_jobs(sweep)

    assert gate.starts == 2
    lost, made = mesh.attempts(base["job_id"])
    assert lost["state"] == "lost"
    assert made["state"] == "succeeded"
    assert made["epoch"] > lost["epoch"]
    (base,) = mesh.bases_of(sweep)
    assert base["generation"] == 1
    assert base["node_id"] == other
    assert base["artifact_id"] == made["artifact_id"]
    for row in mesh.jobs(sweep):
        assert mesh.attempts(row["job_id"])[-1]["base_artifact"] == base["artifact_id"]


def test_a_cancelled_sweep_leaves_the_base_that_another_waits_on(
    mesh: Mesh, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    one = mesh.submit(gated_sweep("one", gate))
    other = mesh.submit(gated_sweep("other", gate))
    mesh.wait_until(lambda: gate.starts == 1, "the base is being made")

    mesh.cancel(one)
    mesh.wait_jobs(one, "cancelled")
    (base,) = mesh.bases_of(other)
    mesh.wait_job_state(base["job_id"], "running")
    gate.open()
    mesh.wait_jobs(other)
    assert gate.starts == 1
    assert [a["state"] for a in mesh.attempts(base["job_id"])] == ["succeeded"]


def test_p8_a_base_that_nobody_waits_on_any_more_is_ended(mesh: Mesh, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    one = mesh.submit(gated_sweep("first", gate))
    other = mesh.submit(gated_sweep("second", gate))
    mesh.wait_until(lambda: gate.starts == 1, "the base is being made")
    (base,) = mesh.bases_of(one)
    mesh.cancel(one, other)
    mesh.wait_jobs(base["job_id"], "cancelled")
    assert not Path(f"/proc/{gate.pids[0]}").exists()
    mesh.wait_jobs(one, "cancelled")
    mesh.wait_jobs(other, "cancelled")

    # It is made after all when its jobs are wanted again.
    gate.open()
    mesh.retry(one)
    mesh.wait_jobs(one)
    assert mesh.base(base["recipe_hash"])["generation"] == 2


def test_a_base_that_fails_ends_its_jobs_by_name_and_retry_revives_them(
    mesh: Mesh, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    script = tmp_path / "train.sh"
    script.write_text(
        f"test -e {mended} || {{ echo the data is not there; exit 3; }}\necho model > $1/model\n"
    )
    sweep = mesh.submit(
        f"""
name: failing
base: {{command: "sh {script} {{output}}"}}
command: cat {{base}}/model
matrix: {{number: [0, 1, 2]}}
"""
    )
    rows = mesh.wait_jobs(sweep, "failed")
    (base,) = mesh.bases_of(sweep)
    assert base["state"] == "failed"
    assert "exit code 3: the data is not there" in base["failure"]
    for row in rows:
        assert row["failure"].startswith("base failed:")
        assert base["job"] in row["failure"]
        assert "the data is not there" in row["failure"]
        assert mesh.attempts(row["job_id"]) == []

    mended.touch()
    mesh.retry(sweep)
    rows = mesh.wait_jobs(sweep)
    assert [row["generation"] for row in rows] == [2, 2, 2]
    (base,) = mesh.bases_of(sweep)
    assert base["state"] == "committed"
    assert base["generation"] == 2
    assert [a["state"] for a in mesh.attempts(base["job_id"])] == ["failed", "succeeded"]


def test_a_command_line_and_its_environment_keep_their_braces(mesh: Mesh) -> None:
    sweep = mesh.submit(
        """
name: braces
command: "echo 'a {{b}} ${HOME:+c}' {word} $TEXT && awk 'BEGIN {{ print 6 * 7 }}'"
env: {TEXT: "{{x}}"}
matrix: {word: ["{d}"]}
"""
    )
    mesh.wait_jobs(sweep)
    mesh.wait_log(sweep, b"a {b} ${HOME:+c} {d} {x}\n42\n")
