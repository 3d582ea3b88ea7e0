"""`meshtrain results` of a live mesh: what it names as missing can be run again as it says."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
from mesh import Mesh, NewMesh
from typer.testing import CliRunner, Result

from meshtrain.cli.main import build

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_results")]

SWEEP = """
name: %s
base: {command: "echo weights > {output}/model"}
command: >-
  test {x} != 2 -o -e %s && cat {base}/model &&
  printf '{{"accuracy": 0.%d{x}{fold}}}' > {output}/metrics.json
matrix: {x: [1, 2], fold: [0, 1]}
retries: 0
results: {metric: accuracy, over: fold}
"""


def run(mesh: Mesh, *arguments: str) -> Result:
    return CliRunner().invoke(build(), ["--master", mesh.address, *arguments])


def test_missing_cells_are_named_and_the_command_runs_them_again(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start("n1", cpu_slots=2)
    mended = tmp_path / "mended"
    first = mesh.submit(SWEEP % ("first", mended, 5))
    second = mesh.submit(SWEEP % ("second", "/", 6))
    for fold in (0, 1):
        mesh.wait_job_state(f"first/x=1,fold={fold}", "succeeded")
        mesh.wait_job_state(f"first/x=2,fold={fold}", "failed")
    mesh.wait_jobs(second)

    told = json.loads(run(mesh, "results", "first", "--json").stdout)
    (again,) = told["rerun"]
    assert again["cells"] == ["first/x=2,fold=0", "first/x=2,fold=1"]
    mended.touch()
    result = run(mesh, *shlex.split(again["command"])[1:])
    assert result.exit_code == 0, result.output
    mesh.wait_jobs(first)
    assert json.loads(run(mesh, "results", "first", "--json").stdout)["rerun"] == []

    report = tmp_path / "report.html"
    result = run(mesh, "results", "first", "second", "--html", str(report))
    assert result.exit_code == 0, result.output
    assert "4 pairs" in result.stdout
    assert "+0.100" in result.stdout
    text = report.read_text()
    assert "n1" in text
    assert "echo weights" in text, "the job file is in it"

    folder = str(mesh.results / "first")
    # A folder that is replaced just then can't be read: that is told in its place.
    mesh.wait_until(
        lambda: (
            json.loads(run(mesh, "results", "--folder", folder, "--json").stdout).get("rerun") == []
        ),
        "the folder tells of the second try too",
    )
    if importlib.util.find_spec("matplotlib") is not None:
        mesh.wait_file(mesh.results / "second" / "report.html")
    record = json.loads((mesh.results / "first" / "phase2_experiments.json").read_text())
    assert [machine["node"] for machine in record["machines"]] == ["n1"]
