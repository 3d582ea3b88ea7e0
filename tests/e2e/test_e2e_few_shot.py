"""The few-shot example of configs/examples runs as it is, dropped into the inbox."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from mesh import NewMesh, read_json

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_few_shot")]

EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "few_shot"


def test_p3_the_few_shot_example_runs_through(new_mesh: NewMesh) -> None:
    mesh = new_mesh()
    mesh.start("n1", "n2")
    hidden = mesh.inbox / ".few_shot"
    shutil.copytree(EXAMPLE, hidden)
    hidden.rename(mesh.inbox / "few_shot")
    receipt = mesh.wait_file(mesh.inbox / "accepted" / "few_shot.receipt.txt").read_text()
    assert "jobs     32" in receipt

    rows = mesh.wait_jobs("few_shot", timeout_s=110)
    assert len(rows) == 32
    bases = mesh.rows("bases")
    assert len(bases) == 2
    assert [len(mesh.attempts(base["job_id"])) for base in bases] == [1, 1]

    folder = mesh.results / "few_shot"

    def merged() -> bool:
        record = folder / "phase2_experiments.json"
        return record.exists() and read_json(record)["totals"]["by_state"] == {"succeeded": 32}

    mesh.wait_until(merged, "all results are merged")
    with (folder / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 8
    by_cell = {row["name"]: row["metrics"]["miou"] for row in rows}
    for row in table:
        values = [
            value
            for name, value in by_cell.items()
            if all(
                f"{axis}={row[axis]}" in name.split("/", 1)[1].split(",")
                for axis in ("dataset", "backbone", "shots")
            )
        ]
        assert len(values) == 4
        assert int(row["n"]) == 4
        assert float(row["mean"]) == pytest.approx(sum(values) / 4, abs=1e-4)
    totals = read_json(folder / "phase1_base_models.json")["totals"]
    assert totals["trained"] == 2
    assert totals["base_trainings_avoided"] == 30
