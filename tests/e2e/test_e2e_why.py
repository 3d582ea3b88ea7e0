"""Why a job waits, asked of a mesh of processes; and what it says is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate import Gate
from mesh import NewMesh

from meshtrain.core.needs_change import NeedsChange
from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_why")]

SWEEP = """
name: choosy
command: |
  {wait}
  echo {{x}} > {{output}}/x
matrix: {{x: [0, 1]}}
resources: {{labels: {{zone: a}}}}
budget: {{gpu_hours: 5}}
"""


def test_p1_what_why_advises_starts_the_job_also_after_a_restart(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    mesh = new_mesh()
    mesh.start_master()
    mesh.start_worker("n1", MESHTRAIN_LABELS="zone=a")
    mesh.start_worker("n2", MESHTRAIN_LABELS="zone=b")
    mesh.wait_connected("n1", "n2")
    mesh.submit(SWEEP.format(wait=gate.wait_command))
    mesh.wait_job_state("choosy/x=0", "running")
    (why,) = mesh.rows("why", "choosy/x=1")
    assert {node["node_id"]: node["because"] for node in why["nodes"]} == {
        "n1": "CPU slots taken",
        "n2": "label",
    }
    assert "has ended yet" in why["starts"]["unknown"]
    assert why["budget"] == "0 of 5 GPU-hours"
    (advice,) = why["advice"]
    assert (advice["now"], advice["node_id"]) == (True, "n2")
    assert advice["command"] == "meshtrain retry choosy/x=1 --drop-label zone"
    mesh.ask_to_stop("n2")
    mesh.wait_stopped("n2")
    change = NeedsChange(labels_dropped=("zone",))
    done = mesh.do(msg.Retry("r", ("choosy/x=1",), change))
    assert len(done.done) == 1
    mesh.kill("master")
    mesh.start_master()
    mesh.start_worker("n2", MESHTRAIN_LABELS="zone=b")
    mesh.wait_connected("n1", "n2")
    mesh.wait_job_state("choosy/x=1", "running")
    assert mesh.job("choosy/x=1")["node_id"] == "n2"
    gate.open()
    rows = mesh.wait_jobs("choosy")
    assert {row["state"] for row in rows} == {"succeeded"}
